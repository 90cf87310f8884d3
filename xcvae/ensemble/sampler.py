"""From a model to physical members: draw a block, post-process it, redraw what has too little rain.

An :class:`EnsembleSampler` looks like an array (realization, sample, y, x) whose values are drawn
when they are asked for. Any part of it can be drawn by itself: the noise of a member depends on
its labels, never on what else is drawn with it.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr
from dask.base import optimize

from xcvae.ensemble.execution.scheduler import runs_in_threads
from xcvae.ensemble.execution.threads import numeric_environment, one_thread_if_digits_differ
from xcvae.ensemble.identity import differences
from xcvae.ensemble.postprocess import Context, Postprocessor, apply_chain
from xcvae.ensemble.store.base import Region, RegionStats
from xcvae.errors import ConfigError, DataError, MismatchError, MissingVariableError, explain
from xcvae.fields.describe import DataSpec, VariableSpec, prepare
from xcvae.fields.grids import stretching
from xcvae.fields.units import factor
from xcvae.fields.validation import check_observed, check_values, is_placeholder

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = [
    "EnsembleSampler",
    "Mode",
    "Part",
    "Parts",
    "Settings",
    "check_apart",
    "check_reference",
    "inputs_of",
    "load_block",
    "reference_fields",
]


def reference_fields(block: xr.Dataset, spec: DataSpec, size: tuple[int, int]) -> np.ndarray:
    """Return the rain that members of each sample are compared with.

    That is the observed target where ``block`` has it, else the first aligned precipitation
    condition, stretched onto the fine grid.

    Parameters
    ----------
    block
        Prepared samples, in memory.
    spec
        What the model knows about the data.
    size
        Rows and columns of the fine grid.

    Returns
    -------
    numpy.ndarray
        (sample, y, x) in the units of the target.

    Raises
    ------
    MissingVariableError
        There is neither.
    """
    if spec.target in block:
        return np.asarray(block[spec.target].values)
    return _stretched(block, _rain_condition(block, spec), spec, size)


def check_reference(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Make sure that there is something to compare the rain of members with.

    Raises
    ------
    MissingVariableError
        There is neither the target nor an aligned precipitation condition.
    UnitsError
        The condition is not in units that convert into those of the target.
    """
    if spec.target not in prepared:
        _scale(_rain_condition(prepared, spec), spec)


def _rain_condition(ds: xr.Dataset, spec: DataSpec) -> VariableSpec:
    for variable in spec.variables:
        if variable.precipitation and variable.aligned and variable.role == "condition":
            return variable
    raise MissingVariableError(
        explain(
            "min_mass",
            expected=f"the target '{spec.target}' or a precipitation condition that covers it, "
            "to know how much rain a sample should have",
            got=f"only {', '.join(map(str, ds.data_vars)) or 'no variables'}",
            remedy="Keep the target in the Dataset, or leave min_mass out.",
        )
    )


def _scale(variable: VariableSpec, spec: DataSpec) -> float:
    return factor(variable.units, spec.units, what=f"condition '{variable.name}'")


def _stretched(
    block: xr.Dataset, variable: VariableSpec, spec: DataSpec, size: tuple[int, int]
) -> np.ndarray:
    """Stretch a coarse condition onto the fine grid, in the units of the target."""
    rows, columns = stretching(block, variable, spec, size)
    fine = np.einsum("yi,sij,xj->syx", rows, block[variable.name].values, columns)
    return np.asarray(_scale(variable, spec) * fine)


def inputs_of(ds: xr.Dataset, spec: DataSpec, mode: str) -> xr.Dataset:
    """Prepare a Dataset for sampling; values that are in memory are checked.

    Parameters
    ----------
    ds
        The conditions, perhaps the target. In prior mode a target that is NaN throughout is no
        observation, and no mask either: it is left out.
    spec
        What the model knows about the data.
    mode
        ``"prior"`` or ``"posterior"``.

    Raises
    ------
    XcvaeError
        The Dataset does not fit the model, or its values are not what they should be.
    """
    prepared = prepare(ds, spec, need_target=mode == "posterior")
    optional = mode == "prior" and spec.target in prepared
    if optional and is_placeholder(prepared[spec.target], spec):
        prepared = prepare(ds.drop_vars(spec.target), spec, need_target=False)
    _check(prepared[_names(prepared, lazy=False)], spec, mode)
    return prepared


def check_apart(ds: xr.Dataset, store: Path) -> None:
    """Refuse a store that is one of the files the data are read from, around one or in one.

    Parameters
    ----------
    ds
        The data; xarray notes in their ``encoding`` where they were opened.
    store
        Folder of an ensemble.

    Raises
    ------
    ConfigError
        The store and the data are not apart.
    """
    place = store.resolve()
    for source in sorted(_sources(ds)):
        if place == source or place in source.parents or source in place.parents:
            raise ConfigError(
                explain(
                    "store",
                    expected="a folder apart from the data that the ensemble is drawn for",
                    got=f"{store}, and data read from {source}",
                    remedy="Choose another name: input files are never written to or replaced.",
                )
            )


def _sources(ds: xr.Dataset) -> set[Path]:
    """Return the local files and folders that a Dataset and its variables were opened from."""
    encodings = [ds.encoding, *(variable.encoding for variable in ds.variables.values())]
    found = {str(encoding["source"]) for encoding in encodings if encoding.get("source")}
    local = (source.removeprefix("file://") for source in found)
    return {Path(source).resolve() for source in local if "://" not in source}


def load_block(prepared: xr.Dataset, spec: DataSpec, mode: str) -> xr.Dataset:
    """Bring samples into memory; values that were lazy are checked now.

    Raises
    ------
    DataError
        Their values are not what they should be.
    """
    # The scheduler is named: inside a task of another scheduler the default could be that one.
    block = prepared.compute(scheduler="synchronous")
    _check(block[_names(prepared, lazy=True)], spec, mode)
    return block


def _names(prepared: xr.Dataset, *, lazy: bool) -> list[str]:
    return [str(n) for n, da in prepared.data_vars.items() if (da.chunks is not None) == lazy]


def _check(part: xr.Dataset, spec: DataSpec, mode: str) -> None:
    check_values(part, spec, masked=True)
    if mode == "posterior" and spec.target in part:
        check_observed(part, spec)


ATTEMPTS = 50

Mode = Literal["prior", "posterior"]


@dataclass(frozen=True)
class Settings:
    """How members are drawn.

    Parameters
    ----------
    mode
        ``"prior"``: from the conditions alone. ``"posterior"``: around the observed storm.
    seed
        Of the noise.
    spread
        From the observed storm (0) to the prior (1).
    temperature
        Factor on the standard deviation of the latents.
    min_mass
        Members with less than this share of the reference mass are redrawn; None: never.
    tile
        Rows and columns of the tiles that maps are drawn in; None: in one piece.
    """

    mode: Mode
    seed: int
    spread: float
    temperature: float
    min_mass: float | None = None
    tile: tuple[int, int] | None = None


def _one_at_a_time() -> Any:
    from dask.utils import SerializableLock

    # One lock per process: torch uses all cores, or the GPU, for one draw, and a second draw at the
    # same time would only get in its way.
    return SerializableLock("xcvae-draw")


@dataclass
class EnsembleSampler:
    """Members of all samples, drawn when asked for.

    Parameters
    ----------
    model
        The model.
    prepared
        What ``fields.spec.prepare`` returns.
    labels
        Text of every sample label.
    members
        Number of realizations.
    settings
        How to draw.
    chain
        Post-processors.
    size
        Rows and columns of the maps.
    device
        Where the model computes, also in other processes.
    lock
        Held while something is drawn.
    """

    model: Model
    prepared: xr.Dataset
    labels: Sequence[str]
    members: int
    settings: Settings
    chain: tuple[Postprocessor, ...]
    size: tuple[int, int]
    device: str = "auto"
    dtype: np.dtype[np.float32] = field(default_factory=lambda: np.dtype("float32"))
    lock: Any = field(default_factory=_one_at_a_time)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process: the model comes from its file, and goes to its device."""
        self.__dict__.update(state)
        self.model.to(self.device)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of realizations, samples, rows and columns."""
        return (self.members, len(self.labels), *self.size)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return 4

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """Draw a part, given by an integer, slice or list of positions per dimension."""
        realizations = np.arange(self.members)[key[0]]
        samples = np.arange(len(self.labels))[key[1]]
        values, _ = self.draw(np.atleast_1d(realizations), np.atleast_1d(samples))
        first = 0 if realizations.ndim == 0 else slice(None)
        second = 0 if samples.ndim == 0 else slice(None)
        part: np.ndarray = values.values[first][..., second, :, :][..., key[2], :][..., key[3]]
        return part

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Draw one region of a store; the counts are what was removed and how often redrawn."""
        members, counts = self.draw(np.arange(*region.realizations), np.arange(*region.samples))
        return members.values, counts

    def draw(
        self, realizations: np.ndarray, samples: np.ndarray
    ) -> tuple[xr.DataArray, RegionStats]:
        """Draw realizations of samples, both by position.

        Returns
        -------
        xarray.DataArray
            Physical values with units after post-processing, (realization, sample, y, x).
        dict
            ``removed``: a dict per post-processor; ``rejected``: number of members redrawn.

        Raises
        ------
        DataError
            Values that are read now are not what they should be, or a member has too little rain
            after many attempts.
        """
        spec = self.model.spec
        block = load_block(self.prepared.isel({spec.sample: samples}), spec, self.settings.mode)
        inputs = block.drop_vars(spec.target, errors="ignore")
        context = Context(spec, self.settings.mode, inputs)
        raw = self._raw(block, samples, realizations, attempt=0)
        low = np.ones(raw.shape[:2], bool)
        rejected = 0
        for attempt in range(1, ATTEMPTS + 2):
            physical = self._labelled(raw, block, realizations)
            members, removed = apply_chain(physical, self.chain, context)
            low = self._too_dry(members, block)
            if not low.any():
                counts = {"removed": [vars(one) for one in removed], "rejected": rejected}
                return members, counts
            if attempt <= ATTEMPTS:
                rejected += int(low.sum())
                self._redraw(raw, low, block, samples, realizations, attempt=attempt)
        raise self._gave_up(low, samples)

    def _raw(
        self, block: xr.Dataset, samples: np.ndarray, realizations: np.ndarray, *, attempt: int
    ) -> np.ndarray:
        how = self.settings
        batch = self.model.batches(block).load(slice(None))
        with self.lock, one_thread_if_digits_differ(self.model.device):
            return self.model.draw(
                batch,
                seed=how.seed,
                labels=[self.labels[i] for i in samples],
                realizations=[int(r) for r in realizations],
                mode=how.mode,
                spread=how.spread,
                temperature=how.temperature,
                attempt=attempt,
                tile=how.tile,
            )

    def _labelled(
        self, raw: np.ndarray, block: xr.Dataset, realizations: np.ndarray
    ) -> xr.DataArray:
        spec = self.model.spec
        coords = {dim: block[dim] for dim in (spec.sample, spec.y, spec.x) if dim in block.coords}
        return xr.DataArray(
            raw,
            dims=("realization", spec.sample, spec.y, spec.x),
            coords={**coords, "realization": realizations},
            name=spec.target,
            attrs={"units": spec.units},
        )

    def _too_dry(self, members: xr.DataArray, block: xr.Dataset) -> np.ndarray:
        """Say which (realization, sample) have less than the share of the reference mass."""
        if self.settings.min_mass is None:
            return np.zeros(members.shape[:2], bool)
        values = members.values
        reference = reference_fields(block, self.model.spec, self.size)
        # Only pixels that both have: a mask must not look like missing rain.
        shared = np.isfinite(values) & np.isfinite(reference)
        mass = np.where(shared, values, 0.0).sum(axis=(2, 3), dtype="float64")
        wanted = np.where(shared, reference, 0.0).sum(axis=(2, 3), dtype="float64")
        low: np.ndarray = mass < self.settings.min_mass * wanted
        return low

    def _redraw(
        self,
        raw: np.ndarray,
        low: np.ndarray,
        block: xr.Dataset,
        samples: np.ndarray,
        realizations: np.ndarray,
        *,
        attempt: int,
    ) -> None:
        """Replace rejected members, sample by sample, with the noise of the next attempt."""
        for j in np.flatnonzero(low.any(axis=0)):
            rows = np.flatnonzero(low[:, j])
            one = block.isel({self.model.spec.sample: [j]})
            again = self._raw(one, samples[[j]], realizations[rows], attempt=attempt)
            raw[rows, j] = again[:, 0]

    def _gave_up(self, low: np.ndarray, samples: np.ndarray) -> DataError:
        label = self.labels[samples[np.flatnonzero(low.any(axis=0))[0]]]
        return DataError(
            explain(
                f"min_mass, sample {label}",
                expected=f"members with at least {self.settings.min_mass:g} of the reference mass",
                got=f"none in {ATTEMPTS} redraws",
                remedy="Lower min_mass, or leave this sample out.",
            )
        )


@dataclass(frozen=True)
class Part:
    """Draws one region.

    Parameters
    ----------
    source
        Holds the samples of the region, and no others.
    made_with
        What :func:`last_digits` returned where the run was begun.
    """

    source: EnsembleSampler
    environment: Mapping[str, str]

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Draw the region; its counts also say on what device.

        Raises
        ------
        MismatchError
            This process computes with something else than the one that began the run.
        DataError
            The data are not what they should be, no member has enough rain, or the model made
            values that are not numbers.
        """
        differing = differences(self.environment, numeric_environment(self.source.model.device))
        if differing:
            raise MismatchError(
                explain(
                    f"worker on {socket.gethostname()}",
                    expected="the packages and the precision of the run",
                    got="; ".join(differing),
                    remedy="Last digits would differ within one ensemble: use workers alike.",
                )
            )
        first, last = region.samples
        values, counts = self.source.draw_region(replace(region, samples=(0, last - first)))
        self._check(values, region)
        return values, {**counts, "device": self.source.model.device.type}

    def _check(self, values: np.ndarray, region: Region) -> None:
        """Only what is masked in the data may be NaN in the members, and nothing infinite."""
        bad = ~np.isfinite(values)
        if not bad.any():
            return
        source = self.source
        block = load_block(source.prepared, source.model.spec, source.settings.mode)
        masked = ~source.model.batches(block).load(slice(None)).mask[:, 0].cpu().numpy()
        bad &= ~(masked[None] & np.isnan(values))
        if bad.any():
            member, sample = (int(axis[0]) for axis in np.nonzero(bad.any(axis=(2, 3))))
            raise DataError(
                explain(
                    f"realization {region.realizations[0] + member} of sample "
                    f"{source.labels[sample]}",
                    expected="numbers wherever the data have them",
                    got=f"{int(bad[member, sample].sum())} pixels that are NaN or infinite",
                    remedy="Look at the data of this sample and at the model: "
                    "xcvae.diagnose(ds, model).",
                )
            )


class Parts:
    """Cuts parts out of a source, region by region.

    Parameters
    ----------
    source
        Holds all samples.
    """

    def __init__(self, source: EnsembleSampler) -> None:
        self.source = source
        self._samples: tuple[int, int] | None = None
        self._cut = source

    def __call__(self, region: Region) -> Part:
        """Return what draws a region; regions of the same samples in a row share their cut."""
        if region.samples != self._samples:
            self._samples, self._cut = region.samples, self._of(slice(*region.samples))
        return Part(self._cut, numeric_environment(self.source.model.device))

    def _of(self, chosen: slice) -> EnsembleSampler:
        source = self.source
        prepared = source.prepared.isel({source.model.spec.sample: chosen})
        if any(variable.chunks is not None for variable in prepared.variables.values()):
            # Lazy data: without this, the graph of the whole would travel with every part.
            (prepared,) = optimize(prepared)  # type: ignore[no-untyped-call]
        cut = replace(source, prepared=prepared, labels=source.labels[chosen])
        # On a CPU a draw per core makes more than one draw on all cores; in tiles, which are there
        # to save memory, and on a GPU it is one after the other.
        alone = source.settings.tile is not None or source.model.device.type != "cpu"
        return cut if alone or not runs_in_threads() else replace(cut, lock=nullcontext())

"""From a model to physical members: draw a block, post-process it, redraw what has too little rain.

A :class:`Source` looks like an array of shape (realization, sample, y, x) whose values are drawn
when they are asked for. Any part of it can be drawn by itself: the noise of a member depends on
its labels, never on what else is drawn with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xcvae.ensemble.chain import apply_chain
from xcvae.ensemble.inputs import load_block
from xcvae.ensemble.postprocess import Context, Postprocessor
from xcvae.ensemble.reference import reference_fields
from xcvae.ensemble.regions import Counts, Region
from xcvae.ensemble.workers import one_thread_if_digits_differ
from xcvae.errors import DataError, explain

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Mode", "Settings", "Source"]

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
class Source:
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

    def draw_region(self, region: Region) -> tuple[np.ndarray, Counts]:
        """Draw one region of a store; the counts are what was removed and how often redrawn."""
        members, counts = self.draw(np.arange(*region.realizations), np.arange(*region.samples))
        return members.values, counts

    def draw(self, realizations: np.ndarray, samples: np.ndarray) -> tuple[xr.DataArray, Counts]:
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

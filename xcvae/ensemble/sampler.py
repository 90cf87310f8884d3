"""Members of an ensemble as an array whose values are drawn on access.

An :class:`EnsembleSampler` has the shape (realization, sample, y, x). Any part of it can be drawn
by itself: the noise of a member depends on its labels, never on what else is drawn with it. To draw
means to read the data of some samples, sample from the network, post-process, and redraw members
that have too little rain.
"""

from __future__ import annotations

import math
import os
import socket
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import xarray as xr
from dask.base import optimize

from xcvae.ensemble.execution.threads import (
    numeric_environment,
    one_thread_if_digits_differ,
    threads_of_draws,
    torch_threads,
)
from xcvae.ensemble.postprocess import Context, Postprocessor, PostprocessPipeline
from xcvae.ensemble.request import SampleRequest, identity_of
from xcvae.ensemble.store.base import Region, RegionStats, plan_chunks
from xcvae.ensemble.storms import StormContext, StormPipeline, flags_of
from xcvae.errors import ConfigError, DataError, MismatchError
from xcvae.fields.batches import Batch, unmask_unobserved, warn_of_unobserved
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import prepare
from xcvae.fields.grids import check_reference, reference_fields
from xcvae.fields.sample_blocks import take_samples
from xcvae.fields.samples import fingerprint, labels_of, times_of, warn_of_duration
from xcvae.fields.validation import check_observed, check_values, is_placeholder
from xcvae.generator.sharing import Latest, SharedEncoding
from xcvae.registry import as_given
from xcvae.registry.discovery import version_of

if TYPE_CHECKING:
    from xcvae.generator.model import Model


ATTEMPTS = 50
"""Redraws of a member with too little rain, at most."""


@dataclass(frozen=True)
class SpreadSolution:
    """The spread that gives a requested diversity.

    Attributes
    ----------
    spread
        The solution, in [0, 1].
    diversity
        The diversity that it gave on the samples tried (1).
    evaluations
        Number of ensembles that were drawn to find it.
    """

    spread: float
    diversity: float
    evaluations: int


@dataclass(frozen=True)
class Inputs:
    """Data of some samples, in memory.

    Attributes
    ----------
    block
        The samples, prepared.
    batch
        The same for the network.
    encoding
        Encoding of a single sample, which draws of its members share; None: each draw encodes.
    """

    block: xr.Dataset
    batch: Batch
    encoding: SharedEncoding | None = None


@dataclass(eq=False)
class EnsembleSampler:
    """Members of all samples, drawn on access; make one with :meth:`prepare`.

    Attributes
    ----------
    model
        The model.
    prepared
        The data, as :func:`xcvae.fields.describe.prepare` returns them.
    labels
        Text of every sample label.
    request
        The options, resolved for these data: tiles and chunks in numbers, post-processors built,
        the device by name. Where the ensemble is written is left out.
    size
        Rows and columns of the maps.
    times
        Time of every sample in microseconds, if members evolve in time.
    start
        Position of the first sample in the whole ensemble; above 0 in a subset.
    solution
        The spread that was solved for, if a diversity is requested.
    environment_of_run
        Packages and precision that a region must be drawn with; set in a subset.
    threads
        Tiles or batches that are drawn at a time on a CPU, by all draws of this process together.
        None, in another process: the torch threads there.
    seam
        Bytes that decide on the seam of tiles; 0 without tiles, and in ensembles of the time when
        the seam had the smallest maps. See :func:`xcvae.generator.splitting.split_domain`.
    lock
        Acquired while the network draws; by default what the device and the memory need.
    """

    model: Model
    prepared: xr.Dataset
    labels: Sequence[str]
    request: SampleRequest
    size: tuple[int, int]
    times: Sequence[int] | None = None
    start: int = 0
    solution: SpreadSolution | None = None
    environment_of_run: Mapping[str, str] | None = None
    threads: int | None = field(default_factory=torch_threads)
    seam: int = 0
    lock: Any = None
    _latest: Latest[Inputs] = field(default_factory=Latest, init=False, repr=False)
    _latest_of_regions: Latest[Inputs] = field(
        default_factory=partial(Latest, permanent=True), init=False, repr=False
    )
    _last_subset: EnsembleSampler | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.lock is None:
            self.lock = self._default_lock()

    def _default_lock(self) -> Any:
        if self.model.device.type != "cpu":
            from dask.utils import SerializableLock

            # One per process: a second draw at the same time would only get in the way.
            return SerializableLock("xcvae-draw")
        if self.tile is None:
            return nullcontext()  # draws share cores and memory
        from xcvae.generator.memory import draw_memory, tiled_draws

        # A draw in tiles stores features and states, besides what its cores need.
        memory, most = draw_memory(self.model.device), threads_of_draws()
        number = tiled_draws(
            self.size, self.tile, self.model.architecture, memory=memory, most=most,
            fields=math.prod(self.chunks),
        )  # fmt: skip
        return threading.BoundedSemaphore(number)

    dtype: ClassVar[np.dtype[np.float32]] = np.dtype("float32")
    ndim: ClassVar[int] = 4

    @classmethod
    def prepare(cls, ds: xr.Dataset, model: Model, request: SampleRequest) -> EnsembleSampler:
        """Check data and post-processors against the model, and resolve the options for them.

        Raises
        ------
        XcvaeError
            The data do not fit the model, or an option or a post-processor is wrong.
        """
        spec = model.spec
        divides = model.origin is not None and model.architecture.constrain > 0
        if request.postprocess is None and divides:
            # What a threshold removes would be missing in the means over the cells.
            request = replace(request, postprocess=[])
        pipeline = PostprocessPipeline.build(request.postprocess, spec)
        storms = StormPipeline.build(request.storms)
        prepared = _prepared(ds, model, request.mode, storms)
        size = model.batches(prepared).size
        first = prepared.isel({spec.sample: [0]}).drop_vars(spec.target, errors="ignore")
        pipeline.dry_run(Context(spec, request.mode, first), size)
        dims = spec.y, spec.x
        tile = request.tile_for(model, dict(zip(dims, size, strict=True)))
        labels = labels_of(prepared, spec.sample)
        _check_distinct(labels, spec.sample)
        shape = (len(request.numbers), len(labels), *size)
        chunks = plan_chunks(request.chunks, sizes=shape, sample=spec.sample)
        if request.min_mass is not None:
            check_reference(prepared, spec)
        times = _times_of(prepared, model, request)
        request.cap_in(spec.units)
        # A sampler travels to workers, and its store stays where it is.
        resolved = replace(
            request,
            postprocess=pipeline.steps,
            storms=storms.steps or None,
            tile=None if tile is None else dict(zip(dims, tile, strict=True)),
            chunks=dict(zip(("realization", spec.sample), chunks, strict=True)),
            device=str(model.device),
            like=None,
            store=None,
            catalog=None,
            name=None,
        )
        from xcvae.generator.splitting import SEAM_BYTES

        seam = 0 if tile is None else SEAM_BYTES
        return cls(model, prepared, labels, resolved, size, times, seam=seam)

    def __getstate__(self) -> dict[str, Any]:
        """Leave for another process, without what regions of this one share."""
        shared = ("lock", "_latest", "_latest_of_regions", "_last_subset")
        return {key: value for key, value in self.__dict__.items() if key not in shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Arrive in another process: the model comes from its file, and goes to its device."""
        self.__dict__.update(state, threads=None, lock=None, _last_subset=None)
        self._latest, self._latest_of_regions = Latest(), Latest(permanent=True)
        self.model.to(self.request.device)
        self.__post_init__()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Number of realizations, samples, rows and columns."""
        return (len(self.request.numbers), len(self.labels), *self.size)

    @property
    def chunks(self) -> tuple[int, int]:
        """Realizations and samples per chunk."""
        realizations, samples = (self.request.chunks or {}).values()
        return realizations, samples

    @property
    def tile(self) -> tuple[int, int] | None:
        """Rows and columns of the tiles that maps are drawn in; None: in one piece."""
        if not isinstance(self.request.tile, Mapping):
            return None
        rows, columns = self.request.tile.values()
        return rows, columns

    @property
    def pipeline(self) -> PostprocessPipeline:
        """The post-processors."""
        return PostprocessPipeline(cast("tuple[Postprocessor, ...]", self.request.postprocess))

    @property
    def storms(self) -> StormPipeline:
        """The components that changed the conditions."""
        return StormPipeline.build(self.request.storms)

    @property
    def flags(self) -> dict[str, xr.DataArray]:
        """Coordinates that say how the conditions of each sample were changed."""
        return flags_of(self.prepared, self.model.spec.sample)

    @property
    def spread(self) -> float:
        """Spread that members are drawn with: the requested or solved one, 1 for the prior."""
        if self.solution is not None:
            return self.solution.spread
        fixed = self.request.fixed_spread
        return 1.0 if fixed is None else fixed

    def with_spread(self, spread: float) -> EnsembleSampler:
        """Return a sampler that differs in its spread only."""
        return replace(self, request=replace(self.request, spread=spread, diversity=None))

    def at(self, rows: Sequence[int]) -> EnsembleSampler:
        """Return a sampler of some samples, by position and in this order."""
        prepared = self.prepared.isel({self.model.spec.sample: list(rows)})
        times = None if self.times is None else [self.times[i] for i in rows]
        return replace(self, prepared=prepared, labels=[self.labels[i] for i in rows], times=times)

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        """Draw a part, given by an integer, slice or list of positions per dimension."""
        realizations = np.arange(self.shape[0])[key[0]]
        samples = np.arange(len(self.labels))[key[1]]
        values = np.empty((realizations.size, samples.size, *self.size), self.dtype)
        if values.size:  # else an empty selection
            drawn = self.draw(np.atleast_1d(realizations), np.atleast_1d(samples))[0].values
            # Post-processors may return other types, and arrays that cannot be written to.
            values = np.require(drawn, self.dtype, "W")
        first = 0 if realizations.ndim == 0 else slice(None)
        second = 0 if samples.ndim == 0 else slice(None)
        part: np.ndarray = values[first][..., second, :, :][..., key[2], :][..., key[3]]
        return part

    def identity(self, parts: Sequence[int] = ()) -> dict[str, Any]:
        """Return what decides on the values of the ensemble, as JSON types; reads all data.

        Parameters
        ----------
        parts
            Samples of each call that has appended to a store, for which the data are recorded
            apart; see :func:`parts_of`. They are ignored if they do not add up to these samples.
        """
        data: Any = self.fingerprint()
        if parts and sum(parts) == len(self.labels):
            ends = np.cumsum([0, *parts]).tolist()
            data = [[b - a, self.fingerprint(slice(a, b))] for a, b in pairwise(ends)]
        options = self.request.identity()
        options["postprocess"] = as_given(self.pipeline.describe())
        if self.storms.steps:
            options["storms"] = as_given(self.storms.describe())
        if self.seam:
            options["seam"] = self.seam
        return {
            **identity_of(self.model),
            **options,
            "data": data,
        }

    def fingerprint(self, samples: slice = slice(None)) -> str:
        """Return a hash of the data of some samples; see :func:`fingerprint`."""
        spec = self.model.spec
        target_values = self.request.mode == "posterior" or self.request.min_mass is not None
        part = self._unmasked(self.prepared.isel({spec.sample: samples}))
        return fingerprint(part, spec, target_values=target_values)

    def environment(self) -> dict[str, str]:
        """Return what decides on the last digits: packages, the device, and its precision."""
        packages = {"xcvae"}
        steps = [*self.pipeline.describe(), *self.storms.describe()]
        packages |= {str(one.get("package")) for one in steps}
        versions = {f"{name} version": version_of(name) for name in sorted(packages)}
        known = {name: version for name, version in versions.items() if version is not None}
        return {**known, **numeric_environment(self.model.device)}

    def subset(self, region: Region) -> EnsembleSampler:
        """Return a sampler for one region, with the data of its samples only.

        It can be sent to a worker. Regions of the same samples in a row share one.
        """
        first, last = region.samples
        subset = self._last_subset
        if subset is None or (subset.start, subset.start + len(subset.labels)) != region.samples:
            self._last_subset = subset = self._cut(first, last)
        return subset

    def _cut(self, first: int, last: int) -> EnsembleSampler:
        chosen = slice(first - self.start, last - self.start)
        prepared = self.prepared.isel({self.model.spec.sample: chosen})
        if any(variable.chunks is not None for variable in prepared.variables.values()):
            # Lazy data: without this, the graph of the whole would travel with every subset.
            (prepared,) = optimize(prepared)  # type: ignore[no-untyped-call]
        subset = replace(
            self,
            prepared=prepared,
            labels=self.labels[chosen],
            times=None if self.times is None else self.times[chosen],
            start=first,
            environment_of_run=numeric_environment(self.model.device),
        )
        subset._latest = self._latest_of_regions  # regions of a sample follow each other
        return subset

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Draw one region of a store.

        Returns
        -------
        numpy.ndarray
            Physical values, (realization, sample, y, x).
        dict
            The statistics of :meth:`draw`, and the kind of device.

        Raises
        ------
        MismatchError
            This process draws with other packages or another precision than the run.
        DataError
            As :meth:`draw`.
        """
        self._check_environment()
        samples = np.arange(*region.samples) - self.start
        members, stats = self.draw(np.arange(*region.realizations), samples)
        return members.values, {**stats, "device": self.model.device.type}

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
            Lazy data are wrong, a member has too little rain after many attempts, or the network
            returned values that are not finite.
        """
        # Large maps: a block has a few members of one sample. More samples would take memory.
        if len(samples) > 1 or len(realizations) == self.shape[0]:
            return self._draw(self._as_inputs(self._load(samples)), realizations, samples)

        def load() -> Inputs:
            return self._as_inputs(self._load(samples), SharedEncoding())

        with self._latest.of(self.start + int(samples[0]), load) as inputs:
            return self._draw(inputs, realizations, samples)

    def _draw(
        self, inputs: Inputs, realizations: np.ndarray, samples: np.ndarray
    ) -> tuple[xr.DataArray, RegionStats]:
        """Draw members, post-process them, and redraw those with too little rain."""
        spec, block = self.model.spec, inputs.block
        context = Context(spec, self.request.mode, block.drop_vars(spec.target, errors="ignore"))
        raw = self._raw(inputs, samples, realizations, attempt=0)
        low = np.ones(raw.shape[:2], bool)
        rejected = 0
        for attempt in range(1, ATTEMPTS + 2):
            physical = self._labelled(raw, block, realizations)
            members, removed = self.pipeline.apply(physical, context)
            low = self._too_dry(members, block)
            if not low.any():
                self._check_finite(members.values, inputs, realizations, samples)
                stats = {"removed": [vars(one) for one in removed], "rejected": rejected}
                return members, stats
            if attempt <= ATTEMPTS:
                rejected += int(low.sum())
                self._redraw(raw, low, inputs, samples, realizations, attempt=attempt)
        raise self._too_dry_error(low, samples)

    def _load(self, samples: np.ndarray) -> xr.Dataset:
        """Read samples into memory; values that were lazy are checked now."""
        spec = self.model.spec
        block = take_samples(self.prepared, spec.sample, samples, shared=spec.target)
        # The scheduler is named: inside a task of another scheduler the default could be that one.
        block = block.compute(scheduler="synchronous")
        _check(block[_names(self.prepared, lazy=True)], spec, self.request.mode)
        return block

    def _as_inputs(self, block: xr.Dataset, encoding: SharedEncoding | None = None) -> Inputs:
        batch = self.model.batches(self._unmasked(block)).load(slice(None))
        if self.request.mode == "prior":
            batch = replace(batch, x=None)  # the mask has been taken from it
        return Inputs(block, batch, encoding)

    def _unmasked(self, prepared: xr.Dataset) -> xr.Dataset:
        """Return samples as the network gets them: unobserved ones have no mask of their own."""
        if self.request.mode == "posterior":
            return prepared
        return unmask_unobserved(prepared, self.model.spec, self.model.valid)

    def _raw(
        self, inputs: Inputs, samples: np.ndarray, realizations: np.ndarray, *, attempt: int
    ) -> np.ndarray:
        """Draw from the network, with the noise that belongs to the labels."""
        request = self.request
        threads = self.threads or torch_threads()
        with self.lock, one_thread_if_digits_differ(self.model.device):
            return self.model.draw(
                inputs.batch,
                seed=request.seed,
                labels=[self.labels[i] for i in samples],
                realizations=self._numbers(realizations),
                mode=request.mode,
                spread=self.spread,
                temperature=request.temperature,
                attempt=attempt,
                tile=self.tile,
                times=None if self.times is None else [self.times[i] for i in samples],
                timescales=None if self.times is None else request.timescales_for(self.model),
                limits=self._limits(inputs.block),
                threads=threads,
                seam=self.seam,
                shared=inputs.encoding,
            )

    def _numbers(self, realizations: np.ndarray) -> list[int]:
        """Return the numbers of members by position; positions may lie past the last one."""
        return [self.request.numbers.start + int(position) for position in realizations]

    def _limits(self, block: xr.Dataset) -> np.ndarray:
        """Return the largest rain that a pixel of each sample may have."""
        cap = self.request.cap_in(self.model.spec.units)
        if cap is None:
            return self.model.limits(block)
        return np.full(block.sizes[self.model.spec.sample], cap)

    def _labelled(
        self, raw: np.ndarray, block: xr.Dataset, realizations: np.ndarray
    ) -> xr.DataArray:
        spec = self.model.spec
        coords = {dim: block[dim] for dim in (spec.sample, spec.y, spec.x) if dim in block.coords}
        return xr.DataArray(
            raw,
            dims=("realization", spec.sample, spec.y, spec.x),
            coords={**coords, "realization": self._numbers(realizations)},
            name=spec.target,
            attrs={"units": spec.units},
        )

    def _too_dry(self, members: xr.DataArray, block: xr.Dataset) -> np.ndarray:
        """Mark each (realization, sample) with less than the share of the reference mass."""
        if self.request.min_mass is None:
            return np.zeros(members.shape[:2], bool)
        values = members.values
        reference = reference_fields(block, self.model.spec, self.size)
        # Only pixels that both have: a mask must not look like missing rain.
        shared = np.isfinite(values) & np.isfinite(reference)
        mass = np.where(shared, values, 0.0).sum(axis=(2, 3), dtype="float64")
        wanted = np.where(shared, reference, 0.0).sum(axis=(2, 3), dtype="float64")
        low: np.ndarray = mass < self.request.min_mass * wanted
        return low

    def _redraw(
        self,
        raw: np.ndarray,
        low: np.ndarray,
        inputs: Inputs,
        samples: np.ndarray,
        realizations: np.ndarray,
        *,
        attempt: int,
    ) -> None:
        """Replace rejected members, sample by sample, with the noise of the next attempt."""
        for j in np.flatnonzero(low.any(axis=0)):
            rows = np.flatnonzero(low[:, j])
            one = inputs
            if len(samples) > 1:
                one = self._as_inputs(inputs.block.isel({self.model.spec.sample: [j]}))
            again = self._raw(one, samples[[j]], realizations[rows], attempt=attempt)
            raw[rows, j] = again[:, 0]

    def _too_dry_error(self, low: np.ndarray, samples: np.ndarray) -> DataError:
        label = self.labels[samples[np.flatnonzero(low.any(axis=0))[0]]]
        return DataError.of(
            f"min_mass, sample {label}",
            expected=f"members with at least {self.request.min_mass:g} of the reference mass",
            got=f"none in {ATTEMPTS} redraws",
            remedy="Lower min_mass, or leave this sample out.",
        )

    def _check_environment(self) -> None:
        """Refuse to draw in a process whose last digits would differ from the rest of a run."""
        here = numeric_environment(self.model.device)
        expected = here if self.environment_of_run is None else self.environment_of_run
        differing = {key for key in expected if expected[key] != here[key]}
        if differing:
            raise MismatchError.of(
                f"worker on {socket.gethostname()}",
                expected=_listed(expected, differing),
                got=_listed(here, differing),
                remedy="Use workers that are alike: last digits would differ within one ensemble.",
            )

    def _check_finite(
        self, values: np.ndarray, inputs: Inputs, realizations: np.ndarray, samples: np.ndarray
    ) -> None:
        """Refuse infinite members, and NaN where the data are not masked."""
        bad = ~np.isfinite(values)
        if not bad.any():
            return
        masked = ~inputs.batch.mask[:, 0].cpu().numpy()
        bad &= ~(masked[None] & np.isnan(values))
        if bad.any():
            member, sample = (int(axis[0]) for axis in np.nonzero(bad.any(axis=(2, 3))))
            raise DataError.of(
                f"realization {self._numbers(realizations)[member]} of sample "
                f"{self.labels[samples[sample]]}",
                expected="numbers wherever the data have them",
                got=f"{int(bad[member, sample].sum())} pixels that are NaN or infinite",
                remedy="Look at the data of this sample and at the model: "
                "xcvae.diagnose(ds, model).",
            )


def _listed(environment: Mapping[str, str], keys: set[str]) -> str:
    return ", ".join(f"{key} {environment[key]}" for key in sorted(keys))


def open_model(model: Model | str | os.PathLike[str] | None, device: str) -> Model:
    """Return a model on a device, read from its file if a path or a name is given.

    Raises
    ------
    ConfigError
        The argument is neither a model nor a path.
    ModelFileError
        The file does not exist, or is not a model.
    """
    from xcvae.generator.model import Model, load

    if isinstance(model, str | os.PathLike):
        model = load(model)
    if not isinstance(model, Model):
        raise ConfigError.of(
            "model",
            expected="a Model, the path of a model file, or a name of xcvae.models",
            got=f"{model!r} ({type(model).__name__})",
            remedy="Train one with xcvae.train, or name its file.",
        )
    return model.to(device)


def _prepared(ds: xr.Dataset, model: Model, mode: str, storms: StormPipeline) -> xr.Dataset:
    """Check the data and bring them into the form of training, with what storms change."""
    spec = model.spec
    context = StormContext(spec, model.record, mode)
    prepared = storms.inputs(inputs_of(ds, spec, mode), ds, context)
    if storms.steps:
        _check(prepared[_names(prepared, lazy=False)], spec, mode)
    warn_of_duration(ds, spec)
    if mode == "prior":
        warn_of_unobserved(prepared, spec)
    return prepared


def _times_of(prepared: xr.Dataset, model: Model, request: SampleRequest) -> list[int] | None:
    """Return the times of the samples if members evolve; check that timescales are known."""
    if request.temporal == "independent":
        return None
    otherwise = ", or use temporal='independent'"
    times = times_of(prepared, model.spec.sample, otherwise=otherwise)
    request.timescales_for(model)
    return times


def _check_distinct(labels: Sequence[str], sample: str) -> None:
    """Refuse samples with the same address of their noise, whose members would be alike."""
    if len(set(labels)) == len(labels):
        return
    counts = Counter(labels)
    first = next(label for label in labels if counts[label] > 1)
    raise DataError.of(
        sample,
        expected="labels that differ, times by a second or more: they are addresses of the noise",
        got=f"{counts[first]} samples {first}",
        remedy="Keep one of them, or give them other labels, such as texts.",
    )


def inputs_of(ds: xr.Dataset, spec: DataSpec, mode: str) -> xr.Dataset:
    """Prepare a Dataset for sampling; values that are in memory are checked.

    Parameters
    ----------
    ds
        The conditions, perhaps the target. A target that is NaN throughout is left out in prior
        mode: it is a placeholder, neither an observation nor a mask.
    spec
        What the model knows about the data.
    mode
        ``"prior"`` or ``"posterior"``.

    Raises
    ------
    XcvaeError
        The Dataset does not fit the model, or its values are out of range.
    """
    prepared = prepare(ds, spec, need_target=mode == "posterior")
    optional = mode == "prior" and spec.target in prepared
    if optional and is_placeholder(prepared[spec.target], spec):
        prepared = prepare(ds.drop_vars(spec.target), spec, need_target=False)
    _check(prepared[_names(prepared, lazy=False)], spec, mode)
    return prepared


def _names(prepared: xr.Dataset, *, lazy: bool) -> list[str]:
    return [str(n) for n, da in prepared.data_vars.items() if (da.chunks is not None) == lazy]


def _check(part: xr.Dataset, spec: DataSpec, mode: str) -> None:
    check_values(part, spec, masked=True)
    if mode == "posterior" and spec.target in part:
        check_observed(part, spec)


def parts_of(identity: Mapping[str, Any] | None) -> list[int]:
    """Return the samples of each call whose data a stored identity records apart."""
    data = (identity or {}).get("data")
    return [int(count) for count, _ in data] if isinstance(data, list) else []

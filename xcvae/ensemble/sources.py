"""Sources of the loader: real samples or ensembles, read in blocks, with their conditions."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.ensemble.augment import rows_in
from xcvae.ensemble.dataset import record_of
from xcvae.ensemble.store.samples import rain_shares
from xcvae.ensemble.storms import DrawnStorms
from xcvae.errors import DataError, MismatchError, MissingVariableError, nearest
from xcvae.fields.axes import same_axis
from xcvae.fields.cf import Layout, find_axes, find_layout, find_target, require
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import prepare
from xcvae.fields.prefetch import pool_shape
from xcvae.fields.scaling import Scaling
from xcvae.fields.units import STEP, to_units, units_of, with_duration
from xcvae.fields.validation import refuse_packed
from xcvae.metrics.pairs import same_places

MEMBER, SYNTHETIC = "realization", "synthetic"


@dataclass(frozen=True)
class LoaderRequest:
    """Variables that are read of every source.

    Attributes
    ----------
    target, conditions
        The rain variable, and the other variables.
    spec, scaling
        Data of the model whose units, and with a scaling whose normalised space, values have.
    units
        Units by name; a variable that is missing gets those of the source that is opened first.
    """

    target: str
    conditions: tuple[str, ...]
    spec: DataSpec | None = None
    scaling: Scaling | None = None
    units: dict[str, str] = field(default_factory=dict)

    def converted(self, da: xr.DataArray) -> xr.DataArray:
        """Return a variable in the units that it has in all sources."""
        refuse_packed(da)
        units = self.units.setdefault(str(da.name), units_of(da))
        return to_units(da, units)


@dataclass(frozen=True)
class LoaderSource:
    """Fields of one entry.

    Attributes
    ----------
    target, conditions
        Rain, dims (realization, sample, y, x) or (sample, y, x), and other variables, with the
        sample dim first or without it; in the requested units.
    name
        Name of the entry.
    layout
        Names of the target's dims.
    scaling
        Normalises values; None leaves them physical.
    spans
        Realizations and samples of each block.
    labelled
        The target with its coordinates, for thresholds that depend on the time step.
    drawn
        Of samples that `xcvae.augment` has joined: True for those that a model drew.
    """

    name: str
    target: xr.DataArray
    conditions: xr.Dataset
    layout: Layout
    scaling: Scaling | None
    spans: Sequence[tuple[slice, slice]]
    labelled: xr.DataArray | None = None
    drawn: NDArray[np.bool_] | None = None

    @property
    def synthetic(self) -> bool:
        """True if the fields are members of an ensemble."""
        return MEMBER in self.target.dims

    @property
    def sizes(self) -> list[int]:
        """Number of fields in each block."""
        return [_length(members) * _length(samples) for members, samples in self.spans]

    @property
    def nbytes(self) -> int:
        """Memory of a sample, target and conditions."""
        return 4 * sum(map(math.prod, _shapes(self).values()))

    def __len__(self) -> int:
        """Return the number of fields."""
        members = self.target.sizes.get(MEMBER, 1)
        return members * self.target.sizes[self.layout.sample]

    def one(self, number: int) -> dict[str, NDArray[np.generic]]:
        """Read one field, by number (all samples of a member, then the next), and its conditions.

        Nothing but the chunks that hold it is read.
        """
        member, sample = divmod(number, self.target.sizes[self.layout.sample])
        return self._read(slice(member, member + 1), slice(sample, sample + 1), np.zeros(1, int))

    def shares(self) -> dict[str, float]:
        """Return the shares of wet and heavy pixels, of some fields where there are many."""
        return {} if self.labelled is None else rain_shares(self.labelled, self.layout.sample)

    def load(self, block: int, rows: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        """Read rows of a block: float32 arrays with the samples first, and ``synthetic``."""
        return self._read(*self.spans[block], rows)

    def _read(
        self, members: slice, samples: slice, rows: NDArray[np.int64]
    ) -> dict[str, NDArray[np.generic]]:
        sample = self.layout.sample
        block_of = {sample: samples, MEMBER: members} if self.synthetic else {sample: samples}
        # Not the default scheduler: many blocks are read at once already.
        fields = self.target.isel(block_of).compute(scheduler="synchronous")
        conditions = self.conditions.isel({sample: samples}, missing_dims="ignore")
        conditions = conditions.compute(scheduler="synchronous")
        values = self._values(fields, None)
        columns = rows % _length(samples)
        found: dict[str, NDArray[np.generic]] = {
            str(self.target.name): values.reshape(-1, *values.shape[-2:])[rows]
        }
        for name, da in conditions.data_vars.items():
            known = self._values(da, str(name))
            if sample not in da.dims:
                known = np.broadcast_to(known, (_length(samples), *known.shape))
            found[str(name)] = known[columns]
        whole = np.full(_length(samples), self.synthetic)
        found[SYNTHETIC] = (whole if self.drawn is None else self.drawn[samples])[columns]
        return found

    def _values(self, da: xr.DataArray, name: str | None) -> NDArray[np.float32]:
        if self.scaling is None:
            return np.asarray(da.values, np.float32)
        return self.scaling.normalise(da, name)


def source_of(
    name: str, ds: xr.Dataset, real: xr.Dataset | None, request: LoaderRequest
) -> LoaderSource:
    """Find the target of an entry, its conditions and its blocks.

    Parameters
    ----------
    name
        Name of the entry, for messages.
    ds
        An ensemble (target with the dim ``realization``) or real samples.
    real
        Real samples, of which ensembles take the conditions by sample label.
    request
        Variables that are read.

    Raises
    ------
    MismatchError
        An ensemble needs conditions, and ``real`` is missing, lacks its samples or has them on
        another grid; or the data does not fit the model.
    MissingVariableError
        A variable is in none of the Datasets.
    """
    target = require(ds, request.target, what=f"entry '{name}'")
    one = target.isel({MEMBER: 0}, drop=True) if MEMBER in target.dims else target
    layout = find_layout(one, spatial_dims=_spatial(request.spec))
    target = request.converted(target)
    members = [MEMBER] if MEMBER in target.dims else []
    target = target.transpose(*members, layout.sample, layout.y, layout.x)
    if real is not None and members:
        real = _observed(real, target)
    if request.spec is None:
        conditions = _conditions(name, ds, real, layout, request)
    else:
        conditions = _model_conditions(name, ds, real, target, request)
    bare = xr.Dataset({n: _bare(da, layout.sample) for n, da in conditions.data_vars.items()})
    if real is not None and members and _has_maps(bare, layout.sample):
        _check_positions(name, target, real)
    spans = _spans(target, layout.sample)
    drawn = None if members else _drawn(ds, layout.sample)
    known = _of_record(ds, target, layout.sample)
    return LoaderSource(name, _bare(target), bare, layout, request.scaling, spans, known, drawn)


def _of_record(ds: xr.Dataset, target: xr.DataArray, sample: str) -> xr.DataArray:
    """Give rain the step of its record, on which thresholds depend."""
    if "xcvae" not in ds.attrs:
        return with_duration(ds, target, sample)
    return target.assign_attrs({STEP: DataSpec.from_json(record_of(ds)["spec"]).step})


def _drawn(ds: xr.Dataset, sample: str) -> NDArray[np.bool_] | None:
    """Return the flags of samples of `xcvae.augment`; None for other data."""
    if SYNTHETIC not in ds.variables or ds[SYNTHETIC].dims != (sample,):
        return None
    return np.asarray(ds[SYNTHETIC].values, np.bool_)


def _observed(real: xr.Dataset, target: xr.DataArray) -> xr.Dataset:
    """Return the real samples without synthetic ones of the same labels."""
    sample = str(target.dims[-3])
    if sample not in real.dims:
        raise MismatchError.of(
            "real",
            expected=f"samples along '{sample}', as in the ensemble",
            got=f"the dims {', '.join(map(str, real.dims))}",
            remedy="Give the samples that it was drawn for, or rename their dimension.",
        )
    drawn = _drawn(real, sample)
    return real if drawn is None else real.isel({sample: np.flatnonzero(~drawn)})


def _has_maps(conditions: xr.Dataset, sample: str) -> bool:
    return any(da.ndim > (sample in da.dims) for da in conditions.data_vars.values())


def _check_positions(name: str, target: xr.DataArray, real: xr.Dataset) -> None:
    """Refuse real samples whose pixels lie elsewhere than those of the members, or turned."""
    for dim in target.dims[-2:]:
        both = dim in target.indexes and dim in real.indexes
        # Cells that members divide have the names of their pixels, and are fewer.
        if not both or target.sizes[dim] != real.sizes[dim]:
            continue
        if not same_axis(target[dim].values, real[dim].values):
            raise MismatchError.of(
                f"real, coordinate '{dim}'",
                expected=f"that of the ensemble '{name}', {_ends(target, dim)}",
                got=_ends(real, dim),
                remedy="Conditions would be those of other pixels: sort or cut the real samples "
                "as they were when the ensemble was drawn.",
            )

    known = real.get(str(target.name))
    if known is not None and not same_places(target, known):
        raise MismatchError.of(
            "real, latitude and longitude",
            expected=f"those of the ensemble '{name}'",
            got="others, or in another order of rows and columns",
            remedy="Conditions would be those of other pixels: sort or cut the real samples as "
            "they were when the ensemble was drawn.",
        )


def _ends(ds: xr.DataArray | xr.Dataset, dim: Hashable) -> str:
    return f"{ds[dim].values[0]} to {ds[dim].values[-1]}"


def target_of(ds: xr.Dataset) -> str:
    """Name the rain variable of an ensemble or of real samples."""
    if "xcvae" in ds.attrs:
        return DataSpec.from_json(record_of(ds)["spec"]).target
    return find_target(ds.isel({MEMBER: 0}, drop=True) if MEMBER in ds.dims else ds, None)


def check_alike(sources: Sequence[LoaderSource]) -> None:
    """Make sure that fields of all sources can go into one batch.

    Raises
    ------
    MismatchError
        Grids differ.
    """
    first, *others = sources
    for other in others:
        _check_directions(first, other)
        for name, shape in _shapes(first).items():
            if _shapes(other)[name] != shape:
                raise MismatchError.of(
                    f"grid of {name} in '{other.name}'",
                    expected=f"that of '{first.name}', {shape}",
                    got=str(_shapes(other)[name]),
                    remedy="Fields of one batch are of one size: cut or draw them on one grid.",
                )


def _check_directions(first: LoaderSource, other: LoaderSource) -> None:
    """Refuse rows or columns that rise in one source and fall in another."""
    if first.labelled is None or other.labelled is None:
        return
    for axis in (-2, -1):
        one, two = (da.indexes.get(da.dims[axis]) for da in (first.labelled, other.labelled))
        if one is None or two is None or min(len(one), len(two)) < 2:
            continue
        rises = [bool(index[-1] > index[0]) for index in (one, two)]
        if rises[0] != rises[1]:
            words = ["rising" if up else "falling" for up in rises]
            dim = str(other.labelled.dims[axis])
            raise MismatchError.of(
                f"coordinate '{dim}' in '{other.name}'",
                expected=f"{words[0]} values, as in '{first.name}'",
                got=f"{words[1]} ones: its maps are reversed",
                remedy=f"Sort one of them before it is written: ds.sortby('{dim}').",
            )


def _shapes(source: LoaderSource) -> dict[str, tuple[int, ...]]:
    apart = (source.layout.sample, MEMBER)
    every: Mapping[str, xr.DataArray] = {
        str(da.name): da for da in (source.target, *source.conditions.data_vars.values())
    }
    return {
        name: tuple(n for dim, n in da.sizes.items() if dim not in apart)
        for name, da in every.items()
    }


def _spatial(spec: DataSpec | None) -> tuple[str, str] | None:
    return None if spec is None else (spec.y, spec.x)


def _model_conditions(
    name: str, ds: xr.Dataset, real: xr.Dataset | None, target: xr.DataArray, request: LoaderRequest
) -> xr.Dataset:
    """Return the variables of a model for the samples of an entry, in the model's units."""
    spec = request.spec
    assert spec is not None
    if MEMBER not in target.dims:
        prepared = prepare(ds, spec, need_target=True, augmented=True)
        return prepared[list(request.conditions)]
    if not request.conditions:
        return xr.Dataset()
    if real is None:
        raise _missing_conditions(name, request.conditions)
    prepared = prepare(real, spec, need_target=False)[list(request.conditions)]
    rows = rows_in(real, target, spec.sample)
    return _as_drawn(prepared.isel({spec.sample: rows}, missing_dims="ignore"), ds)


def _as_drawn(samples: xr.Dataset, ensemble: xr.Dataset) -> xr.Dataset:
    """Change the conditions of real samples as those of an ensemble were, if they were."""
    if "xcvae" not in ensemble.attrs:
        return samples
    storms = DrawnStorms.of(ensemble, record_of(ensemble))
    if not storms:
        return samples
    changed = storms.applied(samples, np.arange(len(ensemble[storms.sample])))
    return changed.drop_vars(list(storms.flags))


def _conditions(
    name: str, ds: xr.Dataset, real: xr.Dataset | None, layout: Layout, request: LoaderRequest
) -> xr.Dataset:
    """Return the conditions for the samples of an entry: its own, else those of the real ones."""
    absent = [c for c in request.conditions if c not in ds.variables]
    if absent and real is None:
        raise _missing_conditions(name, absent)
    found: dict[str, xr.DataArray] = {c: ds[c] for c in request.conditions if c not in absent}
    if absent:
        assert real is not None
        rows = rows_in(real, ds[request.target], layout.sample)
        for condition in absent:
            if condition not in real.variables:
                raise MissingVariableError.of(
                    "conditions",
                    expected=f"variables of '{name}' or of the real samples",
                    got=repr(condition),
                    remedy=nearest(condition, [*ds.data_vars, *real.data_vars]),
                )
            found[condition] = real[condition].isel({layout.sample: rows}, missing_dims="ignore")
        drawn = _as_drawn(xr.Dataset({name: found[name] for name in absent}), ds)
        found |= {name: drawn[name] for name in absent}
    for axis in (c for c in request.conditions if c in found[c].dims):
        raise MismatchError.of(
            "conditions",
            expected="maps, or a number for each sample",
            got=f"'{axis}', which labels a dim",
            remedy="Leave it out, or give a variable with units in its place.",
        )
    ordered = {c: _rows_first(found[c], layout) for c in request.conditions}
    # Without coordinates, so that none of two sources with other ones are joined into gaps.
    bare = {c: da.drop_vars(da.coords) for c, da in ordered.items()}
    return xr.Dataset({c: request.converted(da) for c, da in bare.items()})


def _rows_first(da: xr.DataArray, layout: Layout) -> xr.DataArray:
    """Return a condition with rows before columns, as the target; files may have (x, y)."""
    spatial: tuple[str, str] = (layout.y, layout.x)
    if not set(spatial) <= set(da.dims):
        try:
            spatial = find_axes(da, sample=layout.sample)
        except DataError:  # no map
            return da
    return da.transpose(..., *spatial)


def _bare(da: xr.DataArray, sample: str = "") -> xr.DataArray:
    """Put samples first and leave coordinates out: they take time in every read."""
    first = [sample] if sample in da.dims else []
    return da.drop_vars(da.coords).transpose(*first, ...)


def _missing_conditions(name: str, conditions: Sequence[str]) -> MismatchError:
    return MismatchError.of(
        f"entry '{name}'",
        expected=f"the conditions {', '.join(conditions)} in it",
        got="an ensemble, which holds the target only",
        remedy="Give the samples that it was drawn for: real=ds, or the name of their entry.",
    )


def _spans(target: xr.DataArray, sample: str) -> list[tuple[slice, slice]]:
    """Cut an entry into blocks along its chunks, so that none is read twice."""
    shape = [n for dim, n in target.sizes.items() if dim not in (sample, MEMBER)]
    block, reads = pool_shape(1, 4 * math.prod(shape))
    members = [slice(0, 1)]
    if MEMBER in target.dims:
        members = _cut(_chunks(target, MEMBER), 1, block * reads)
    deep = max(map(_length, members))
    low, high = -(-block // deep), max(1, block * reads // deep)
    samples = _cut(_chunks(target, sample), low, high)
    return [(m, s) for m in members for s in samples]


def _chunks(target: xr.DataArray, dim: str) -> Sequence[int]:
    """Return the chunks along a dim; what is in memory can be cut anywhere."""
    return target.variable.chunksizes.get(dim, (1,) * target.sizes[dim])


def _cut(sizes: Sequence[int], low: int, high: int) -> list[slice]:
    """Put neighbouring chunks together up to ``low`` samples, and cut those of over ``high``.

    Examples
    --------
    >>> [(part.start, part.stop) for part in _cut((1, 1, 1, 1, 9), 2, 8)]
    [(0, 2), (2, 4), (4, 12), (12, 13)]
    """
    edges = [0]
    for end in np.cumsum(sizes).tolist():
        while end - edges[-1] > high:
            edges.append(edges[-1] + high)
        if end - edges[-1] >= low:
            edges.append(end)
    total = sum(sizes)
    if edges[-1] != total:
        edges.append(total)
    return [slice(a, b) for a, b in pairwise(edges)]


def _length(span: slice) -> int:
    return int(span.stop - span.start)

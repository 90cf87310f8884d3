"""Group samples, or parts of the map, that are scored together."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    MissingVariableError,
    nearest,
    warn_user,
)
from xcvae.fields.axes import same_axis
from xcvae.fields.samples import of_pandas
from xcvae.metrics.sample import Array
from xcvae.verify.pairing import MatchedPair
from xcvae.verify.resampling import Pieces, pieces_of

COARSE_RAIN = "coarse_rain"
"""Groups of every Dataset with coarse rain: thirds of the samples by its mean over the domain."""
#: Parts of dates that samples are usually grouped by; xarray knows more.
DATES = ("dayofyear", "hour", "month", "season", "year")
THIRDS = ("1 least", "2 middle", "3 most")
GroupBy = str | Array | xr.DataArray | Sequence[str | Array | xr.DataArray] | None


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of samples or of pixels, or of both.

    Attributes
    ----------
    pieces
        The pieces of the samples, group by group; every region has such pieces.
    coords
        The coordinates of the groups, by name: one for each dim of the scores.
    regions
        Masks (y, x) of groups of pixels; (None,) if the groups are of samples.
    cells
        For every combination of the coordinates, in their order, the position in `ranges`; -1 for
        one without samples or pixels.
    """

    pieces: Pieces
    coords: dict[str, Array] = field(default_factory=dict)
    regions: tuple[Array | None, ...] = (None,)
    cells: Array = field(default_factory=lambda: np.zeros((), int))

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """First piece, piece after the last and number of samples of every group."""
        return [
            (first + number * self.pieces.count, last + number * self.pieces.count, samples)
            for number in range(len(self.regions))
            for first, last, samples in self.pieces.groups
        ]

    def arranged(self, scores: Array) -> Array:
        """Arrange scores (source, group) by the coordinates; NaN for combinations without data."""
        empty = np.full((*scores.shape[:1], 1), np.nan)
        found: Array = np.concatenate([scores, empty], axis=1)[:, self.cells]
        return found


@dataclass(frozen=True, eq=False)
class _Grouping:
    """One coordinate of groups: its values, and the number of each sample or pixel, -1 for none."""

    name: str
    values: Array
    numbers: Array
    by_pixel: bool


def group_samples(
    match: MatchedPair, groupby: Sequence[str | xr.DataArray] = (), reserved: Iterable[str] = ()
) -> Groups:
    """Group samples, or pixels, by the values of coordinates; missing values are in no group.

    Parameters
    ----------
    match
        The samples.
    groupby
        From `labelled`.
    reserved
        Names that a coordinate of groups cannot have: those of scores. It gets a number then.

    Raises
    ------
    MissingVariableError
        The Dataset has no variable of that name.
    DataError
        It does not have one value per sample or per pixel.
    EmptySelectionError
        All its values are missing, or no sample is in a group of all coordinates.
    """
    order = _order_in_time(match)
    whole = pieces_of(np.zeros(order.size, dtype=int), order)
    if not groupby:
        return Groups(whole)
    found: list[_Grouping] = []
    for one in groupby:
        found.append(_grouping(match, one, {*reserved, *(known.name for known in found)}))
    samples, sample_rank = _combined([one for one in found if not one.by_pixel], order.shape)
    pixels, pixel_rank = _combined(
        [one for one in found if one.by_pixel], match.pair.observed.shape[1:]
    )
    by_pixel = any(one.by_pixel for one in found)
    regions = tuple(pixels == n for n in range(int(pixels.max()) + 1)) if by_pixel else (None,)
    pieces = pieces_of(samples, order)
    shape = tuple(len(one.values) for one in found)
    cells = np.full(shape, -1)
    for index in np.ndindex(*shape):
        sample = sample_rank.get(
            tuple(n for n, g in zip(index, found, strict=True) if not g.by_pixel)
        )
        pixel = pixel_rank.get(tuple(n for n, g in zip(index, found, strict=True) if g.by_pixel))
        if sample is not None and pixel is not None:
            cells[index] = pixel * len(pieces.groups) + sample
    return Groups(pieces, {one.name: one.values for one in found}, regions, cells)


def labelled(match: MatchedPair, groupby: GroupBy) -> list[str | xr.DataArray]:
    """Return a list of groups; arrays by position get the labels of the samples.

    Windows of time and sequences have labels of some samples only.

    Parameters
    ----------
    match
        All samples.
    groupby
        As for `evaluate`.
    """
    return [
        one if isinstance(one, str) else _with_labels(one, match.pair.observed)
        for one in _listed(groupby)
    ]


def _with_labels(given: Any, observed: xr.DataArray) -> xr.DataArray:
    sample, *spatial = map(str, observed.dims)
    groups: Array | xr.DataArray = of_pandas("groupby", given, observed.indexes.get(sample))
    if not isinstance(groups, xr.DataArray):
        groups = xr.DataArray(groups, dims=[sample] if groups.ndim == 1 else spatial)
    index = observed.indexes.get(sample)
    along = groups.dims == (sample,) and groups.size == observed.sizes[sample]
    if not along or sample in groups.coords or index is None or not index.is_unique:
        return groups
    return groups.assign_coords({sample: observed[sample]})


def _listed(groupby: object) -> list[Any]:
    if groupby is None:
        return []
    single = hasattr(groupby, "to_numpy") or isinstance(groupby, str | np.ndarray)
    alone = single or not isinstance(groupby, Iterable)
    listed: list[Any] = [groupby] if alone else list(groupby)  # type: ignore[call-overload]
    for one in listed:
        array = isinstance(one, np.ndarray) or hasattr(one, "to_numpy")
        numbers = array and getattr(one, "ndim", 0) in (1, 2)
        if not numbers and not isinstance(one, str | xr.DataArray):
            raise ConfigError.of(
                "groupby",
                expected="a name, an array, or a list of these",
                got=f"{one!r} ({type(one).__name__})",
                remedy=f"For example 'time.season', '{COARSE_RAIN}', or a map of regions.",
            )
    return listed


def _combined(
    groupings: Sequence[_Grouping], shape: tuple[int, ...]
) -> tuple[Array, dict[tuple[int, ...], int]]:
    """Return the number of the combination that each element is in, and the combinations.

    Only combinations that occur have a number; -1 stands for elements in none.
    """
    if not groupings:
        return np.zeros(shape, int), {(): 0}
    stacked = np.stack([one.numbers for one in groupings], axis=-1)
    present = np.asarray((stacked >= 0).all(axis=-1))
    _check_any(present)
    kinds, numbers = np.unique(stacked[present], axis=0, return_inverse=True)
    combined = np.full(shape, -1)
    combined[present] = numbers.reshape(-1)
    return combined, {tuple(kind): number for number, kind in enumerate(kinds.tolist())}


def _grouping(match: MatchedPair, groupby: str | xr.DataArray, taken: set[str]) -> _Grouping:
    """Number the values of one coordinate."""
    values, by_pixel = _values(match, groupby)
    present = ~values.isnull().values
    _check_any(present)
    try:
        names, numbers = np.unique(values.values[present], return_inverse=True)
    except TypeError as error:
        raise DataError.of(
            "groupby",
            expected="values of one type, which can be sorted",
            got=str(error),
            remedy="Make texts of them: values.astype(str).",
        ) from error
    if names.dtype.kind == "U":
        names = names.astype(object)  # Zarr has no stable format for text of fixed length
    name = free_name("group" if values.name is None else str(values.name), taken)
    groups = np.full(values.shape, -1)
    groups[present] = numbers.reshape(-1)
    return _Grouping(name, names, groups, by_pixel)


def _check_any(present: Array) -> None:
    """Refuse groups without a single sample or pixel."""
    if not present.any():
        raise EmptySelectionError.of(
            "groupby",
            expected="a value of each coordinate for at least one sample, or pixel",
            got="missing values only, so that no sample is left",
            remedy="Check the coordinates that the groups are taken from.",
        )


def free_name(base: str, taken: Container[str]) -> str:
    """Return a name, with a number if it is taken: name, name_2, name_3."""
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}_{count}"
    return name


def _order_in_time(match: MatchedPair) -> Array:
    """Return positions of the samples in the order of time: the bootstrap's blocks need it."""
    observed, sample = match.pair.observed, match.pair.sample
    times = [
        coord
        for name, coord in observed.coords.items()
        if coord.dims == (sample,) and (name == sample or coord.dtype.kind == "M")
    ]
    # The samples' own label if it is a time or a number; else a time coordinate along them.
    times.sort(key=lambda coord: (coord.dtype.kind != "M", coord.name != sample))
    # Texts have no order, in whatever type a file returns them.
    if not times or times[0].to_index().inferred_type in ("string", "bytes", "boolean"):
        return np.arange(observed.shape[0])
    return np.argsort(times[0].values, kind="stable")


def _values(match: MatchedPair, groupby: str | xr.DataArray) -> tuple[xr.DataArray, bool]:
    """Return the coordinate of the groups, and True if it has a value for each pixel."""
    observed = match.pair.observed
    values = _coordinate(match, groupby)
    check_dims(values, observed)
    by_pixel = values.ndim == 2
    if by_pixel:
        values = _on_grid_of(observed, values)
    return values.transpose(*(dim for dim in observed.dims if dim in values.dims)), by_pixel


def check_dims(values: xr.DataArray, observed: xr.DataArray) -> None:
    """Refuse groups that do not have one value for each sample, or one for each pixel.

    Parameters
    ----------
    values
        The groups.
    observed
        Dims (sample, y, x).

    Raises
    ------
    DataError
        They do not.
    """
    sample, *spatial = observed.dims
    dims = spatial if set(values.dims) == set(spatial) else [sample]
    if set(values.dims) != set(dims) or any(
        values.sizes[dim] != observed.sizes[dim] for dim in dims
    ):
        raise DataError.of(
            "groupby",
            expected=f"{observed.sizes[sample]} values along '{sample}', or one for each pixel",
            got=f"dims ({', '.join(map(str, values.dims))}), {values.size} values",
            remedy="Give one value for each sample, or one for each pixel.",
        )


def _on_grid_of(observed: xr.DataArray, values: xr.DataArray) -> xr.DataArray:
    """Return a map with rows and columns in the order of the observation; refuse another grid."""
    for dim in observed.dims[1:]:
        if dim not in values.indexes or dim not in observed.indexes:
            continue
        wanted = np.asarray(observed[dim])
        if same_axis(np.asarray(values[dim]), wanted):
            continue
        values = values.isel({dim: slice(None, None, -1)})
        if not same_axis(np.asarray(values[dim]), wanted):
            raise DataError.of(
                f"groupby, coordinate '{dim}'",
                expected=f"that of the observation, {wanted[0]} to {wanted[-1]}",
                got=f"{values[dim].values[-1]} to {values[dim].values[0]}",
                remedy=f"Give a map on the grid of the data; if only its coordinates are others: "
                f"map.drop_vars('{dim}').",
            )
    return values


def _coordinate(match: MatchedPair, groupby: str | xr.DataArray) -> xr.DataArray:
    if isinstance(groupby, xr.DataArray):
        sample = match.pair.sample
        if sample in groupby.indexes and sample in match.pair.observed.indexes:
            return _by_label(groupby, match.pair.observed, sample)
        return groupby
    return coordinate_of(match.ds, groupby)


def coordinate_of(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Return a coordinate or variable, or a part of dates such as ``time.season``.

    Raises
    ------
    MissingVariableError
        The Dataset has none of that name.
    """
    try:
        return ds[name]
    # 'time.seson' asks xarray for a part of the date that does not exist.
    except (KeyError, AttributeError) as error:
        first = name.partition(".")[0]
        valid: list[Any] = [*ds.variables, COARSE_RAIN]
        if first != name and first in ds.variables:
            valid = [f"{first}.{part}" for part in DATES]
        raise MissingVariableError.of(
            "groupby",
            expected="a coordinate or variable of the Dataset, or a part of its dates",
            got=f"'{name}'",
            remedy=nearest(name, valid),
        ) from error


def _by_label(groupby: xr.DataArray, observed: xr.DataArray, sample: str) -> xr.DataArray:
    """Return the values of the samples; warn of samples without one, such as hours of a day."""
    known = groupby.indexes[sample]
    if not known.is_unique:
        raise DataError.of(
            "groupby",
            expected=f"one value for each label along '{sample}'",
            got=f"labels that repeat, such as {known[known.duplicated()][0]}",
            remedy=f"Drop them: values.drop_duplicates('{sample}').",
        )
    lacking = int((~observed.indexes[sample].isin(known)).sum())
    if 0 < lacking < observed.sizes[sample]:
        name = "" if groupby.name is None else f" '{groupby.name}'"
        warn_user(
            f"groupby{name} has no value for {lacking} of {observed.sizes[sample]} samples, which "
            f"are in no group. Values of days for hours: values.reindex({sample}=ds.{sample}, "
            "method='ffill').",
        )
    return groupby.reindex({sample: observed[sample]})


def no_coarse_rain() -> MissingVariableError:
    """Return the refusal of groups by the coarse rain of data without any."""
    return MissingVariableError.of(
        "groupby",
        expected=f"coarse rain in the Dataset, to group samples by '{COARSE_RAIN}'",
        got="a Dataset and an ensemble without any",
        remedy="Group by an array with one class for each sample, known before the draw.",
    )


def coarse_amounts(match: MatchedPair) -> Array:
    """Return the mean coarse rain of each sample, (sample,); NaN where it is unknown.

    Raises
    ------
    MissingVariableError
        There is no coarse rain.
    """
    fields = match.for_baselines()
    name = fields.attrs.get("condition")
    if name is None:
        raise no_coarse_rain()
    coarse = fields[name]
    means = coarse.mean([dim for dim in coarse.dims if dim != match.pair.sample])
    return np.asarray(means.compute().values, np.float64)


def by_coarse_rain(match: MatchedPair, one: str | xr.DataArray) -> bool:
    """Return True for groups by the coarse rain, not by a variable of that name."""
    return isinstance(one, str) and one == COARSE_RAIN and one not in match.ds.variables


def thirds_of(amounts: Array, starts: Array, sample: str) -> xr.DataArray:
    """Return the third that each unit is in, by its mean coarse rain; equal amounts in the same.

    Parameters
    ----------
    amounts
        Coarse rain of the samples, (sample,).
    starts
        Position of the first sample of every unit that is scored: a sample, window or sequence.
    sample
        Name of the sample dim.
    """
    known = np.add.reduceat(np.isfinite(amounts).astype(np.int64), starts)
    total = np.add.reduceat(np.nan_to_num(amounts), starts)
    means = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    limits = np.quantile(means[known > 0], [1 / 3, 2 / 3]) if known.any() else np.zeros(2)
    thirds = np.array(THIRDS, object)[np.searchsorted(limits, means)]
    return xr.DataArray(np.where(known > 0, thirds, np.nan), dims=[sample], name=COARSE_RAIN)

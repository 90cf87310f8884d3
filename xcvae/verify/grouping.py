"""Group samples, or parts of the map, that are scored together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.errors import DataError, EmptySelectionError, MissingVariableError, nearest
from xcvae.metrics.sample import Array
from xcvae.verify.pairing import MatchedPair
from xcvae.verify.resampling import Pieces, pieces_of


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of samples or of pixels.

    Attributes
    ----------
    pieces
        The pieces of the samples, group by group; every region has such pieces.
    name, values
        The coordinate of the groups; None if there is a single group.
    regions
        Masks (y, x) of groups of pixels; (None,) if the groups are of samples.
    """

    pieces: Pieces
    name: str | None = None
    values: Array | None = None
    regions: tuple[Array | None, ...] = (None,)

    @property
    def ranges(self) -> list[tuple[int, int, int]]:
        """First piece, piece after the last and number of samples of every group."""
        return [
            (first + number * self.pieces.count, last + number * self.pieces.count, samples)
            for number in range(len(self.regions))
            for first, last, samples in self.pieces.groups
        ]


def group_samples(match: MatchedPair, groupby: str | xr.DataArray | None) -> Groups:
    """Group samples, or pixels, by the values of a coordinate; missing values are in no group.

    Raises
    ------
    MissingVariableError
        The Dataset has no variable of that name.
    DataError
        It does not have one value per sample or per pixel.
    EmptySelectionError
        All its values are missing.
    """
    order = _order_in_time(match)
    whole = pieces_of(np.zeros(order.size, dtype=int), order)
    if groupby is None:
        return Groups(whole)
    values, by_pixel = _values(match, groupby)
    present = ~values.isnull().values
    if not present.any():
        raise EmptySelectionError.of(
            "groupby",
            expected="a value for at least one sample, or pixel",
            got="missing values only, so that no sample is left",
            remedy="Check the coordinate that the groups are taken from.",
        )
    names, numbers = np.unique(values.values[present], return_inverse=True)
    if names.dtype.kind == "U":
        names = names.astype(object)  # Zarr has no stable format for text of fixed length
    name = "group" if values.name is None else str(values.name)
    groups = np.full(values.shape, -1)
    groups[present] = numbers
    if by_pixel:
        return Groups(whole, name, names, tuple(groups == n for n in range(len(names))))
    return Groups(pieces_of(groups, order), name, names)


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
    if not times or times[0].dtype.kind in "USb":
        return np.arange(observed.shape[0])
    return np.argsort(times[0].values, kind="stable")


def _values(match: MatchedPair, groupby: str | xr.DataArray) -> tuple[xr.DataArray, bool]:
    """Return the coordinate of the groups, and True if it has a value for each pixel."""
    observed = match.pair.observed
    sample, *spatial = observed.dims
    values = _coordinate(match, groupby)
    by_pixel = set(values.dims) == set(spatial)
    dims = spatial if by_pixel else [sample]
    if set(values.dims) != set(dims) or any(
        values.sizes[dim] != observed.sizes[dim] for dim in dims
    ):
        raise DataError.of(
            "groupby",
            expected=f"{observed.sizes[sample]} values along '{sample}', or one for each pixel",
            got=f"dims ({', '.join(map(str, values.dims))}), {values.size} values",
            remedy="Give one value for each sample, or one for each pixel.",
        )
    return values.transpose(*dims), by_pixel


def _coordinate(match: MatchedPair, groupby: str | xr.DataArray) -> xr.DataArray:
    if isinstance(groupby, xr.DataArray):
        sample = match.pair.sample
        if sample in groupby.indexes and sample in match.pair.observed.indexes:
            return groupby.reindex({sample: match.pair.observed[sample]})
        return groupby
    try:
        return match.ds[groupby]
    except KeyError as error:
        raise MissingVariableError.of(
            "groupby",
            expected="a coordinate or variable of the Dataset",
            got=f"'{groupby}'",
            remedy=nearest(groupby, match.ds.variables),
        ) from error

"""Cells of a grid on the sphere, and in the plane around another grid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.fields.axes import Axis, axis_of
from xcvae.fields.cf import positions
from xcvae.fields.regridding.projections import (
    from_projected,
    from_rotated,
    is_complete,
    is_rotated,
)

Array = NDArray[np.float64]

#: Radius of the earth in km.
EARTH = 6371.0


@dataclass(frozen=True, eq=False)
class Cells:
    """Centres and corners of the cells of a grid, as unit vectors; NaN where there are none.

    Attributes
    ----------
    centres
        (y, x, 3).
    corners
        (y + 1, x + 1, 3).
    """

    centres: Array
    corners: Array

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cells) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.centres.shape[0], self.centres.shape[1]

    @cached_property
    def digest(self) -> str:
        """Hash of the places: weights are computed once for two grids."""
        digest = hashlib.sha256(np.ascontiguousarray(self.centres).tobytes())
        digest.update(np.ascontiguousarray(self.corners).tobytes())
        return digest.hexdigest()

    @property
    def middle(self) -> Array:
        """Unit vector of the middle of the grid."""
        mean = np.nanmean(self.centres.reshape(-1, 3), axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))

    @property
    def extent(self) -> float:
        """Largest angle between the middle and a centre, in degrees."""
        least = float(np.nanmin(self.centres @ self.middle))
        return float(np.rad2deg(np.arccos(np.clip(least, -1.0, 1.0))))

    @property
    def side(self) -> float:
        """Median side of a cell in km: the root of its area."""
        low, high = np.diff(self.corners[:, :-1], axis=0), np.diff(self.corners[:-1], axis=1)
        areas = np.linalg.norm(np.cross(low, high), axis=-1)
        return float(EARTH * np.sqrt(np.nanmedian(areas)))

    @property
    def cyclic(self) -> bool:
        """True if the last column is the neighbour of the first one, around the earth."""
        rows, columns, _ = self.centres.shape
        if columns < 4:
            return False
        row = self.centres[rows // 2]
        steps = np.linalg.norm(np.diff(row, axis=0), axis=-1)
        closing = float(np.linalg.norm(row[0] - row[-1]))
        return bool(closing <= 1.5 * float(np.nanmedian(steps)) and columns * steps.mean() > 1.0)


def plane_of(points: Array, middle: Array) -> Array:
    """Project unit vectors (..., 3) to the equal-area plane around a point (Lambert), in km.

    Returns
    -------
    array
        (..., 2), eastward and northward; NaN for points more than 120 degrees away.
    """
    pole = np.array([0.0, 0.0, 1.0]) if abs(middle[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
    east = np.cross(pole, middle)
    east /= np.linalg.norm(east)
    north = np.cross(middle, east)
    ahead = points @ middle
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = EARTH * np.sqrt(2.0 / (1.0 + ahead))
        plane = np.stack([points @ east, points @ north], axis=-1) * scale[..., None]
    plane[~(ahead > -0.5)] = np.nan
    return np.asarray(plane)


def cells_of(da: xr.DataArray, dims: tuple[str, str], mapping: Mapping[str, Any]) -> Cells | str:
    """Return the cells of a field, or why their places are not known.

    Latitudes and longitudes along the dims have precedence, then 2-D ones, then coordinates of a
    rotated pole or of a projection with a grid mapping.

    Raises
    ------
    DataError
        A projection needs pyproj, which is not installed, or its grid mapping cannot be read.
    """
    axes = [_axis(da, dim) for dim in dims]
    if min(da.sizes[dim] for dim in dims) < 2:
        return f"it has a single row or column along {dims[0]!r} or {dims[1]!r}"
    kinds = tuple(axis.kind for axis in axes)
    if kinds == ("latitude", "longitude"):
        return _of_axes(axes, lambda y, x: (y, x))
    found = positions(da, dims)
    if found is not None:
        return _of_centres(*(np.asarray(each.values, np.float64) for each in found))
    if kinds == ("rotated", "rotated") and is_rotated(mapping):
        return _of_axes(axes, lambda y, x: from_rotated(y, x, mapping))
    if kinds == ("length", "length") and is_complete(mapping):
        what = str(da.name)
        return _of_axes(axes, lambda y, x: from_projected(y, x, mapping, what=what))
    return (
        f"the latitudes and longitudes of its cells along {dims[0]!r} and {dims[1]!r} are unknown"
    )


def _axis(da: xr.DataArray, dim: str) -> Axis:
    if dim not in da.coords or da[dim].dtype.kind not in "iuf":
        return Axis("none", None)
    return axis_of(dim, np.asarray(da[dim].values, np.float64), da[dim].attrs)


def _of_axes(axes: list[Axis], to_sphere: Any) -> Cells:
    """Place the cells between the edges along two axes."""
    lines = []
    for axis in axes:
        assert axis.values is not None
        centres = axis.values * axis.metres
        between = (centres[1:] + centres[:-1]) / 2
        ends = 2 * centres[[0, -1]] - between[[0, -1]]
        edges = np.concatenate([ends[:1], between, ends[1:]])
        lines.append((centres, np.clip(edges, -90, 90) if axis.kind == "latitude" else edges))
    (rows, row_edges), (columns, column_edges) = lines
    centres = to_sphere(*np.meshgrid(rows, columns, indexing="ij"))
    corners = to_sphere(*np.meshgrid(row_edges, column_edges, indexing="ij"))
    return Cells(vectors(*centres), vectors(*corners))


def _of_centres(latitude: Array, longitude: Array) -> Cells:
    """Place corners between the centres of a curvilinear grid; outer ones are extrapolated."""
    bad = ~(np.isfinite(latitude) & np.isfinite(longitude) & (np.abs(latitude) <= 90.0))
    centres = vectors(np.where(bad, np.nan, latitude), np.where(bad, np.nan, longitude))
    wide = centres
    for axis in (0, 1):
        first, second = (np.take(wide, [i], axis=axis) for i in (0, 1))
        last, previous = (np.take(wide, [i], axis=axis) for i in (-1, -2))
        wide = np.concatenate([2 * first - second, wide, 2 * last - previous], axis=axis)
    four = np.stack([wide[:-1, :-1], wide[:-1, 1:], wide[1:, :-1], wide[1:, 1:]])
    known = np.isfinite(four)
    count = known.sum(axis=0)
    corners = np.where(known, four, 0.0).sum(axis=0) / np.where(count, count, np.nan)
    return Cells(centres, corners / np.linalg.norm(corners, axis=-1, keepdims=True))


def vectors(latitude: Array, longitude: Array) -> Array:
    """Return unit vectors (..., 3) of places in degrees."""
    phi, lam = np.deg2rad(latitude), np.deg2rad(longitude)
    flat = np.cos(phi)
    return np.stack([flat * np.cos(lam), flat * np.sin(lam), np.sin(phi)], axis=-1)

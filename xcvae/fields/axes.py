"""Positions of a coarse grid under a fine one: axes, coverage, and stretching weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.errors import DataError, UnitsError
from xcvae.fields.units import factor

_KINDS = {
    "latitude": "latitude",
    "longitude": "longitude",
    "grid_latitude": "rotated",
    "grid_longitude": "rotated",
}
# Those of the CF conventions, 4.1 and 4.2 (degrees_north, degree_N, degreesN), and signs.
_DEGREES = re.compile(r"(?:degrees?|deg\.?|°)[_ ]?(?:(n|north)|(?:e|east))", re.IGNORECASE)
_NAMES = (
    (re.compile(r"lat(itude)?([_\d].*)?", re.IGNORECASE), "latitude"),
    (re.compile(r"lon(gitude)?([_\d].*)?", re.IGNORECASE), "longitude"),
    (re.compile(r"(rlat|rlon|grid_l.*)([_\d].*)?", re.IGNORECASE), "rotated"),
)


@dataclass(frozen=True)
class Axis:
    """One horizontal axis of a grid.

    Attributes
    ----------
    kind
        ``latitude``, ``longitude`` (degrees), ``rotated`` (degrees), ``length``, another unit,
        ``plain`` for numbers without units, ``index`` for 0, 1, 2, ... without units, or ``none``.
    values
        Cell centres as they are in the file; None where there are no coordinates.
    metres
        Length of one unit of ``values`` (1 where the kind is not ``length``).
    """

    kind: str
    values: NDArray[np.float64] | None
    metres: float = 1.0

    @property
    def counted(self) -> bool:
        """True if cells are only counted: such a grid lies edge to edge with that of the target."""
        return self.values is None or self.kind == "index"

    @property
    def spacing(self) -> float:
        """Distance between neighbouring centres in metres or degrees, NaN for less than two.

        The median: a gap is wider, and a partial block at an odd edge lies closer. Of two
        distances it is the larger one, of the two whole blocks.
        """
        if self.values is None or len(self.values) < 2:
            return float("nan")
        steps = np.abs(np.diff(self.values))
        return float(np.quantile(steps, 0.5, method="higher")) * self.metres

    @property
    def unevenness(self) -> float:
        """Ratio of the largest to the smallest distance of neighbours, 1 for less than two."""
        if self.values is None or len(self.values) < 3:
            return 1.0
        steps = np.abs(np.diff(self.values))
        return float(steps.max() / steps.min())


def kind_of_degrees(units: object) -> str:
    """Return ``latitude`` or ``longitude`` for units that say so; "" for others.

    Examples
    --------
    >>> kind_of_degrees("degrees_east"), kind_of_degrees("degreeN"), kind_of_degrees("degrees")
    ('longitude', 'latitude', '')
    """
    match = _DEGREES.fullmatch(str(units).strip())
    return "" if match is None else "latitude" if match[1] else "longitude"


#: Length of a degree of latitude on a sphere of the radius 6371 km.
KM_PER_DEGREE = 6371.0 * math.pi / 180.0


def pixel_km(y: Axis, x: Axis) -> float | None:
    """Return the side of a pixel in km, the root of its area; None if it is unknown.

    Degrees of longitude are those at the middle latitude.

    Examples
    --------
    >>> y = axis_of("lat", np.array([59.5, 60.0, 60.5]), {})
    >>> x = axis_of("lon", np.array([10.0, 11.0]), {})
    >>> round(pixel_km(y, x), 3)
    55.597
    """
    first, second = sides_km(y, x)
    return None if first is None or second is None else math.sqrt(first * second)


def sides_km(y: Axis, x: Axis) -> tuple[float | None, float | None]:
    """Return the sides of a pixel along y and x in km; None for one that is unknown."""
    latitude = 0.0
    if y.kind in ("latitude", "rotated") and y.values is not None:
        latitude = float(np.mean(y.values))
    shrunk = math.cos(math.radians(latitude))
    return _side_km(y, KM_PER_DEGREE), _side_km(x, KM_PER_DEGREE * shrunk)


def _side_km(axis: Axis, km_per_degree: float) -> float | None:
    if axis.kind == "length":
        side = axis.spacing / 1000.0
    elif axis.kind in ("latitude", "longitude", "rotated", "degree", "degrees"):
        side = axis.spacing * km_per_degree
    else:
        return None
    return side if math.isfinite(side) else None


def axis_of(dim: str, values: NDArray[np.float64] | None, attrs: Mapping[str, object]) -> Axis:
    """Read an axis from a 1-D coordinate and its CF attributes.

    Parameters
    ----------
    dim
        Name of the dimension, used where the attributes say nothing.
    values
        Cell centres. Without units, 0, 1, 2, ... counts the cells.
    attrs
        Attributes of the coordinate.

    Raises
    ------
    DataError
        The coordinate does not rise or fall throughout.
    """
    if values is None:
        return Axis("none", None)
    values = np.asarray(values, dtype=np.float64)
    steps = np.diff(values)
    if not (np.isfinite(values).all() and ((steps > 0).all() or (steps < 0).all())):
        raise DataError.of(
            dim,
            expected="a coordinate that rises or falls throughout",
            got="equal, missing or unordered values",
            remedy=_order_remedy(dim, values),
        )
    units = str(attrs.get("units", "")).strip()
    kind = _KINDS.get(str(attrs.get("standard_name", ""))) or kind_of_degrees(units)
    if kind:
        return Axis(kind, values)
    given = units not in ("", "1")
    if given:
        with suppress(UnitsError):
            return Axis("length", values, factor(units, "m", what=dim))
    # Names come after units: metres under the name of a latitude are metres.
    for pattern, kind in _NAMES:
        if pattern.fullmatch(dim):
            return Axis(kind, values)
    if given:
        return Axis(units, values)
    index = np.array_equal(values, np.arange(len(values)))
    return Axis("index" if index else "plain", values)


def _order_remedy(dim: str, values: NDArray[np.float64]) -> str:
    turned = (values + 180.0) % 360.0 - 180.0
    if values.max(initial=0.0) > 180.0 and (np.diff(turned) > 0).all():
        # Sorting would bring west of Greenwich to the far east of the domain.
        return (
            f"It passes from 360 to 0 degrees: ds.assign_coords({dim}=(ds[{dim!r}] + 180) % 360 "
            "- 180) counts from -180 to 180 degrees."
        )
    return f"Sort the Dataset with ds.sortby({dim!r}), and drop repeated rows."


def same_axis(first: NDArray[Any], second: NDArray[Any]) -> bool:
    """Return True for equal 1-D coordinates; numbers may differ as rounding to float32 does."""
    if first.shape != second.shape:
        return False
    if first.dtype.kind == "f" and second.dtype.kind in "fiu":
        # Coordinates that went through float32 in a file are still the same grid.
        step = np.min(np.abs(np.diff(first)), initial=np.inf)
        size = np.max(np.abs(first), initial=0.0) * 1e-6
        # Never as much as half a step: that would be the neighbour.
        limit = min(max(size, 1e-3 * step), 0.25 * step) if np.isfinite(step) else size
        return bool(np.all(np.abs(first - second) <= limit))
    return bool(np.all(first == second))


def in_frame_of(source: Axis, target: Axis) -> NDArray[np.float64] | None:
    """Express an axis in the units and the longitude range of another.

    Axes of one kind are comparable. So are plain numbers with the index of a target: they count
    its pixels, as block means of it do (``pr.coarsen(y=12).mean()`` lies at 5.5, 17.5, ...).

    Returns
    -------
    ndarray or None
        The centres of ``source``, in the units of ``target``; None where the two are not
        comparable. Longitudes are shifted by multiples of 360 degrees to the range of the target.
    """
    if source.counted or source.values is None or target.values is None:
        return None
    if source.kind != target.kind and (source.kind, target.kind) != ("plain", "index"):
        return None
    values = source.values * (source.metres / target.metres)
    if source.kind == "longitude":
        middle = (target.values[0] + target.values[-1] - values[0] - values[-1]) / 2
        values = values + 360.0 * np.round(middle / 360.0)
    return values


def wrapped(
    source: Axis, target: Axis
) -> tuple[NDArray[np.float64] | None, NDArray[np.intp] | None]:
    """Express an axis in the frame of another, as `in_frame_of`, and turn a whole circle to it.

    Returns
    -------
    values
        The centres of ``source`` in the frame of ``target``; None if they are not comparable.
    order
        Positions of ``values`` along ``source``; None as they are. Longitudes of a whole circle
        (0 to 359) start opposite to a target that they do not cover from end to end (-5 to 4).
    """
    values = in_frame_of(source, target)
    if values is None or target.values is None or source.kind != "longitude" or len(values) < 3:
        return values, None
    step = float(np.median(np.diff(values)))
    # A cyclic point repeats the first column at the end.
    period = next((n for n in (len(values), len(values) - 1) if abs(n * abs(step) - 360) < 1), None)
    if period is None or covers(values, target.values):
        return values, None
    middle = (target.values[0] + target.values[-1] - (len(values) - 1) * step) / 2
    position = round((middle - values[0]) / step) + np.arange(len(values))
    order = position % period
    return values[order] + np.sign(step) * 360.0 * (position // period), order


def _box(values: NDArray[np.float64], extra: float = 0.5) -> tuple[float, float]:
    """Return the outer edges of the cells, ``extra`` cells beyond the outer centres."""
    if len(values) < 2:
        # The extent of a single cell cannot be seen from its centre: it may be any.
        return -np.inf, np.inf
    margin = extra * float(np.median(np.abs(np.diff(values))))
    return float(values.min()) - margin, float(values.max()) + margin


def covers(source: NDArray[np.float64], target: NDArray[np.float64]) -> bool:
    """Return True if source cells cover the target's box, with half a source cell of slack."""
    low, high = _box(source, extra=1.0)
    start, stop = _box(target) if len(target) > 1 else (target[0], target[0])
    return bool(low <= start + 1e-9 * abs(start) and stop - 1e-9 * abs(stop) <= high)


def share_outside(
    sources: Sequence[NDArray[np.float64]], targets: Sequence[NDArray[np.float64]]
) -> float:
    """Return the share of a grid's cells with centres outside the target's box."""
    inside = 1.0
    for source, target in zip(sources, targets, strict=True):
        low, high = _box(target)
        inside *= float(np.mean((source >= low) & (source <= high)))
    return 1.0 - inside


def stretch_weights(
    source: NDArray[np.float64] | None,
    n_source: int,
    target: NDArray[np.float64] | None,
    n_target: int,
) -> NDArray[np.float32]:
    """Return weights that interpolate linearly along one axis.

    Applied along y and x they stretch a coarse map bilinearly: ``wy @ coarse @ wx.T`` (`stretch`).

    Parameters
    ----------
    source, target
        Cell centres in the same units, rising or falling. None on either side lays the two grids
        edge to edge, cell centres at (i + 0.5) / n.
    n_source, n_target
        Number of cells.

    Returns
    -------
    ndarray
        float32 (n_target, n_source); rows sum to one. Beyond the outer source centres the outer
        value is kept.

    Raises
    ------
    DataError
        The lengths of the coordinates are not the numbers of cells.

    Examples
    --------
    >>> stretch_weights(None, 2, None, 4)
    array([[1.  , 0.  ],
           [0.75, 0.25],
           [0.25, 0.75],
           [0.  , 1.  ]], dtype=float32)
    """
    if source is None or target is None:
        source = (np.arange(n_source) + 0.5) / n_source
        target = (np.arange(n_target) + 0.5) / n_target
    if len(source) != n_source or len(target) != n_target:
        raise DataError.of(
            "coordinates",
            expected=f"{n_source} source and {n_target} target cells",
            got=f"{len(source)} and {len(target)}",
            remedy="Give the coordinates of the fields that are stretched.",
        )
    start, end = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if start[0] > start[-1]:
        start, end = -start, -end
    weights = np.stack([np.interp(end, start, column) for column in np.eye(n_source)], axis=1)
    return weights.astype(np.float32)


def stretch(
    maps: NDArray[Any], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[Any]:
    """Interpolate maps along both axes.

    Parameters
    ----------
    maps
        (..., y, x).
    rows, columns
        Weights along y and x, from `stretch_weights`.

    Returns
    -------
    ndarray
        (..., y, x) of the target.

    Examples
    --------
    >>> weights = stretch_weights(None, 2, None, 4)
    >>> stretch(np.array([[0.0, 4.0]]), np.ones((1, 1), np.float32), weights)
    array([[0., 1., 3., 4.]])
    """
    # Map by map (matmul broadcasts): a product over several maps would round differently, and a
    # field must not depend on the other samples of its batch.
    stretched: NDArray[Any] = np.matmul(np.matmul(rows, maps), columns.T)
    return stretched

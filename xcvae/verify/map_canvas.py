"""Maps of rain: one scale of colours, axes in km or degrees, north up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from xcvae.verify.canvas import DRY, MASKED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import BoundaryNorm, Colormap

__all__ = ["Axis", "RainScale", "draw_map", "map_axes"]

HOURLY_LEVELS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
DAILY_LEVELS = (0.0, 0.1, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0)
# Light to dark blue for everyday rain, then warm colours that jump to the eye for heavy rain.
ANCHORS = ("#cfe5f4", "#8cc1e6", "#3f8fd2", "#1c57a5", "#3b2e83", "#8b2a8e", "#d62f6d", "#f77f3c",
           "#fdd835")  # fmt: skip


@dataclass(frozen=True)
class RainScale:
    """One discrete colour scale for all maps of a picture.

    Attributes
    ----------
    units
        Of the levels.
    levels
        Edges of the classes; the first class is dry.
    beyond
        Whether values exceed the last edge.
    """

    units: str
    levels: tuple[float, ...]
    beyond: bool

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], units: str, *, daily: bool) -> RainScale:
        """Choose levels for values in ``units``: as many as there is rain for, at least four."""
        every = DAILY_LEVELS if daily else HOURLY_LEVELS
        highest = max((float(np.nanmax(a, initial=0.0)) for a in arrays), default=0.0)
        needed = int(np.searchsorted(every, highest)) + 1
        levels = every[: min(max(needed, 5), len(every))]
        return cls(units, levels, highest > levels[-1])

    def colours(self) -> tuple[Colormap, BoundaryNorm]:
        """Return the colour map and the norm for matplotlib."""
        from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap

        # Colours stand for absolute amounts: those of the classes above are kept back.
        every = DAILY_LEVELS if self.levels[2] == DAILY_LEVELS[2] else HOURLY_LEVELS
        ramp = LinearSegmentedColormap.from_list("rain", ANCHORS)(np.linspace(0, 1, len(every) - 1))
        classes = len(self.levels) - 1 + self.beyond
        chart = ListedColormap([DRY, *(tuple(c) for c in ramp[: classes - 1])], name="rain")
        extend: Literal["max", "neither"] = "max" if self.beyond else "neither"
        return chart.with_extremes(bad=MASKED), BoundaryNorm(self.levels, classes, extend=extend)


@dataclass(frozen=True)
class Axis:
    """Cell centres of one map axis, as they are drawn.

    Attributes
    ----------
    values
        Centres, in ``units``.
    units
        "km", "°E", "°N", or "pixel" where nothing is known; else the units of the coordinate.
    """

    values: np.ndarray
    units: str

    @property
    def spacing(self) -> float:
        """Distance of neighbouring centres; 1 for a single one."""
        return float(np.abs(np.diff(self.values)).mean()) if self.values.size > 1 else 1.0

    def edges(self) -> np.ndarray:
        """Return the cell edges, one more than centres."""
        half = 0.5 * np.diff(self.values) if self.values.size > 1 else np.array([0.5])
        first, last = self.values[:1] - half[:1], self.values[-1:] + half[-1:]
        return np.concatenate([first, self.values[:-1] + half[: self.values.size - 1], last])


def map_axes(field: xr.DataArray) -> tuple[Axis, Axis]:
    """Read the axes of maps, dims (..., y, x).

    Metres become km, degrees get their letter, and no coordinate means pixels.
    """
    y, x = map(str, field.dims[-2:])
    return _axis(field, y, east=False), _axis(field, x, east=True)


def _axis(field: xr.DataArray, dim: str, *, east: bool) -> Axis:
    size = field.sizes[dim]
    if dim not in field.coords or field[dim].dtype.kind not in "fiu":
        return Axis(np.arange(size, dtype=float), "pixel")
    values = np.asarray(field[dim].values, float)
    attrs = field[dim].attrs
    units = str(attrs.get("units", ""))
    name = f"{attrs.get('standard_name', '')} {dim}".lower()
    if units.startswith("degree") or (not units and ("lat" in name or "lon" in name)):
        # A rotated pole has degrees, too, but no east and no north.
        rotated = "grid_" in name or "rlat" in name or "rlon" in name or units == "degrees"
        return Axis(values, "°" if rotated else "°E" if east else "°N")
    if units in ("m", "metre", "meter", "metres", "meters"):
        return Axis(values / 1000.0, "km")
    return Axis(values, units or "pixel")


def draw_map(axes: Axes, values: np.ndarray, y: Axis, x: Axis, **options: Any) -> QuadMesh:
    """Draw one map, dims (y, x), with what is masked in grey and distances alike both ways.

    Parameters
    ----------
    axes
        Where to.
    values
        NaN is masked.
    y, x
        From `map_axes`.
    options
        Of matplotlib's ``pcolormesh``, such as ``cmap``.
    """
    axes.set_facecolor(MASKED)
    edges = y.edges()
    mesh = axes.pcolormesh(
        x.edges(), edges, np.ma.masked_invalid(values), rasterized=True, **options
    )
    if y.units == "pixel":
        axes.set_ylim(edges[-1], edges[0])  # rows count from the top, as in the array
    # Degrees of longitude shrink with latitude.
    north = np.cos(np.deg2rad(float(y.values.mean()))) if y.units == "°N" else 1.0
    axes.set_aspect(1.0 / max(float(north), 0.05))
    return mesh

"""Coastlines and scale bars of maps, in the coordinates of the data."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.metrics.sample import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Degrees of longitude or latitude up to which the detailed coastline is used.
DETAILED = 15.0


def coastlines(field: xr.DataArray, reference: xr.DataArray | None) -> list[Array]:
    """Return coastlines as lines (point, 2) in the coordinates of a field; [] where unknown.

    Natural Earth, as cartopy has it on this computer: nothing is downloaded. Projected coordinates
    are those of the ``grid_mapping``.

    Parameters
    ----------
    field
        Dims (..., y, x) with coordinates.
    reference
        The variable that its ``grid_mapping`` names, with the projection as attributes.
    """
    y, x = (np.asarray(field[dim].values, float) for dim in field.dims[-2:])
    lines = _on_disk("10m" if max(np.ptp(x), np.ptp(y)) < DETAILED or reference is not None else
                     "50m")  # fmt: skip
    if reference is not None:
        lines = _projected(lines, reference)
    edges = [(axis.min() - _step(axis), axis.max() + _step(axis)) for axis in (x, y)]
    return [line for line in lines if _touches(line, edges)]


def _step(axis: Array) -> float:
    return float(np.abs(np.diff(axis)).mean()) if axis.size > 1 else 1.0


def _touches(line: Array, edges: list[tuple[float, float]]) -> bool:
    inside = [(line[:, i] >= low) & (line[:, i] <= high) for i, (low, high) in enumerate(edges)]
    return bool((inside[0] & inside[1]).any())


@lru_cache(maxsize=2)
def _on_disk(resolution: str) -> list[Array]:
    """Read the coastlines of Natural Earth, in degrees, if cartopy and the file are there."""
    try:
        from cartopy import config
        from cartopy.io.shapereader import Reader
    except ImportError:
        return []
    name = Path("shapefiles", "natural_earth", "physical", f"ne_{resolution}_coastline.shp")
    for key in ("pre_existing_data_dir", "data_dir"):
        file = Path(str(config.get(key) or ".")) / name
        if file.is_file():
            parts = [getattr(g, "geoms", [g]) for g in Reader(str(file)).geometries()]
            return [np.asarray(line.coords, float)[:, :2] for lines in parts for line in lines]
    return []


def _projected(lines: list[Array], reference: xr.DataArray) -> list[Array]:
    """Project lines of degrees to the coordinates of a reference system."""
    try:
        from pyproj import CRS, Transformer

        text = reference.attrs.get("crs_wkt") or reference.attrs.get("spatial_ref")
        crs = CRS.from_wkt(text) if text else CRS.from_cf(reference.attrs)
    except Exception:  # noqa: BLE001  not installed, or attributes that pyproj does not know
        return []
    transform = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    return [np.stack(transform(line[:, 0], line[:, 1]), axis=1) for line in lines]


def draw_coastlines(axes: Axes, lines: list[Array]) -> None:
    """Draw lines without changing the limits of the axes."""
    from matplotlib.collections import LineCollection

    limits: tuple[Any, Any] = axes.get_xlim(), axes.get_ylim()
    style: dict[str, Any] = {"colors": "#333333", "linewidths": 0.8}
    axes.add_collection(LineCollection(lines, **style))
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def draw_scale_bar(axes: Axes, kilometres_per_unit: float) -> None:
    """Draw a bar of a round number of kilometres in the lower left corner."""
    left, right = sorted(axes.get_xlim())
    width = (right - left) * kilometres_per_unit
    length = max(
        (m * 10.0**p for p in range(-2, 5) for m in (1, 2, 5) if m * 10.0**p <= 0.3 * width),
        default=width,
    )
    share = length / width
    line: dict[str, Any] = {"transform": axes.transAxes, "solid_capstyle": "butt", "clip_on": False}
    for colour, thick in (("white", 4.5), ("#222222", 2.0)):
        axes.plot([0.05, 0.05 + share], [0.05, 0.05], color=colour, lw=thick, zorder=5, **line)
    axes.text(
        0.05 + 0.5 * share, 0.07, f"{length:g} km", transform=axes.transAxes, ha="center",
        va="bottom", fontsize=8.5, zorder=6, bbox={"fc": "white", "ec": "none", "alpha": 0.7,
                                                   "pad": 0.8},
    )  # fmt: skip

"""A forecast and an observation as a pair, checked to be physical and on the same grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import xarray as xr

from xcvae.errors import DataError, MismatchError, UnitsError
from xcvae.fields.axes import same_axis
from xcvae.fields.cf import find_layout, maps_of_places
from xcvae.fields.units import is_precipitation, to_units
from xcvae.metrics.sample import Array, SampleFields

Maps = SampleFields
"""The name that plugins know."""

REALIZATION = "realization"
"""The member dimension, here and in every ensemble."""

LONE_SAMPLE = "sample"
"""The name of the sample dimension that a single map gets."""


@dataclass(frozen=True, eq=False)
class Pair:
    """A forecast and an observation of the same samples and grid, in the same units.

    Attributes
    ----------
    forecast
        Dims (realization, sample, y, x).
    observed
        Dims (sample, y, x).
    """

    forecast: xr.DataArray
    observed: xr.DataArray

    @property
    def sample(self) -> str:
        """The name of the sample dimension."""
        return str(self.observed.dims[0])

    @property
    def units(self) -> str:
        """The units of both fields."""
        return str(self.observed.attrs["units"])

    @cached_property
    def area(self) -> Array | None:
        """The weight of each pixel, (y, x), one on average; None without cell areas.

        The areas are the coordinate named by the attribute ``cell_measures`` of the observation,
        as in "area: cell_area" (CF conventions, section 7.2).

        Raises
        ------
        DataError
            The areas are not one finite number >= 0 for each pixel.
        """
        name = area_name(self.observed)
        if name is None or name not in self.observed.coords:
            return None
        found = self.observed.coords[name]
        spatial = self.observed.dims[1:]
        if set(found.dims) == set(spatial):
            values = np.asarray(found.transpose(*spatial).values, np.float64)
            if np.isfinite(values).all() and values.min() >= 0 and values.max() > 0:
                weights: Array = values / values.mean()
                return weights
        raise DataError.of(
            f"cell area '{name}'",
            expected=f"numbers >= 0, dims ({', '.join(map(str, spatial))})",
            got=f"dims ({', '.join(map(str, found.dims))}) or NaN, infinite or negative values",
            remedy="Correct it, or drop 'cell_measures' from the observation's attributes.",
        )

    def __iter__(self) -> Iterator[SampleFields]:
        """Yield the fields of each sample; Dask-backed input is computed once, as a whole."""
        forecast = _checked_values(self.forecast, "forecast")
        observed = _checked_values(self.observed, "observed")
        area = self.area
        for i in range(observed.shape[0]):
            yield SampleFields(forecast[:, i], observed[i], area)


def area_name(observed: xr.DataArray) -> str | None:
    """Return the name of the cell areas in the attribute ``cell_measures``, None without.

    Examples
    --------
    >>> area_name(xr.DataArray(0, attrs={"cell_measures": "area: cell_area"}))
    'cell_area'
    """
    measures = observed.attrs.get("cell_measures", observed.encoding.get("cell_measures", ""))
    words = str(measures).split()
    return words[words.index("area:") + 1] if "area:" in words[:-1] else None


def matched(
    forecast: xr.DataArray, observed: xr.DataArray, *, spatial_dims: Sequence[str] | None = None
) -> Pair:
    """Check and align a forecast and an observation without reading values.

    Parameters
    ----------
    forecast
        Dims (realization, sample, y, x) in any order; without ``realization`` it is one member.
    observed
        Dims (sample, y, x) in any order; without the sample dimension it is one sample.
    spatial_dims
        The names of (y, x), if attributes and names do not identify them.

    Returns
    -------
    Pair
        Both in the units of `observed`, transposed, still lazy if they were.

    Raises
    ------
    UnitsError
        Units are missing, are not those of precipitation, or cannot be converted: scores are
        for physical values, never for normalised ones.
    MismatchError
        Dimensions, sizes or labels differ.
    """
    for name, da in (("forecast", forecast), ("observed", observed)):
        _check_units(name, da)
    forecast = to_units(forecast, str(observed.attrs["units"]))
    if REALIZATION not in forecast.dims:
        forecast = forecast.expand_dims(REALIZATION)
    if observed.ndim == 2:
        forecast, observed = forecast.expand_dims(LONE_SAMPLE), observed.expand_dims(LONE_SAMPLE)
    layout = find_layout(observed, spatial_dims=spatial_dims)
    dims = (layout.sample, layout.y, layout.x)
    if set(forecast.dims) != {REALIZATION, *dims}:
        raise MismatchError.of(
            "forecast",
            expected=f"the dimensions {REALIZATION}, {', '.join(dims)}",
            got=", ".join(str(d) for d in forecast.dims),
            remedy="A forecast has the dimensions of the observation and its members.",
        )
    for dim in dims:
        _check_axis(dim, forecast, observed)
    if not same_places(forecast, observed):
        raise MismatchError(
            "forecast: its maps of latitude and longitude differ from those of the observation. "
            "Select the same grid on both sides, in the same order of rows and columns."
        )
    return Pair(forecast.transpose(REALIZATION, *dims), observed.transpose(*dims))


def _check_units(name: str, da: xr.DataArray) -> None:
    units = da.attrs.get("units")
    if units is None or not is_precipitation(str(units)):
        raise UnitsError.of(
            f"{name} '{da.name}'",
            expected="units of precipitation, like mm h-1, mm/day or kg m-2 s-1",
            got="no units" if units is None else f"'{units}'",
            remedy="Scores are for physical values: undo any normalisation and set attrs['units'].",
        )


def _check_axis(dim: str, forecast: xr.DataArray, observed: xr.DataArray) -> None:
    if forecast.sizes[dim] != observed.sizes[dim]:
        raise MismatchError.of(
            f"forecast, dimension '{dim}'",
            expected=f"{observed.sizes[dim]} values as observed",
            got=forecast.sizes[dim],
            remedy="Select the same samples and grid on both sides.",
        )
    labelled = dim in forecast.indexes and dim in observed.indexes
    if labelled and not same_axis(np.asarray(forecast[dim]), np.asarray(observed[dim])):
        raise MismatchError(
            f"forecast, dimension '{dim}': the labels differ from those of the observation. "
            "Select the same samples and grid on both sides, in the same order."
        )


def same_places(first: xr.DataArray, second: xr.DataArray) -> bool:
    """Return False for curvilinear grids of one size whose corners lie elsewhere, or are turned."""
    for one, two in zip(maps_of_places(first), maps_of_places(second), strict=True):
        if one is None or two is None or set(one.dims) != set(two.dims) or one.sizes != two.sizes:
            continue
        corners = {dim: [0, -1] for dim in one.dims}  # few, of what may be lazy
        here, there = (place.isel(corners).transpose(*one.dims).values for place in (one, two))
        apart = (here - there + 180.0) % 360.0 - 180.0  # longitudes may count from elsewhere
        # Float32 keeps a ten thousandth of a degree, 10 m.
        if (np.abs(apart) > 2e-4).any() or (np.isnan(here) != np.isnan(there)).any():
            return False
    return True


def _checked_values(da: xr.DataArray, name: str) -> Array:
    values = np.asarray(da.values)
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    lowest, highest = values.min(initial=np.inf), values.max(initial=-np.inf)
    if np.isnan(lowest):
        lowest = np.fmin.reduce(values, axis=None, initial=np.inf)
        highest = np.fmax.reduce(values, axis=None, initial=-np.inf)
    if lowest < -1e-6 * max(highest, 0.0):
        raise DataError.of(
            f"{name} '{da.name}'",
            expected="precipitation, which is never below zero",
            got=f"{np.sum(values < 0)} negative values, the lowest {lowest:.4g}",
            remedy="Scores are for physical values: undo any normalisation first.",
        )
    if np.isposinf(highest):
        raise DataError.of(
            f"{name} '{da.name}'",
            expected="finite precipitation or NaN outside the mask",
            got="infinite values",
            remedy="Correct them, or mask them with NaN.",
        )
    return values

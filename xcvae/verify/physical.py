"""An observation and an ensemble brought together for a picture: named, physical, same samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.errors import MismatchError, MissingVariableError, UnitsError, explain, nearest
from xcvae.fields.cf import find_layout
from xcvae.fields.units import is_precipitation
from xcvae.metrics.maps import REALIZATION, Pair, matched

__all__ = ["REALIZATION", "Fields", "fields_of"]


@dataclass(frozen=True, eq=False)
class Fields:
    """Rain of an ensemble and, where there is one, its observation.

    Attributes
    ----------
    name
        The rain variable.
    sample
        The sample dim.
    forecast
        Dims (realization, sample, y, x), physical.
    observed
        Dims (sample, y, x), same units and samples; None without an observation.
    source_positions
        Where the samples of the ensemble are in the Dataset of the observation.
    """

    name: str
    sample: str
    forecast: xr.DataArray
    observed: xr.DataArray | None
    source_positions: np.ndarray

    @property
    def pair(self) -> Pair:
        """Both, as scores take them.

        Raises
        ------
        MismatchError
            There is no observation.
        """
        if self.observed is None:
            raise MismatchError(
                explain(
                    "ds",
                    expected=f"a Dataset with the observed '{self.name}'",
                    got="none",
                    remedy="Give the data that the ensemble was drawn for.",
                )
            )
        return Pair(self.forecast, self.observed)


def fields_of(ds: xr.Dataset | None, ensemble: xr.Dataset) -> Fields:
    """Find the rain of an ensemble and the observation of the same samples; reads no values.

    Parameters
    ----------
    ds
        Holds the observation under the ensemble's name, with at least its samples.
    ensemble
        One variable with the dim ``realization``.

    Raises
    ------
    UnitsError
        Units are missing or not those of precipitation.
    MissingVariableError
        `ds` has no such variable, or the ensemble has no members.
    MismatchError
        Samples or grids differ.
    """
    forecast = _member_variable(ensemble)
    name = str(forecast.name)
    _check_units("ensemble", forecast)
    if ds is None:
        layout = find_layout(forecast.isel({REALIZATION: 0}))
        dims = (REALIZATION, layout.sample, layout.y, layout.x)
        every = np.arange(forecast.sizes[layout.sample])
        return Fields(name, layout.sample, forecast.transpose(*dims), None, every)
    if name not in ds:
        raise MissingVariableError(
            explain(
                "ds",
                expected=f"the observed '{name}'",
                got="a Dataset without it",
                remedy=nearest(name, ds.data_vars),
            )
        )
    _check_units("observation", ds[name])
    layout = find_layout(ds[name])
    positions = _positions(ds, forecast, layout.sample)
    pair = matched(forecast, ds[name].isel({layout.sample: positions}))
    return Fields(name, layout.sample, pair.forecast, pair.observed, positions)


def _member_variable(ensemble: xr.Dataset) -> xr.DataArray:
    names = [str(n) for n, da in ensemble.data_vars.items() if REALIZATION in da.dims]
    if len(names) != 1:
        raise MissingVariableError(
            explain(
                "ensemble",
                expected=f"one variable with the dimension '{REALIZATION}'",
                got=", ".join(names) or f"the variables {', '.join(map(str, ensemble.data_vars))}",
                remedy="Give what xcvae.sample returned, or select one variable of it.",
            )
        )
    return ensemble[names[0]]


def _check_units(what: str, da: xr.DataArray) -> None:
    units = str(da.attrs.get("units", "")).strip()
    if not units or not is_precipitation(units):
        raise UnitsError(
            explain(
                f"{what} '{da.name}'",
                expected="units of precipitation, such as 'mm h-1' or 'mm/day'",
                got=repr(units) if units else "no units",
                remedy="Pictures show physical rain: undo any normalisation and set "
                "attrs['units'].",
            )
        )


def _positions(ds: xr.Dataset, forecast: xr.DataArray, sample: str) -> np.ndarray:
    """Find the samples of the ensemble in the Dataset; all of them, where there are no labels."""
    if sample not in ds.indexes or sample not in forecast.indexes:
        return np.arange(ds.sizes[sample])
    positions = np.asarray(ds.indexes[sample].get_indexer(forecast.indexes[sample]))
    if (positions < 0).any():
        missing = forecast[sample].values[positions < 0]
        raise MismatchError(
            explain(
                "ds",
                expected=f"the samples of the ensemble along '{sample}'",
                got=f"a Dataset without {missing.size} of them, the first {missing[0]}",
                remedy="Give the data that the ensemble was drawn for.",
            )
        )
    return positions

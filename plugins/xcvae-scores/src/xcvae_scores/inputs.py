"""Ways to pass an ensemble and its observation to a function of scores.

Each takes the function, a matched pair and the arguments of the function. ``pair.forecast`` has the
dims (realization, sample, y, x), ``pair.observed`` (sample, y, x), both in the same units, with NaN
wherever one of the two is NaN. Each returns a scalar.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae_scores.metric import MEMBERS

if TYPE_CHECKING:
    from xcvae.plugins import Pair

__all__ = ["ensemble", "events", "member_quantile", "one_field", "whole_maps"]

Function = Callable[..., Any]


def ensemble(function: Function, pair: Pair, **arguments: Any) -> xr.DataArray:
    """Score the whole ensemble pixel by pixel, and average over the valid pixels, by area."""
    # With NaN scores would divide by zero and warn: masked pixels are zero until the average.
    fields = pair.forecast.fillna(0.0), pair.observed.fillna(0.0)
    scores = function(*fields, MEMBERS, preserve_dims="all", **arguments)
    scores = scores.where(pair.observed.notnull())
    if pair.area is not None:
        area = xr.DataArray(pair.area, dims=pair.observed.dims[1:])
        scores = scores.weighted(area)
    average: xr.DataArray = scores.mean()
    return average


def one_field(
    function: Function, pair: Pair, *, of: str = "mean", **arguments: Any
) -> xr.DataArray:
    """Score one field per sample, the mean or median of the members, or every member."""
    forecast = pair.forecast
    if of == "mean":
        forecast = forecast.mean(MEMBERS)
    elif of == "median":
        forecast = forecast.median(MEMBERS, skipna=False)
    score: xr.DataArray = function(forecast, pair.observed, **arguments)
    return score


def member_quantile(function: Function, pair: Pair, *, alpha: float) -> xr.DataArray:
    """Score the quantile of the members at the level ``alpha``."""
    quantile = pair.forecast.quantile(alpha, MEMBERS, skipna=False).drop_vars("quantile")
    score: xr.DataArray = function(quantile, pair.observed, alpha=alpha)
    return score


def events(function: Function, pair: Pair, *, threshold: float, score_name: str) -> xr.DataArray:
    """Score the contingency table of rain at or above a threshold, members pooled."""
    fields = pair.forecast, pair.observed
    table = function(*((rain >= threshold).where(rain.notnull()) for rain in fields))
    score: xr.DataArray = getattr(table, score_name)()
    return score


def whole_maps(
    function: Function, pair: Pair, *, event_threshold: float, window: int
) -> xr.DataArray:
    """Score all maps in one task: fss_2d does not accept chunks."""

    def score_maps(forecast: Any, observed: Any) -> Any:
        if np.ndim(forecast) == 0 or 0 in np.shape(forecast):
            return np.float64(np.nan)  # Dask calls the function on empty arrays first
        return function(
            xr.DataArray(forecast, dims=("member", "sample", "y", "x")),
            xr.DataArray(observed, dims=("sample", "y", "x")),
            event_threshold=event_threshold,
            window_size=(window, window),
            spatial_dims=("y", "x"),
            reduce_dims="all",
            threshold_operator=np.greater_equal,
        ).values

    score: xr.DataArray = xr.apply_ufunc(
        score_maps,
        pair.forecast,
        pair.observed,
        input_core_dims=[list(pair.forecast.dims), list(pair.observed.dims)],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"allow_rechunk": True},
    )
    return score

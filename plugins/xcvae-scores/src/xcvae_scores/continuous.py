"""Scores of amounts: one field per sample, or every member, against what was observed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import xarray as xr

from xcvae.plugins import Pair, in_range
from xcvae_scores.metric import MEMBERS, ScoresMetric

__all__ = ["KGE", "MAE", "RMSE", "AdditiveBias", "MultiplicativeBias", "QuantileScore"]


@dataclass(frozen=True)
class _Continuous(ScoresMetric):
    """A score of amounts.

    Parameters
    ----------
    of
        "mean" or "median" of the members, or "members": each of them, averaged.
    """

    of: Literal["mean", "median", "members"] = "mean"

    units: ClassVar[str | None] = None

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        forecast = pair.forecast
        if self.of == "mean":
            forecast = forecast.mean(MEMBERS)
        elif self.of == "median":
            forecast = forecast.median(MEMBERS, skipna=False)
        return self.compare(forecast, pair.observed)

    @abstractmethod
    def compare(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call scores with one forecast, or with members."""


@dataclass(frozen=True)
class MAE(_Continuous):
    """Mean absolute error: scores.continuous.mae.

    Parameters
    ----------
    of
        "mean" or "median" of the members, or "members": each of them, averaged.
    """

    long_name: ClassVar[str] = "mean absolute error (scores)"
    better: ClassVar[str | float] = "lower"

    def compare(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import mae

        found: xr.DataArray = mae(forecast, observed)
        return found


@dataclass(frozen=True)
class RMSE(_Continuous):
    """Root mean squared error: scores.continuous.rmse; in a scorecard the average over maps.

    Parameters
    ----------
    of
        "mean" or "median" of the members, or "members": each of them, averaged.
    """

    long_name: ClassVar[str] = "root mean squared error (scores)"
    better: ClassVar[str | float] = "lower"

    def compare(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import rmse

        found: xr.DataArray = rmse(forecast, observed)
        return found


@dataclass(frozen=True)
class AdditiveBias(_Continuous):
    """Mean error: scores.continuous.additive_bias.

    Parameters
    ----------
    of
        "mean" or "median" of the members, or "members": each of them, averaged.
    """

    long_name: ClassVar[str] = "additive bias (scores)"
    better: ClassVar[str | float] = 0.0

    def compare(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import additive_bias

        found: xr.DataArray = additive_bias(forecast, observed)
        return found


@dataclass(frozen=True)
class MultiplicativeBias(_Continuous):
    """Mean forecast over mean observation: scores.continuous.multiplicative_bias.

    Parameters
    ----------
    of
        "mean" or "median" of the members, or "members": each of them, averaged.
    """

    long_name: ClassVar[str] = "multiplicative bias (scores)"
    better: ClassVar[str | float] = 1.0
    units: ClassVar[str | None] = "1"

    def compare(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import multiplicative_bias

        found: xr.DataArray = multiplicative_bias(forecast, observed)
        return found


@dataclass(frozen=True)
class KGE(ScoresMetric):
    """Kling-Gupta efficiency of the mean of the members: scores.continuous.kge."""

    long_name: ClassVar[str] = "Kling-Gupta efficiency (scores)"
    better: ClassVar[str | float] = "higher"

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import kge

        found: xr.DataArray = kge(pair.forecast.mean(MEMBERS), pair.observed)
        return found


@dataclass(frozen=True)
class QuantileScore(ScoresMetric):
    """Pinball score of a quantile of the members: scores.continuous.quantile_score.

    Parameters
    ----------
    alpha
        Level of the quantile, between 0 and 1.
    """

    alpha: float = 0.9

    long_name: ClassVar[str] = "quantile score (scores)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        in_range(self, "alpha", 0.001, 0.999)

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.continuous import quantile_score

        quantile = pair.forecast.quantile(self.alpha, MEMBERS, skipna=False)
        found: xr.DataArray = quantile_score(
            quantile.drop_vars("quantile"), pair.observed, alpha=self.alpha
        )
        return found

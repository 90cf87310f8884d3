"""Scores of probabilities: the whole ensemble against what was observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import xarray as xr

from xcvae.plugins import Pair, in_range, threshold_in
from xcvae_scores.metric import MEMBERS, ScoresMetric

__all__ = ["CRPS", "Brier", "IntervalCRPS", "TailCRPS"]


@dataclass(frozen=True)
class CRPS(ScoresMetric):
    """Continuous ranked probability score: scores.probability.crps_for_ensemble.

    Parameters
    ----------
    method
        "fair" to the number of members, or "ecdf". One member has no fair score.
    """

    method: Literal["fair", "ecdf"] = "fair"

    long_name: ClassVar[str] = "continuous ranked probability score (scores)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.probability import crps_for_ensemble

        found = crps_for_ensemble(*_filled(pair), MEMBERS, method=self.method, preserve_dims="all")
        return _mean(found, pair)


@dataclass(frozen=True)
class TailCRPS(ScoresMetric):
    """Threshold-weighted CRPS of one tail: scores.probability.tail_tw_crps_for_ensemble.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data.
    tail
        Above ("upper") or below ("lower") the threshold.
    method
        "fair" or "ecdf".
    """

    threshold: str | float
    tail: Literal["upper", "lower"] = "upper"
    method: Literal["fair", "ecdf"] = "fair"

    long_name: ClassVar[str] = "threshold-weighted CRPS of a tail (scores)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.probability import tail_tw_crps_for_ensemble

        limit = threshold_in(pair.observed, self.threshold)
        found = tail_tw_crps_for_ensemble(
            *_filled(pair),
            MEMBERS,
            limit,
            tail=self.tail,
            method=self.method,
            preserve_dims="all",
        )
        return _mean(found, pair)


@dataclass(frozen=True)
class IntervalCRPS(ScoresMetric):
    """Threshold-weighted CRPS of an interval: scores.probability.interval_tw_crps_for_ensemble.

    Parameters
    ----------
    lower_threshold, upper_threshold
        "1 mm h-1", or a number in the units of the data.
    method
        "fair" or "ecdf".
    """

    lower_threshold: str | float
    upper_threshold: str | float
    method: Literal["fair", "ecdf"] = "fair"

    long_name: ClassVar[str] = "threshold-weighted CRPS of an interval (scores)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.probability import interval_tw_crps_for_ensemble

        low, high = (
            threshold_in(pair.observed, limit)
            for limit in (self.lower_threshold, self.upper_threshold)
        )
        found = interval_tw_crps_for_ensemble(
            *_filled(pair), MEMBERS, low, high, method=self.method, preserve_dims="all"
        )
        return _mean(found, pair)


@dataclass(frozen=True)
class Brier(ScoresMetric):
    """Brier score of rain at or above a threshold: scores.probability.brier_score_for_ensemble.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data.
    fair
        Correct for the number of members.
    """

    threshold: str | float
    fair: bool = True

    long_name: ClassVar[str] = "Brier score (scores)"
    better: ClassVar[str | float] = "lower"

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        in_range(self, "threshold", above=0)

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.probability import brier_score_for_ensemble

        limit = threshold_in(pair.observed, self.threshold)
        found = brier_score_for_ensemble(
            *_filled(pair), MEMBERS, limit, fair_correction=self.fair, preserve_dims="all"
        )
        return _mean(found.isel(threshold=0), pair)


def _filled(pair: Pair) -> tuple[xr.DataArray, xr.DataArray]:
    """Return both sides with zeros where they are masked: NaN makes scores divide by zero."""
    return pair.forecast.fillna(0.0), pair.observed.fillna(0.0)


def _mean(scores: xr.DataArray, pair: Pair) -> xr.DataArray:
    """Average the scores of pixels that count."""
    return scores.where(pair.observed.notnull()).mean()

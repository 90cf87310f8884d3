"""Scores of events: rain at or above a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr

from xcvae.plugins import Pair, in_range, threshold_in
from xcvae_scores.metric import ScoresMetric

__all__ = ["FSS", "Contingency"]

Score = Literal[
    "accuracy",
    "critical_success_index",
    "equitable_threat_score",
    "false_alarm_ratio",
    "frequency_bias",
    "heidke_skill_score",
    "hanssen_and_kuipers_discriminant",
    "odds_ratio_skill_score",
    "probability_of_detection",
    "probability_of_false_detection",
    "symmetric_extremal_dependence_index",
]
LOWER = ("false_alarm_ratio", "probability_of_false_detection")


@dataclass(frozen=True)
class FSS(ScoresMetric):
    """Fractions skill score of every member: scores.spatial.fss_2d.

    Members and samples are aggregated as scores does it, by their sums. Only windows that lie
    within the map count; pixels outside the mask have no event.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data.
    window
        Side of the square window in pixels.
    """

    threshold: str | float
    window: int = 9

    long_name: ClassVar[str] = "fractions skill score of members (scores)"
    better: ClassVar[str | float] = "higher"

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        in_range(self, "threshold", above=0)
        in_range(self, "window", 1)

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores, as one task where the input is lazy: it takes no chunks."""
        limit = threshold_in(pair.observed, self.threshold)
        found: xr.DataArray = xr.apply_ufunc(
            self._fss,
            pair.forecast,
            pair.observed,
            kwargs={"limit": limit},
            input_core_dims=[list(pair.forecast.dims), list(pair.observed.dims)],
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"allow_rechunk": True},
        )
        return found

    def _fss(self, forecast: Any, observed: Any, *, limit: float) -> Any:
        if np.ndim(forecast) == 0 or 0 in np.shape(forecast):
            return np.float64(np.nan)
        from scores.spatial import fss_2d

        return fss_2d(
            xr.DataArray(forecast, dims=("member", "sample", "y", "x")),
            xr.DataArray(observed, dims=("sample", "y", "x")),
            event_threshold=limit,
            window_size=(self.window, self.window),
            spatial_dims=("y", "x"),
            reduce_dims="all",
            threshold_operator=np.greater_equal,
        ).values


@dataclass(frozen=True)
class Contingency(ScoresMetric):
    """A score of the contingency table, members pooled: scores.categorical.

    Parameters
    ----------
    threshold
        Rain from which on there is an event: "5 mm h-1", or a number in the units of the data.
    score_name
        Method of scores.categorical.BasicContingencyManager.
    """

    threshold: str | float
    score_name: Score = "equitable_threat_score"

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        in_range(self, "threshold", above=0)

    @property
    def long_name(self) -> str:  # type: ignore[override]  # depends on a parameter here
        """What it measures."""
        return f"{self.score_name.replace('_', ' ')} (scores)"

    @property
    def better(self) -> str | float:  # type: ignore[override]  # depends on a parameter here
        """Return "lower", "higher" or the ideal value."""
        if self.score_name == "frequency_bias":
            return 1.0
        return "lower" if self.score_name in LOWER else "higher"

    def score(self, pair: Pair) -> xr.DataArray:
        """Call scores."""
        from scores.categorical import BinaryContingencyManager

        limit = threshold_in(pair.observed, self.threshold)
        events = [(da >= limit).where(da.notnull()) for da in (pair.forecast, pair.observed)]
        table = BinaryContingencyManager(*events)
        found: xr.DataArray = getattr(table, self.score_name)()
        return found

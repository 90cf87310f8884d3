"""Scores of events whose threshold is a quantile of a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.plugins import Maps, Statistic, Stats, ratio
from xcvae_extremes.thresholds import Array, TailMetric

__all__ = ["QuantileCSI", "QuantileSEDI"]


@dataclass(frozen=True)
class _Table:
    """Contingency table, all members pooled."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample; pixels weigh as much as their areas."""
        forecast, observed = maps.members >= self.threshold, maps.truth >= self.threshold
        # Of each pixel: members with and without the event.
        yes = forecast.sum(axis=0)
        no = len(forecast) - yes
        weights = np.ones(observed.size) if maps.weights is None else maps.weights
        return {
            "hits": yes[observed] @ weights[observed],
            "misses": no[observed] @ weights[observed],
            "false_alarms": yes[~observed] @ weights[~observed],
            "correct_negatives": no[~observed] @ weights[~observed],
        }


@dataclass(frozen=True)
class QuantileCSI(TailMetric):
    """Critical success index of rain at or above a quantile of a record, members pooled.

    Hits / (hits + misses + false alarms). With the same quantile for data of any climate, the
    scores of wet and dry regions compare events of the same rarity, not of the same amount.

    Parameters
    ----------
    threshold, quantile, model
        As for `TailMetric`: an amount, or a quantile of wet pixels of the observations or of the
        training record in a model file.
    """

    long_name: ClassVar[str] = "critical success index at a record quantile"
    better: ClassVar[str | float] = "higher"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the counts."""
        return _Table(self.limit(observed))

    def finish(self, stats: Stats) -> Array:
        """Return the index; NaN where neither members nor observation have an event."""
        return ratio(stats["hits"], stats["hits"] + stats["misses"] + stats["false_alarms"])


@dataclass(frozen=True)
class QuantileSEDI(TailMetric):
    """Symmetric extremal dependence index of rain at or above a quantile of a record.

    With hit rate H and false alarm rate F, members pooled: (ln F - ln H + ln(1 - H) - ln(1 - F)) /
    (ln F + ln H + ln(1 - H) + ln(1 - F)), see Ferro and Stephenson 2011,
    https://doi.org/10.1175/WAF-D-10-05030.1. Where a rate is 0 or 1 the index is the
    sign of H - F.

    Parameters
    ----------
    threshold, quantile, model
        As for `TailMetric`: an amount, or a quantile of wet pixels of the observations or of the
        training record in a model file.
    """

    long_name: ClassVar[str] = "symmetric extremal dependence index at a record quantile"
    better: ClassVar[str | float] = "higher"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the counts."""
        return _Table(self.limit(observed))

    def finish(self, stats: Stats) -> Array:
        """Return the index from hit rate and false alarm rate."""
        hit = ratio(stats["hits"], stats["hits"] + stats["misses"])
        alarm = ratio(stats["false_alarms"], stats["false_alarms"] + stats["correct_negatives"])
        inside = (hit > 0) & (hit < 1) & (alarm > 0) & (alarm < 1)
        h, f = np.where(inside, hit, 0.5), np.where(inside, alarm, 0.5)
        log_f, log_h, log_1h, log_1f = np.log(f), np.log(h), np.log1p(-h), np.log1p(-f)
        index = (log_f - log_h + log_1h - log_1f) / (log_f + log_h + log_1h + log_1f)
        return np.asarray(np.where(inside, index, np.sign(hit - alarm)))

"""Whether the members and the observation could have been drawn from the same distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.metric import Metric, Statistic, Stats, ratio
from xcvae.metrics.pairs import Array, Maps

__all__ = ["RankDeviation", "SpreadSkill", "rank_deviation", "rank_histogram", "spread_skill"]


@dataclass(frozen=True)
class _SpreadErrors:
    """Sums of the ensemble variance and of the squared error of the ensemble mean."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        found, m = maps.wet.scores, len(maps.members)
        return {
            "variance": maps.wet.total(found.variance) * (m + 1) / m,
            "squared_error": maps.wet.total((found.mean - maps.wet.truth) ** 2),
        }


@dataclass(frozen=True)
class SpreadSkill(Metric):
    """Spread over error: sqrt((M + 1) / M * mean variance) / RMSE of the ensemble mean.

    One for a reliable ensemble, below one if it is overconfident; zero for a single member.
    See https://doi.org/10.1175/JHM-D-14-0008.1.
    """

    long_name: ClassVar[str] = "ratio of ensemble spread to error of the ensemble mean"
    better: ClassVar[str | float] = 1.0
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _SpreadErrors()

    def finish(self, stats: Stats) -> Array:
        """Take the root of the ratio of the sums."""
        return np.sqrt(ratio(stats["variance"], stats["squared_error"]))


@dataclass(frozen=True)
class _Ranks:
    """Histogram of the rank of the observation among the members.

    A tie broken at random is in every rank it covers with the same probability; we add these
    probabilities instead of drawing, so that the result depends on no seed and no order.
    """

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        m, found = len(maps.members), maps.wet.scores
        share = 1.0 / (found.ties + 1.0)
        if maps.wet.weights is not None:
            share *= maps.wet.weights
        # From rank `below` to rank `below + ties`: the running sum of a step up and a step down.
        up = np.bincount(found.below, weights=share, minlength=m + 2)
        down = np.bincount(found.below + found.ties + 1, weights=share, minlength=m + 2)
        # Where all is dry, any rank is as good as any other.
        return {"ranks": np.cumsum(up - down)[: m + 1] + maps.wet.dry / (m + 1)}


@dataclass(frozen=True)
class RankDeviation(Metric):
    """Distance of the rank histogram from flat: half the sum of ``|freq - 1/(M+1)|``.

    Zero for a perfectly calibrated ensemble. Ties, which dry pixels cause, count in equal
    parts for all ranks they cover: the expectation of breaking them at random.
    """

    long_name: ClassVar[str] = "deviation of the rank histogram from uniform"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Ranks()

    def finish(self, stats: Stats) -> Array:
        """Compare frequencies with uniform ones."""
        ranks = np.asarray(stats["ranks"])
        frequency = ratio(ranks, ranks.sum(axis=-1, keepdims=True))
        return np.asarray(0.5 * np.abs(frequency - 1.0 / ranks.shape[-1]).sum(axis=-1))


def spread_skill(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `SpreadSkill`: dims (realization, sample, y, x) against (sample, y, x)."""
    return SpreadSkill()(forecast, observed)


def rank_deviation(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `RankDeviation`: dims (realization, sample, y, x) against (sample, y, x)."""
    return RankDeviation()(forecast, observed)


def rank_histogram(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Return how often the observation had each rank among the members.

    Parameters
    ----------
    forecast
        Dims (realization, sample, y, x).
    observed
        Dims (sample, y, x).

    Returns
    -------
    DataArray
        Dims (rank,), frequencies that add up to one; flat at 1/(M+1) if calibrated.
    """
    ranks = RankDeviation().statistics(forecast, observed)["ranks"].values.sum(axis=0)
    return xr.DataArray(
        ratio(ranks, ranks.sum()),
        dims="rank",
        coords={"rank": np.arange(ranks.size)},
        attrs={"units": "1", "long_name": "frequency of the rank of the observation"},
    )

"""Calibration: spread against error, and ranks of the observation among the members."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.metrics.metric import Metric, SampleSums, Stats, ratio
from xcvae.metrics.sample import Array, SampleFields


def spread_and_error(sample: SampleFields) -> dict[str, Array]:
    """Sum the ensemble variance, times (M + 1) / M, and the squared error of the ensemble mean."""
    found, m = sample.wet.scores, len(sample.members)
    return {
        "variance": sample.wet.total(found.variance) * (m + 1) / m,
        "squared_error": sample.wet.total((found.mean - sample.wet.observed) ** 2),
    }


def rank_counts(sample: SampleFields) -> dict[str, Array]:
    """Count the ranks of the observation among the members, (M + 1,).

    A tie broken at random is in every rank it covers with the same probability; we add these
    probabilities instead of drawing, so that the result depends on no seed and no order.
    """
    wet, m = sample.wet, len(sample.members)
    below, ties = wet.scores.below, wet.scores.ties
    share = 1.0 / (ties + 1.0)
    if wet.weights is not None:
        share *= wet.weights
    # From rank `below` to rank `below + ties`: the running sum of a step up and a step down.
    up = np.bincount(below, weights=share, minlength=m + 2)
    down = np.bincount(below + ties + 1, weights=share, minlength=m + 2)
    # A pixel that is dry in all members and observed dry ties with every member: any of the
    # M + 1 ranks is as good as any other.
    return {"ranks": np.cumsum(up - down)[: m + 1] + wet.dry / (m + 1)}


@dataclass(frozen=True)
class SpreadSkill(Metric):
    """Spread over error: sqrt((M + 1) / M * mean variance) / RMSE of the ensemble mean.

    One for a reliable ensemble, below one if it is overconfident; zero for a single member.
    See https://doi.org/10.1175/JHM-D-14-0008.1.
    """

    long_name = "ratio of ensemble spread to error of the ensemble mean"
    better = 1.0
    limits = (0.0, np.inf)
    sums = SampleSums(spread_and_error)

    def finish(self, stats: Stats) -> Array:
        """Take the root of the ratio of the sums."""
        return np.sqrt(ratio(stats["variance"], stats["squared_error"]))


@dataclass(frozen=True)
class RankDeviation(Metric):
    """Distance of the rank histogram from flat: half the sum of ``|freq - 1/(M+1)|``.

    Zero for a perfectly calibrated ensemble. Ties, which dry pixels cause, count in equal
    parts for all ranks they cover: the expectation of breaking them at random.
    """

    long_name = "deviation of the rank histogram from uniform"
    better = "lower"
    limits = (0.0, 1.0)
    sums = SampleSums(rank_counts)

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
    """Return the frequency of each rank of the observation among the members.

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

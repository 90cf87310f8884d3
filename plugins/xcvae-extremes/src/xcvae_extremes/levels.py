"""Return levels of members, compared with those of the observations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.plugins import Maps, Statistic, Stats, in_range
from xcvae_extremes import gpd
from xcvae_extremes.thresholds import Array, TailMetric

__all__ = ["ReturnLevelRatio", "return_levels"]

STEP = 0.005
"""Relative width of the bins of amounts above the threshold."""
BINS = 1400
"""Number of bins, which reach a thousand times the threshold."""
EXCESSES = np.expm1(STEP * (np.arange(BINS) + 0.5))
"""Middle of the bins: excess over the threshold, in multiples of it."""
SIDES = ("generated", "observed")


@dataclass(frozen=True)
class _Excesses:
    """Histograms of rain above a threshold, per member and for the observation."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample; pixels weigh as much as their areas."""
        weights = np.ones(maps.truth.size) if maps.weights is None else maps.weights
        return {
            "generated": self._count(maps.members, weights) / len(maps.members),
            "observed": self._count(maps.truth[None], weights),
            "pixels": maps.pixels,
        }

    def _count(self, values: Array, weights: Array) -> Array:
        above = values > self.threshold
        tail = values[above].astype(np.float64) / self.threshold
        bins = np.minimum(np.log(tail) / STEP, BINS - 1).astype(np.int64)
        return np.bincount(bins, np.broadcast_to(weights, values.shape)[above], minlength=BINS)


def _level(counts: Array, pixels: float, period: float) -> float:
    """Return level in multiples of the threshold."""
    shape, scale = gpd.fit(EXCESSES, counts)
    rate = counts.sum() / pixels if pixels else 0.0
    return 1.0 + gpd.return_level(shape, scale, rate, period)


@dataclass(frozen=True)
class ReturnLevelRatio(TailMetric):
    """Return level of the members over that of the observations, by peaks over a threshold.

    On each side a generalised Pareto distribution is fitted to all pixels above the threshold (by
    maximum likelihood, with scipy), and gives the level that a pixel exceeds once in a period.
    Neighbouring pixels are not independent. The fit does not need independence; the intervals of
    the scorecard do, so they resample whole samples and repeat the fit. NaN for fewer than 20
    exceedances, and if the period is shorter than the return period of the threshold. See Coles
    2001, chapter 4, https://doi.org/10.1007/978-1-4471-3675-0.

    Parameters
    ----------
    threshold, quantile, model
        As for `TailMetric`: an amount, or a quantile of wet pixels of the observations or of the
        training record in a model file.
    period
        Number of samples: 3650 for ten years of daily data.
    """

    period: float = 1000.0

    long_name: ClassVar[str] = "ratio of return levels, generated over observed"
    better: ClassVar[str | float] = 1.0

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        super().__post_init__()
        in_range(self, "period", 1)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the counts."""
        return _Excesses(self.limit(observed))

    def finish(self, stats: Stats) -> Array:
        """Fit both sides and return the ratio of their levels, for every leading axis."""
        pixels = np.asarray(stats["pixels"], np.float64)
        levels = []
        for side in SIDES:
            counts = np.asarray(stats[side]).reshape(-1, BINS)
            pairs = zip(counts, pixels.reshape(-1), strict=True)
            levels.append(np.array([_level(one, n, self.period) for one, n in pairs]))
        return np.asarray((levels[0] / levels[1]).reshape(pixels.shape))


def return_levels(
    forecast: xr.DataArray,
    observed: xr.DataArray,
    *,
    periods: Sequence[float] = (100.0, 1000.0, 10000.0),
    threshold: str | float | None = None,
    quantile: float = 0.95,
    resamples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Compute return levels of members and observations with bootstrap intervals.

    Parameters
    ----------
    forecast
        Dims (realization, sample, y, x), with ``units``.
    observed
        Dims (sample, y, x), with ``units``.
    periods
        Numbers of samples.
    threshold, quantile
        As for `ReturnLevelRatio`.
    resamples, seed
        Of the bootstrap over blocks of neighbouring samples; a block has the square root of the
        number of samples.

    Returns
    -------
    Dataset
        Dims (side, period): ``level``, ``low`` and ``high`` (95 %), in the units of the
        observations; dims (side,): ``shape`` and ``scale`` of the fits. Attribute ``threshold``.
    """
    metric = ReturnLevelRatio(threshold, quantile)
    limit = metric.limit(observed)
    stats = ReturnLevelRatio(limit).statistics(forecast, observed)
    pixels = stats["pixels"].values
    weights = _block_weights(pixels.size, resamples, seed)
    units = str(observed.attrs["units"])
    values = np.full((3, 2, len(periods)), np.nan)
    fits = np.empty((2, 2))
    for i, side in enumerate(SIDES):
        counts = stats[side].values
        fits[i] = gpd.fit(EXCESSES, counts.sum(axis=0))
        for j, period in enumerate(periods):
            values[0, i, j] = _level(counts.sum(axis=0), pixels.sum(), period)
        drawn = [[_level(w @ counts, w @ pixels, period) for period in periods] for w in weights]
        values[1:, i] = np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0)
    about = {"units": units, "long_name": "return level"}
    found = {
        name: (("side", "period"), limit * values[k], about)
        for k, name in enumerate(("level", "low", "high"))
    }
    return xr.Dataset(
        {
            **found,
            "shape": ("side", fits[:, 0], {"units": "1"}),
            "scale": ("side", limit * fits[:, 1], {"units": units}),
        },
        {"side": list(SIDES), "period": ("period", list(periods), {"long_name": "samples"})},
        {"threshold": limit},
    )


def _block_weights(count: int, resamples: int, seed: int) -> Array:
    """Count the draws of each sample, (resamples, count), in circular blocks."""
    length = max(1, round(count**0.5))
    random = np.random.default_rng(seed)
    starts = random.integers(0, count, (resamples, -(-count // length)))
    drawn = (starts[..., None] + np.arange(length)).reshape(resamples, -1)[:, :count] % count
    return np.stack([np.bincount(row, minlength=count) for row in drawn]).astype(np.float64)

"""Scores of rain amounts, wherever they fall: how often, how much, how extreme."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.metric import Metric, Statistic, Stats, ratio, wet_threshold_in
from xcvae.metrics.pairs import Array, Maps

__all__ = [
    "KS",
    "MassBias",
    "P99Ratio",
    "P999Ratio",
    "WetFraction",
    "WetFractionObserved",
    "ks",
    "mass_bias",
    "p99_ratio",
    "p999_ratio",
    "quantile",
    "wet_fraction",
    "wet_fraction_observed",
]

WIDTH = 0.004
"""Relative width of the bins of amounts."""
BELOW, ABOVE = 2400, 3000
"""Bins below and above the wet threshold: from 7e-5 to 1.6e5 times its value."""


@dataclass(frozen=True)
class _Amounts:
    """Histograms of amounts: dry, a trace, and logarithmic bins that meet at the threshold."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        wet = maps.wet
        return {
            "generated": self._count(wet.members, wet.weights, wet.dry * len(wet.members)),
            "observed": self._count(wet.truth, wet.weights, wet.dry),
        }

    def _count(self, values: Array, weights: Array | None, dry: float) -> Array:
        rains = values > 0
        bins = np.floor(np.log(values[rains] / self.threshold) / WIDTH)
        bins = np.clip(bins, -BELOW - 1, ABOVE - 1).astype(np.int64) + BELOW + 2
        each = None if weights is None else np.broadcast_to(weights, values.shape)
        heavy = None if each is None else each[rains]
        counts = np.bincount(bins, heavy, minlength=BELOW + ABOVE + 2).astype(np.float64)
        counts[0] = dry + (values.size - bins.size if each is None else each[~rains].sum())
        return counts


FIRST_WET = BELOW + 2


def quantile(counts: Array, q: float | Array) -> Array:
    """Quantile of histograms of amounts, in multiples of the wet threshold, interpolated in bins.

    Parameters
    ----------
    counts
        Dims (..., bin), as the statistic of `KS` counts them.
    q
        Levels, a number or dims (level,); levels come last in what is returned.
    """
    running = np.cumsum(counts, axis=-1)
    levels = np.atleast_1d(q)
    wanted = levels * running[..., -1:]
    # Running sums rise: the first bin that reaches a level is the number of those below it.
    index = np.stack([(running < wanted[..., [k]]).sum(axis=-1) for k in range(levels.size)], -1)
    inside = np.take_along_axis(counts, index, axis=-1)
    share = 1.0 - ratio(np.take_along_axis(running, index, axis=-1) - wanted, inside)
    logarithm = (index - FIRST_WET + np.clip(share, 0.0, 1.0)) * WIDTH
    amounts = np.where(index == 0, 0.0, np.exp(logarithm))
    return np.asarray(amounts if np.ndim(q) else amounts[..., 0])


@dataclass(frozen=True)
class _Quantile(Metric):
    """Ratio of a quantile of all generated pixels to that of all observed pixels."""

    q: ClassVar[float]
    better: ClassVar[str | float] = 1.0
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Amounts(wet_threshold_in(observed, None))

    def finish(self, stats: Stats) -> Array:
        """Divide the quantiles; NaN where the observed one is zero."""
        generated, observed = (np.asarray(stats[k]) for k in ("generated", "observed"))
        return ratio(quantile(generated, self.q), quantile(observed, self.q))


@dataclass(frozen=True)
class P99Ratio(_Quantile):
    """99th percentile of all generated pixels over that of all observed pixels, dry ones too."""

    q: ClassVar[float] = 0.99
    long_name: ClassVar[str] = "ratio of the 99th percentiles, generated over observed"


@dataclass(frozen=True)
class P999Ratio(_Quantile):
    """99.9th percentile of all generated pixels over that of all observed pixels."""

    q: ClassVar[float] = 0.999
    long_name: ClassVar[str] = "ratio of the 99.9th percentiles, generated over observed"


@dataclass(frozen=True)
class KS(Metric):
    """Two-sample Kolmogorov-Smirnov statistic of wet amounts.

    The largest distance between the distribution functions of wet pixels of all members and of
    the observation, taken at the edges of bins 0.4 % wide. One if only one side is ever wet.

    Parameters
    ----------
    threshold
        From where a pixel is wet: "0.1 mm h-1", or a number in the units of the data; by default
        0.1 mm h-1, for daily data 1 mm d-1.
    """

    threshold: str | float | None = None

    long_name: ClassVar[str] = "Kolmogorov-Smirnov statistic of wet amounts"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Amounts(wet_threshold_in(observed, self.threshold))

    def finish(self, stats: Stats) -> Array:
        """Compare the distribution functions."""
        shares = []
        for side in ("generated", "observed"):
            wet = np.asarray(stats[side])[..., FIRST_WET:]
            shares.append(ratio(wet.cumsum(axis=-1), wet.sum(axis=-1, keepdims=True)))
        one_is_dry = np.isnan(shares[0]).any(axis=-1) != np.isnan(shares[1]).any(axis=-1)
        return np.where(one_is_dry, 1.0, np.abs(shares[0] - shares[1]).max(axis=-1))


@dataclass(frozen=True)
class _WetCounts:
    """Number of wet pixels on both sides."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        some = maps.with_events(self.threshold)
        return {
            "generated": some.total(some.events(self.threshold)) / len(maps.members),
            "observed": some.total(some.truth >= self.threshold),
            "pixels": maps.pixels,
        }


@dataclass(frozen=True)
class WetFraction(Metric):
    """Share of the pixels of all members that are wet; ideally that of the observed pixels.

    Parameters
    ----------
    threshold
        From where a pixel is wet: "0.1 mm h-1", or a number in the units of the data; by default
        0.1 mm h-1, for daily data 1 mm d-1.
    """

    threshold: str | float | None = None

    long_name: ClassVar[str] = "share of wet pixels"
    better: ClassVar[str | float] = "wet_fraction_observed"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _WetCounts(wet_threshold_in(observed, self.threshold))

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["generated"], stats["pixels"])

    def best(self, stats: Stats) -> str | float:
        """Return the observed share."""
        return float(ratio(stats["observed"], stats["pixels"]))


@dataclass(frozen=True)
class WetFractionObserved(WetFraction):
    """Share of observed pixels that are wet, counted where the members count.

    Parameters
    ----------
    threshold
        As for `WetFraction`.
    """

    long_name: ClassVar[str] = "share of wet pixels, observed"

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["observed"], stats["pixels"])


@dataclass(frozen=True)
class _Mass:
    """Sums of rain on both sides."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        wet = maps.wet
        return {
            "generated": wet.total(wet.members.sum(axis=0)) / len(wet.members),
            "observed": wet.total(wet.truth),
        }


@dataclass(frozen=True)
class MassBias(Metric):
    """Total generated (mean over members) over total observed rain, less one."""

    long_name: ClassVar[str] = "relative bias of the total amount"
    better: ClassVar[str | float] = 0.0
    limits: ClassVar[tuple[float, float]] = (-1.0, np.inf)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Mass()

    def finish(self, stats: Stats) -> Array:
        """Compare the totals."""
        return ratio(stats["generated"], stats["observed"]) - 1.0


def wet_fraction(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `WetFraction`: dims (realization, sample, y, x) against (sample, y, x)."""
    return WetFraction(threshold)(forecast, observed)


def wet_fraction_observed(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `WetFractionObserved`: dims (realization, sample, y, x) against (sample, y, x)."""
    return WetFractionObserved(threshold)(forecast, observed)


def mass_bias(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `MassBias`: dims (realization, sample, y, x) against (sample, y, x)."""
    return MassBias()(forecast, observed)


def ks(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `KS`: dims (realization, sample, y, x) against (sample, y, x)."""
    return KS(threshold)(forecast, observed)


def p99_ratio(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `P99Ratio`: dims (realization, sample, y, x) against (sample, y, x)."""
    return P99Ratio()(forecast, observed)


def p999_ratio(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `P999Ratio`: dims (realization, sample, y, x) against (sample, y, x)."""
    return P999Ratio()(forecast, observed)

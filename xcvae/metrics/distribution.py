"""Scores of rain amounts wherever they fall: frequency, total and extremes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.metric import (
    Metric,
    SampleSums,
    Statistic,
    Stats,
    cap_in,
    ratio,
    wet_threshold_in,
)
from xcvae.metrics.sample import Array, SampleFields

WIDTH = 0.004
"""Relative width of the bins of amounts."""
BELOW, ABOVE = 2400, 3000
"""Bins below and above the wet threshold: from 7e-5 to 1.6e5 times its value."""
ROUNDING = 1e-4
"""Share of a cap by which amounts may miss it, as those of packed files do."""
FIRST_WET = BELOW + 2
"""The first bin of wet amounts: before it are one for dry pixels, one for a trace, and `BELOW`."""


def amount_counts(sample: SampleFields, *, threshold: float) -> dict[str, Array]:
    """Count amounts: dry, a trace, and logarithmic bins that meet at the wet threshold."""
    wet = sample.wet
    return {
        "generated": _count(wet.members, threshold, wet.weights, wet.dry * len(wet.members)),
        "observed": _count(wet.observed, threshold, wet.weights, wet.dry),
    }


def counts_below(sample: SampleFields, *, threshold: float, cap: float) -> dict[str, Array]:
    """Count amounts as `amount_counts` does, on each side those below the cap only."""
    below = cap * (1 - ROUNDING)

    def counted(values: Array, weights: Array | None, dry: float) -> Array:
        lower = values < below
        some = None if weights is None else np.broadcast_to(weights, values.shape)[lower]
        return _count(values[lower], threshold, some, dry)

    wet = sample.wet
    return {
        "generated": counted(wet.members, wet.weights, wet.dry * len(wet.members)),
        "observed": counted(wet.observed, wet.weights, wet.dry),
    }


def _count(values: Array, threshold: float, weights: Array | None, dry: float) -> Array:
    rains = values > 0
    bins = np.floor(np.log(values[rains] / threshold) / WIDTH)
    bins = np.clip(bins, -BELOW - 1, ABOVE - 1).astype(np.int64) + BELOW + 2
    each = None if weights is None else np.broadcast_to(weights, values.shape)
    heavy = None if each is None else each[rains]
    counts = np.bincount(bins, heavy, minlength=BELOW + ABOVE + 2).astype(np.float64)
    counts[0] = dry + (values.size - bins.size if each is None else each[~rains].sum())
    return counts


def wet_counts(sample: SampleFields, *, threshold: float) -> dict[str, Array]:
    """Count the wet pixels of the members, averaged, of the observation, and all pixels."""
    some = sample.with_events(threshold)
    return {
        "generated": some.total(some.events(threshold)) / len(sample.members),
        "observed": some.total(some.observed >= threshold),
        "pixels": sample.pixels,
    }


def totals(sample: SampleFields) -> dict[str, Array]:
    """Sum the rain of the members, averaged, and of the observation."""
    wet = sample.wet
    return {
        "generated": wet.total(wet.members.sum(axis=0)) / len(wet.members),
        "observed": wet.total(wet.observed),
    }


def quantile(counts: Array, q: float | Array) -> Array:
    """Return quantiles of histograms, in multiples of the wet threshold, interpolated in bins.

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
    # The first bin that reaches a level; running sums rise.
    rows = zip(running.reshape(-1, running.shape[-1]), wanted.reshape(-1, levels.size), strict=True)
    found = [np.searchsorted(row, level) for row, level in rows]
    index = np.reshape(np.asarray(found, np.intp), wanted.shape)
    inside = np.take_along_axis(counts, index, axis=-1)
    share = 1.0 - ratio(np.take_along_axis(running, index, axis=-1) - wanted, inside)
    amounts = amounts_in(index, np.clip(share, 0.0, 1.0))
    return amounts if np.ndim(q) else np.asarray(amounts[..., 0])


def amounts_in(index: Array, share: float | Array = 0.5) -> Array:
    """Return amounts in bins of a histogram, in multiples of the wet threshold.

    Parameters
    ----------
    index
        Numbers of bins; the first is dry.
    share
        Place in the bin, from 0 at its lower end to 1.
    """
    amounts = np.exp((index - FIRST_WET + share) * WIDTH)
    return np.asarray(np.where(index == 0, 0.0, amounts))


@dataclass(frozen=True)
class _QuantileRatio(Metric):
    """Ratio of a quantile of all generated pixels to that of all observed pixels."""

    cap: str | float | None = None

    q: ClassVar[float]
    better = 1.0
    limits = (0.0, np.inf)
    sums = SampleSums(amount_counts)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the counts of all amounts, which `KS` shares, or of those below the cap."""
        sums = self.sums if self.cap is None else SampleSums(counts_below)
        return sums.bind(**self.bound_parameters(observed))

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the default wet threshold, with which `KS` has the same sums, and the cap."""
        return {
            "threshold": wet_threshold_in(observed, None),
            "cap": cap_in(observed, self.cap),
        }

    def finish(self, stats: Stats) -> Array:
        """Divide the quantiles; NaN where the observed one is zero."""
        generated, observed = (np.asarray(stats[k]) for k in ("generated", "observed"))
        return ratio(quantile(generated, self.q), quantile(observed, self.q))


@dataclass(frozen=True)
class P99Ratio(_QuantileRatio):
    """99th percentile of all generated pixels over that of all observed pixels, dry ones too.

    Parameters
    ----------
    cap
        Amount at which the observing product cuts rain off, "53.8 mm h-1" for example, or a
        number in the units of the data: amounts at or above it are left out, of the members as of
        the observation. (To leave out the pixels where the observation is at the cap would favour
        members that are too weak.) None for a product without one.
    """

    q = 0.99
    long_name = "ratio of the 99th percentiles, generated over observed"


@dataclass(frozen=True)
class P999Ratio(_QuantileRatio):
    """99.9th percentile of all generated pixels over that of all observed pixels.

    Parameters
    ----------
    cap
        As for `P99Ratio`.
    """

    q = 0.999
    long_name = "ratio of the 99.9th percentiles, generated over observed"


@dataclass(frozen=True)
class _WetThreshold(Metric):
    """A metric of pixels at or above a wet threshold, from 0 to 1."""

    threshold: str | float | None = None

    limits = (0.0, 1.0)

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the threshold in the units of the data."""
        return {"threshold": wet_threshold_in(observed, self.threshold)}


@dataclass(frozen=True)
class KS(_WetThreshold):
    """Two-sample Kolmogorov-Smirnov statistic of wet amounts.

    The largest distance between the distribution functions of wet pixels of all members and of
    the observation, taken at the edges of bins 0.4 % wide. One if only one side is ever wet.

    Parameters
    ----------
    threshold
        As for `WetFraction`.
    """

    long_name = "Kolmogorov-Smirnov statistic of wet amounts"
    better = "lower"
    sums = SampleSums(amount_counts)

    def finish(self, stats: Stats) -> Array:
        """Compare the distribution functions."""
        shares = []
        for side in ("generated", "observed"):
            wet = np.asarray(stats[side])[..., FIRST_WET:]
            shares.append(ratio(wet.cumsum(axis=-1), wet.sum(axis=-1, keepdims=True)))
        one_is_dry = np.isnan(shares[0]).any(axis=-1) != np.isnan(shares[1]).any(axis=-1)
        return np.where(one_is_dry, 1.0, np.abs(shares[0] - shares[1]).max(axis=-1))


@dataclass(frozen=True)
class WetFraction(_WetThreshold):
    """Share of the pixels of all members that are wet; ideally that of the observed pixels.

    Parameters
    ----------
    threshold
        From where a pixel is wet: "0.1 mm h-1", or a number in the units of the data; by default
        0.1 mm h-1, for daily data 1 mm d-1.
    """

    long_name = "share of wet pixels"
    better = "wet_fraction_observed"
    sums = SampleSums(wet_counts)
    quotient = ("generated", "pixels")

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

    long_name = "share of wet pixels, observed"
    quotient = ("observed", "pixels")


@dataclass(frozen=True)
class MassBias(Metric):
    """Total generated (mean over members) over total observed rain, less one."""

    long_name = "relative bias of the total amount"
    better = 0.0
    limits = (-1.0, np.inf)
    sums = SampleSums(totals)

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


def p99_ratio(
    forecast: xr.DataArray, observed: xr.DataArray, *, cap: str | float | None = None
) -> xr.DataArray:
    """Score with `P99Ratio`: dims (realization, sample, y, x) against (sample, y, x)."""
    return P99Ratio(cap)(forecast, observed)


def p999_ratio(
    forecast: xr.DataArray, observed: xr.DataArray, *, cap: str | float | None = None
) -> xr.DataArray:
    """Score with `P999Ratio`: dims (realization, sample, y, x) against (sample, y, x)."""
    return P999Ratio(cap)(forecast, observed)

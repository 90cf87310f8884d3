"""Scores of events: rain at or above a threshold, at a pixel or in its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError
from xcvae.metrics.metric import Metric, SampleSums, Stats, event_threshold_in, ratio
from xcvae.metrics.sample import Array, SampleFields
from xcvae.registry.components import Range


def brier_sums(sample: SampleFields, *, threshold: float) -> dict[str, Array]:
    """Sum the squared error of the share of members with the event."""
    some = sample.with_events(threshold)
    probability = some.events(threshold) / len(some.members)
    return {
        "brier": some.total((probability - (some.observed >= threshold)) ** 2),
        "pixels": sample.pixels,
    }


def contingency(sample: SampleFields, *, threshold: float) -> dict[str, Array]:
    """Return the contingency table, all members pooled."""
    some = sample.with_events(threshold)
    forecast, observed = some.events(threshold), some.observed >= threshold
    hits = some.total(forecast * observed)
    events = some.total(observed) * len(some.members)
    alarms = some.total(forecast)
    return {
        "hits": hits,
        "misses": events - hits,
        "false_alarms": alarms - hits,
        "correct_negatives": sample.pixels * len(some.members) - events - alarms + hits,
    }


def fraction_errors(sample: SampleFields, *, threshold: float, window: int) -> dict[str, Array]:
    """Sum squares of the shares of events in the window around each pixel, and their errors."""
    some, valid = sample.with_events(threshold), sample.valid
    shares = (some.events(threshold) / len(some.members), some.observed >= threshold)
    area = np.ones(valid.shape) if sample.area is None else sample.area
    around = _window_sums(np.where(valid, area, 0.0), window)[valid]
    around = np.where(around > 0, around, 1.0)
    forecast, observed = (
        _window_sums(sample.as_map(some, share) * area, window)[valid] / around for share in shares
    )
    whole = sample.all_pixels
    return {
        "distance": whole.total((forecast - observed) ** 2),
        "worst": whole.total(forecast**2) + whole.total(observed**2),
    }


def _window_sums(field: Array, window: int) -> Array:
    """Sum over the window around each pixel; pixels outside the map count as zero."""
    from scipy.ndimage import convolve1d

    ones = np.ones(window)
    total = convolve1d(field.astype(np.float64), ones, axis=0, mode="constant")
    return np.asarray(convolve1d(total, ones, axis=1, mode="constant"))


@dataclass(frozen=True)
class _Event(Metric):
    """A metric of rain at or above a threshold, from 0 to 1."""

    threshold: str | float | None = None

    better = "higher"
    limits = (0.0, 1.0)

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return the parameters with the threshold in the units of the data.

        Raises
        ------
        ComponentError
            It is not above zero: every pixel would have the event, and any forecast be perfect.
        """
        threshold = event_threshold_in(observed, self.threshold)
        if threshold <= 0:
            raise ComponentError.of(
                "threshold",
                expected="an amount above 0",
                got=repr(self.threshold),
                remedy="Rain of 0 and more falls everywhere: give '0.1 mm h-1' for any rain.",
            )
        return super().bound_parameters(observed) | {"threshold": threshold}


@dataclass(frozen=True)
class Brier(_Event):
    """Brier score: mean squared error of the share of members at or above a threshold.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data; by default 5 mm h-1, for daily data
        20 mm d-1.
    """

    long_name = "Brier score"
    better = "lower"
    sums = SampleSums(brier_sums)
    quotient = ("brier", "pixels")


@dataclass(frozen=True)
class CSI(_Event):
    """Critical success index: hits / (hits + misses + false alarms), members pooled.

    Parameters
    ----------
    threshold
        As for `Brier`.
    """

    long_name = "critical success index"
    sums = SampleSums(contingency)

    def finish(self, stats: Stats) -> Array:
        """Divide; NaN without any event, forecast or observed."""
        return ratio(stats["hits"], stats["hits"] + stats["misses"] + stats["false_alarms"])


@dataclass(frozen=True)
class SEDI(_Event):
    """Symmetric extremal dependence index, members pooled.

    (ln F - ln H + ln(1 - H) - ln(1 - F)) / (ln F + ln H + ln(1 - H) + ln(1 - F)) of hit rate H
    and false alarm rate F, see https://doi.org/10.1175/WAF-D-10-05030.1. At the borders its
    limits are taken, and 0 where H = F: forecasting always or never has no skill.

    Parameters
    ----------
    threshold
        As for `Brier`.
    """

    long_name = "symmetric extremal dependence index"
    limits = (-1.0, 1.0)
    sums = SampleSums(contingency)

    def finish(self, stats: Stats) -> Array:
        """Turn the table into rates and these into the index."""
        hit = ratio(stats["hits"], stats["hits"] + stats["misses"])
        alarm = ratio(stats["false_alarms"], stats["false_alarms"] + stats["correct_negatives"])
        inside = (hit > 0) & (hit < 1) & (alarm > 0) & (alarm < 1)
        h, f = np.where(inside, hit, 0.5), np.where(inside, alarm, 0.5)
        a, b = np.log(f) - np.log1p(-f), np.log(h) - np.log1p(-h)
        index = (a - b) / (np.log(f) + np.log(h) + np.log1p(-h) + np.log1p(-f))
        # On the border the index is the sign of H - F.
        border = np.where(np.isnan(hit - alarm), np.nan, np.sign(hit - alarm))
        return np.where(inside, index, border)


@dataclass(frozen=True)
class FSS(_Event):
    """Fractions skill score of the ensemble.

    1 - sum (p - o)^2 / (sum p^2 + sum o^2), where p is the share of pixels and members at or
    above the threshold in the window around a pixel, o that of observed pixels, and the sums go
    over pixels and samples. With one member it is the score of
    https://doi.org/10.1175/2007MWR2123.1, with more that of
    https://doi.org/10.3402/tellusa.v65i0.18171. Windows at edges and masks count the valid
    pixels they have.

    Parameters
    ----------
    threshold
        As for `Brier`.
    window
        Width of the square window in pixels, odd.
    """

    window: Annotated[int, Range(1)] = 9

    long_name = "fractions skill score"
    sums = SampleSums(fraction_errors)

    def __post_init__(self) -> None:
        """Refuse windows without a centre."""
        super().__post_init__()
        if self.window % 2 == 0:
            raise ComponentError.of(
                "FSS, parameter 'window'",
                expected="an odd number of pixels",
                got=self.window,
                remedy=f"A window has a pixel at its centre: use {self.window + 1}.",
            )

    def finish(self, stats: Stats) -> Array:
        """Compare with the largest distance that is possible; NaN without any event."""
        return 1.0 - ratio(stats["distance"], stats["worst"])


def fss(
    forecast: xr.DataArray,
    observed: xr.DataArray,
    *,
    threshold: str | float | None = None,
    window: int = 9,
) -> xr.DataArray:
    """Score with `FSS`: dims (realization, sample, y, x) against (sample, y, x)."""
    return FSS(threshold, window)(forecast, observed)


def brier(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `Brier`: dims (realization, sample, y, x) against (sample, y, x)."""
    return Brier(threshold)(forecast, observed)


def csi(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `CSI`: dims (realization, sample, y, x) against (sample, y, x)."""
    return CSI(threshold)(forecast, observed)


def sedi(
    forecast: xr.DataArray, observed: xr.DataArray, *, threshold: str | float | None = None
) -> xr.DataArray:
    """Score with `SEDI`: dims (realization, sample, y, x) against (sample, y, x)."""
    return SEDI(threshold)(forecast, observed)

"""Scores of events: rain at or above a threshold, at a pixel or in its neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.fields.units import default_wet_threshold, is_daily, parse_quantity
from xcvae.metrics.metric import Metric, Statistic, Stats, ratio, threshold_in
from xcvae.metrics.pairs import Array, Maps

__all__ = ["CSI", "FSS", "SEDI", "Brier", "brier", "csi", "fss", "sedi"]


def _event_threshold(observed: xr.DataArray, value: str | float | None) -> float:
    """Return a threshold in the units of the data; by default 5 mm h-1, of days 20 mm d-1."""
    if value is not None:
        return threshold_in(observed, value)
    sample = str(observed.dims[0])
    # The default wet threshold knows rates from depths: 0.1 mm (h-1), for days 1 mm (d-1).
    multiple = 20.0 if is_daily(observed, sample) else 50.0
    exact = multiple * default_wet_threshold(observed, sample)
    return parse_quantity(float(f"{exact:.12g}"), units=observed.attrs["units"], what="threshold")


@dataclass(frozen=True)
class _Event(Metric):
    """A metric of rain at or above a threshold."""

    threshold: str | float | None = None


@dataclass(frozen=True)
class _BrierSums:
    """Sum of squared errors of the share of members with the event."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        some = maps.with_events(self.threshold)
        probability = some.events(self.threshold) / len(some.members)
        return {
            "brier": some.total((probability - (some.truth >= self.threshold)) ** 2),
            "pixels": maps.pixels,
        }


@dataclass(frozen=True)
class Brier(_Event):
    """Brier score: mean squared error of the share of members at or above a threshold.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data; by default 5 mm h-1, for daily data
        20 mm d-1.
    """

    long_name: ClassVar[str] = "Brier score"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _BrierSums(_event_threshold(observed, self.threshold))

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["brier"], stats["pixels"])


@dataclass(frozen=True)
class _Contingency:
    """Contingency table, all members pooled."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Count one sample."""
        some = maps.with_events(self.threshold)
        forecast, observed = some.events(self.threshold), some.truth >= self.threshold
        hits = some.total(forecast * observed)
        events = some.total(observed) * len(some.members)
        alarms = some.total(forecast)
        return {
            "hits": hits,
            "misses": events - hits,
            "false_alarms": alarms - hits,
            "correct_negatives": maps.pixels * len(some.members) - events - alarms + hits,
        }


@dataclass(frozen=True)
class CSI(_Event):
    """Critical success index: hits / (hits + misses + false alarms), members pooled.

    Parameters
    ----------
    threshold
        "5 mm h-1", or a number in the units of the data; by default 5 mm h-1, for daily data
        20 mm d-1.
    """

    long_name: ClassVar[str] = "critical success index"
    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Contingency(_event_threshold(observed, self.threshold))

    def finish(self, stats: Stats) -> Array:
        """Divide; NaN where nobody has an event."""
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
        "5 mm h-1", or a number in the units of the data; by default 5 mm h-1, for daily data
        20 mm d-1.
    """

    long_name: ClassVar[str] = "symmetric extremal dependence index"
    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Contingency(_event_threshold(observed, self.threshold))

    def finish(self, stats: Stats) -> Array:
        """Turn the table into rates and these into the index."""
        hit = ratio(stats["hits"], stats["hits"] + stats["misses"])
        alarm = ratio(stats["false_alarms"], stats["false_alarms"] + stats["correct_negatives"])
        inside = (hit > 0) & (hit < 1) & (alarm > 0) & (alarm < 1)
        h, f = np.where(inside, hit, 0.5), np.where(inside, alarm, 0.5)
        a, b = np.log(f) - np.log1p(-f), np.log(h) - np.log1p(-h)
        index = (a - b) / (np.log(f) + np.log(h) + np.log1p(-h) + np.log1p(-f))
        # On the border the index depends on which side of the diagonal H = F we are.
        border = np.where(np.isnan(hit - alarm), np.nan, np.sign(hit - alarm))
        return np.where(inside, index, border)


@dataclass(frozen=True)
class _Fractions:
    """Sums of squares of the shares of events in the window around each pixel."""

    threshold: float
    window: int

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        some, valid = maps.with_events(self.threshold), maps.valid
        shares = (some.events(self.threshold) / len(some.members), some.truth >= self.threshold)
        area = np.ones(valid.shape) if maps.area is None else maps.area
        around = self._total(np.where(valid, area, 0.0))[valid]
        around = np.where(around > 0, around, 1.0)
        forecast, observed = (
            self._total(maps.as_map(some, share) * area)[valid] / around for share in shares
        )
        whole = maps.everywhere
        return {
            "distance": whole.total((forecast - observed) ** 2),
            "worst": whole.total(forecast**2) + whole.total(observed**2),
        }

    def _total(self, field: Array) -> Array:
        """Sum over the window around each pixel, what is outside the map being nothing."""
        from scipy.ndimage import convolve1d

        ones = np.ones(self.window)
        total = convolve1d(field.astype(np.float64), ones, axis=0, mode="constant")
        return np.asarray(convolve1d(total, ones, axis=1, mode="constant"))


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
        "5 mm h-1", or a number in the units of the data; by default 5 mm h-1, for daily data
        20 mm d-1.
    window
        Width of the square window in pixels, odd.
    """

    window: int = 9

    long_name: ClassVar[str] = "fractions skill score"
    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse windows without a centre."""
        if self.window < 1 or self.window % 2 == 0:
            raise ComponentError(
                explain(
                    "window",
                    expected="an odd number of pixels >= 1",
                    got=self.window,
                    remedy="A window has a pixel at its centre: 9, for example.",
                )
            )

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Fractions(_event_threshold(observed, self.threshold), self.window)

    def finish(self, stats: Stats) -> Array:
        """Compare with the worst that could be; NaN where nobody has an event."""
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

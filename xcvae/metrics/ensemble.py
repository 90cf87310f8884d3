"""Scores of an ensemble as a forecast of what was observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.maps import Array, Maps
from xcvae.metrics.metric import Metric, Skill, Statistic, Stats, ratio

__all__ = [
    "CRPS",
    "MAE",
    "CRPSSkill",
    "EnergyScore",
    "crps",
    "crps_skill",
    "energy_score",
    "mae",
]


@dataclass(frozen=True)
class _CrpsSums:
    """Sum of the fair CRPS over pixels."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        # Where all is dry the score is exactly zero: most pixels of most rain fields.
        active = (maps.truth > 0) | (maps.members > 0).any(axis=0)
        members, truth = maps.members[:, active], maps.truth[active]
        total = np.abs(members - truth).sum(dtype=np.float64) / len(members)
        total -= _mean_difference(members) / 2
        return {"crps": total, "pixels": np.asarray(maps.truth.size)}


def _mean_difference(members: Array) -> Array:
    """Sum over pixels of the mean |x_i - x_j| over pairs i != j.

    In ascending order the i-th of M members is the larger one in i - 1 pairs and the smaller
    one in M - i, hence sum_{i<j} |x_i - x_j| = sum_i (2i - M - 1) x_(i): no M x M array.
    """
    m = len(members)
    if m == 1:
        return np.asarray(0.0)
    by_rank = np.sort(members, axis=0).sum(axis=1, dtype=np.float64)
    weights = 2.0 * np.arange(1, m + 1) - m - 1
    return np.asarray(2.0 * weights @ by_rank / (m * (m - 1)))


@dataclass(frozen=True)
class CRPS(Metric):
    """Continuous ranked probability score, fair to the number of members.

    Mean over pixels and samples of ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1))``,
    see https://doi.org/10.1002/qj.2270; the absolute error for a single member.
    """

    long_name: ClassVar[str] = "continuous ranked probability score (fair)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _CrpsSums()

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["crps"], stats["pixels"])


@dataclass(frozen=True)
class CRPSSkill(Skill):
    """Share of a baseline's CRPS that the ensemble saves: 1 - crps / crps of the baseline.

    Parameters
    ----------
    against
        Name of the baseline. `xcvae.evaluate` scores it even where it is not listed.
    """

    long_name: ClassVar[str] = "CRPS skill over a baseline"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _CrpsSums()

    def absolute(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["crps"], stats["pixels"])


@dataclass(frozen=True)
class _EnergySums:
    """The fair energy score of a sample."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Score one sample."""
        members = maps.members.astype(np.float64)
        error = np.sqrt(((members - maps.truth) ** 2).sum(axis=1)).mean()
        m = len(members)
        if m > 1:
            error -= _distances(members).sum() / (2 * m * (m - 1))
        counts = np.asarray(maps.truth.size > 0, dtype=np.float64)
        return {"energy": error * counts, "samples": counts}


def _distances(members: Array) -> Array:
    """Euclidean distances between members, (M, M), by inner products: M x M of maps is cheap."""
    products = members @ members.T
    squares = np.diag(products)
    gaps: Array = squares[:, None] + squares[None, :] - 2.0 * products
    # Rounding leaves identical members a tiny distance apart, of either sign.
    gaps[gaps < 1e-12 * (squares[:, None] + squares[None, :])] = 0.0
    return np.sqrt(gaps)


@dataclass(frozen=True)
class EnergyScore(Metric):
    """Energy score of whole maps, fair to the number of members.

    Mean over samples of mean_i ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 M (M - 1)) with the
    Euclidean norm over valid pixels (it grows with the root of the number of pixels), see
    https://doi.org/10.1198/016214506000001437.
    """

    long_name: ClassVar[str] = "energy score (fair, Euclidean norm over pixels)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _EnergySums()

    def finish(self, stats: Stats) -> Array:
        """Average over samples."""
        return ratio(stats["energy"], stats["samples"])


@dataclass(frozen=True)
class _MedianErrors:
    """Sum of the absolute error of the ensemble median."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        error = np.abs(np.median(maps.members, axis=0) - maps.truth)
        return {"error": error.sum(dtype=np.float64), "pixels": np.asarray(maps.truth.size)}


@dataclass(frozen=True)
class MAE(Metric):
    """Mean absolute error of the ensemble median (the median is what minimises it)."""

    long_name: ClassVar[str] = "mean absolute error of the ensemble median"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _MedianErrors()

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["error"], stats["pixels"])


def crps(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `CRPS`: dims (realization, sample, y, x) against (sample, y, x)."""
    return CRPS()(forecast, observed)


def crps_skill(
    forecast: xr.DataArray, observed: xr.DataArray, *, reference: xr.DataArray
) -> xr.DataArray:
    """Return 1 - crps(forecast) / crps(reference), both against `observed`."""
    value = 1.0 - ratio(crps(forecast, observed).values, crps(reference, observed).values)
    attrs = {"units": "1", "long_name": CRPSSkill.long_name, "better": CRPSSkill.better}
    return xr.DataArray(value, attrs=attrs)


def energy_score(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `EnergyScore`: dims (realization, sample, y, x) against (sample, y, x)."""
    return EnergyScore()(forecast, observed)


def mae(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `MAE`: dims (realization, sample, y, x) against (sample, y, x)."""
    return MAE()(forecast, observed)

"""Scores of an ensemble as a forecast of what was observed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.metrics.metric import Metric, Skill, Statistic, Stats, ratio
from xcvae.metrics.pairs import Array, Maps

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
    """Sum of the fair CRPS over pixels, or over means of blocks of pixels."""

    pool: int = 1

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        if self.pool > 1:
            maps = maps.pooled(self.pool)
        return {"crps": maps.wet.total(maps.wet.scores.crps), "pixels": maps.pixels}


@dataclass(frozen=True)
class CRPS(Metric):
    """Continuous ranked probability score, fair to the number of members.

    Mean over pixels and samples of ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1))``,
    see https://doi.org/10.1002/qj.2270; the absolute error for a single member.

    Parameters
    ----------
    pool
        Width of the blocks of pixels whose means are scored, the score by scale; 1 scores pixels.
        A block counts as much as the valid pixels that it has.
    """

    pool: int = 1

    long_name: ClassVar[str] = "continuous ranked probability score (fair)"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)
    units: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Refuse blocks that are none."""
        _check_pool(self.pool)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _CrpsSums(self.pool)

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
    pool
        As for `CRPS`.
    """

    pool: int = 1

    long_name: ClassVar[str] = "CRPS skill over a baseline"

    def __post_init__(self) -> None:
        """Refuse blocks that are none."""
        _check_pool(self.pool)

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _CrpsSums(self.pool)

    def absolute(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["crps"], stats["pixels"])


def _check_pool(pool: int) -> None:
    if pool < 1:
        raise ComponentError(
            explain(
                "pool",
                expected="a number of pixels >= 1",
                got=pool,
                remedy="4 scores means of 4 x 4 pixels; 1 scores the pixels themselves.",
            )
        )


@dataclass(frozen=True)
class _EnergySums:
    """The fair energy score of a sample."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Score one sample."""
        gaps = _distances(maps.wet.products)
        m = len(gaps) - 1
        error = gaps[-1, :-1].mean()
        if m > 1:
            error -= gaps[:-1, :-1].sum() / (2 * m * (m - 1))
        counts = np.asarray(maps.truth.size > 0, dtype=np.float64)
        return {"energy": error * counts, "samples": counts}


def _distances(products: Array) -> Array:
    """Euclidean distances between maps, by their inner products: M x M of maps is cheap."""
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
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)
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
        error = np.abs(maps.wet.scores.median - maps.wet.truth)
        return {"error": maps.wet.total(error), "pixels": maps.pixels}


@dataclass(frozen=True)
class MAE(Metric):
    """Mean absolute error of the ensemble median (the median is what minimises it)."""

    long_name: ClassVar[str] = "mean absolute error of the ensemble median"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)
    units: ClassVar[str | None] = None

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _MedianErrors()

    def finish(self, stats: Stats) -> Array:
        """Divide by the number of pixels."""
        return ratio(stats["error"], stats["pixels"])


def crps(forecast: xr.DataArray, observed: xr.DataArray, *, pool: int = 1) -> xr.DataArray:
    """Score with `CRPS`: dims (realization, sample, y, x) against (sample, y, x)."""
    return CRPS(pool)(forecast, observed)


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

"""Scores of an ensemble as a forecast of the observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import xarray as xr

from xcvae.metrics.metric import Metric, SampleSums, Skill, ratio
from xcvae.metrics.sample import Array, SampleFields
from xcvae.registry.components import Range


def crps_sums(sample: SampleFields, *, pool: int) -> dict[str, Array]:
    """Sum the fair CRPS over pixels, or over means of blocks of ``pool`` x ``pool`` pixels."""
    if pool > 1:
        sample = sample.pooled(pool)
    return {"crps": sample.wet.total(sample.wet.scores.crps), "pixels": sample.pixels}


def median_errors(sample: SampleFields) -> dict[str, Array]:
    """Sum the absolute error of the ensemble median."""
    error = np.abs(sample.wet.scores.median - sample.wet.observed)
    return {"error": sample.wet.total(error), "pixels": sample.pixels}


def energy_sums(sample: SampleFields) -> dict[str, Array]:
    """Return the fair energy score of the maps, and 1 for the sample unless it has no pixels."""
    gaps = _distances(sample.wet.products)
    m = len(gaps) - 1
    error = gaps[-1, :-1].mean()
    if m > 1:
        error -= gaps[:-1, :-1].sum() / (2 * m * (m - 1))
    counts = np.asarray(sample.observed_pixels.size > 0, dtype=np.float64)
    return {"energy": error * counts, "samples": counts}


def _distances(products: Array) -> Array:
    """Return Euclidean distances between maps from their inner products, without M x M maps."""
    squares = np.diag(products)
    gaps: Array = squares[:, None] + squares[None, :] - 2.0 * products
    # Rounding leaves identical members a tiny distance apart, of either sign.
    gaps[gaps < 1e-12 * (squares[:, None] + squares[None, :])] = 0.0
    return np.sqrt(gaps)


@dataclass(frozen=True)
class _Error(Metric):
    """A score in the units of the data, zero at best."""

    better = "lower"
    limits = (0.0, np.inf)
    units = None


@dataclass(frozen=True)
class CRPS(_Error):
    """Continuous ranked probability score, fair to the number of members.

    Mean over pixels and samples of ``mean_i |x_i - y| - sum_ij |x_i - x_j| / (2 M (M - 1))``,
    see https://doi.org/10.1002/qj.2270; the absolute error for a single member.

    Parameters
    ----------
    pool
        Width of the blocks of pixels whose means are scored, the score by scale; 1 scores pixels.
        A block counts as much as the valid pixels that it has.
    """

    pool: Annotated[int, Range(1)] = 1

    long_name = "continuous ranked probability score (fair)"
    sums = SampleSums(crps_sums)
    quotient = ("crps", "pixels")


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

    pool: Annotated[int, Range(1)] = 1

    long_name = "CRPS skill over a baseline"
    sums = SampleSums(crps_sums)
    quotient = ("crps", "pixels")


@dataclass(frozen=True)
class MAE(_Error):
    """Mean absolute error of the ensemble median (the median is what minimises it)."""

    long_name = "mean absolute error of the ensemble median"
    sums = SampleSums(median_errors)
    quotient = ("error", "pixels")


@dataclass(frozen=True)
class EnergyScore(_Error):
    """Energy score of whole maps, fair to the number of members.

    Mean over samples of mean_i ||x_i - y|| - sum_ij ||x_i - x_j|| / (2 M (M - 1)) with the
    Euclidean norm over valid pixels (it grows with the root of the number of pixels), see
    https://doi.org/10.1198/016214506000001437.
    """

    long_name = "energy score (fair, Euclidean norm over pixels)"
    sums = SampleSums(energy_sums)
    quotient = ("energy", "samples")


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

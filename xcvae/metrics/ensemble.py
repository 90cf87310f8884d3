"""Scores of an ensemble as a forecast of the observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError
from xcvae.metrics.metric import (
    Metric,
    SampleSums,
    Skill,
    cap_in,
    heavy_threshold_in,
    ratio,
)
from xcvae.metrics.sample import Array, SampleFields, pixel_scores
from xcvae.registry.components import Range


def crps_sums(sample: SampleFields, *, pool: int) -> dict[str, Array]:
    """Sum the fair CRPS over pixels, or over means of blocks of ``pool`` x ``pool`` pixels."""
    if pool > 1:
        sample = sample.pooled(pool)
    return {"crps": sample.wet.total(sample.wet.scores.crps), "pixels": sample.pixels}


def chained_crps_sums(
    sample: SampleFields, *, threshold: float, cap: float | None
) -> dict[str, Array]:
    """Sum the fair CRPS of amounts between a threshold and a cap, those beyond set to them."""
    wet = sample.with_events(threshold)
    # Elsewhere all are set to the threshold, and score zero.
    heavy = (wet.members > threshold).any(axis=0) | (wet.observed > threshold)
    members, observed = (
        np.clip(amounts, threshold, cap)
        for amounts in (wet.members.compress(heavy, axis=1), wet.observed[heavy])
    )
    found = pixel_scores(members, observed).crps
    weights = None if wet.weights is None else wet.weights[heavy]
    total = found.sum(dtype=np.float64) if weights is None else found @ weights
    return {"crps": np.asarray(total), "pixels": sample.pixels}


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
class TwCRPS(_Error):
    """Threshold-weighted CRPS, fair to the number of members: the score of the tail.

    The CRPS of ``max(x, threshold)`` in place of every amount ``x``, members and observation
    alike, which is the CRPS with a weight of one on all amounts above the threshold and zero
    below: a proper score, unlike one of the pixels where heavy rain was observed (Gneiting and
    Ranjan 2011, https://doi.org/10.1198/jbes.2010.08110; Allen et al. 2023,
    https://doi.org/10.1137/22M1532184). At threshold zero it is `CRPS`.

    Parameters
    ----------
    threshold
        From where amounts count: "20 mm h-1", or a number in the units of the data; by default
        the 99th percentile of all pixels of the training record, which ensembles of xcvae carry
        in their attributes; without a record, and for windows of time, 5 mm h-1, for daily data
        20 mm d-1.
    cap
        Amount at which the observing product cuts rain off, "53.8 mm h-1" for example: amounts
        at and above it count as equal. None for a product without one.

    Examples
    --------
    >>> attrs = {"units": "mm h-1"}
    >>> observed = xr.DataArray([[[0.0, 9.0]]], dims=("time", "y", "x"), attrs=attrs)
    >>> members = xr.concat([observed + 1, observed + 3], "realization").assign_attrs(attrs)
    >>> TwCRPS("5 mm h-1")(members, observed).item(), CRPS()(members, observed).item()
    (0.5, 1.0)
    """

    threshold: str | float | None = None
    cap: str | float | None = None

    long_name = "threshold-weighted continuous ranked probability score (fair)"
    sums = SampleSums(chained_crps_sums)
    quotient = ("crps", "pixels")

    def bound_parameters(self, observed: xr.DataArray) -> dict[str, Any]:
        """Return threshold and cap in the units of the data.

        Raises
        ------
        ComponentError
            The cap is not above the threshold.
        """
        threshold = heavy_threshold_in(observed, self.threshold)
        cap = cap_in(observed, self.cap)
        if cap is not None and cap <= threshold:
            raise ComponentError.of(
                "TwCRPS, parameter 'cap'",
                expected=f"an amount above the threshold, {threshold:g} {observed.attrs['units']}",
                got=f"{cap:g}",
                remedy="Lower the threshold: between the two nothing is left to score.",
            )
        return {"threshold": threshold, "cap": cap}


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


def twcrps(
    forecast: xr.DataArray,
    observed: xr.DataArray,
    *,
    threshold: str | float | None = None,
    cap: str | float | None = None,
) -> xr.DataArray:
    """Score with `TwCRPS`: dims (realization, sample, y, x) against (sample, y, x)."""
    return TwCRPS(threshold, cap)(forecast, observed)


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

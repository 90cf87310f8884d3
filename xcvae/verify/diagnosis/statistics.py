"""Statistics of fields alone: members against observations, and exchanged latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.fields.record import Record, bin_edges
from xcvae.fields.sample_blocks import consecutive
from xcvae.metrics.calibration import spread_skill
from xcvae.metrics.distribution import mass_bias, p99_ratio, p999_ratio, wet_fraction
from xcvae.metrics.sample import Array, SampleFields
from xcvae.metrics.spatial import diversity, spatial_correlation
from xcvae.metrics.temporal import SequenceFields, lagged_products
from xcvae.verify.diagnosis.artefacts import Artefacts, artefacts_of
from xcvae.verify.resampling import estimate, quantile_rank

#: Values that differ by less than this share count as the same value.
SAME = 1e-3
#: Share of wet values that count as the largest, and their number needed to look for a cap.
LARGEST, ENOUGH = 0.001, 50
#: Share of wet values among which a spike is looked for, and number of amounts next to it, on each
#: side, that it is compared with; how many times as frequent it is, as an amount and as a bin of a
#: record (the cap of MRMS: 480 and 7.9 times; radar in steps of 0.12 mm h-1 without one: 1.1).
HEAVIEST, NEXT, SPIKE_TIMES, BIN_TIMES = 0.01, 4, 10.0, 4.0
#: Smallest number of samples in a third of them.
THIRD = 4
#: Lags at which maps of errors are compared, from 0, and standard errors of their correlation that
#: are taken for chance: independent samples have more one time in twenty.
LAGS, CHANCE = 32, 1.64


@dataclass(frozen=True)
class LatentSwap:
    """Reconstructions of a sample from its own latents and from those of another sample.

    Attributes
    ----------
    error_own, error_swapped
        Mean absolute error with the sample's own latents and with another's, in the target's
        units.
    change
        Mean absolute difference of both reconstructions, as a share of the mean observed rain.
    """

    error_own: float
    error_swapped: float
    change: float


@dataclass(frozen=True)
class EnsembleStatistics:
    """Statistics of members against the observation.

    Attributes that end in ``_error`` are standard errors.

    Attributes
    ----------
    wet_fraction, mass_bias
        Share of wet pixels, and relative bias of the total amount.
    p99_ratio
        Ratio of the 99th percentiles; NaN if the observed one is zero.
    variance_ratio
        Spatial variance of members over that of the observation.
    diversity
        1 - mean pairwise cosine similarity between members.
    spread_skill
        Spread over error of the ensemble mean.
    correlation
        Spatial correlation of members with the observation.
    texture_ratio
        Mean squared difference of neighbouring pixels over that of the observation; small for
        smooth maps, whatever their amounts.
    wet_error
        Standard error, over samples, of the difference of wet shares, members less observed.
    mass_error, variance_error, texture_error, spread_error
        Standard errors, over samples, of the logarithms of ``1 + mass_bias``, ``variance_ratio``,
        ``texture_ratio`` and ``spread_skill``.
    spread_thirds
        Spread over error and the standard error of its logarithm in thirds of the samples, from
        little to much coarse rain: see `spread_by_amount`; empty without coarse rain, or for too
        few samples.
    spread_log, spread_log_error
        As ``spread_skill``, of ``log1p(rain / wet threshold)``: less dependent on single storms.
    p999_ratio
        Ratio of the 99.9th percentiles; NaN if the observed one is zero.
    tail_rank, tail_rank_error
        Frequency of members with a lower 99.9th percentile than the observed map, and its
        standard error: see `xcvae.verify.resampling.quantile_rank`.
    light_mass
        Share of the amount in pixels below the wet threshold.
    ceiling_share
        Share of the largest values that are the same value: see `ceiling_of`.
    artefacts
        Traces of the grid.
    floor, floor_share
        Median of the smallest values of pixels, in the target's units, and the share of values
        at the smallest one of their pixel if that is not zero: see `floor_of`.
    """

    wet_fraction: float
    mass_bias: float
    p99_ratio: float
    variance_ratio: float
    diversity: float
    spread_skill: float
    correlation: float
    texture_ratio: float = float("nan")
    wet_error: float = 0.0
    mass_error: float = 0.0
    variance_error: float = 0.0
    texture_error: float = 0.0
    spread_error: float = float("inf")
    spread_log: float = float("nan")
    spread_log_error: float = float("inf")
    p999_ratio: float = float("nan")
    tail_rank: float = 1.0
    tail_rank_error: float = 0.0
    light_mass: float = 0.0
    ceiling_share: float = 0.0
    artefacts: Artefacts = field(default_factory=Artefacts)
    floor: float = 0.0
    floor_share: float = 0.0
    spread_thirds: tuple[tuple[float, float], ...] = ()


def latent_swap(own: NDArray[Any], swapped: NDArray[Any], observed: NDArray[Any]) -> LatentSwap:
    """Compare reconstructions from own and from exchanged latents; arrays (sample, y, x)."""
    mean = float(np.nanmean(observed))
    change = np.abs(own - swapped)[np.isfinite(observed)]
    return LatentSwap(
        error_own=float(np.nanmean(np.abs(own - observed))),
        error_swapped=float(np.nanmean(np.abs(swapped - observed))),
        change=float(np.nanmean(change)) / mean if mean > 0 else float("nan"),
    )


def ensemble_statistics(
    members: NDArray[Any],
    observed: NDArray[Any],
    *,
    units: str,
    wet_threshold: float,
    coarse: NDArray[Any] | None = None,
) -> EnsembleStatistics:
    """Compare members (realization, sample, y, x) with observations (sample, y, x).

    Parameters
    ----------
    members, observed, units, wet_threshold
        Physical fields, their units, and the amount from which a pixel is wet.
    coarse
        Coarse rain of each sample, (sample,); without it there are no thirds of the samples.
    """
    dims = ("realization", "sample", "y", "x")
    forecast = xr.DataArray(members, dims=dims, attrs={"units": units})
    truth = xr.DataArray(observed, dims=dims[1:], attrs={"units": units})
    logs = [np.log1p(np.maximum(fields, 0.0) / wet_threshold) for fields in (members, observed)]
    dependence = error_autocorrelation(logs[1] - logs[0].mean(axis=0))
    ((spread_log, spread_log_error),) = _spread(logs[0], logs[1], dependence)
    del logs
    _, mass_error = _log_ratio(_amounts(members), _amounts(observed), dependence)
    variance, variance_error = _log_ratio(_variances(members), _variances(observed), dependence)
    texture, texture_error = _log_ratio(_contrasts(members), _contrasts(observed), dependence)
    floor, floor_share = floor_of(members)
    tail_rank, tail_rank_error = quantile_rank(members, observed, 0.999, dependence)
    return EnsembleStatistics(
        wet_fraction=float(wet_fraction(forecast, truth, threshold=wet_threshold)),
        wet_error=_wet_error(members, observed, wet_threshold, dependence),
        mass_bias=float(mass_bias(forecast, truth)),
        mass_error=mass_error,
        p99_ratio=float(p99_ratio(forecast, truth)),
        p999_ratio=float(p999_ratio(forecast, truth)),
        tail_rank=tail_rank,
        tail_rank_error=tail_rank_error,
        variance_ratio=variance,
        variance_error=variance_error,
        diversity=float(diversity(forecast, truth)),
        spread_skill=float(spread_skill(forecast, truth)),
        spread_error=_spread(members, observed, dependence)[0][1],
        spread_log=spread_log,
        spread_log_error=spread_log_error,
        correlation=float(spatial_correlation(forecast, truth)),
        texture_ratio=texture,
        texture_error=texture_error,
        light_mass=light_mass(members, wet_threshold),
        ceiling_share=ceiling_of(members, wet_threshold),
        artefacts=artefacts_of(members, observed, dependence),
        floor=floor,
        floor_share=floor_share,
        spread_thirds=spread_by_amount(members, observed, coarse, dependence),
    )


def _log_ratio(drawn: NDArray[Any], truth: NDArray[Any], dependence: Array) -> tuple[float, float]:
    """Return the ratio of sums over samples and the standard error of its logarithm."""
    parts = np.stack([drawn, truth], axis=1)
    if not (parts.sum(axis=0) > 0).all():
        return (0.0 if truth.sum() > 0 else float("nan")), 0.0
    value, error = estimate(parts, lambda sums: float(np.log(sums[0] / sums[1])), dependence)
    return float(np.exp(value)), error


def _wet_error(
    members: NDArray[Any], observed: NDArray[Any], threshold: float, dependence: Array
) -> float:
    """Return the standard error of the share of wet pixels of members less that observed."""
    valid = np.isfinite(observed)
    drawn = np.zeros(len(observed))
    for fields in members:
        drawn += ((fields >= threshold) & valid).sum(axis=(1, 2)) / len(members)
    wet = ((observed >= threshold) & valid).sum(axis=(1, 2))
    parts = np.stack([drawn - wet, valid.sum(axis=(1, 2))], axis=1)
    if parts[:, 1].sum() == 0:
        return 0.0
    return estimate(parts, lambda sums: float(sums[0] / sums[1]), dependence)[1]


def _amounts(maps: NDArray[Any]) -> NDArray[Any]:
    """Return the mean over members of the sum over pixels, (..., sample, y, x) to (sample,)."""
    return np.asarray(np.nansum(_stacked(maps), axis=(2, 3), dtype=np.float64).mean(axis=0))


def _variances(maps: NDArray[Any]) -> NDArray[Any]:
    """Return the mean over members of the variance within a map, (sample,)."""
    # Member by member, here and below: the temporary arrays of large maps need memory.
    return np.asarray(np.mean([_variance(fields) for fields in _stacked(maps)], axis=0))


def _variance(fields: NDArray[Any]) -> NDArray[Any]:
    count = np.maximum(np.isfinite(fields).sum(axis=(1, 2)), 1)
    mean = np.nansum(fields, axis=(1, 2), dtype=np.float64) / count
    squares = np.nansum((fields - mean[:, None, None]) ** 2, axis=(1, 2), dtype=np.float64)
    return np.asarray(squares / count)


def _contrasts(maps: NDArray[Any]) -> NDArray[Any]:
    """Return the mean over members of squared differences of neighbouring pixels, (sample,)."""
    found = np.zeros((2, *_stacked(maps).shape[:2]))
    for member, fields in enumerate(_stacked(maps)):
        for number, axis in enumerate((1, 2)):
            # Sum in float64: float32 loses small squares in the sum over millions of pixels.
            squares = np.diff(fields, axis=axis) ** 2
            found[number, member] = np.nansum(squares, axis=(1, 2), dtype=np.float64)
    return np.asarray(found.mean(axis=1).sum(axis=0))


def _stacked(maps: NDArray[Any]) -> NDArray[Any]:
    return maps if maps.ndim == 4 else maps[None]


def _spread(
    members: NDArray[Any],
    observed: NDArray[Any],
    dependence: Array | None,
    groups: Sequence[NDArray[np.intp] | None] = (None,),
) -> list[tuple[float, float]]:
    """Return spread over error of the ensemble mean, and the standard error of its logarithm.

    One pair for each group, which are positions of samples; None is all of them.
    """
    count = len(members)
    if count < 2:
        return [(float("nan"), float("inf"))] * len(groups)
    spread = np.nansum(members.var(axis=0, ddof=1), axis=(1, 2), dtype=np.float64)
    error = np.nansum((members.mean(axis=0) - observed) ** 2, axis=(1, 2), dtype=np.float64)
    parts = np.stack([(count + 1) / count * spread, error], axis=1)
    found = []
    for group in groups:
        spread_sum, error_sum = (parts if group is None else parts[group]).sum(axis=0)
        if spread_sum <= 0 or error_sum <= 0:
            found.append((0.0 if error_sum > 0 else float("nan"), 0.0))
            continue
        value, sure = estimate(
            parts, lambda sums: float(0.5 * np.log(sums[0] / sums[1])), dependence, group
        )
        found.append((float(np.exp(value)), sure))
    return found


def error_autocorrelation(errors: NDArray[Any]) -> Array:
    """Return the autocorrelation of maps of errors at lags of 0, 1, ... samples.

    The errors of a mean over samples are too few to tell how alike neighbouring samples are, but
    each sample is a map of many pixels: the correlation of maps is certain, and an error common to
    a map does not enter. Correlations that long lags have, too, are no memory; the first one that
    is within chance is zero, like all beyond it.

    Parameters
    ----------
    errors
        Observation minus mean of the members, (sample, y, x), in the order of time; NaN is left
        out.

    Examples
    --------
    >>> maps = np.random.default_rng(0).normal(size=(9, 8, 8))
    >>> bool(error_autocorrelation(maps)[1:].any())
    False
    >>> round(float(error_autocorrelation(maps[1:] + maps[:-1])[1]), 1)
    0.5
    """
    if len(errors) < 3:  # no pair, or one alone; such maps may be as large as a continent
        return np.array([1.0, 0.0][: len(errors)])
    maps = errors.reshape(len(errors), -1).astype(np.float64)
    valid = np.isfinite(maps)
    means = np.nansum(maps, axis=1) / np.maximum(valid.sum(axis=1), 1)
    maps = np.where(valid, maps - means[:, None], 0.0)
    size = np.sqrt((maps**2).sum(axis=1))
    uniform = size == 0
    maps /= np.where(uniform, 1.0, size)[:, None]
    lags = min(len(maps), LAGS)
    found, chance = np.zeros(lags), np.full(lags, np.inf)
    for lag in range(1, lags):
        products = np.einsum("sp,sp->s", maps[lag:], maps[:-lag])
        products = products[~(uniform[lag:] | uniform[:-lag])]
        if products.size > 1:
            found[lag] = products.mean()
            chance[lag] = CHANCE * products.std(ddof=1) / np.sqrt(products.size)
    common = max(float(found[-(lags // 2) :].mean()), 0.0) if lags > 4 else 0.0
    memory = found - common > chance
    memory[:1] = True
    unbroken = np.logical_and.accumulate(memory)
    correlation = np.where(unbroken, (found - common) / (1.0 - min(common, 0.9)), 0.0)
    correlation[:1] = 1.0
    return np.asarray(correlation)


def spread_by_amount(
    members: NDArray[Any],
    observed: NDArray[Any],
    coarse: NDArray[Any] | None,
    dependence: Array | None = None,
) -> tuple[tuple[float, float], ...]:
    """Return spread over error, and the error of its logarithm, by thirds of the samples.

    Samples are sorted by what was known before the draw. By the observed rain, any ensemble would
    seem too wide where little was observed, and too narrow where much was; by the rain of its
    members, too narrow where little was drawn.

    Parameters
    ----------
    members, observed
        Dims (realization, sample, y, x) and (sample, y, x).
    coarse
        Coarse rain of each sample, (sample,), NaN where it is missing; None if it is not known.
    dependence
        Autocorrelation of the samples, from `error_autocorrelation`.
    """
    if coarse is None:
        return ()
    order = np.argsort(coarse, kind="stable")
    thirds = np.array_split(order[np.isfinite(coarse[order])], 3)
    if len(members) < 2 or min(map(len, thirds)) < THIRD:
        return ()
    return tuple(_spread(members, observed, dependence, thirds))


def light_mass(fields: NDArray[Any], wet_threshold: float) -> float:
    """Return the share of the amount in pixels below the wet threshold.

    Examples
    --------
    >>> light_mass(np.array([0.05, 0.05, 0.9]), 0.1)
    0.1
    """
    total = float(np.nansum(fields, dtype=np.float64))
    light = float(np.sum(fields, where=fields < wet_threshold, dtype=np.float64))
    return round(light / total, 12) if total > 0 else 0.0


def ceiling_of(fields: NDArray[Any], wet_threshold: float) -> float:
    """Return the share of the largest values (one in a thousand wet ones) that equal the maximum.

    Large values of rain are rare and differ; behind a cap many are the same.

    Examples
    --------
    >>> rain = np.random.default_rng(0).exponential(5.0, 100_000)
    >>> round(ceiling_of(rain, 0.1), 2), ceiling_of(rain.clip(max=20.0), 0.1)
    (0.01, 1.0)
    """
    wet = fields[fields >= wet_threshold]
    count = int(LARGEST * wet.size)
    if count < ENOUGH:
        return 0.0
    largest = np.partition(wet, -count)[-count:]
    return float((largest >= largest.max() * (1 - SAME)).mean())


@dataclass(frozen=True)
class Spike:
    """An amount that occurs implausibly often among the heaviest ones: a cap of the product.

    Attributes
    ----------
    amount
        The amount, in the units of the fields.
    share
        Share of it in the heaviest amounts, one in a hundred wet ones.
    times
        Number of times that it is as frequent as the amounts next to it.
    """

    amount: float
    share: float
    times: float


def spike_of(fields: NDArray[Any], wet_threshold: float) -> Spike | None:
    """Look for a spike in the heaviest amounts of fields; None without one.

    Examples
    --------
    >>> rain = np.random.default_rng(0).exponential(5.0, 100_000).round(1)
    >>> spike_of(rain, 0.1) is None
    True
    >>> spike_of(np.where((rain > 30) & (np.arange(100_000) % 2 == 0), 30.0, rain), 0.1).amount
    30.0
    """
    wet = fields[fields >= wet_threshold]
    count = int(HEAVIEST * wet.size)
    if count < ENOUGH:
        return None
    largest = np.partition(wet, -2 * count)[-2 * count :]
    return _spike(*np.unique(largest, return_counts=True), heaviest=count, least=SPIKE_TIMES)


def spike_of_record(record: Record) -> Spike | None:
    """Look for a spike in the bins of a record; its amount is the lower edge of the bin."""
    edges, counts = bin_edges(record.wet_threshold)[:-1], np.asarray(record.counts)
    wet = (edges >= 0.999 * record.wet_threshold) & (counts > 0)
    heaviest = int(HEAVIEST * counts[wet].sum())
    return _spike(edges[wet], counts[wet], heaviest=heaviest, least=BIN_TIMES)


def _spike(
    amounts: NDArray[Any], counts: NDArray[Any], *, heaviest: int, least: float
) -> Spike | None:
    """Find the most frequent of the heaviest amounts, which rise, if it is out of proportion."""
    above = np.cumsum(counts[::-1])[::-1]
    if not heaviest or above[0] < heaviest:
        return None
    first = int((above >= heaviest).sum()) - 1
    found = first + int(np.argmax(counts[first:]))
    near = np.concatenate([counts[max(found - NEXT, 0) : found], counts[found + 1 :][:NEXT]])
    times = counts[found] / near.mean() if near.size >= NEXT else 0.0
    if counts[found] < ENOUGH or times < least:
        return None
    share = float(counts[found] / counts[first:].sum())
    return Spike(float(f"{amounts[found]:.6g}"), share, float(times))


def floor_of(members: NDArray[Any]) -> tuple[float, float]:
    """Measure a floor above zero of the values of a pixel; members (realization, sample, y, x).

    The floor of rain is zero. A threshold on z-scores sets values below it to the mean of their
    pixel: a large share of the values of a pixel is then the same positive number.

    Returns
    -------
    floor, share
        Median over pixels of the smallest value, and the share of all values that equal the
        smallest of their pixel where that is not zero. The smallest itself does not count: it
        equals itself in every field.

    Examples
    --------
    >>> members = np.array([0.0, 0.0, 3.0, 1.0]).reshape(2, 2, 1, 1)
    >>> floor_of(members), floor_of(np.maximum(members, 0.5))
    ((0.0, 0.0), (0.5, 0.333...))
    """
    flat = members.reshape(-1, *members.shape[2:])
    lowest = np.fmin.reduce(flat, axis=0)
    valid = np.isfinite(lowest)
    if not valid.any() or len(flat) < 2:
        return 0.0, 0.0
    at = (flat <= lowest * (1 + SAME)) & (lowest > 0)
    share = (at.sum(axis=0)[valid] - (lowest[valid] > 0)).mean() / (len(flat) - 1)
    return float(np.median(lowest[valid])), float(share)


#: Side of the blocks of pixels that fine structure is what is left without.
FINE = 12


@dataclass(frozen=True)
class TimeStatistics:
    """Correlation of fine structure between consecutive samples.

    Attributes
    ----------
    step
        Distance of the samples, in seconds.
    generated, observed
        The correlation in prior members, each drawn for its time by itself, and as observed.
    pairs
        Number of pairs of samples.
    """

    step: float
    generated: float
    observed: float
    pairs: int


def time_statistics(
    members: NDArray[Any], observed: NDArray[Any], times: NDArray[np.int64]
) -> TimeStatistics | None:
    """Correlate consecutive samples; None without any, or without fine structure.

    Parameters
    ----------
    members, observed
        Dims (realization, sample, y, x) and (sample, y, x).
    times
        Time of every sample in microseconds.
    """
    step, runs = consecutive(times)
    if step <= 0:
        return None
    sums: dict[str, float] = {}
    for run in runs:
        fields = [SampleFields(members[:, i], observed[i]) for i in run]
        for name, value in lagged_products(SequenceFields(fields), lag=1, block=FINE).items():
            sums[name] = sums.get(name, 0.0) + float(value)
    found = {}
    for name in ("generated", "truth"):
        scale = np.sqrt(sums[f"{name}_first"] * sums[f"{name}_second"])
        found[name] = sums[name] / scale if scale > 0 else float("nan")
    pairs = sum(len(run) - 1 for run in runs)
    if not pairs or not np.isfinite(found["truth"]):
        return None
    return TimeStatistics(step / 1e6, float(found["generated"]), float(found["truth"]), pairs)

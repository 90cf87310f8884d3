"""Timescales of the levels, from the posterior means of consecutive samples.

The posterior mean of a latent, in units of its prior, estimates the deviate that the observed storm
was drawn with. The correlation of these deviates between consecutive samples tells how long a level
remembers; the timescale is where the correlation of `xcvae.generator.noise.TimeAxis` fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import ConfigError
from xcvae.fields.batches import Batches
from xcvae.fields.sample_blocks import block_slices, consecutive, evenly_spaced, segments
from xcvae.fields.samples import storms_of, times_of
from xcvae.generator.model import Model
from xcvae.generator.noise import correlation
from xcvae.generator.sampler import draw_batch_size

#: Distances, in steps of the record, at which samples are correlated.
LAGS = (1, 2, 3, 6)
#: Samples in a row at most, the unit of the bootstrap; and samples and pixels in total.
SEGMENT, SAMPLES, PIXELS = 12, 240, 4_800_000
#: A level whose correlation after one step is below this is drawn without memory: knots closer
#: than the samples would cost much and change little. Samples may be drawn at a finer step than
#: that of the record: a level with .19 after 10 minutes has .4 after 5.
LEAST = 0.15
#: Timescales that are tried, in steps.
GRID = np.geomspace(0.2, 200, 600)
#: Resamplings of the segments, for 95 % intervals.
RESAMPLINGS = 200

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Timescales:
    """Timescales of the levels of a model, measured on consecutive samples.

    Attributes
    ----------
    seconds
        Timescale of each level, coarsest first; 0 without memory. None if not measured.
    low, high
        Their 95 % intervals, by a bootstrap over segments of consecutive samples.
    step
        Step of the consecutive samples, in seconds.
    lags
        Distances of samples, in steps.
    correlation
        Correlation of each level at each lag; None where no two samples are that far apart.
    samples
        Number of samples measured on.
    reason
        Why nothing was measured; empty otherwise.
    """

    seconds: list[float] | None = None
    low: list[float] | None = None
    high: list[float] | None = None
    step: float | None = None
    lags: tuple[int, ...] = LAGS
    correlation: list[list[float | None]] | None = None
    samples: int = 0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON types, for the model file."""
        return {**asdict(self), "lags": list(self.lags)}


def measure_timescales(
    model: Model, prepared: xr.Dataset, *, tile: tuple[int, int] | None = None
) -> Timescales:
    """Measure the timescales of a model on consecutive samples.

    Parameters
    ----------
    model
        The trained model.
    prepared
        Samples with the target, from `xcvae.fields.describe.prepare`.
    tile
        Rows and columns of the tiles that maps go through the network in; None for one piece.

    Returns
    -------
    Timescales
        Without values, and with the reason, if no samples are consecutive.
    """
    sample = model.spec.sample
    if model.spec.random_scale:
        return Timescales(
            reason="it was trained for any pixel size, and memory depends on the size"
        )
    try:
        times = np.array(times_of(prepared, sample), np.int64)
    except ConfigError:
        return Timescales(reason="the samples of its record have no times")
    _, observed = storms_of(prepared, sample)
    step, runs = consecutive(times, np.flatnonzero(observed))
    batches = model.batches(prepared)
    picked = _picked(runs, batches)
    if not picked:
        return Timescales(reason="its record has no consecutive times")
    parts = [_products(model, batches, segment, tile) for segment in picked]
    levels = [np.stack(level) for level in zip(*parts, strict=True)]
    measured = _correlations(levels)
    longest = max(map(len, runs))  # beyond this nothing is measured
    rng = np.random.default_rng(0)
    draws = rng.integers(len(picked), size=(RESAMPLINGS, len(picked)))
    seconds = step / 1e6
    resampled = np.array([_fit(_correlations(levels, rows), longest) for rows in draws])
    low, high = np.quantile(resampled * seconds, [0.025, 0.975], axis=0)
    return Timescales(
        seconds=_rounded(_fit(measured, longest) * seconds),
        low=_rounded(low),
        high=_rounded(high),
        step=seconds,
        correlation=[[_number(one) for one in level] for level in measured],
        samples=sum(map(len, picked)),
    )


def _picked(runs: list[Any], batches: Batches) -> list[NDArray[np.int64]]:
    """Cut runs into segments, and pick as many as the budget of samples allows, evenly spaced."""
    parts = [part for part in segments(runs, SEGMENT) if len(part) > 1]
    budget = min(SAMPLES, max(SEGMENT, PIXELS // (batches.size[0] * batches.size[1])))
    mean = sum(map(len, parts)) / max(1, len(parts))
    most = max(1, int(budget // max(1.0, mean)))
    return [parts[i] for i in evenly_spaced(len(parts), most)] if parts else []


def _products(
    model: Model, batches: Batches, segment: NDArray[np.int64], tile: tuple[int, int] | None
) -> list[Array]:
    """Return sums over pairs of deviations of a segment: by level (lag, channel, 6).

    The six are x y, x x, y y, x, y and the number of pairs.
    """
    # As many at a time as are drawn together: large maps one by one.
    together = draw_batch_size(model.device.type, batches.size)
    parts = [
        model.deviations(batches.load(segment[block]), tile=tile)
        for block in block_slices(len(segment), together)
    ]
    return [
        _pair_sums(np.concatenate(maps).astype(np.float64)) for maps in zip(*parts, strict=True)
    ]


def _pair_sums(maps: Array) -> Array:
    """Return the six sums of maps (sample, channel, y, x) at each lag, by channel."""
    sums = np.zeros((len(LAGS), maps.shape[1], 6))
    for number, lag in enumerate(LAGS):
        if lag < len(maps):
            x, y = maps[:-lag], maps[lag:]
            pairs = np.full(maps.shape[1], x.size / maps.shape[1])
            found = [one.sum(axis=(0, 2, 3)) for one in (x * y, x * x, y * y, x, y)]
            sums[number] = np.stack([*found, pairs], axis=-1)
    return sums


def _correlations(levels: Sequence[Array], rows: Any = slice(None)) -> Array:
    """Return the correlation by level and lag; NaN without samples at that distance.

    Parameters
    ----------
    levels
        Sums of every segment, (segment, lag, channel, 6).
    rows
        The segments that count.
    """
    found = []
    for level in levels:
        xy, xx, yy, x, y, pairs = np.moveaxis(level[rows].sum(axis=0), -1, 0)
        # A constant difference to the prior, as of a latent without information, is no memory.
        mean = (x[0] + y[0]) / np.maximum(2 * pairs[0], 1)
        products = (xy - mean * (x + y) + pairs * mean**2).sum(axis=1)
        powers = [(p - 2 * mean * s + pairs * mean**2).sum(axis=1) for p, s in ((xx, x), (yy, y))]
        scale = np.sqrt(np.maximum(powers[0] * powers[1], 0.0))
        found.append(np.divide(products, scale, out=np.full(scale.shape, np.nan), where=scale > 0))
    return np.stack(found)


def _fit(measured: Array, longest: float = np.inf) -> Array:
    """Return the timescale of each level in steps, at most the longest; 0 without memory."""
    grid = GRID[longest >= GRID]
    curves = correlation(np.array(LAGS)[None] / grid[:, None])
    errors = np.nansum((curves[None] - measured[:, None]) ** 2, axis=-1)
    best = grid[np.argmin(errors, axis=1)]
    return np.where(measured[:, 0] >= LEAST, best, 0.0)


def _rounded(values: Array) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _number(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None

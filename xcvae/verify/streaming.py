"""Go through an ensemble of any size once, block by block, and add up what the metrics need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError, explain
from xcvae.metrics.maps import Array, Maps, Pair
from xcvae.metrics.metric import Metric, Statistic
from xcvae.registry import call, wrong_result
from xcvae.verify.intervals import Pieces, Sums

__all__ = ["Foreign", "blocks", "samples_at_once", "stream"]

BLOCK_BYTES = 128 * 2**20
TOLD = ("units", "long_name", "better")
"""What a score says about itself."""

Foreign = Callable[[xr.DataArray, xr.DataArray], Any]
"""A metric of a third party that is only a function of (forecast, observed)."""


def samples_at_once(sample_bytes: int) -> int:
    """Return how many samples make a block of about 128 MiB; at least one."""
    return max(1, BLOCK_BYTES // max(1, sample_bytes))


def blocks(forecast: xr.DataArray, sample: str) -> list[slice]:
    """Cut the samples into blocks of about 128 MiB.

    The edges are those of chunks, for a chunk that is read twice may be drawn twice; a larger
    chunk is a block.
    """
    count = forecast.sizes[sample]
    most = samples_at_once(forecast.nbytes // max(1, count))
    # Of the variable alone: coordinates from a store have chunks of their own.
    chunks = forecast.variable.chunksizes.get(sample, (1,) * count)
    found, start, stop = [], 0, 0
    for chunk in chunks:
        if stop > start and stop + chunk - start > most:
            found.append(slice(start, stop))
            start = stop
        stop += chunk
    return [*found, slice(start, stop)]


def stream(
    pair: Pair,
    metrics: Mapping[str, Metric | Foreign],
    pieces: Pieces,
    bound: Mapping[str, Statistic],
    tick: Callable[[int], object],
) -> dict[str, Sums]:
    """Add up the statistics of all metrics over the samples.

    Parameters
    ----------
    pair
        All samples, lazy or not.
    metrics
        By name.
    pieces
        Where each sample is added.
    bound
        The statistics of those metrics that have one, by name. Equal ones are computed once.
    tick
        Told the number of samples done after each block.

    Returns
    -------
    dict of str to Sums
        By name of the metric; metrics with equal statistics share one.

    Raises
    ------
    DataError
        Values are not physical, or no pixel counts.
    """
    shared: dict[Statistic, Sums] = {one: Sums(pieces.count) for one in bound.values()}
    foreign = {name: Sums(pieces.count) for name in metrics if name not in bound}
    counted = 0
    for block in blocks(pair.forecast, pair.sample):
        loaded = Pair(
            pair.forecast.isel({pair.sample: block}).compute(),
            pair.observed.isel({pair.sample: block}).compute(),
        )
        for i, maps, piece in _samples(loaded, pieces.of_sample[block]):
            counted += maps.truth.size
            for statistic, sums in shared.items():
                sums.add(piece, statistic(maps))
            for name, sums in foreign.items():
                sums.add(piece, _called(metrics[name], loaded, i, sums.attrs))
        tick(block.stop - block.start)
    if counted == 0:
        raise DataError(
            explain(
                f"'{pair.observed.name}'",
                expected="pixels where the observation and all members are finite",
                got="none in any sample",
                remedy="Look for an incomplete store, or for masks that exclude each other.",
            )
        )
    return {name: shared[bound[name]] if name in bound else foreign[name] for name in metrics}


def _samples(loaded: Pair, pieces: Array) -> Iterator[tuple[int, Maps, int]]:
    """Go through the samples that belong to a group."""
    for i, maps in enumerate(loaded):
        if pieces[i] >= 0:
            yield i, maps, int(pieces[i])


def _called(metric: Any, loaded: Pair, i: int, attrs: dict[str, Any]) -> dict[str, Array]:
    """Call a third party's function on one sample; the scores of samples are averaged."""
    one = {loaded.sample: slice(i, i + 1)}
    score = call("metric", metric, loaded.forecast.isel(one), loaded.observed.isel(one))
    try:
        values = np.asarray(score, dtype=np.float64)
    except (TypeError, ValueError) as error:
        got = type(score).__name__
        raise wrong_result("metric", metric, expected="a DataArray of scores", got=got) from error
    told = getattr(score, "attrs", {})
    if "better" in told:  # else they are those of the field, which arithmetic has carried along
        attrs.update({key: told[key] for key in TOLD if key in told})
    finite = values[np.isfinite(values)]
    return {
        "total": np.asarray(finite.mean() if finite.size else 0.0),
        "samples": np.asarray(float(finite.size > 0)),
    }

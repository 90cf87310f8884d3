"""Go through an ensemble of any size once, block by block, and add up what the metrics need."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError, explain
from xcvae.metrics.metric import Metric, Statistic
from xcvae.metrics.pairs import Array, Maps, Pair
from xcvae.registry import call, wrong_result
from xcvae.verify.resampling import Pieces, Sums

__all__ = ["Foreign", "ScoredSource", "blocks", "samples_at_once", "stream"]

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


@dataclass(frozen=True, eq=False)
class ScoredSource:
    """An ensemble or a baseline, and what is asked about it.

    Parameters
    ----------
    load
        Read a block of samples; it is given the block of the ensemble that is judged.
    metrics
        By name; None where the statistic is all that is wanted.
    bound
        The statistics of those metrics that have one, by name. Equal ones are computed once.
    """

    load: Callable[[slice, Pair], Pair]
    metrics: Mapping[str, Metric | Foreign | None]
    bound: Mapping[str, Statistic]


def stream(
    own: Pair,
    sources: Mapping[str, ScoredSource],
    pieces: Pieces,
    tick: Callable[[int], object],
    regions: Sequence[Array | None] = (None,),
) -> dict[str, dict[str, Sums]]:
    """Add up the statistics of all metrics over the samples, reading each of them once.

    Parameters
    ----------
    own
        All samples of the ensemble that is judged, lazy or not.
    sources
        What is scored, by name.
    pieces
        Where each sample is added; every region has its own pieces, one region after the other.
    tick
        Told the number of samples done after each block of each source.
    regions
        Masks (y, x) of the pixels that are scored together; None for all pixels.

    Returns
    -------
    dict of dict of Sums
        By source and metric; metrics with equal statistics share one.

    Raises
    ------
    DataError
        Values are not physical, or no pixel counts.
    """
    count = pieces.count * len(regions)
    states = {name: _State(source, count) for name, source in sources.items()}
    for block in blocks(own.forecast, own.sample):
        loaded = Pair(
            *(da.isel({own.sample: block}).compute() for da in (own.forecast, own.observed))
        )
        for state in states.values():
            state.add(state.source.load(block, loaded), pieces.of_sample[block], regions)
            tick(block.stop - block.start)
    return {name: state.sums() for name, state in states.items()}


class _State:
    """The sums of one source as they grow."""

    def __init__(self, source: ScoredSource, count: int) -> None:
        self.source, self.count, self.pixels = source, count, 0
        metrics, bound = source.metrics, source.bound
        self.shared: dict[Statistic, Sums] = {
            one: Sums(count if getattr(one, "by_piece", True) else 1) for one in bound.values()
        }
        self.foreign = {name: Sums(count) for name in metrics if name not in bound}

    def add(self, loaded: Pair, of_sample: Array, regions: Sequence[Array | None]) -> None:
        """Add a block of samples to their pieces, region by region."""
        for number, region in enumerate(regions):
            part = loaded
            if region is not None:
                part = Pair(loaded.forecast, loaded.observed.where(region))
            first = number * (self.count // len(regions))
            for i, maps in enumerate(part):
                if of_sample[i] >= 0:
                    self._add(part, i, maps, first + int(of_sample[i]))

    def _add(self, part: Pair, i: int, maps: Maps, piece: int) -> None:
        self.pixels += maps.truth.size
        for statistic, sums in self.shared.items():
            sums.add(piece, statistic(maps))
        for name, sums in self.foreign.items():
            sums.add(piece, _called(self.source.metrics[name], part, i, sums.attrs))

    def sums(self) -> dict[str, Sums]:
        """Return the sums by metric."""
        if self.pixels == 0:
            raise DataError(
                explain(
                    "scores",
                    expected="pixels where the observation and all members are finite",
                    got="none in any sample",
                    remedy="Look for an incomplete store, or for masks that exclude each other.",
                )
            )
        bound = self.source.bound
        return {
            name: self.shared[bound[name]] if name in bound else self.foreign[name]
            for name in self.source.metrics
        }


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

"""Add up the statistics of metrics over an ensemble of any size, reading it once in blocks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, DataError, warn_user
from xcvae.fields.sample_blocks import block_length, join_chunks
from xcvae.metrics.metric import Metric, Statistic
from xcvae.metrics.pairs import REALIZATION, Maps, Pair
from xcvae.metrics.sample import Array
from xcvae.registry import call, wrong_result
from xcvae.verify.resampling import Pieces, Sums

BLOCK_BYTES = 128 * 2**20
"""Size of a block of samples in memory."""
SCORE_ATTRS = ("units", "long_name", "better")
"""Attributes of a third party's score that the scorecard takes over."""
TRIAL = 32
"""Number of samples whose average score is compared with their score as a whole."""
TOLERANCE = 1e-3
"""Relative difference of the two that is rounding: means of float32."""

MetricFunction = Callable[[xr.DataArray, xr.DataArray], Any]
"""A third party's metric that is a plain function of (forecast, observed)."""


def blocks(forecast: xr.DataArray, sample: str, block_bytes: int = BLOCK_BYTES) -> list[slice]:
    """Cut the samples into blocks of about `block_bytes`.

    Blocks end at the edges of chunks, because a chunk that is read twice may be drawn twice; a
    chunk that is larger than a block is a block.
    """
    count = forecast.sizes[sample]
    most = block_length(forecast.nbytes // max(1, count), block_bytes)
    # Of the variable alone: coordinates from a store have chunks of their own.
    chunks = forecast.variable.chunksizes.get(sample, (1,) * count)
    return join_chunks(chunks, most)


@dataclass(frozen=True, eq=False)
class ScoredSource:
    """An ensemble or a baseline, and the metrics to compute for it.

    Attributes
    ----------
    load
        Reads a block of samples, given the slice and that block of the evaluated ensemble.
    metrics
        By name; None where only the statistic is needed.
    bound
        Statistics by the name of their metric. Equal ones are computed once.
    """

    load: Callable[[slice, Pair], Pair]
    metrics: Mapping[str, Metric | MetricFunction | None]
    bound: Mapping[str, Statistic]


class Joining(Protocol):
    """Units of scoring: samples, or windows or sequences of them."""

    def blocks(self, block_bytes: int) -> Iterator[tuple[slice, slice]]:
        """Yield blocks of units, and the samples that each needs."""
        ...

    def joined(self, pair: Pair) -> Pair:
        """Return the windows of a block of samples in memory."""
        ...

    def fields(self, pair: Pair, units: slice) -> Iterator[Any]:
        """Yield what a statistic takes, for each unit of a block of windows."""
        ...


def accumulate_statistics(
    own: Pair,
    sources: Mapping[str, ScoredSource],
    pieces: Pieces,
    tick: Callable[[int], object],
    regions: Sequence[Array | None] = (None,),
    *,
    units: Joining | None = None,
    block_bytes: int = BLOCK_BYTES,
    common: CommonPixels | None = None,
) -> dict[str, dict[str, Sums]]:
    """Add up the statistics of all metrics over the samples, reading each sample once.

    Parameters
    ----------
    own
        All samples of the evaluated ensemble, lazy or not.
    sources
        The ensemble and its baselines, by name.
    pieces
        The piece of each sample; every region has its own pieces, one region after the other.
    tick
        Called with the number of samples done after each block of each source.
    regions
        Masks (y, x) of the pixels that are scored together; None for all pixels.
    units
        What is scored, if not samples one by one; ``pieces`` are those of the units then.
    block_bytes
        Size of a block of the ensemble in memory; blocks of all sources are there at a time.
    common
        Scores all sources on the pixels that all of them have, and counts them; None scores each
        on its own.

    Returns
    -------
    dict of dict of Sums
        By source and metric; metrics with equal statistics share one.

    Raises
    ------
    DataError
        Values are not physical, or no pixel is valid.
    ComponentError
        A third party's score of samples together is not the average of their scores.
    """
    count = pieces.count * len(regions)
    running = {name: _RunningSums(source, count) for name, source in sources.items()}
    units = units or _EachSample(own)
    for scored, block in units.blocks(block_bytes):
        loaded = Pair(
            *(da.isel({own.sample: block}).compute() for da in (own.forecast, own.observed))
        )
        if block.start == 0:
            _check_averages(units.joined(loaded), next(iter(running.values())))
        fields = functools.partial(units.fields, units=scored)
        pairs = {name: sums.source.load(block, loaded) for name, sums in running.items()}
        pairs = {name: Pair(p.forecast.load(), p.observed) for name, p in pairs.items()}
        if common is not None:
            pairs = common.of_block(block, pairs)
        for name, pair in pairs.items():
            running[name].add(units.joined(pair), pieces.of_sample[scored], regions, fields)
            tick(block.stop - block.start)
    apart = "" if common is None else common.words()
    return {name: sums.by_metric(apart) for name, sums in running.items()}


class CommonPixels:
    """The pixels that all sources have: only on them are scores and skills comparable.

    Attributes
    ----------
    observed, lacking
        Number of observed pixels, and of those that a source lacks, by its name.
    """

    def __init__(self) -> None:
        self.observed = 0
        self.lacking: dict[str, int] = {}
        self._masks: list[tuple[slice, Array]] = []

    def of_block(self, block: slice, pairs: Mapping[str, Pair]) -> dict[str, Pair]:
        """Return the pairs of a block of samples, the observation missing where a source is."""
        observed = np.isfinite(next(iter(pairs.values())).observed.values)
        valid = {name: observed & _all_finite(pair.forecast) for name, pair in pairs.items()}
        common = np.logical_and.reduce(list(valid.values()))
        total, counts = int(observed.sum()), {name: int(mask.sum()) for name, mask in valid.items()}
        self.observed += total
        if set(counts.values()) == {int(common.sum())}:
            return dict(pairs)
        for name, count in counts.items():
            self.lacking[name] = self.lacking.get(name, 0) + total - count
        self._masks.append((block, common))
        return {name: _restricted(pair, common) for name, pair in pairs.items()}

    def of_all(self, pair: Pair) -> Pair:
        """Return all samples of a source, the observation missing where any source was."""
        if not self._masks:
            return pair
        everywhere = np.ones(pair.observed.shape, np.bool_)
        for block, common in self._masks:
            everywhere[block] &= common
        return _restricted(pair, everywhere)

    def words(self) -> str:
        """Say which sources lack how much; empty if none does."""
        lacking = {name: count for name, count in self.lacking.items() if count}
        return ", ".join(
            f"'{name}' lacks {100 * count / self.observed:.2g} %" for name, count in lacking.items()
        )


def warn_of_lacking(words: Iterable[str]) -> None:
    """Warn of pixels that are not scored because a source lacks them, for one kind of units."""
    found = next(filter(None, words), None)
    if found:
        warn_user(
            f"Scores are of the pixels that all sources have; of the observed ones {found}. Score "
            "an incomplete ensemble by the samples that it has, or leave a baseline out.",
        )


def _all_finite(forecast: xr.DataArray) -> Array:
    """Return where all members are finite, (sample, y, x): where their sum is."""
    values = forecast.values
    finite: Array = np.isfinite(values.sum(axis=0, dtype=np.result_type(values, np.float32)))
    return finite


def _restricted(pair: Pair, mask: Array) -> Pair:
    return Pair(pair.forecast, pair.observed.where(xr.DataArray(mask, dims=pair.observed.dims)))


@dataclass(frozen=True)
class _EachSample:
    """Every sample as a unit."""

    own: Pair

    def blocks(self, block_bytes: int) -> Iterator[tuple[slice, slice]]:
        for block in blocks(self.own.forecast, self.own.sample, block_bytes):
            yield block, block

    def joined(self, pair: Pair) -> Pair:
        return pair

    def fields(self, pair: Pair, units: slice) -> Iterator[Any]:
        yield from pair


class _RunningSums:
    """Sums of one source while blocks are added."""

    def __init__(self, source: ScoredSource, count: int) -> None:
        self.source, self.count, self.pixels = source, count, 0
        metrics, bound = source.metrics, source.bound
        self.shared: dict[Statistic, Sums] = {
            one: Sums(count if getattr(one, "by_piece", True) else 1) for one in bound.values()
        }
        self.functions = {name: Sums(count) for name in metrics if name not in bound}

    def add(
        self,
        loaded: Pair,
        of_sample: Array,
        regions: Sequence[Array | None],
        fields: Callable[[Pair], Iterator[Any]],
    ) -> None:
        """Add a block of samples to their pieces, region by region."""
        for number, region in enumerate(regions):
            part = loaded
            if region is not None:
                part = Pair(loaded.forecast, loaded.observed.where(region))
            first = number * (self.count // len(regions))
            for i, maps in enumerate(fields(part)):
                if of_sample[i] >= 0:
                    self._add(part, i, maps, first + int(of_sample[i]))

    def _add(self, part: Pair, i: int, maps: Maps, piece: int) -> None:
        self.pixels += maps.truth.size
        for statistic, sums in self.shared.items():
            sums.add(piece, statistic(maps))
        for name, sums in self.functions.items():
            sums.add(piece, _call_on_sample(self.source.metrics[name], part, i, sums.attrs))

    def by_metric(self, apart: str) -> dict[str, Sums]:
        """Return the sums by metric; ``apart`` says which sources lack pixels of others."""
        if self.pixels == 0:
            raise DataError.of(
                "scores",
                expected="pixels where the observation and all members are finite",
                got="none in any sample" + (f" (of the observed ones {apart})" if apart else ""),
                remedy="Look for an incomplete store, or for masks that exclude each other; leave "
                "a baseline out.",
            )
        bound = self.source.bound
        return {
            name: self.shared[bound[name]] if name in bound else self.functions[name]
            for name in self.source.metrics
        }


def _call_on_sample(metric: Any, loaded: Pair, i: int, attrs: dict[str, Any]) -> dict[str, Array]:
    """Call a third party's function on one sample; the scores of samples are averaged."""
    one = {loaded.sample: slice(i, i + 1)}
    value = _value(metric, Pair(loaded.forecast.isel(one), loaded.observed.isel(one)), attrs)
    scored = np.isfinite(value)
    return {
        "total": np.asarray(value if scored else 0.0),
        "samples": np.asarray(float(scored)),
    }


def _value(metric: Any, pair: Pair, attrs: dict[str, Any]) -> float:
    """Call a third party's function; return the mean of its finite scores, NaN without any.

    Units, long_name and better of the score are added to `attrs`.
    """
    score = call("metric", metric, pair.forecast, pair.observed)
    try:
        values = np.asarray(score, dtype=np.float64)
        if score is None:  # which becomes NaN
            raise TypeError("no score")
    except (TypeError, ValueError) as error:
        got = type(score).__name__
        raise wrong_result("metric", metric, expected="a DataArray of scores", got=got) from error
    found = getattr(score, "attrs", {})
    # Without "better" they are attributes of the field that arithmetic has carried along.
    if "better" in found:
        attrs.update({key: found[key] for key in SCORE_ATTRS if key in found})
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else np.nan


def _check_averages(loaded: Pair, sums: _RunningSums) -> None:
    """Refuse functions whose score of samples together is not the average of their scores.

    Raises
    ------
    ComponentError
        Such a function needs all samples at once, and has to declare it.
    """
    sample = loaded.sample
    count = min(TRIAL, loaded.observed.shape[0])
    if count < 2 or not sums.functions:
        return
    some = [field.isel({sample: slice(count)}) for field in (loaded.forecast, loaded.observed)]
    # With the same valid pixels, means over pixels are averages of the means of samples.
    valid = some[0].notnull().all([REALIZATION, sample]) & some[1].notnull().all(sample)
    pair = Pair(*(field.where(valid) for field in some))
    if not valid.any():
        return
    for name in sums.functions:
        metric = sums.source.metrics[name]
        try:
            whole = _value(metric, pair, {})
        except ComponentError:
            continue  # made for single samples
        rows = [_call_on_sample(metric, pair, i, {}) for i in range(count)]
        scores = np.array([row["total"] for row in rows if row["samples"]])
        average = scores.mean() if scores.size else np.nan
        most = max(abs(whole), float(np.abs(scores).max(initial=0.0)))
        if np.isfinite(whole) and not abs(whole - average) <= TOLERANCE * most:
            raise _not_an_average(name, count, float(average), whole)


def _not_an_average(name: str, count: int, average: float, whole: float) -> ComponentError:
    return ComponentError.of(
        f"metric '{name}'",
        expected="a score of all samples that is the average of the scores of samples",
        got=f"{average:.6g} as the average of {count} samples, {whole:.6g} for them together",
        remedy='If it needs all samples at once, set its attribute over = "record": it is then '
        "called once, without an interval. For an interval, and to read blocks of samples, derive "
        "it from xcvae.plugins.Metric, with sums over samples and a formula (finish).",
    )


def score_record(
    metric: MetricFunction, pair: Pair, pieces: Pieces, regions: Sequence[Array | None]
) -> tuple[list[float], dict[str, Any]]:
    """Call a third party's function of the whole record once per group of samples or pixels.

    Parameters
    ----------
    metric
        Declares ``over = "record"``.
    pair
        All samples, lazy or not.
    pieces, regions
        As in `accumulate_statistics`.

    Returns
    -------
    scores, attrs
        One score for each region and group, and units, long_name and better where it gives them.
    """
    attrs: dict[str, Any] = {}
    return [_value(metric, part, attrs) for part in _groups_of(pair, pieces, regions)], attrs


def _groups_of(pair: Pair, pieces: Pieces, regions: Sequence[Array | None]) -> Iterator[Pair]:
    for region in regions:
        fields = [pair.forecast, pair.observed]
        if region is not None:
            fields = [field.where(region) for field in fields]
        for first, last, count in pieces.groups:
            if count == pair.observed.shape[0]:
                yield Pair(*fields)
                continue
            rows = np.flatnonzero((pieces.of_sample >= first) & (pieces.of_sample < last))
            yield Pair(*(field.isel({pair.sample: rows}) for field in fields))

"""Samples joined along time before they are scored: means or sums over windows, and sequences."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from numbers import Real

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, EmptySelectionError, UnitsError
from xcvae.fields.sample_blocks import block_length, consecutive, segments, windows
from xcvae.fields.samples import times_of
from xcvae.fields.units import HEAVY, STEP, is_rate, parse_quantity
from xcvae.metrics.pairs import Pair
from xcvae.metrics.sample import Array, SampleFields
from xcvae.metrics.temporal import SequenceFields
from xcvae.registry.registry import registry
from xcvae.verify.pairing import MatchedPair

OTHERWISE = ", or leave out windows and metrics of sequences"


def split_window(spec: object) -> tuple[object, str | None]:
    """Take the window of time out of the description of a metric.

    A window that is a number is a parameter of the metric itself: pixels of "fss".

    Examples
    --------
    >>> split_window({"name": "fss", "window": "1 h"}), split_window({"name": "fss", "window": 5})
    (({'name': 'fss'}, '1h'), ({'name': 'fss', 'window': 5}, None))
    """
    window = spec.get("window") if isinstance(spec, Mapping) else None
    if not isinstance(spec, Mapping) or not isinstance(window, str):
        if isinstance(spec, Mapping) and isinstance(window, Real):
            _check_number(spec, window)
        return spec, None
    try:
        positive = 0 < parse_quantity(window, units="s", what="window") < math.inf
    except UnitsError:
        positive = False
    if not positive:
        raise ConfigError.of(
            "window",
            expected="a duration",
            got=repr(window),
            remedy="For example '30 min', '1h' or '2 days'.",
        )
    rest = {key: value for key, value in spec.items() if key != "window"}
    return rest, window.replace(" ", "")


def _check_number(spec: Mapping[str, object], window: Real) -> None:
    """Refuse a window without a unit, of a metric without a window of its own."""
    name = spec.get("name")
    if name not in registry().names("metric"):
        return
    if "window" not in inspect.signature(registry().resolve("metric", str(name))).parameters:
        raise ConfigError.of(
            "window",
            expected="a duration with its unit",
            got=repr(window),
            remedy=f"For example '{window} s', '30 min' or '1h': pixels are for metrics such as "
            "'fss'.",
        )


@dataclass(frozen=True, eq=False)
class TimeUnits:
    """The units that a metric scores: samples, windows of samples, or sequences of either.

    Attributes
    ----------
    match
        The samples that count, in the order of time.
    rows
        Their positions among all samples.
    edges
        Number of the first window of every unit, then that after the last; windows count from 0.
    summed
        Samples of a window; 1 without.
    window
        Duration of a window in seconds; None without.
    sequences
        Units are sequences of windows.
    """

    match: MatchedPair
    rows: Array
    edges: Array
    summed: int = 1
    window: float | None = None
    sequences: bool = False

    @classmethod
    def each(cls, match: MatchedPair) -> TimeUnits:
        """Return every sample as a unit."""
        count = match.pair.observed.shape[0]
        return cls(match, np.arange(count), np.arange(count + 1))

    @classmethod
    def of(
        cls, match: MatchedPair, window: str | None, length: int = 0, *, exact: bool = False
    ) -> TimeUnits:
        """Return the units that a metric scores.

        Parameters
        ----------
        match
            All samples.
        window
            Duration of the windows, such as "1h"; None without.
        length, exact
            Most samples, or windows, of a sequence, as in `segments`; 0 for single ones.

        Raises
        ------
        ConfigError
            The samples have no times, or the window is no multiple of their step.
        EmptySelectionError
            No window has all its samples.
        """
        if window is None and not length:
            return cls.each(match)
        times = _times(match)
        step, runs = consecutive(times)
        if length:
            # A map without observation would leave no pixel that counts at all times.
            runs = [part for run in runs for part in _unbroken(run, match.seen)]
        summed, seconds = 1, None
        if window is not None:
            summed, seconds, runs = _windows(times, step, runs, window)
        rows = np.concatenate(runs)
        units = cls(_selected(match, rows, summed), rows, np.arange(len(rows) // summed + 1))
        units = replace(units, summed=summed, window=seconds)
        if not length:
            return units
        usual = step if seconds is None else round(seconds * 1e6)
        parts = segments(_following(times[rows[::summed]], usual), length, exact=exact)
        whole = [part for part in parts if len(part) == length] if exact else []
        if 0 < len(whole) < len(parts):
            # What does not count must not be resampled either: a single sequence has no interval.
            parts, rows = whole, rows.reshape(-1, summed)[np.concatenate(whole)].ravel()
            units = replace(units, match=_selected(match, rows, summed), rows=rows)
        edges = np.cumsum([0, *map(len, parts)])
        return replace(units, edges=edges, sequences=True)

    @property
    def plain(self) -> bool:
        """True if every sample is a unit."""
        return self.window is None and not self.sequences

    @property
    def starts(self) -> Array:
        """Position of the first sample of every unit."""
        return self.edges[:-1] * self.summed

    @property
    def heads(self) -> MatchedPair:
        """The first sample of every unit: its label, and its place among groups."""
        return self.match if self.plain else _selected(self.match, self.starts, 1)

    @property
    def observed(self) -> xr.DataArray:
        """Labels and attributes of the windows, for the thresholds of metrics."""
        observed = self.match.pair.observed
        if self.window is None:
            return observed
        first = observed.isel({self.match.pair.sample: slice(None, None, self.summed)})
        first = first.assign_attrs({STEP: self.window})
        # Of single samples: means or sums over windows have another distribution.
        first.attrs.pop(HEAVY, None)
        return first

    def blocks(self, block_bytes: int) -> Iterator[tuple[slice, slice]]:
        """Yield blocks of units, and the samples of each; about ``block_bytes`` of members."""
        forecast = self.match.pair.forecast
        count = forecast.sizes[self.match.pair.sample]
        most = block_length(forecast.nbytes // max(1, count), block_bytes)
        ends = self.edges[1:] * self.summed
        first = 0
        while first < len(ends):
            start = int(self.edges[first]) * self.summed
            last = max(first + 1, int(np.searchsorted(ends, start + most, side="right")))
            yield slice(first, last), slice(start, int(ends[last - 1]))
            first = last

    def joined(self, pair: Pair) -> Pair:
        """Average rates, and add up amounts, over the windows of some samples in memory."""
        if self.summed == 1:
            return pair
        mean = is_rate(pair.units)

        # Means of integers are none, and sums may be beyond the largest one.
        def over_windows(da: xr.DataArray, axis: int) -> xr.DataArray:
            first = da.isel({pair.sample: slice(None, None, self.summed)})
            shape = (*da.shape[:axis], -1, self.summed, *da.shape[axis + 1 :])
            parts = da.values.reshape(shape)
            values = (parts.mean if mean else parts.sum)(axis=axis + 1, dtype=np.float64)
            return first.copy(data=values.astype(np.result_type(da.dtype, np.float32)))

        return Pair(over_windows(pair.forecast, 1), over_windows(pair.observed, 0))

    def fields(self, pair: Pair, units: slice) -> Iterator[SampleFields | SequenceFields]:
        """Yield the fields of each unit of a block of windows."""
        if not self.sequences:
            yield from pair
            return
        samples = list(pair)
        edges = self.edges[units.start : units.stop + 1] - self.edges[units.start]
        for start, stop in pairwise(edges):
            yield SequenceFields(samples[start:stop])


def step_in_time(match: MatchedPair, window: str | None) -> float:
    """Return the seconds from one sample, or window, to the next."""
    if window is not None:
        return parse_quantity(window, units="s", what="window")
    return consecutive(_times(match))[0] / 1e6


def check_windows(ds: xr.Dataset, sample: str, windows: Iterable[str]) -> None:
    """Refuse windows of time that the samples of a Dataset do not fill, as scores will.

    Raises
    ------
    ConfigError
        The samples have no times, or a window is no multiple of their step.
    EmptySelectionError
        No window has all its samples.
    """
    for window in windows:
        times = np.array(times_of(ds, sample, otherwise=OTHERWISE), np.int64)
        _windows(times, *consecutive(times), window)


def _times(match: MatchedPair) -> Array:
    found = times_of(match.pair.observed, match.pair.sample, otherwise=OTHERWISE)
    return np.array(found, np.int64)


def _following(times: Array, step: int) -> list[Array]:
    """Return the runs of times that follow each other by a step; 0 if all are the same time."""
    apart = np.diff(times) != step if step else np.zeros(len(times) - 1, np.bool_)
    return np.split(np.arange(len(times)), np.flatnonzero(apart) + 1)


def _unbroken(run: Array, seen: Array) -> list[Array]:
    """Split a run of samples where one has no observation."""
    parts = np.split(run, np.flatnonzero(~seen[run]))
    return [some for part in parts if (some := part[seen[part]]).size]


def _windows(
    times: Array, step: int, runs: list[Array], window: str
) -> tuple[int, float, list[Array]]:
    seconds = parse_quantity(window, units="s", what="window")
    length = seconds * 1e6 / step if step else 0.0
    if length < 1 or abs(length - round(length)) > 1e-6:
        raise ConfigError.of(
            "window",
            expected=f"a multiple of the step of the samples, {step / 1e6:g} s",
            got=repr(window),
            remedy="Choose a window that the samples fill.",
        )
    found = windows(times, runs, round(length), round(seconds * 1e6))
    if not found:
        raise EmptySelectionError.of(
            "window",
            expected=f"{round(length)} consecutive samples in a window of {window}",
            got="no window that has all its samples",
            remedy="Score whole sequences, or choose a shorter window.",
        )
    return round(length), seconds, found


def _selected(match: MatchedPair, rows: Array, multiple: int) -> MatchedPair:
    """Select samples; chunks of lazy members become multiples of a number of samples."""
    sample, pair = match.pair.sample, match.pair
    forecast, observed = pair.forecast, pair.observed
    ds = match.ds
    if not np.array_equal(rows, np.arange(observed.shape[0])):
        forecast, observed = (da.isel({sample: rows}) for da in (forecast, observed))
        ds = ds.isel({sample: rows}) if sample in ds.dims else ds
    if multiple > 1 and forecast.chunks:
        usual = forecast.variable.chunksizes[sample][0]
        forecast = forecast.chunk({sample: max(multiple, usual // multiple * multiple)})
    return replace(match, pair=Pair(forecast, observed), ds=ds)

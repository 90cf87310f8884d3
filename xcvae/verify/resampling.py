"""How uncertain a score is: sums over pieces of the samples, resampled in blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from xcvae.metrics.pairs import Array

__all__ = [
    "Finish",
    "Pieces",
    "Sums",
    "autocorrelation",
    "estimate",
    "interval",
    "mean_variance",
    "memory_of",
    "pieces_of",
    "quantile_rank",
]


def estimate(
    parts: NDArray[Any], statistic: Callable[[NDArray[Any]], float]
) -> tuple[float, float]:
    """Return a statistic of sums over samples, and its standard error by the jackknife.

    Parameters
    ----------
    parts
        What every sample adds, (sample, ...).
    statistic
        A function of the sum.

    Returns
    -------
    value, error
        The error is infinite with a single sample, or where leaving one out leaves nothing.

    References
    ----------
    Efron and Stein 1981, doi:10.1214/aos/1176345462.

    Examples
    --------
    >>> value, error = estimate(np.array([1.0, 2.0, 3.0]), lambda total: float(total) / 3)
    >>> round(value, 3), round(error, 3)
    (2.0, 0.385)
    """
    total = parts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = statistic(total)
        without = np.array([statistic(total - part) for part in parts])
    count = len(parts)
    if count < 2 or not np.isfinite(without).all():
        return value, float("inf")
    deviation = without - without.mean()
    return value, float(np.sqrt((count - 1) / count * (deviation**2).sum()))


def quantile_rank(members: NDArray[Any], observed: NDArray[Any], q: float) -> tuple[float, float]:
    """Say how often the quantile of a sample is above that of its members.

    The quantile of all samples together is that of one or two storms, and another week gives
    another one. Sample by sample the observation is one of the members, if they are right: its
    rank says, whatever storms there are, whether theirs are weaker.

    Parameters
    ----------
    members, observed
        (realization, sample, y, x) and (sample, y, x).
    q
        Between 0 and 1.

    Returns
    -------
    rank, error
        Mean share of the members whose quantile is below that of the observation, a tie counts
        half: 0.5 is right, 1 is too weak. Samples without rain out there do not count; the error
        is that of uniform ranks, infinite if no sample counts.

    Examples
    --------
    >>> rain = np.random.default_rng(0).exponential(5.0, (9, 16, 32, 32))
    >>> [round(value, 2) for value in quantile_rank(0.5 * rain[1:], rain[0], 0.99)]
    [1.0, 0.08]
    """
    shares = []
    for sample, truth in enumerate(observed):
        valid = np.isfinite(truth) & np.isfinite(members[:, sample]).all(axis=0)
        if not valid.any():
            continue
        here = np.quantile(truth[valid], q)
        drawn = np.quantile(members[:, sample][:, valid], q, axis=1)
        if here > 0 or (drawn > 0).any():
            shares.append(float((drawn < here).mean() + 0.5 * (drawn == here).mean()))
    if not shares:
        return 0.5, float("inf")
    count = len(members)
    return float(np.mean(shares)), float(np.sqrt((count + 2) / (12 * count * len(shares))))


MOST = 0.95
"""Autocorrelation beyond which nothing can be said from one series."""
LAGS = 4
"""So many lags tell how it decays."""
ROUNDS = 6
"""The mean is estimated too, which hides some of the correlation: corrected in a few rounds."""


def autocorrelation(series: Array) -> Array:
    """Fit the autocorrelation of a series at lags 0, 1, ..., all not below zero.

    A plain autoregressive fit is replaced by one with noise where several lags together are beyond
    what chance does, and where that says that the mean of the series is less certain.

    Parameters
    ----------
    series
        Dims (sample,), in the order of time; at least two.
    """
    count = series.size
    apart = series - series.mean()
    squares = float(apart @ apart)
    if squares == 0:
        return _decaying(0.0, 0.0, count)
    found = np.array([apart[k:] @ apart[: count - k] for k in range(min(LAGS + 2, count))])
    found = found / squares
    # Short series look less correlated than they are (https://doi.org/10.1093/biomet/41.3-4.403).
    first = float(np.clip(found[1] + (1.0 + 4.0 * found[1]) / count, 0.0, MOST))
    plain = _decaying(first, first, count)
    noisy = _behind_noise(found, first, count) if found.size == LAGS + 2 else plain
    return max(plain, noisy, key=lambda one: mean_variance(one, count))


def _behind_noise(found: Array, first: float, count: int) -> Array:
    """Fit ``a b^(k - 1)``, b by how the sum of some lags decays to that of the next."""
    fit = _decaying(first, first, count)
    for _ in range(ROUNDS):
        hidden = min(mean_variance(fit, count), 0.25)
        lags = (found + hidden) / (1.0 + hidden)
        here, there = float(lags[1:-1].sum()), float(lags[2:].sum())
        if here < np.sqrt(LAGS / count) or there <= 0:
            break
        decay = float(np.clip(there / here, first, MOST))
        level = here / float(np.sum(decay ** np.arange(LAGS)))
        fit = _decaying(min(level, decay), decay, count)
    return fit


def _decaying(level: float, decay: float, count: int) -> Array:
    return np.concatenate([[1.0], level * decay ** np.arange(count - 1)])


def mean_variance(correlation: Array, count: int) -> float:
    """Variance of the mean of so many samples of variance one, given their autocorrelation."""
    lags = np.arange(1, count)
    return float(1.0 + 2.0 * np.sum((1.0 - lags / count) * correlation[1:count])) / count


MAX_PIECES = 512
RESAMPLES = 500
LEVEL = 0.95
LEAST_FREEDOM = 3.0
"""Degrees of freedom of the widest interval: with fewer, it would say nothing but infinity."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Consecutive samples of one group, cut into pieces whose sums are kept.

    A piece is one sample, or several where there are more samples than pieces, so that the memory
    for sums does not grow with the number of samples.

    Parameters
    ----------
    of_sample
        The piece of every sample, -1 for samples in no group.
    groups
        For every group the first piece, the piece after the last, and the number of samples.
    """

    of_sample: Array
    groups: tuple[tuple[int, int, int], ...]

    @property
    def count(self) -> int:
        """The number of pieces of all groups."""
        return self.groups[-1][1]


def pieces_of(groups: Array, order: Array | None = None) -> Pieces:
    """Cut samples into pieces.

    Parameters
    ----------
    groups
        The number of the group, 0, 1, ..., of every sample; -1 for none.
    order
        The samples in the order of time; by default that in which they come.
    """
    order = np.arange(groups.size) if order is None else order
    of_sample = np.full(groups.shape, -1)
    found, first = [], 0
    for group in range(int(groups.max()) + 1):
        members = order[groups[order] == group]
        size = -(-members.size // MAX_PIECES)
        of_sample[members] = first + np.arange(members.size) // size
        last = first + -(-members.size // size)
        found.append((first, last, members.size))
        first = last
    return Pieces(of_sample, tuple(found))


@dataclass(eq=False)
class Sums:
    """Sums of one statistic by piece, and what a third party's metric says about its scores."""

    pieces: int
    values: dict[str, Array] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    def add(self, piece: int, row: Mapping[str, Array]) -> None:
        """Add one sample to a piece; where all are one, to that."""
        piece = min(piece, self.pieces - 1)
        for name, value in row.items():
            if name not in self.values:
                self.values[name] = np.zeros((self.pieces, *np.shape(value)))
            self.values[name][piece] += value

    def of(self, group: tuple[int, int, int]) -> dict[str, Array]:
        """Return the sums of the pieces of a group."""
        return {name: value[group[0] : group[1]] for name, value in self.values.items()}


Finish = Callable[[Callable[[Array], Array]], Array]
"""A score, given a function that adds up pieces, (pieces, ...) to (resamples, ...)."""


def interval(
    finish: Finish,
    group: tuple[int, int, int],
    limits: tuple[float, float] = (-np.inf, np.inf),
    *,
    memory: Array | None = None,
) -> tuple[float, float, float]:
    """Score a group, with the bounds of a 95 % interval.

    Blocks of neighbouring samples are drawn with replacement, because neighbours in time are
    alike: circular moving blocks of about the root of the number of samples
    (https://doi.org/10.1214/aos/1176347265). The draws are the same for every metric and source.

    Blocks that are short beside the memory of the samples vary less than they should. So the
    resamples are stretched by what blocks of this length miss of a simple model of that memory
    (`xcvae.verify.resampling`), fitted to what each piece does to the score, as others do for plain
    means (https://doi.org/10.2307/2951574). And few blocks, or few independent samples, leave it
    uncertain how much they vary: percentiles are taken further out, as Student's t does
    (https://doi.org/10.1080/00031305.2015.1089789). Scores that cannot be negative are stretched
    by factors.

    Parameters
    ----------
    finish
        The score.
    group
        First piece, piece after the last, and number of samples.
    limits
        What the score cannot be below or above.
    memory
        From `memory_of` a smoother score, for one that a piece changes in jumps or not at all.

    Returns
    -------
    value, low, high
        Low and high are NaN for less than two pieces. They always enclose the value.
    """
    value = float(np.reshape(finish(lambda sums: sums.sum(axis=0)), ()))
    count = group[1] - group[0]
    if count < 2:
        return value, np.nan, np.nan
    length = max(1, round(count / np.sqrt(group[2])))
    weights = _weights(count, length)
    scores = finish(lambda sums: np.tensordot(weights, sums, axes=1))
    scores = scores[np.isfinite(scores)]
    if scores.size < RESAMPLES // 2 or not np.isfinite(value):
        return value, np.nan, np.nan
    memory = memory_of(finish) if memory is None else memory
    student = _student(max(2.0, count / length) - 1.0)
    tail = float(ndtr(-student))
    ends = np.quantile(scores, [tail, 1.0 - tail])
    few = _student(
        max(min(count / length, 1.0 / mean_variance(memory, count)) - 1.0, LEAST_FREEDOM)
    )
    stretch = _missing(memory, count, length) * few / student
    if limits[0] == 0 and min(value, ends[0]) > 0:
        low, high = value * (ends / value) ** stretch
    else:
        low, high = value + (ends - value) * stretch
    # A curved formula may shift the resamples to one side of the value.
    return value, min(max(float(low), limits[0]), value), max(min(float(high), limits[1]), value)


def memory_of(finish: Finish) -> Array:
    """Return the autocorrelation of what pieces do to a score: of what it is without each."""
    value = finish(lambda sums: sums.sum(axis=0))
    without = finish(lambda sums: sums.sum(axis=0) - sums)
    return autocorrelation(np.where(np.isfinite(without), without, value))


def _student(freedom: float) -> float:
    return float(stdtrit(freedom, (1.0 + LEVEL) / 2.0))


def _missing(memory: Array, count: int, length: int) -> float:
    """Standard deviation of the mean of a series, over what blocks of a length show of it."""
    whole, block = mean_variance(memory, count), mean_variance(memory, length)
    return float(np.sqrt(whole / (length / count * (block - whole))))


@lru_cache(maxsize=8)
def _weights(count: int, length: int) -> Array:
    """How often each piece is drawn, (resamples, pieces)."""
    random = np.random.default_rng(count)
    starts = random.integers(0, count, (RESAMPLES, -(-count // length)))
    drawn = (starts[..., None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count] % count
    offsets = np.arange(RESAMPLES)[:, None] * count
    return (
        np.bincount((drawn + offsets).ravel(), minlength=RESAMPLES * count)
        .reshape(RESAMPLES, count)
        .astype(np.float64)
    )

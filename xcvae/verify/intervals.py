"""How uncertain a score is: sums over pieces of the samples, resampled in blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from xcvae.metrics.maps import Array
from xcvae.verify.memory import autocorrelation, mean_variance

__all__ = ["Finish", "Pieces", "Sums", "interval", "memory_of", "pieces_of"]

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
    (`xcvae.verify.memory`), fitted to what each piece does to the score, as others do for plain
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

"""Uncertainty of scores: block bootstrap, jackknife, and the rank of a quantile.

A score is a formula of sums over samples, so that its interval needs only the sums over pieces of
the samples. Neighbouring samples are alike: blocks of pieces are resampled, and what short blocks
miss of the autocorrelation is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from xcvae.metrics.sample import Array

LEVEL = 0.95
"""Probability of the intervals."""
MAX_PIECES = 512
RESAMPLES = 500
MIN_FREEDOM = 3.0
"""Degrees of freedom of the widest interval; fewer would make it all but infinite."""
MAX_CORRELATION = 0.95
"""Autocorrelation beyond which one series does not tell the uncertainty of its mean."""
LAGS = 4
"""Number of lags from which the decay of the autocorrelation is estimated."""
MAX_HIDDEN = 0.5
"""Share of the variance of samples, at most, that their mean is taken to have."""
ROUNDS = 6
"""Iterations that correct the autocorrelation for the estimated mean, which hides part of it."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """Consecutive samples of one group, cut into pieces with one sum each.

    A piece is one sample, or several where there are more samples than pieces, so that the memory
    for sums does not grow with the number of samples.

    Attributes
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
        Positions of the samples in the order of time; by default 0, 1, ...
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
    """Sums of one statistic by piece.

    Attributes
    ----------
    pieces
        Number of pieces; 1 where the statistic is not resampled.
    values
        Sums by name, dims (piece, ...).
    attrs
        Attributes that a third party's metric gives its scores.
    """

    pieces: int
    values: dict[str, Array] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    def add(self, piece: int, row: Mapping[str, Array]) -> None:
        """Add one sample to a piece, or to the only piece."""
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
    autocorrelation: Array | None = None,
) -> tuple[float, float, float]:
    """Score a group, with the bounds of a 95 % interval.

    Blocks of neighbouring samples are drawn with replacement, because neighbours in time are
    alike: circular moving blocks of about the root of the number of samples
    (https://doi.org/10.1214/aos/1176347265). The draws are the same for every metric and source.

    Blocks that are short compared with the autocorrelation of the samples vary too little. So the
    resamples are stretched by what blocks of this length miss of a simple model of the
    autocorrelation (`fit_autocorrelation`), fitted to the contribution of each piece to the score,
    as is done for plain means (https://doi.org/10.2307/2951574). Few blocks, or few independent
    samples, leave the variance itself uncertain: percentiles are taken further out, as Student's t
    does (https://doi.org/10.1080/00031305.2015.1089789). Scores that cannot be negative are
    stretched by factors.

    Parameters
    ----------
    finish
        The score.
    group
        First piece, piece after the last, and number of samples.
    limits
        Lowest and highest value that the score can have.
    autocorrelation
        From `score_autocorrelation` of a smoother score, for one that a piece changes in jumps or
        not at all.

    Returns
    -------
    value, low, high
        Low and high are NaN for less than two pieces, and where one piece alone has what is scored
        (the only event, the only rain). They always enclose the value.
    """
    if autocorrelation is None and group[1] - group[0] >= 2:
        value = float(np.reshape(finish(lambda sums: sums.sum(axis=0)), ()))
        if not np.isfinite(value):
            return value, np.nan, np.nan
        autocorrelation = score_autocorrelation(finish)
    value, low, high = intervals(
        lambda total: np.reshape(finish(total), (-1, 1)), group, limits, autocorrelation
    )[0].tolist()
    return value, low, high


def intervals(
    finish: Finish,
    group: tuple[int, int, int],
    limits: tuple[float, float],
    autocorrelation: Array | None,
) -> Array:
    """Score a group by several numbers at once, such as quantiles; see `interval`.

    Parameters
    ----------
    finish
        The scores: pieces added up, (pieces, ...), to (resamples, score).
    group, limits, autocorrelation
        As in `interval`; an autocorrelation is needed from two pieces on.

    Returns
    -------
    numpy.ndarray
        Value, low and high, (score, 3).
    """
    values = np.reshape(finish(lambda sums: sums.sum(axis=0)), -1)
    count = group[1] - group[0]
    unknown = np.full(values.shape, np.nan)
    if count < 2:
        return np.stack([values, unknown, unknown], axis=-1)
    assert autocorrelation is not None
    length = max(1, round(count / np.sqrt(group[2])))
    weights = _weights(count, length)
    scores = finish(lambda sums: np.tensordot(weights, sums, axes=1))
    # Resamples without the only piece that has an event have no score: the others are all equal.
    without = np.isfinite(finish(lambda sums: sums.sum(axis=0) - sums)).all(axis=0)
    scores = np.where(without, scores, np.nan)
    bounds = _Bounds.of(count, length, autocorrelation)
    return np.array(
        [(value, *bounds(value, one, limits)) for value, one in zip(values, scores.T, strict=True)]
    )


@dataclass(frozen=True)
class _Bounds:
    """Percentiles of resamples that bound an interval, and the factor that stretches them."""

    tail: float
    stretch: float

    @classmethod
    def of(cls, count: int, length: int, autocorrelation: Array) -> _Bounds:
        """Choose for pieces in blocks of a length."""
        # As far out as Student's t with as many degrees of freedom as there are blocks ...
        student = _student(max(2.0, count / length) - 1.0)
        # ... and still further where there are fewer independent samples than blocks.
        independent = min(count / length, 1.0 / mean_variance(autocorrelation, count))
        further = _student(max(independent - 1.0, MIN_FREEDOM))
        stretch = _block_deficit(autocorrelation, count, length) * further / student
        return cls(float(ndtr(-student)), stretch)

    def __call__(
        self, value: float, scores: Array, limits: tuple[float, float]
    ) -> tuple[float, float]:
        """Return the bounds of the interval; NaN without enough finite scores."""
        scores = scores[np.isfinite(scores)]
        if scores.size < RESAMPLES // 2 or not np.isfinite(value):
            return np.nan, np.nan
        ends = np.quantile(scores, [self.tail, 1.0 - self.tail])
        if limits[0] == 0 and min(value, ends[0]) > 0:
            low, high = value * (ends / value) ** self.stretch
        else:
            low, high = value + (ends - value) * self.stretch
        # A curved formula may shift the resamples to one side of the value.
        return min(max(float(low), limits[0]), value), max(min(float(high), limits[1]), value)


def _student(freedom: float) -> float:
    return float(stdtrit(freedom, (1.0 + LEVEL) / 2.0))


def _block_deficit(autocorrelation: Array, count: int, length: int) -> float:
    """Ratio of the standard deviation of a mean to the one that blocks of a length show."""
    whole, block = mean_variance(autocorrelation, count), mean_variance(autocorrelation, length)
    # The mean of a block varies by `block` around the true mean, and that of the series by
    # `whole`: resampling sees the difference, divided by the number of blocks.
    return float(np.sqrt(whole / (length / count * (block - whole))))


@lru_cache(maxsize=8)
def _weights(count: int, length: int) -> Array:
    """Count the draws of each piece in each resample, (resamples, pieces)."""
    random = np.random.default_rng(count)
    starts = random.integers(0, count, (RESAMPLES, -(-count // length)))
    drawn = (starts[..., None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :count] % count
    # One bincount for all resamples: each has its own range of numbers.
    offsets = np.arange(RESAMPLES)[:, None] * count
    return (
        np.bincount((drawn + offsets).ravel(), minlength=RESAMPLES * count)
        .reshape(RESAMPLES, count)
        .astype(np.float64)
    )


def score_autocorrelation(finish: Finish) -> Array:
    """Return the autocorrelation of the contributions of pieces to a score (leave one out)."""
    value = finish(lambda sums: sums.sum(axis=0))
    without = finish(lambda sums: sums.sum(axis=0) - sums)
    return fit_autocorrelation(np.where(np.isfinite(without), without, value))


def fit_autocorrelation(series: Array) -> Array:
    """Fit the autocorrelation of a series at lags 0, 1, ..., all not below zero.

    An autoregressive fit of first order is replaced by one with noise where several lags together
    are larger than by chance, and where it makes the mean of the series less certain.

    Parameters
    ----------
    series
        Dims (sample,), in the order of time; at least two.
    """
    count = series.size
    deviation = series - series.mean()
    squares = float(deviation @ deviation)
    if squares == 0:
        return _decaying(0.0, 0.0, count)
    lags = range(min(LAGS + 2, count))
    found = np.array([deviation[k:] @ deviation[: count - k] for k in lags]) / squares
    # Short series look less correlated than they are (https://doi.org/10.1093/biomet/41.3-4.403).
    first = float(np.clip(found[1] + (1.0 + 4.0 * found[1]) / count, 0.0, MAX_CORRELATION))
    plain = _decaying(first, first, count)
    noisy = _fit_with_noise(found, first, count) if found.size == LAGS + 2 else plain
    return max(plain, noisy, key=lambda one: mean_variance(one, count))


def _fit_with_noise(found: Array, first: float, count: int) -> Array:
    """Fit ``a b^(k - 1)``; b is the ratio of sums over lags 2, 3, ... and 1, 2, ..."""
    fit = _decaying(first, first, count)
    for _ in range(ROUNDS):
        # Deviations from the series' own mean hide correlation by the variance of that mean.
        hidden = min(mean_variance(fit, count), 0.25)
        lags = (found + hidden) / (1.0 + hidden)
        near, far = float(lags[1:-1].sum()), float(lags[2:].sum())
        if near < np.sqrt(LAGS / count) or far <= 0:
            break
        decay = float(np.clip(far / near, first, MAX_CORRELATION))
        level = near / float(np.sum(decay ** np.arange(LAGS)))
        fit = _decaying(min(level, decay), decay, count)
    return fit


def _decaying(level: float, decay: float, count: int) -> Array:
    return np.concatenate([[1.0], level * decay ** np.arange(count - 1)])


def mean_variance(autocorrelation: Array, count: int) -> float:
    """Return the variance of the mean of `count` samples of variance one."""
    lags = np.arange(1, count)
    return float(1.0 + 2.0 * np.sum((1.0 - lags / count) * autocorrelation[1:count])) / count


def estimate(
    parts: NDArray[Any],
    statistic: Callable[[NDArray[Any]], float],
    autocorrelation: Array | None = None,
    rows: NDArray[np.intp] | None = None,
) -> tuple[float, float]:
    """Return a statistic of sums over samples, and its standard error by the jackknife.

    Parameters
    ----------
    parts
        The contribution of every sample, (sample, ...).
    statistic
        A function of the sum.
    autocorrelation
        Of the samples at lags 0, 1, ...; by default they are independent.
    rows
        Samples that count, by position; all by default.

    Returns
    -------
    value, error
        The error is infinite with a single sample, or where leaving one out leaves nothing. It is
        that of independent samples times `dependence_factor`, and wider for few samples, as
        Student's t is: two errors are an interval of about 95 %.

    References
    ----------
    Efron and Stein 1981, doi:10.1214/aos/1176345462.

    Examples
    --------
    >>> value, error = estimate(np.array([1.0, 2.0, 3.0]), lambda total: float(total) / 3)
    >>> round(value, 3), round(error, 3)
    (2.0, 0.625)
    """
    rows = np.arange(len(parts)) if rows is None else rows
    parts = parts[rows]
    total = parts.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = statistic(total)
        without = np.array([statistic(total - part) for part in parts])
    count = len(parts)
    if count < 2 or not np.isfinite(without).all():
        return value, float("inf")
    deviation = without - without.mean()
    error = float(np.sqrt((count - 1) / count * (deviation**2).sum()))
    few = _student(max(count - 1.0, MIN_FREEDOM)) / _student(np.inf)
    return value, error * few * dependence_factor(autocorrelation, rows)


def dependence_factor(autocorrelation: Array | None, rows: NDArray[np.intp]) -> float:
    """Return the factor by which the dependence of samples widens the error of their mean.

    It is the root of the inflation of the variance of the mean (Zwiers and von Storch 1995,
    doi:10.1175/1520-0442(1995)008<0336:TSCIAI>2.0.CO;2), corrected for the variance that deviations
    from the mean of dependent samples lack, times what Student's t adds where few independent
    samples are left: two standard errors remain an interval of about 95 %.

    Parameters
    ----------
    autocorrelation
        Of samples at lags 0, 1, ...; zero beyond its end. None for independent ones.
    rows
        Positions of the samples that the mean is of.

    Examples
    --------
    >>> dependence_factor(None, np.arange(24))
    1.0
    >>> round(dependence_factor(0.5 ** np.arange(24), np.arange(24)), 2)
    1.98
    """
    count = len(rows)
    if autocorrelation is None or not np.any(autocorrelation[1:]) or count < 2:
        return 1.0
    chosen = np.zeros(int(rows.max()) + 1)
    chosen[rows] = 1.0
    # Number of pairs at each lag, both ways.
    lags = range(1, min(len(chosen), len(autocorrelation)))
    pairs = np.array([count, *(2.0 * (chosen[k:] @ chosen[:-k]) for k in lags)])
    inflation = max(float(pairs @ autocorrelation[: len(pairs)]) / count, 1.0)
    seen = (1.0 - min(inflation / count, MAX_HIDDEN)) / (1.0 - 1.0 / count)
    few, all_ = (_student(max(n - 1.0, MIN_FREEDOM)) for n in (count / inflation, count))
    return float(np.sqrt(max(inflation / seen, 1.0))) * few / all_


def quantile_rank(
    members: NDArray[Any],
    observed: NDArray[Any],
    q: float,
    autocorrelation: Array | None = None,
) -> tuple[float, float]:
    """Return the mean rank of the observed quantile of a sample among those of its members.

    The quantile of all samples together depends on one or two storms. Sample by sample the
    observation of a calibrated ensemble is exchangeable with its members: the rank of its quantile
    tells weak members from weak storms.

    Parameters
    ----------
    members, observed
        (realization, sample, y, x) and (sample, y, x).
    q
        Between 0 and 1.
    autocorrelation
        Of the samples, as in `estimate`.

    Returns
    -------
    rank, error
        Mean share of the members with a quantile below that of the observation, a tie counts
        half: 0.5 is right, 1 is too weak. Samples with neither observed nor drawn rain at the
        quantile do not count; the error is that of uniform ranks, times `dependence_factor`,
        infinite if no sample counts.

    Examples
    --------
    >>> rain = np.random.default_rng(0).exponential(5.0, (9, 16, 32, 32))
    >>> [round(value, 2) for value in quantile_rank(0.5 * rain[1:], rain[0], 0.99)]
    [1.0, 0.08]
    """
    shares, rows = [], []
    for sample, truth in enumerate(observed):
        valid = np.isfinite(truth) & np.isfinite(members[:, sample]).all(axis=0)
        if not valid.any():
            continue
        seen = np.quantile(truth[valid], q)
        drawn = np.quantile(members[:, sample][:, valid], q, axis=1)
        if seen > 0 or (drawn > 0).any():
            rows.append(sample)
            shares.append(float((drawn < seen).mean() + 0.5 * (drawn == seen).mean()))
    if not shares:
        return 0.5, float("inf")
    count = len(members)
    # Variance of the mean of ranks that are uniform on 0, 1/M, ..., 1.
    error = float(np.sqrt((count + 2) / (12 * count * len(shares))))
    return float(np.mean(shares)), error * dependence_factor(autocorrelation, np.array(rows))

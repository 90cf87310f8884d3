"""How much samples remember of those before: autocorrelation from short and noisy series.

What a sample does to a score is, as a rule, weather that lasts, seen through noise that does not: a
first-order autoregressive series plus white noise, whose autocorrelation is ``a b^(k - 1)``. Two
numbers are all that a series of a hundred samples can tell.
"""

from __future__ import annotations

import numpy as np

from xcvae.metrics.maps import Array

__all__ = ["autocorrelation", "mean_variance"]

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

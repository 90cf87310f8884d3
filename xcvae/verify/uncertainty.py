"""How sure a number is that was measured on a few samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["estimate", "quantile_rank"]


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

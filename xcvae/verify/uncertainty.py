"""How sure a number is that was measured on a few samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["estimate"]


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

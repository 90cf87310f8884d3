"""The generalised Pareto distribution of excesses, fitted to counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["fit", "return_level"]

Array = npt.NDArray[Any]

GRID = np.concatenate(
    [np.linspace(-1.0, -0.02, 40), np.linspace(0.0, 0.98, 25), np.geomspace(1, 30, 20)]
)
"""Starting grid of the search in the profile likelihood; -1 stands for the end of its domain."""
FEWEST = 20
"""Smallest number of excesses that is fitted."""
LOWEST_SHAPE = -0.5
"""Below it, maximum likelihood is not regular and grows without bound near the largest value."""
PENALTY = 10.0
"""Cost per unit of shape below `LOWEST_SHAPE`: more than the likelihood can gain."""


def fit(excesses: Array, counts: Array | None = None) -> tuple[float, float]:
    """Fit shape and scale by maximum likelihood.

    With theta = shape / scale the likelihood is maximal over the shape in closed form, which
    leaves one dimension to search (Grimshaw 1993, https://doi.org/10.2307/1269663).

    Parameters
    ----------
    excesses
        Values above zero, any unit, (n,).
    counts
        Number of occurrences of each value, (n,); 1 by default. Fractions are allowed.

    Returns
    -------
    shape, scale
        The scale in the unit of the excesses. NaN for fewer than 20 excesses.
    """
    from scipy.optimize import minimize_scalar

    excesses = np.asarray(excesses, np.float64)
    weights = np.ones_like(excesses) if counts is None else np.asarray(counts, np.float64)
    used = weights > 0
    excesses, weights = excesses[used], weights[used]
    total = weights.sum()
    if total < FEWEST or np.ptp(excesses) == 0:
        return np.nan, np.nan
    share, mean = weights / total, float(weights @ excesses / total)
    scaled = excesses / mean
    end = 1.0 / scaled.max()

    def shape_at(t: float) -> float:
        return float(share @ np.log1p(t * scaled))

    def cost(t: float) -> float:
        if abs(t) < 1e-9:
            return 1.0  # the exponential distribution, scale 1
        shape = shape_at(t)
        beyond = max(0.0, LOWEST_SHAPE - shape)
        return float(np.log(shape / t) + shape + 1.0 + PENALTY * beyond)

    grid = np.where(GRID < 0, GRID * end * (1 - 1e-6), GRID)
    costs = np.array([cost(t) for t in grid])
    best = int(np.argmin(costs))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, grid.size - 1)]
    found = minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    t = float(found.x) if found.fun <= costs[best] else float(grid[best])
    shape = shape_at(t)
    scale = 1.0 if abs(t) < 1e-9 else shape / t
    return shape, scale * mean


def return_level(shape: float, scale: float, rate: float, period: float) -> float:
    """Return the excess that is exceeded on average once in a period.

    ``scale / shape * ((period * rate) ** shape - 1)``, see Coles 2001, section 4.3.3,
    https://doi.org/10.1007/978-1-4471-3675-0.

    Parameters
    ----------
    shape, scale
        Of the distribution of excesses.
    rate
        Share of values above the threshold.
    period
        Number of values.

    Returns
    -------
    float
        In the unit of the scale; NaN where the threshold itself is exceeded less than once.
    """
    from scipy.special import boxcox

    if not period * rate >= 1.0:
        return np.nan
    return float(scale * boxcox(period * rate, shape))

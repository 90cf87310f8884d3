"""Time axes of the levels: knots with addresses, and the weights of a time's knots.

The deviate of a level at a time is a sum of deviates at knots, multiplied with weights of the
squared sum 1. A knot has an address like a sample, with its position in time as the label, so the
value at a time does not depend on the other times that are drawn. The weights are a smooth kernel,
wide compared with the spacing of the knots, such that the correlation of two times depends on
their distance, not on their position between the knots (to `RESIDUAL`).

Two families of knots, a fast and a slow one, give the correlation the shape that latents of rain
were measured to have: it drops fast at first and has a long tail.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Share of the variance and relative spacing of the fast and the slow family of knots.
FAMILIES = ((0.5, 1), (0.5, 3))
#: The kernel (1 - (u / REACH)^2)^POWER in units of the spacing; it covers KNOTS = 2 x REACH knots.
REACH, POWER, KNOTS = 2.5, 4, 5
#: Timescale in spacings of the fast family: where the correlation has fallen to 1/e.
SPACINGS = 2.8095
#: Largest difference between correlations of two times at the same distance.
RESIDUAL = 0.006


@dataclass(frozen=True)
class TimeAxis:
    """The time axis of one level.

    Attributes
    ----------
    timescale
        Distance of two times, in microseconds, at which the correlation has fallen to 1/e.
    """

    timescale: int

    @classmethod
    def of(cls, seconds: float) -> TimeAxis | None:
        """Return the axis of a timescale in seconds; None for 0, without memory."""
        return cls(max(1, round(seconds * 1e6))) if seconds > 0 else None

    def knots(self, time: int) -> tuple[tuple[str, float], ...]:
        """Return labels and weights of the knots of a time in microseconds."""
        return _knots(self.timescale, int(time))


@functools.lru_cache(maxsize=4096)  # all members of a sample share them
def _knots(timescale: int, time: int) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, float]] = []
    for share, stretch in FAMILIES:
        spacing = max(1, round(timescale / SPACINGS)) * stretch
        first = (2 * time + spacing) // (2 * spacing) - KNOTS // 2
        # Positions are integers, and only operations that IEEE 754 rounds exactly are used: all
        # processors have the same weights.
        positions = [number * spacing for number in range(first, first + KNOTS)]
        weights = [_kernel((time - position) / (spacing * REACH)) for position in positions]
        norm = math.sqrt(share / sum(weight * weight for weight in weights))
        # The separator is that of no label: a sample cannot have the address of a knot.
        labels = [f"\x1eknot {stretch} {spacing} {position}" for position in positions]
        found += zip(labels, (float(np.float32(w * norm)) for w in weights), strict=True)
    return tuple(found)


def _kernel(x: float) -> float:
    square = max(0.0, 1.0 - x * x)
    square *= square
    return square * square


def correlation(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of two times, by their distance in timescales.

    Examples
    --------
    >>> [round(float(r), 2) for r in correlation(np.array([0.0, 0.25, 0.5, 1.0, 2.0]))]
    [1.0, 0.9, 0.69, 0.37, 0.12]
    """
    lags, one = _of_one_family()
    in_spacings = np.abs(np.asarray(distance, np.float64)) * SPACINGS
    total: NDArray[np.float64] = np.sum(
        [share * np.interp(in_spacings / s, lags, one, right=0.0) for share, s in FAMILIES],
        axis=0,
    )
    return total


@functools.lru_cache(maxsize=1)  # the fit of timescales asks hundreds of times
def _of_one_family() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return distances in spacings of the knots, and the correlation at each."""
    u = np.linspace(-REACH, REACH, 1001)
    kernel = (1 - (u / REACH) ** 2) ** POWER
    lags = np.linspace(0, 2 * REACH, 501)
    moved = (u[:, None] + lags) / REACH
    products = kernel @ np.where(np.abs(moved) < 1, (1 - moved**2) ** POWER, 0.0)
    return lags, products / products[0]

"""The dial in units of its effect: which spread gives members that differ by so much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xcvae.errors import ConfigError, explain

__all__ = ["EVALUATIONS", "MEMBERS", "SAMPLES", "Dial", "pick_samples", "solve_spread"]

# Diversity differs far more between samples than between pairs of members, so that fields are
# better spent on samples.
MEMBERS = 4
SAMPLES = 48
TOLERANCE = 0.005
EVALUATIONS = 8
# A step never lands closer to an end of the bracket than this share of its width.
MARGIN = 0.05


@dataclass(frozen=True)
class Dial:
    """Where the dial stands.

    Parameters
    ----------
    spread
        The solution, in [0, 1].
    diversity
        The diversity it gave on the samples tried (1).
    evaluations
        How often the ensemble was drawn on the way.
    """

    spread: float
    diversity: float
    evaluations: int


def pick_samples(n: int, *, at_most: int = SAMPLES) -> list[int]:
    """Return positions of samples spread evenly over the data, each once.

    Examples
    --------
    >>> pick_samples(10, at_most=4)
    [0, 3, 6, 9]
    """
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(n, at_most)).round())]


def solve_spread(
    diversity_at: Callable[[float], float],
    target: float,
    *,
    tolerance: float = TOLERANCE,
    evaluations: int = EVALUATIONS,
) -> Dial:
    """Find the spread at which the members have a given diversity.

    Diversity grows with the spread. The two ends are tried first, which tells what can be
    reached.

    Parameters
    ----------
    diversity_at
        Diversity at a spread in [0, 1], always of the same samples and with the same noise, so
        that it is a smooth function (the mean over samples of 1 - mean pairwise cosine similarity
        between members, after post-processing).
    target
        The diversity asked for.
    tolerance
        How close is close enough.
    evaluations
        How often ``diversity_at`` may be called; the closest spread tried is returned then.

    Raises
    ------
    ConfigError
        The target is out of reach, below the diversity at spread 0 or above that at spread 1.
    """
    tried = {spread: diversity_at(spread) for spread in (0.0, 1.0)}
    low, high = 0.0, 1.0
    if not tried[low] - tolerance <= target <= tried[high] + tolerance:
        raise ConfigError(
            explain(
                "diversity",
                expected=f"a value that this model reaches on this data, "
                f"{tried[low]:.3f} (spread 0) to {tried[high]:.3f} (spread 1)",
                got=f"{target:g}",
                remedy="Ask for one in that range, or set spread; a higher temperature widens it.",
            )
        )
    bisect = False
    while len(tried) < evaluations and _miss(tried, target) > tolerance:
        share = 0.5 if bisect else (_interpolated(tried, target) - low) / (high - low)
        spread = low + (high - low) * min(max(share, MARGIN), 1.0 - MARGIN)
        tried[spread] = diversity_at(spread)
        width = high - low
        low, high = (spread, high) if tried[spread] < target else (low, spread)
        # Diversity rises steeply where the levels with the large patterns are freed: a step that
        # hardly narrowed the bracket is followed by a bisection.
        bisect = not bisect and high - low > 0.5 * width
    best = min(tried, key=lambda spread: abs(tried[spread] - target))
    return Dial(spread=best, diversity=tried[best], evaluations=len(tried))


def _interpolated(tried: dict[float, float], target: float) -> float:
    """Return where a monotone curve through all points tried meets the target."""
    from scipy.interpolate import PchipInterpolator

    spreads = np.array(sorted(tried))
    # Strictly rising, whatever little noise there is in the estimates.
    rising = np.maximum.accumulate([tried[spread] for spread in spreads])
    rising = rising + 1e-9 * np.arange(len(spreads))
    return float(PchipInterpolator(rising, spreads)(target))


def _miss(tried: dict[float, float], target: float) -> float:
    return min(abs(diversity - target) for diversity in tried.values())

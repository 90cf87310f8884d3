"""The dial in units of its effect: which spread gives members that differ by so much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xcvae.ensemble.progress import steps
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.errors import ConfigError, explain

__all__ = ["EVALUATIONS", "MEMBERS", "SAMPLES", "Dial", "dialled", "pick_samples", "solve_spread"]


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


BLOCK_BYTES = 32 * 2**20
"""Of the members drawn at a time; with all their copies it comes to ten times as much."""


def dialled(
    source: EnsembleSampler, diversity: float | None, notes: Mapping[str, Any], *, progress: bool
) -> tuple[EnsembleSampler, Dial | None]:
    """Set the spread of a source to the one that gives a diversity.

    Parameters
    ----------
    source
        Draws around observed storms.
    diversity
        What is asked for; None leaves the source as it is.
    notes
        Those of a run that was begun: it keeps the spread of its first regions to the last digit.
    progress
        Show a bar on a terminal.

    Raises
    ------
    ConfigError
        The diversity is out of reach.
    """
    if diversity is None:
        return source, None
    found = notes.get("dial")
    dial = Dial(**found) if found else _solve(source, diversity, progress=progress)
    return _at(source, dial.spread), dial


def _at(source: EnsembleSampler, spread: float) -> EnsembleSampler:
    return replace(source, settings=replace(source.settings, spread=spread))


def _solve(source: EnsembleSampler, target: float, *, progress: bool) -> Dial:
    picked = np.array(pick_samples(len(source.labels)))

    def diversity_at(spread: float) -> float:
        found = _diversity(_at(source, spread), picked)
        bar.set_postfix({"spread": round(spread, 3), "diversity": round(found, 3)})
        bar.update()
        return found

    with steps(progress, f"solving for diversity {target:g}", EVALUATIONS) as bar:
        return solve_spread(diversity_at, target)


def _diversity(source: EnsembleSampler, picked: np.ndarray) -> float:
    """Score members of some samples, block by block: maps of any size fit into memory."""
    # Only who asks for a diversity needs metrics.
    from xcvae.metrics.spatial import Diversity

    spec, metric = source.model.spec, Diversity()
    total: dict[str, Any] = {}
    for block in _blocks(picked, source.size):
        members, _ = source.draw(np.arange(MEMBERS), block)
        observed = source.prepared[spec.target].isel({spec.sample: block}).compute()
        stats = metric.statistics(members, observed, spatial_dims=(spec.y, spec.x))
        for name, values in stats.items():
            total[name] = total.get(name, 0.0) + values.values.sum(axis=0)
    return float(metric.finish(total))


def _blocks(picked: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    step = max(1, BLOCK_BYTES // (4 * MEMBERS * size[0] * size[1]))
    for start in range(0, len(picked), step):
        yield picked[start : start + step]

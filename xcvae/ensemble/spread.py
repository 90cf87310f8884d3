"""Solve for the spread at which members differ by a requested diversity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xcvae.ensemble.progress import steps
from xcvae.ensemble.sampler import EnsembleSampler, SpreadSolution
from xcvae.errors import ConfigError, warn_user
from xcvae.fields.sample_blocks import block_length, block_slices, evenly_spaced

# Diversity differs far more between samples than between pairs of members, so that fields are
# better spent on samples.
MEMBERS = 4
SAMPLES = 48
TOLERANCE = 0.005
EVALUATIONS = 8
# A step ends no closer to an end of the bracket than this share of its width.
MARGIN = 0.05
BLOCK_BYTES = 32 * 2**20
"""Budget for the members drawn at a time; with their copies they take ten times as much."""


def resolve_spread(
    sampler: EnsembleSampler,
    diversity: float,
    notes: Mapping[str, Any] | None = None,
    *,
    progress: bool,
    block_bytes: int = BLOCK_BYTES,
) -> EnsembleSampler:
    """Return a sampler with the spread that gives a requested diversity.

    Parameters
    ----------
    sampler
        Draws around observed storms.
    diversity
        The requested diversity.
    notes
        Notes of an unfinished run: its spread is used again, to the last digit.
    progress
        Show a bar on a terminal.
    block_bytes
        Size of the members that are drawn at a time to measure diversity.

    Raises
    ------
    ConfigError
        The diversity is out of reach.
    """
    found = (notes or {}).get("dial")
    if found:
        return replace(sampler, solution=SpreadSolution(**found))
    samples = block_length(4 * _members(sampler) * sampler.size[0] * sampler.size[1], block_bytes)
    return replace(sampler, solution=_solve(sampler, diversity, samples, progress=progress))


def _solve(
    sampler: EnsembleSampler, target: float, at_once: int, *, progress: bool
) -> SpreadSolution:
    # The first members whatever their numbers are to be: one ensemble has one spread.
    sampler = replace(sampler, request=replace(sampler.request, members=_members(sampler)))
    picked = evenly_spaced(len(sampler.labels), SAMPLES)
    blocks = [picked[block] for block in block_slices(len(picked), at_once)]

    def diversity_at(spread: float) -> float:
        found = _diversity(sampler.with_spread(spread), blocks)
        bar.set_postfix({"spread": round(spread, 3), "diversity": round(found, 3)})
        bar.update()
        return found

    with steps(progress, f"solving for diversity {target:g}", EVALUATIONS) as bar:
        return solve_spread(diversity_at, target)


def _members(sampler: EnsembleSampler) -> int:
    """Return the number of members that diversity is measured with: one of each network or more."""
    return max(MEMBERS, len(sampler.model.networks))


def _diversity(sampler: EnsembleSampler, blocks: Sequence[np.ndarray]) -> float:
    """Return the diversity of some samples, drawn block by block."""
    # Only a requested diversity needs metrics.
    from xcvae.metrics.spatial import Diversity

    spec, metric = sampler.model.spec, Diversity()
    total: dict[str, Any] = {}
    for block in blocks:
        members, _ = sampler.draw(np.arange(_members(sampler)), block)
        observed = sampler.prepared[spec.target].isel({spec.sample: block}).compute()
        stats = metric.statistics(members, observed, spatial_dims=(spec.y, spec.x))
        for name, values in stats.items():
            total[name] = total.get(name, 0.0) + values.values.sum(axis=0)
    return float(metric.finish(total))


def solve_spread(
    diversity_at: Callable[[float], float],
    target: float,
    *,
    tolerance: float = TOLERANCE,
    evaluations: int = EVALUATIONS,
) -> SpreadSolution:
    """Find the spread at which the members have a given diversity.

    Diversity grows with the spread. The two ends are tried first: they bound what can be reached.

    Parameters
    ----------
    diversity_at
        Diversity at a spread in [0, 1], always of the same samples and with the same noise, so
        that it is a smooth function (the mean over samples of 1 - mean pairwise cosine similarity
        between members, after post-processing).
    target
        The requested diversity.
    tolerance
        Difference in diversity that is accepted.
    evaluations
        Calls of ``diversity_at`` at most; the closest spread tried is returned then.

    Raises
    ------
    ConfigError
        The target is out of reach, below the diversity at spread 0 or above that at spread 1.
    """
    tried = {spread: diversity_at(spread) for spread in (0.0, 1.0)}
    low, high = 0.0, 1.0
    if not tried[low] - tolerance <= target <= tried[high] + tolerance:
        raise ConfigError.of(
            "diversity",
            expected=f"a value that this model reaches on this data, "
            f"{tried[low]:.3f} (spread 0) to {tried[high]:.3f} (spread 1)",
            got=f"{target:g}",
            remedy="Ask for one in that range, or set spread; a higher temperature widens it.",
        )
    bisect = False
    while len(tried) < evaluations and _miss(tried, target) > tolerance:
        share = 0.5 if bisect else (_interpolated(tried, target) - low) / (high - low)
        spread = low + (high - low) * min(max(share, MARGIN), 1.0 - MARGIN)
        tried[spread] = diversity_at(spread)
        width = high - low
        low, high = (spread, high) if tried[spread] < target else (low, spread)
        # Diversity rises steeply where the coarse levels, with the large patterns, pass from the
        # storm to the prior: a step that hardly narrowed the bracket is followed by a bisection.
        bisect = not bisect and high - low > 0.5 * width
    best = min(tried, key=lambda spread: abs(tried[spread] - target))
    if _miss(tried, target) > tolerance:
        warn_user(
            f"diversity: {target:g} was asked for, and {tried[best]:.3g} is the nearest of "
            f"{len(tried)} trials (spread {best:.3g}): members change in a jump there. Ask for "
            "another diversity, or give spread.",
        )
    return SpreadSolution(spread=best, diversity=tried[best], evaluations=len(tried))


def _interpolated(tried: dict[float, float], target: float) -> float:
    """Return the spread at which a monotone curve through all points tried meets the target."""
    from scipy.interpolate import PchipInterpolator

    spreads = np.array(sorted(tried))
    # Strictly rising, whatever little noise there is in the estimates.
    rising = np.maximum.accumulate([tried[spread] for spread in spreads])
    rising = rising + 1e-9 * np.arange(len(spreads))
    return float(PchipInterpolator(rising, spreads)(target))


def _miss(tried: dict[float, float], target: float) -> float:
    return min(abs(diversity - target) for diversity in tried.values())

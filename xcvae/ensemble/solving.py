"""Diversity of a source at any spread, and the spread that gives the one asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xcvae.ensemble.dial import EVALUATIONS, MEMBERS, Dial, pick_samples, solve_spread
from xcvae.ensemble.drawing import Source
from xcvae.ensemble.progress import steps

__all__ = ["dialled"]

BLOCK_BYTES = 32 * 2**20
"""Of the members drawn at a time; with all their copies it comes to ten times as much."""


def dialled(
    source: Source, diversity: float | None, notes: Mapping[str, Any], *, progress: bool
) -> tuple[Source, Dial | None]:
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


def _at(source: Source, spread: float) -> Source:
    return replace(source, settings=replace(source.settings, spread=spread))


def _solve(source: Source, target: float, *, progress: bool) -> Dial:
    picked = np.array(pick_samples(len(source.labels)))

    def diversity_at(spread: float) -> float:
        found = _diversity(_at(source, spread), picked)
        bar.set_postfix({"spread": round(spread, 3), "diversity": round(found, 3)})
        bar.update()
        return found

    with steps(progress, f"solving for diversity {target:g}", EVALUATIONS) as bar:
        return solve_spread(diversity_at, target)


def _diversity(source: Source, picked: np.ndarray) -> float:
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

"""The dial of a model: positions between posterior and prior by spread.

A dial is a list of pairs (spread, position), both rising from 0 to 1, which makes the diversity of
members proportional to spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Positions equal to the spread: the dial of a model that was not calibrated.
LINEAR = ((0.0, 0.0), (1.0, 1.0))
#: Smallest step of a dial, as a share of its range: smaller ones are sampling noise.
RESOLUTION = 1e-3
#: Steps of a dial between those of two factors.
STEPS = 40


def position_at(training: Mapping[str, Any], spread: float) -> float:
    """Return the position of a spread, by the dial in the metadata of a training."""
    dial = np.asarray(training.get("dial", LINEAR))
    return float(np.interp(spread, dial[:, 0], dial[:, 1]))


def dial_at(training: Mapping[str, Any], factor: int | None) -> list[list[float]]:
    """Return the dial of a model of any factor for one factor.

    Between two factors at which it was measured, positions are interpolated linearly in the
    logarithm of the factor; beyond the last one they are those of the last one.

    Parameters
    ----------
    training
        Metadata of the training. Those of older files have one dial for all factors.
    factor
        Pixels along a side of a coarse cell; None if it is unknown.

    Examples
    --------
    >>> half = [[0.0, 0.0], [0.5, 0.2], [1.0, 1.0]]
    >>> known = {"dial_by_factor": [[2, half], [8, [[0.0, 0.0], [0.5, 0.4], [1.0, 1.0]]]]}
    >>> dict(dial_at(known, 4))[0.5]
    0.3
    """
    known = training.get("dial_by_factor")
    if not known or factor is None:
        return [list(pair) for pair in training.get("dial", LINEAR)]
    spreads = np.linspace(0, 1, STEPS + 1)
    factors = np.log2([number for number, _ in known])
    positions = np.array([np.interp(spreads, *np.transpose(dial)) for _, dial in known])
    found = [np.interp(np.log2(factor), factors, column) for column in positions.T]
    return [[round(float(s), 6), round(float(p), 6)] for s, p in zip(spreads, found, strict=True)]


def equal_diversity_steps(
    positions: Sequence[float], diversity: Sequence[float]
) -> list[list[float]]:
    """Return pairs (spread, position) that make diversity proportional to spread.

    Examples
    --------
    >>> equal_diversity_steps([0, 0.25, 0.5, 0.75, 1], [0.0, 0.1, 0.3, 0.4, 0.4])
    [[0.0, 0.0], [0.25, 0.25], [0.75, 0.5], [1.0, 1.0]]
    """
    rising = np.maximum.accumulate(np.asarray(diversity, float))
    whole = rising[-1] - rising[0]
    points = [[0.0, 0.0]]
    if whole > 0:
        shares = (rising - rising[0]) / whole
        for share, position in zip(shares[1:-1].tolist(), positions[1:-1], strict=True):
            if points[-1][0] + RESOLUTION < share < 1 - RESOLUTION:
                points.append([round(share, 6), float(position)])
    return [*points, [1.0, 1.0]]

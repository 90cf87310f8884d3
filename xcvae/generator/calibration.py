"""The dial in equal steps: spread 0.5 stands halfway, in diversity, between storm and prior.

Levels carry very different amounts of information, so freeing them at a constant rate would leave
most of the dial without effect. After training, diversity is measured along the way from the
posterior to the prior on a few held-back samples, and the dial is laid out so that it grows in
proportion to ``spread``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.batches import Batches
from xcvae.generator.model import Model

__all__ = ["calibrated_dial", "even_steps"]

#: Positions between posterior and prior, and what is drawn at each.
POSITIONS, SAMPLES, MEMBERS = 15, 6, 4
#: Steps of the dial smaller than this share of the whole say nothing.
RESOLUTION = 1e-3


def calibrated_dial(model: Model, batches: Batches) -> list[list[float]]:
    """Measure a model's dial; pairs (spread, turn), both from 0 to 1 and rising.

    Parameters
    ----------
    model
        Whose dial is not laid out yet.
    batches
        Held-back samples.
    """
    picks = np.unique(np.linspace(0, len(batches) - 1, SAMPLES).astype(np.int64))
    batch = batches.load(picks)
    turns = np.linspace(0, 1, POSITIONS)
    labels = [f"dial {pick}" for pick in picks]
    measured = [
        _diversity(
            model.draw(
                batch,
                seed=0,
                labels=labels,
                realizations=range(MEMBERS),
                mode="posterior",
                spread=float(turn),
            )
        )
        for turn in turns
    ]
    return even_steps(turns.tolist(), measured)


def even_steps(turns: Sequence[float], diversity: Sequence[float]) -> list[list[float]]:
    """Pairs (spread, turn) that make diversity proportional to spread.

    Examples
    --------
    >>> even_steps([0, 0.25, 0.5, 0.75, 1], [0.0, 0.1, 0.3, 0.4, 0.4])
    [[0.0, 0.0], [0.25, 0.25], [0.75, 0.5], [1.0, 1.0]]
    """
    rising = np.maximum.accumulate(np.asarray(diversity, float))
    whole = rising[-1] - rising[0]
    points = [[0.0, 0.0]]
    if whole > 0:
        shares = (rising - rising[0]) / whole
        for share, turn in zip(shares[1:-1].tolist(), turns[1:-1], strict=True):
            if points[-1][0] + RESOLUTION < share < 1 - RESOLUTION:
                points.append([round(share, 6), float(turn)])
    return [*points, [1.0, 1.0]]


def _diversity(fields: NDArray[np.float32]) -> float:
    """1 - mean cosine similarity between members; fields (realization, sample, y, x)."""
    flat = np.nan_to_num(fields).reshape(*fields.shape[:2], -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    unit = flat / np.where(norms > 0, norms, 1.0)
    count = len(flat)
    cosine = np.einsum("msk,nsk->smn", unit, unit)
    pairs = cosine.sum(axis=(1, 2)) - np.einsum("smm->s", cosine)
    return float(1 - (pairs / (count * (count - 1))).mean())

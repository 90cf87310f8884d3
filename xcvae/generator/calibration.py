"""What is measured on held-back samples after training: temperature and dial.

The temperature makes the spread of prior draws match their error. The dial is laid out in equal
steps: spread 0.5 stands halfway, in diversity, between storm and prior. Levels carry very
different amounts of information, so freeing them at a constant rate would leave most of the dial
without effect.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.batches import Batch, Batches
from xcvae.generator.model import Model

__all__ = ["calibrate", "calibrated_dial", "calibrated_temperature", "even_steps", "matching"]

#: Positions between posterior and prior, and what is drawn at each.
POSITIONS, SAMPLES, MEMBERS = 21, 6, 4
#: Steps of the dial smaller than this share of the whole say nothing.
RESOLUTION = 1e-3
#: Temperatures that are tried, and the pixels, limits of samples, and members that are drawn at
#: each. A model that needs more than these has a fault that a factor does not repair.
TEMPERATURES = (0.8, 0.9, 1.0, 1.1, 1.2)
TEMPERATURE_PIXELS, TEMPERATURE_SAMPLES, TEMPERATURE_MEMBERS = 600_000, (4, 256), 6


def calibrate(model: Model, batches: Batches) -> None:
    """Measure temperature and dial of a model on held-back samples, and keep them in it."""
    model.training["temperature"] = calibrated_temperature(model, batches)
    model.network.calibrated = model.training["temperature"]
    model.training["dial"] = calibrated_dial(model, batches)


def calibrated_temperature(model: Model, batches: Batches) -> float:
    """Factor of the latents' sigma at which prior draws have a spread-skill ratio of 1.

    Parameters
    ----------
    model
        Not calibrated yet.
    batches
        Held-back samples.
    """
    least, most = TEMPERATURE_SAMPLES
    pixels = max(1, model.record.pixels // model.record.samples)
    batch, labels = _some(batches, min(max(least, TEMPERATURE_PIXELS // pixels), most))
    ratios = []
    for temperature in TEMPERATURES:
        members = model.draw(
            batch,
            seed=0,
            labels=labels,
            realizations=range(TEMPERATURE_MEMBERS),
            mode="prior",
            temperature=temperature,
        )
        ratios.append(_spread_skill(members, model.observed(batch)))
    return matching(TEMPERATURES, ratios)


def matching(temperatures: Sequence[float], ratios: Sequence[float]) -> float:
    """Temperature at which the ratio is 1, within those tried.

    Examples
    --------
    >>> matching([0.9, 1.0, 1.1], [0.8, 0.95, 1.05])
    1.05
    >>> matching([0.9, 1.0, 1.1], [1.2, 1.3, 1.4])
    0.9
    """
    rising = np.maximum.accumulate(ratios)
    if not np.isfinite(rising).all():
        return 1.0
    return round(float(np.interp(1.0, rising, temperatures)), 4)


def calibrated_dial(model: Model, batches: Batches) -> list[list[float]]:
    """Measure a model's dial; pairs (spread, turn), both from 0 to 1 and rising.

    Parameters
    ----------
    model
        Whose dial is not laid out yet.
    batches
        Held-back samples.
    """
    batch, labels = _some(batches, SAMPLES)
    turns = np.linspace(0, 1, POSITIONS)
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


def _some(batches: Batches, count: int) -> tuple[Batch, list[str]]:
    """Samples spread over the held-back ones, and labels for their noise."""
    picks = np.unique(np.linspace(0, len(batches) - 1, count).astype(np.int64))
    return batches.load(picks), [f"dial {pick}" for pick in picks]


def _spread_skill(members: NDArray[np.float32], observed: NDArray[np.float32]) -> float:
    """sqrt((M + 1) / M mean variance) over the error of the mean; (realization, sample, y, x)."""
    count = len(members)
    variance = float(np.nanmean(members.var(axis=0, ddof=1, dtype=np.float64)))
    error = float(np.nanmean((members.mean(axis=0, dtype=np.float64) - observed) ** 2))
    return float(np.sqrt((count + 1) / count * variance / error)) if error > 0 else float("nan")


def _diversity(fields: NDArray[np.float32]) -> float:
    """1 - mean cosine similarity between members; fields (realization, sample, y, x)."""
    flat = np.nan_to_num(fields).reshape(*fields.shape[:2], -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    unit = flat / np.where(norms > 0, norms, 1.0)
    count = len(flat)
    cosine = np.einsum("msk,nsk->smn", unit, unit)
    pairs = cosine.sum(axis=(1, 2)) - np.einsum("smm->s", cosine)
    return float(1 - (pairs / (count * (count - 1))).mean())

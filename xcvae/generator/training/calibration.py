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

from xcvae.fields.batches import Batches
from xcvae.generator.model import Model

__all__ = ["calibrate", "calibrated_dial", "calibrated_temperature", "even_steps", "matching"]

#: Positions between posterior and prior, and what is drawn at each.
POSITIONS, SAMPLES, MEMBERS = 21, 6, 4
#: Steps of the dial smaller than this share of the whole say nothing.
RESOLUTION = 1e-3
#: Range of the temperature: a model that needs more has a fault that a factor does not repair.
#: Pixels, limits of samples, and members that are drawn for it: rain has few heavy pixels, and with
#: 37 maps of 128 x 128 the ratio of one model varied between .89 and .94 from choice to choice.
TEMPERATURES = (0.8, 1.25)
TEMPERATURE_PIXELS, TEMPERATURE_SAMPLES, TEMPERATURE_MEMBERS = 2_400_000, (4, 256), 6
#: Samples that are drawn at a time.
PASS = 32


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
    first = _ratio(model, batches, 1.0)
    if not np.isfinite(first) or first <= 0:
        return 1.0
    # Spread grows a little less than the temperature; the second look tells by how much.
    guess = float(np.clip(1 / first, *TEMPERATURES))
    return matching((1.0, first), (guess, _ratio(model, batches, guess)))


def matching(first: tuple[float, float], second: tuple[float, float]) -> float:
    """Temperature at which the ratio is 1, on the line through two pairs (temperature, ratio).

    Examples
    --------
    >>> matching((1.0, 0.9), (1.1, 0.98))
    1.125
    >>> matching((1.0, 0.5), (1.25, 0.6))
    1.25
    >>> matching((1.0, 1.0), (1.0, 1.0))
    1.0
    """
    slope = (second[1] - first[1]) / (second[0] - first[0]) if second[0] != first[0] else 1.0
    if not slope > 0:  # not a number, or nothing that a temperature changes
        return 1.0
    return round(float(np.clip(first[0] + (1 - first[1]) / slope, *TEMPERATURES)), 4)


def _ratio(model: Model, batches: Batches, temperature: float) -> float:
    """Spread-skill ratio of prior draws for held-back samples: pooled variance over error."""
    least, most = TEMPERATURE_SAMPLES
    pixels = max(1, model.record.pixels // model.record.samples)
    picks = _picks(batches, min(max(least, TEMPERATURE_PIXELS // pixels), most))
    parts = []
    for start in range(0, len(picks), PASS):
        some = picks[start : start + PASS]
        batch = batches.load(some)
        members = model.draw(
            batch,
            seed=0,
            labels=[f"dial {pick}" for pick in some],
            realizations=range(TEMPERATURE_MEMBERS),
            mode="prior",
            temperature=temperature,
        )
        parts.append(_spread_and_error(members, model.observed(batch)))
    variance, error = np.sum(parts, axis=0)
    count = TEMPERATURE_MEMBERS
    return float(np.sqrt((count + 1) / count * variance / error)) if error > 0 else float("nan")


def calibrated_dial(model: Model, batches: Batches) -> list[list[float]]:
    """Measure a model's dial; pairs (spread, turn), both from 0 to 1 and rising.

    Parameters
    ----------
    model
        Whose dial is not laid out yet.
    batches
        Held-back samples.
    """
    picks = _picks(batches, SAMPLES)
    batch, labels = batches.load(picks), [f"dial {pick}" for pick in picks]
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


def _picks(batches: Batches, count: int) -> NDArray[np.int64]:
    """Samples spread over the held-back ones."""
    return np.unique(np.linspace(0, len(batches) - 1, count).astype(np.int64))


def _spread_and_error(
    members: NDArray[np.float32], observed: NDArray[np.float32]
) -> tuple[float, float]:
    """Sums over valid pixels of variance and squared error; (realization, sample, y, x)."""
    variance = members.var(axis=0, ddof=1, dtype=np.float64)
    error = (members.mean(axis=0, dtype=np.float64) - observed) ** 2
    valid = np.isfinite(variance) & np.isfinite(error)
    return float(variance[valid].sum()), float(error[valid].sum())


def _diversity(fields: NDArray[np.float32]) -> float:
    """1 - mean cosine similarity between members; fields (realization, sample, y, x)."""
    flat = np.nan_to_num(fields).reshape(*fields.shape[:2], -1).astype(np.float64)
    norms = np.linalg.norm(flat, axis=-1, keepdims=True)
    unit = flat / np.where(norms > 0, norms, 1.0)
    count = len(flat)
    cosine = np.einsum("msk,nsk->smn", unit, unit)
    pairs = cosine.sum(axis=(1, 2)) - np.einsum("smm->s", cosine)
    return float(1 - (pairs / (count * (count - 1))).mean())

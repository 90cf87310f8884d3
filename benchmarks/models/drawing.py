"""Drawing members of many samples in batches of one size, over several calls if need be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.deadline import Deadline, OutOfTime
from benchmarks.harness.record_splits import Split, thresholded

__all__ = ["DrawBatch", "draw_members", "fair_crps"]

DrawBatch = Callable[[np.ndarray, torch.Generator], Tensor]
"""Positions of samples and a generator in, one field (y, x) in mm h-1 for each sample out."""


def draw_members(
    draw: DrawBatch,
    split: Split,
    members: int,
    *,
    batch: int,
    device: torch.device,
    seed: int,
    deadline: Deadline,
    place: Path | None = None,
) -> np.ndarray:
    """Draw members of every sample.

    Parameters
    ----------
    draw
        Draws one batch.
    split, members
        The samples, and the number of members of each.
    batch
        Fields at once; the last batch is filled up, so that the size is always this.
    device, seed
        Of the random numbers, which depend on the batch, not on the call that draws it.
    deadline
        Of this call.
    place
        Array file for the members; a later call continues where this one stopped.

    Returns
    -------
    array (realization, sample, y, x)
        In mm h-1.

    Raises
    ------
    OutOfTime
        The call ends before all members are drawn.
    """
    shape = (members, len(split), *split.size)
    out, first = _open_members(place, shape)
    pairs = np.stack(np.meshgrid(np.arange(len(split)), np.arange(members), indexing="ij"), -1)
    pairs = pairs.reshape(-1, 2)
    for start in range(first, len(pairs), batch):
        part = pairs[start : start + batch]
        rows = np.resize(part[:, 0], batch)
        random = torch.Generator(device).manual_seed(1_000_003 * seed + start)
        fields = draw(rows, random)[: len(part)].float().cpu().numpy()
        out[part[:, 1], part[:, 0]] = fields
        if place is not None:
            _progress(place).write_text(json.dumps(min(start + batch, len(pairs))))
        if deadline.over() and start + batch < len(pairs):
            raise OutOfTime
    return out


def _progress(place: Path) -> Path:
    return place.with_suffix(".json")


def _open_members(place: Path | None, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    if place is None:
        return np.empty(shape, np.float32), 0
    if place.exists() and _progress(place).exists():
        array = np.lib.format.open_memmap(place, mode="r+")
        if array.shape == shape:
            return array, int(json.loads(_progress(place).read_text()))
    _progress(place).unlink(missing_ok=True)
    return np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=shape), 0


def fair_crps(members: Tensor, observed: Tensor) -> float:
    """Return the fair CRPS of members (m, n, y, x) after the threshold."""
    rain = torch.from_numpy(thresholded(members.numpy().copy()))
    count = len(rain)
    error = (rain - observed).abs().mean()
    weights = 2.0 * torch.arange(1, count + 1) - count - 1
    ordered = rain.sort(dim=0).values.mean(dim=(1, 2, 3))
    return float(error - (weights * ordered).sum() / (count * (count - 1)))

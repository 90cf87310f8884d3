"""Drawing members of many samples in batches of one size, over several calls if need be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from references.clock import Deadline, OutOfTime
from references.data import Split, thresholded

__all__ = ["Draw", "drawn", "fair_crps"]

Draw = Callable[[np.ndarray, torch.Generator], Tensor]
"""Positions of samples, random numbers: one field (y, x) in mm h-1 for each of the samples."""


def drawn(
    draw: Draw,
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
        What to draw: so many members of every sample.
    batch
        Fields at once; the last batch is filled up, so that the size is always this.
    device, seed
        Of the random numbers, which depend on the batch and not on when it is drawn.
    deadline
        Of this call.
    place
        Array file to draw into; a later call goes on where this one stopped.

    Returns
    -------
    array (realization, sample, y, x)
        In mm h-1.

    Raises
    ------
    OutOfTime
        The call ends before all is drawn.
    """
    shape = (members, len(split), *split.size)
    out, first = _begun(place, shape)
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


def _begun(place: Path | None, shape: tuple[int, ...]) -> tuple[np.ndarray, int]:
    if place is None:
        return np.empty(shape, np.float32), 0
    if place.exists() and _progress(place).exists():
        array = np.lib.format.open_memmap(place, mode="r+")
        if array.shape == shape:
            return array, int(json.loads(_progress(place).read_text()))
    _progress(place).unlink(missing_ok=True)
    return np.lib.format.open_memmap(place, mode="w+", dtype=np.float32, shape=shape), 0


def fair_crps(members: Tensor, observed: Tensor) -> float:
    """CRPS of members (m, n, y, x) after the threshold, fair to their number."""
    rain = torch.from_numpy(thresholded(members.numpy().copy()))
    count = len(rain)
    error = (rain - observed).abs().mean()
    weights = 2.0 * torch.arange(1, count + 1) - count - 1
    ordered = rain.sort(dim=0).values.mean(dim=(1, 2, 3))
    return float(error - (weights * ordered).sum() / (count * (count - 1)))

"""Samples as tensors: what a network sees of a dataset at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """Samples as the network takes them, in the model's normalised space.

    Attributes
    ----------
    c
        Aligned conditions, statics, then mask and position maps where the model has them;
        (batch, channels, y, x).
    pooled
        Values of pooled conditions, (batch, values), or None.
    x
        Target, (batch, 1, y, x), zero where masked, or None.
    mask
        True where the target is (or would be) valid, (batch, 1, y, x).
    """

    c: Tensor
    pooled: Tensor | None
    x: Tensor | None
    mask: Tensor

    def __len__(self) -> int:
        return len(self.c)

    def crop(self, top: int, left: int, height: int, width: int) -> Batch:
        """Cut the same window out of all maps."""

        def cut(maps: Tensor) -> Tensor:
            return maps[..., top : top + height, left : left + width]

        x = None if self.x is None else cut(self.x)
        return replace(self, c=cut(self.c), x=x, mask=cut(self.mask))

    def turned(self, *, rows: bool, columns: bool, transpose: bool) -> Batch:
        """Flip and transpose all maps alike."""
        dims = [dim for dim, flip in ((-2, rows), (-1, columns)) if flip]

        def turn(maps: Tensor) -> Tensor:
            maps = maps.flip(dims) if dims else maps
            return maps.transpose(-1, -2) if transpose else maps

        x = None if self.x is None else turn(self.x)
        return replace(self, c=turn(self.c), x=x, mask=turn(self.mask))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """Pick samples, in the order given."""
        index = torch.as_tensor(np.asarray(rows))
        if self.c.device.type == "cuda":  # without waiting for the device
            index = index.pin_memory().to(self.c.device, non_blocking=True)
        return Batch(
            self.c[index],
            None if self.pooled is None else self.pooled[index],
            None if self.x is None else self.x[index],
            self.mask[index],
        )

    @staticmethod
    def gather(parts: Sequence[Batch], places: Sequence[tuple[int, int]]) -> Batch:
        """Pick samples out of batches in memory: number of the batch, number in it."""

        def picked(tensors: Sequence[Tensor]) -> Tensor:
            # By numpy, which copies each once; torch would make a tensor of each first.
            arrays = [t.numpy() for t in tensors]
            return torch.from_numpy(np.stack([arrays[n][row] for n, row in places]))

        pooled = [p.pooled for p in parts if p.pooled is not None]
        x = [p.x for p in parts if p.x is not None]
        return Batch(
            picked([p.c for p in parts]),
            picked(pooled) if pooled else None,
            picked(x) if x else None,
            picked([p.mask for p in parts]),
        )

    def packed(self) -> Batch:
        """Lay the maps out as convolutions want them: channels last, without gaps."""

        def pack(maps: Tensor) -> Tensor:
            # A copy, always: strides of a single channel are ambiguous, and compiled code is
            # made for some of them.
            return maps.clone(memory_format=torch.channels_last)

        x = None if self.x is None else pack(self.x)
        return replace(self, c=pack(self.c), x=x, mask=self.mask.contiguous())

    def to(self, device: torch.device) -> Batch:
        """Move to a device."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return Batch(self.c.to(device), move(self.pooled), move(self.x), self.mask.to(device))

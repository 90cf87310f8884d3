"""The windows of the training fields that a network is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.batch import Batch

__all__ = ["Windows"]

#: Windows that are tried for one with at least this share of valid pixels.
TRIES, LEAST_VALID = 100, 0.02


@dataclass(frozen=True)
class Windows:
    """Cuts a random window out of every batch, turned at random.

    Attributes
    ----------
    side
        Pixels along a side; smaller domains are used whole.
    unit
        Windows begin and end at multiples of so many pixels: blocks whose means are kept stay
        whole.
    flips
        Whether they are flipped and transposed.
    valid
        Pixels where the target is ever valid, (y, x); None for all.
    """

    side: int
    unit: int = 1
    flips: bool = False
    valid: NDArray[np.bool_] | None = None

    def cut(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Take the same window of all samples of a batch."""
        height, width = batch.c.shape[-2:]
        side = max(self.unit, self.side // self.unit * self.unit)
        rows, columns = min(side, height), min(side, width)
        top, left = self._place(height - rows, width - columns, (rows, columns), rng)
        batch = batch.crop(top, left, rows, columns)
        if self.flips:
            a, b, c = rng.random(3) < 0.5
            batch = batch.turned(rows=bool(a), columns=bool(b), transpose=bool(c))
        return batch

    def _place(
        self, down: int, right: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        top = left = 0
        for _ in range(1 if self.valid is None else TRIES):
            top = self.unit * int(rng.integers(down // self.unit + 1))
            left = self.unit * int(rng.integers(right // self.unit + 1))
            if self.valid is None:
                break
            # A window of sea has nothing to learn from, and all of its KL would still count.
            if self.valid[top : top + size[0], left : left + size[1]].mean() >= LEAST_VALID:
                break
        return top, left

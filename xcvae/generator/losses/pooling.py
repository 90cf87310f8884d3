"""Means over windows, of fields that may have gaps."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from xcvae.errors import ComponentError, explain

__all__ = ["check_sides", "pool", "window_sums"]


def pool(fields: Tensor, side: int) -> Tensor:
    """Mean over square windows of ``side`` pixels, those cut off by an edge included.

    Parameters
    ----------
    fields
        (..., 1, y, x) with at least one leading dim, of any size; also smaller than a window.
    side
        Pixels along each side of a window.
    """
    if side == 1:
        return fields
    flat = fields.flatten(0, -4)
    pooled = F.avg_pool2d(flat, side, ceil_mode=True, count_include_pad=False)
    return pooled.reshape(*fields.shape[:-3], *pooled.shape[1:])


def window_sums(fields: Tensor, side: int | None) -> Tensor:
    """Sum over square windows like those of `pool`; ``side`` None is one window for all."""
    if side is None:
        return fields.sum((-2, -1), keepdim=True)
    flat = fields.flatten(0, -4)
    sums = F.avg_pool2d(flat, side, ceil_mode=True, divisor_override=1)
    return sums.reshape(*fields.shape[:-3], *sums.shape[1:])


def check_sides(term: object, sides: Sequence[int]) -> None:
    """Refuse sides of windows that are no such thing.

    Raises
    ------
    ComponentError
        If there is none, one is below 1, or one stands there twice.
    """
    if not sides or min(sides) < 1 or len(set(sides)) < len(sides):
        raise ComponentError(
            explain(
                f"{type(term).__name__}, parameter 'poolings'",
                expected="at least one side of a window in pixels, each >= 1 and named once",
                got=repr(sides),
                remedy="Change it in `losses`; [1] is no pooling.",
            )
        )

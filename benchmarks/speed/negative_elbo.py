"""The default losses of a training in plain torch, with their parameters as constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["negative_elbo"]


def negative_elbo(x: Tensor, output: Tensor, mask: Tensor, kl: Sequence[Tensor]) -> Tensor:
    """Return nats per valid pixel: Laplace of scale 0.06, censored at dry, and KL."""
    valid = mask.sum().clamp(min=1)
    pixels = mask.flatten(1).sum(1, dtype=torch.float32).clamp(min=1)
    scale = x.new_full((), 0.06)  # not a tensor from the host, whose copy a GPU waits for
    wet = (x - output).abs() / scale + (2 * scale).log()
    above = output / scale
    below = -torch.log1p(-0.5 * torch.exp(above.clamp(max=0)))
    dry = torch.where(above > 0, above + math.log(2), below)
    laplace = (torch.where(x > 0, wet, dry) * mask).sum() / valid
    levels = torch.stack([level.mean().clamp(min=0.0) for level in kl])
    return laplace + levels.sum() / pixels.mean()

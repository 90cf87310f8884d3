"""The first decoder of xcvae: group norm, two blocks a level, and the full grid as a level.

Only the decoder, with random weights: a baseline for the speed of drawing.
It drew 95 fields of 128 x 128 pixels a second in float32 on two CPU cores of 2026 with the channels
of `SMALL`, and with those of `BASE` took 4.07 GFLOP a field.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BASE", "SMALL", "Levels", "PrototypeDecoder"]

Levels = tuple[tuple[int, ...], tuple[int, ...]]

#: Features and latents per level, coarsest first; the last is the full grid.
SMALL: Levels = ((64, 64, 64, 48, 32, 16), (8, 8, 8, 4, 2, 1))
BASE: Levels = ((128, 128, 128, 96, 64, 32), (16, 16, 16, 8, 4, 2))


class Block(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)
        )

    def forward(self, maps: Tensor) -> Tensor:
        out = maps
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            out = convolution(F.silu(norm(out)))
        return maps + out


class PrototypeDecoder(nn.Module):
    """Decoder from features of the condition and noise to fields."""

    def __init__(self, channels: Sequence[int], latents: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.latents = tuple(channels), tuple(latents)
        levels = list(zip(channels, latents, strict=True))
        self.priors = nn.ModuleList(nn.Conv2d(c, 2 * z, 1) for c, z in levels)
        self.injections = nn.ModuleList(nn.Conv2d(z, c, 1) for c, z in levels)
        self.blocks = nn.ModuleList(nn.Sequential(Block(c), Block(c)) for c in channels)
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))
        self.head = nn.Sequential(
            nn.GroupNorm(8, channels[-1]), nn.SiLU(), nn.Conv2d(channels[-1], 1, 3, padding=1)
        )

    def sides(self, side: int) -> list[int]:
        """Return the sides of the maps per level."""
        return [side >> halvings for halvings in reversed(range(len(self.channels)))]

    def forward(self, guides: Sequence[Tensor], noise: Sequence[Tensor]) -> Tensor:
        """Decode features of the condition and deviates per level, coarsest first."""
        h = guides[0]
        for level, guide in enumerate(guides):
            if level:
                h = F.interpolate(self.narrow[level - 1](h), scale_factor=2) + guide
            mu, log_sigma = self.priors[level](h).float().chunk(2, dim=1)
            z = mu + torch.exp(log_sigma.clamp(-6, 3)) * noise[level]
            h = self.blocks[level](h + self.injections[level](z))
        out: Tensor = self.head(h)
        return out

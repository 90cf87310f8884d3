"""The network of the diffusion model: a U-Net with noise levels, as in EDM and CorrDiff."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet"]

EMBEDDING = 128
HEAD = 32


class UNet(nn.Module):
    """Maps and a number per sample to a map of the same size.

    Parameters
    ----------
    inputs
        Channels of the input.
    channels
        Features per level, finest first; each level halves the resolution of the one before.
    blocks
        Residual blocks per level on the way down; one more on the way up.
    dropout
        Inside residual blocks.
    """

    def __init__(
        self, inputs: int, channels: Sequence[int], blocks: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        self.unit = 2 ** (len(channels) - 1)
        self.embed = nn.Sequential(
            nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING), nn.SiLU()
        )
        self.enter = nn.Conv2d(inputs, channels[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        width, skips = channels[0], [channels[0]]
        for level, (features, count) in enumerate(zip(channels, blocks, strict=True)):
            lowest = level == len(channels) - 1
            stage = nn.ModuleList()
            for _ in range(count):
                stage.append(Block(width, features, dropout, attends=lowest))
                width = features
                skips.append(width)
            self.down.append(stage)
        self.middle = Block(width, width, dropout, attends=False)
        for features, count in zip(reversed(channels), reversed(blocks), strict=True):
            stage = nn.ModuleList()
            for _ in range(count):
                stage.append(Block(width + skips.pop(), features, dropout, attends=False))
                width = features
            self.up.append(stage)
        self.leave = nn.Sequential(
            nn.GroupNorm(_groups(width), width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1)
        )
        _zero_init(self.leave[-1])
        frequencies = torch.exp(torch.linspace(0, math.log(100.0), EMBEDDING // 2))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, maps: Tensor, level: Tensor) -> Tensor:
        """Map (batch, inputs, y, x) and (batch,) to (batch, 1, y, x)."""
        height, width = maps.shape[-2:]
        down, right = -height % self.unit, -width % self.unit
        if down or right:
            maps = F.pad(maps, (0, right, 0, down), mode="replicate")
        angles = level[:, None] * self.frequencies
        vector = self.embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.enter(maps)
        skips = []
        for depth, stage in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if depth else h
            for block in stage:
                h = block(h, vector)
                skips.append(h)
        h = self.middle(h, vector)
        for depth, stage in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2, mode="nearest") if depth else h
            for block in stage:
                h = block(torch.cat([h, skips.pop()], dim=1), vector)
        return self.leave(h)[..., :height, :width]


class Block(nn.Module):
    """Two convolutions, scaled and shifted by the noise level; optionally attention."""

    def __init__(self, inputs: int, outputs: int, dropout: float, *, attends: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(_groups(inputs), inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
        )
        self.affine = nn.Linear(EMBEDDING, 2 * outputs)
        self.norm = nn.GroupNorm(_groups(outputs), outputs)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(outputs, outputs, 3, padding=1)
        )
        _zero_init(self.second[-1])
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs) if attends else None

    def forward(self, h: Tensor, vector: Tensor) -> Tensor:
        """Refine features (batch, inputs, y, x), given (batch, EMBEDDING)."""
        scale, shift = self.affine(vector)[..., None, None].chunk(2, dim=1)
        refined = self.second(self.norm(self.first(h)) * (1 + scale) + shift)
        h = self.skip(h) + refined
        return h if self.attention is None else h + self.attention(h)


class Attention(nn.Module):
    """Self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = max(1, channels // HEAD)
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.enter = nn.Conv2d(channels, 3 * channels, 1)
        self.leave = nn.Conv2d(channels, channels, 1)
        _zero_init(self.leave)

    def forward(self, h: Tensor) -> Tensor:
        """Attend over (batch, channels, y, x)."""
        batch, channels, height, width = h.shape
        parts = self.enter(self.norm(h)).reshape(batch, 3, self.heads, -1, height * width)
        query, key, value = parts.transpose(-1, -2).unbind(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.leave(mixed.transpose(-1, -2).reshape(batch, channels, height, width))


def _groups(channels: int) -> int:
    return next(n for n in (8, 4, 2, 1) if channels % n == 0)


def _zero_init(layer: nn.Module) -> None:
    """Let a layer return zero before training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)

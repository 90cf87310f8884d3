"""The building blocks of the ladder: local, size-free operations on feature maps.

Nothing here looks at a whole map at once (no batch, group or instance statistics), so a pixel of
the output depends on its neighbourhood only. A model trained on crops therefore behaves the same
on the full domain.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def halve(maps: Tensor) -> Tensor:
    """Average 2x2 windows, fewer pixels at an odd edge; (batch, c, h, w) -> halves, rounded up."""
    return F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)


def double(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Repeat pixels 2x2 and crop to ``size``, undoing the shape change of `halve`."""
    return F.interpolate(maps, scale_factor=2, mode="nearest")[..., : size[0], : size[1]]


def fold(maps: Tensor, side: int) -> Tensor:
    """Turn squares of pixels into channels; (batch, c, h, w) -> (batch, c side^2, ceil, ceil).

    An edge that does not fill a square repeats its last pixels.
    """
    if side == 1:
        return maps
    bottom, right = -maps.shape[-2] % side, -maps.shape[-1] % side
    if bottom or right:
        maps = F.pad(maps, (0, right, 0, bottom), mode="replicate")
    return F.pixel_unshuffle(maps, side)


def unfold(maps: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Undo `fold`, cropped to ``size``."""
    if side == 1:
        return maps
    return F.pixel_shuffle(maps, side)[..., : size[0], : size[1]]


def zero_init(layer: nn.Conv2d | nn.Linear) -> None:
    """Set weights and bias of a layer to zero: its output is zero until it is trained."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Modulation(nn.Module):
    """Scale and shift feature maps by a context vector; the identity before training."""

    def __init__(self, context: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(context, 2 * channels)
        zero_init(self.linear)

    def forward(self, maps: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.linear(context)[..., None, None].chunk(2, dim=1)
        out: Tensor = maps * (1 + scale) + shift
        return out


class ResidualBlock(nn.Module):
    """Pre-activation residual block without normalisation; its second convolution starts at zero.

    On radar, at equal steps, normalising the features of each pixel cost CRPS and spread; norms
    over the map were not tried for skill, as they make a pixel depend on how much rain is
    elsewhere. Starting every block as the identity keeps the signal in range without (as Child
    2021, arXiv:2011.10650).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        zero_init(self.second)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = maps + self.second(F.silu(self.first(F.silu(maps))))
        return out


class SeparableBlock(nn.Module):
    """Residual block of one convolution per channel and two that mix the channels of a pixel.

    Its receptive field is that of `ResidualBlock`, with a sixth of the arithmetic or less, which
    matters on large maps. After Liu et al. 2022 (arXiv:2201.03545), without normalisation and
    without more channels inside; its last convolution starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.first = nn.Conv2d(channels, channels, 1)
        self.second = nn.Conv2d(channels, channels, 1)
        zero_init(self.second)

    def forward(self, maps: Tensor) -> Tensor:
        out: Tensor = maps + self.second(F.silu(self.first(self.around(maps))))
        return out


class ContextEncoder(nn.Module):
    """Summarise pooled conditions (fields over other areas, scalars) in one vector.

    Parameters
    ----------
    inputs
        Number of values per sample, all pooled conditions flattened and joined.
    context
        Length of the vector.
    """

    def __init__(self, inputs: int, context: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 2 * context), nn.SiLU(), nn.Linear(2 * context, context), nn.SiLU()
        )

    def forward(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.layers(pooled)
        return out

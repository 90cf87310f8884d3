"""How a ladder begins: with latents that already say something about the storm.

With every head of the posterior at zero, a latent is pure noise when training begins. The decoder
learns to ignore it before the encoder learns to speak, and then nothing is left to revive it: of
the four latents of a square of 2 x 2 pixels one was in use after a training, and whole levels were
silent. Here the weights are set so that, before the first step,

- on every level the first latent is what the level's pixels have beyond their neighbourhood,
- on the finest level the next ones are the details inside a square of pixels, the coefficients of
  its cosine transform without the mean (Ahmed et al. 1974, doi:10.1109/T-C.1974.223784),

and the decoder adds up what they say. It is only a beginning: all weights are trained.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from xcvae.generator.network.ladder import Ladder, Level

__all__ = ["begin", "details"]

#: What one standard deviation of such a latent adds to the field, in normalised space, and the
#: log of the posterior's sigma, in units of the prior's.
AMPLITUDE, QUIET = 0.15, -1.5
CENTER = torch.zeros(3, 3)
CENTER[1, 1] = 1


@torch.no_grad()
def begin(ladder: Ladder) -> None:
    """Set the weights of an untrained ladder.

    One channel of features and state, and on the finest level one more for every kind of detail,
    carry these values from the target to the output. Ladders too narrow for that are left alone.
    """
    channels = [level.inject.out_channels for level in ladder.rungs]
    if min(channels) < 2:
        return
    square = details(ladder.patch)
    # Each latent takes two channels where the posterior is made: see `_speaks`.
    square = square[: min(channels[-1] // 2, ladder.latents[-1]) - 1]
    _carry_means(ladder)
    for index, level in enumerate(ladder.rungs):
        # What the condition does not tell has to come from somewhere.
        whole = index == 0 and ladder.base is None
        _speaks(level, 0, CENTER if whole else CENTER - 1 / 9)
    for number, weights in enumerate(square, start=1):
        _carry_detail(ladder, number, weights)
        _speaks(ladder.rungs[-1], number, CENTER)


def details(side: int) -> Tensor:
    """Orthonormal cosine basis of a square of pixels without its mean, smooth ones first.

    Shape (side**2 - 1, side**2).

    Examples
    --------
    >>> details(2).round(decimals=1)
    tensor([[ 0.5000, -0.5000,  0.5000, -0.5000],
            [ 0.5000,  0.5000, -0.5000, -0.5000],
            [ 0.5000, -0.5000, -0.5000,  0.5000]])
    """
    wave = torch.arange(side)[:, None].float()
    basis = torch.cos(math.pi * (wave.T + 0.5) * wave / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    squares = torch.einsum("ai,bj->abij", basis, basis).reshape(side**2, side**2)
    order = sorted(range(1, side**2), key=lambda n: (n // side + n % side, n))
    return squares[order]


def _carry_means(ladder: Ladder) -> None:
    """Lead the mean of the target up in channel 0, and what is said of it down to the output."""
    cells = ladder.patch**2
    _alone(ladder.encode_target.stem, 0)
    ladder.encode_target.stem.weight[0, -cells:, 1, 1] = 1 / cells
    _alone(ladder.encode_condition.stem, 0)
    for widen in _convolutions(ladder.encode_target.widen):
        _alone(widen, 0)
        widen.weight[0, 0] = 1
    for widen in _convolutions(ladder.encode_condition.widen):
        _alone(widen, 0)
    for narrow in _convolutions(ladder.narrow):
        _alone(narrow, 0)
        narrow.weight[0, 0] = 1
    ladder.head.weight[:, 0, 1, 1] = 1


def _carry_detail(ladder: Ladder, number: int, weights: Tensor) -> None:
    """Lead one coefficient of the finest squares from the target to the output."""
    _alone(ladder.encode_target.stem, number)
    ladder.encode_target.stem.weight[number, -len(weights) :, 1, 1] = weights
    _alone(ladder.encode_condition.stem, number)
    for narrow in _convolutions(ladder.narrow)[-1:]:
        _alone(narrow, number)
    ladder.head.weight[:, number, 1, 1] = weights


def _speaks(level: Level, channel: int, kernel: Tensor) -> None:
    """Let a latent say what a kernel makes of the target's features; channel is its number, too."""
    for sign, hidden in ((1.0, 2 * channel), (-1.0, 2 * channel + 1)):
        # silu(a) - silu(-a) = a, so that two channels carry a value past the nonlinearity.
        _alone(level.mix, hidden)
        level.mix.weight[hidden, level.inject.out_channels + channel] = sign * kernel
        level.posterior.weight[channel, hidden] = sign / AMPLITUDE
    assert level.posterior.bias is not None
    level.posterior.bias[level.inject.in_channels + channel] = QUIET
    _alone(level.inject, channel)
    level.inject.weight[:, channel] = 0
    level.inject.weight[channel, channel] = AMPLITUDE


def _alone(layer: nn.Conv2d, channel: int) -> None:
    """Clear an output channel of a layer."""
    layer.weight[channel] = 0
    if layer.bias is not None:
        layer.bias[channel] = 0


def _convolutions(modules: nn.ModuleList) -> list[nn.Conv2d]:
    return cast("list[nn.Conv2d]", list(modules))

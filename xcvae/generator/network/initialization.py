"""Initial weights of a ladder, with latents that carry information from the first step.

With every head of the posterior at zero, a latent is pure noise when training begins. The decoder
learns to ignore it before the encoder learns to use it, and no gradient revives it afterwards: of
the four latents of a square of 2 x 2 pixels one was in use after a training, and whole levels were
silent. Here the weights are set so that, before the first step,

- on every level the first latent is what the level's pixels have beyond their neighbourhood,
- on the finest level the next ones are the details inside a square of pixels, the coefficients of
  its cosine transform without the mean (Ahmed et al. 1974, doi:10.1109/T-C.1974.223784),

and the decoder adds these latents up. All weights are trained from there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xcvae.generator.network.ladder import Ladder, Level

#: Change of the field, in normalised space, by one standard deviation of such a latent.
AMPLITUDE = 0.15
#: Log of the posterior's sigma, in units of the prior's.
LOG_SIGMA = -1.5
#: Kernel of a 3 x 3 convolution that returns its input.
CENTER = torch.zeros(3, 3)
CENTER[1, 1] = 1


@torch.no_grad()
def initialize(ladder: Ladder) -> None:
    """Set the weights of an untrained ladder.

    One channel of features and state, and on the finest level one more for every kind of detail,
    carry these values from the target to the output. Ladders too narrow for that are left alone.
    """
    channels = [level.inject.out_channels for level in ladder.levels]
    if min(channels) < 2:
        return
    square = details(ladder.patch)
    # Each latent takes two channels of the posterior's hidden layer: see `_wire_latent`.
    square = square[: min(channels[-1] // 2, ladder.latents[-1]) - 1]
    _wire_mean(ladder)
    for index, level in enumerate(ladder.levels):
        # Without a base field, the coarsest latent carries the mean of the storm as well.
        whole = index == 0 and ladder.base is None
        _wire_latent(level, 0, CENTER if whole else CENTER - 1 / 9)
    for number, weights in enumerate(square, start=1):
        _wire_detail(ladder, number, weights)
        _wire_latent(ladder.levels[-1], number, CENTER)


def details(side: int) -> Tensor:
    """Return an orthonormal cosine basis of a square of pixels, without the mean, smoothest first.

    Returns
    -------
    Tensor
        Coefficients of the pixels, (side**2 - 1, side**2).

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


def _wire_mean(ladder: Ladder) -> None:
    """Carry the mean of the target up in channel 0, and the latents of it down to the output."""
    cells = ladder.patch**2
    _zero_row(ladder.encode_target.stem, 0)
    ladder.encode_target.stem.weight[0, -cells:, 1, 1] = 1 / cells
    _zero_row(ladder.encode_condition.stem, 0)
    for widen in ladder.encode_target.widen:
        _zero_row(widen, 0)
        widen.weight[0, 0] = 1
    for widen in ladder.encode_condition.widen:
        _zero_row(widen, 0)
    for narrow in ladder.narrow:
        _zero_row(narrow, 0)
        narrow.weight[0, 0] = 1
    ladder.head.weight[:, 0, 1, 1] = 1


def _wire_detail(ladder: Ladder, number: int, weights: Tensor) -> None:
    """Carry one coefficient of the finest squares from the target to the output."""
    _zero_row(ladder.encode_target.stem, number)
    ladder.encode_target.stem.weight[number, -len(weights) :, 1, 1] = weights
    _zero_row(ladder.encode_condition.stem, number)
    for narrow in list(ladder.narrow)[-1:]:
        _zero_row(narrow, number)
    ladder.head.weight[:, number, 1, 1] = weights


def _wire_latent(level: Level, channel: int, kernel: Tensor) -> None:
    """Set latent ``channel`` to the kernel applied to the same channel of the target's features."""
    for sign, hidden in ((1.0, 2 * channel), (-1.0, 2 * channel + 1)):
        # silu(a) - silu(-a) = a, so that two channels carry a value past the nonlinearity.
        _zero_row(level.mix, hidden)
        level.mix.weight[hidden, level.inject.out_channels + channel] = sign * kernel
        level.posterior.weight[channel, hidden] = sign / AMPLITUDE
    assert level.posterior.bias is not None
    level.posterior.bias[level.inject.in_channels + channel] = LOG_SIGMA
    _zero_row(level.inject, channel)
    level.inject.weight[:, channel] = 0
    level.inject.weight[channel, channel] = AMPLITUDE


def _zero_row(layer: nn.Conv2d, channel: int) -> None:
    """Set the weights and the bias of an output channel to zero."""
    layer.weight[channel] = 0
    if layer.bias is not None:
        layer.bias[channel] = 0

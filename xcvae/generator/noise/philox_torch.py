"""Philox4x32-10 and normal deviates from it, in torch: on any device, and traceable.

The same arithmetic as in `philox_numpy`, operation by operation. Words are int64 tensors of numbers
below 2^32, because torch has no arithmetic on unsigned 32-bit integers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xcvae.generator.noise import philox_numpy as philox
from xcvae.generator.noise.address import ROWS, Window

Four = tuple[Tensor, Tensor, Tensor, Tensor]

_LOW = 0xFFFFFFFF


def tensor_normals(words: Tensor, window: Window) -> Tensor:
    """Compute the deviates of one window; torch.compile fuses it into one kernel.

    Parameters
    ----------
    words
        `address_words` of the batch as int64, (addresses, 4).
    window
        Level and rectangle.

    Returns
    -------
    tensor (addresses, *window.shape) of float32 on the device of ``words``
    """
    (latents, height, width), (top, left) = window.shape, window.origin

    def numbers(first: int, count: int) -> Tensor:
        return torch.arange(first, first + count, dtype=torch.int64, device=words.device)

    blocks = window.row_blocks
    first, second, row, member = (w[:, None, None, None] for w in words.unbind(1))
    made = tensor_philox(
        (
            numbers(left, width),
            numbers(blocks.start, len(blocks))[:, None] ^ row,
            numbers(window.level << 16, latents)[:, None, None],
            member,
        ),
        (first, second),
    )
    values = torch.stack(_box_muller(made), dim=3).flatten(2, 3)
    above = top - blocks.start * ROWS
    return values[:, :, above : above + height].contiguous()


def tensor_philox(counter: Four, key: tuple[Tensor, Tensor]) -> Four:
    """Compute Philox4x32-10 of counters and keys that broadcast with each other.

    Examples
    --------
    >>> zero = torch.tensor(0)
    >>> [hex(word) for word in tensor_philox((zero,) * 4, (zero,) * 2)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(philox.ROUNDS):
        # The product of two words overflows into the sign, which the masks remove.
        one, two = c0 * philox.MULTIPLIERS[0], c2 * philox.MULTIPLIERS[1]
        c0, c2 = (two >> 32 & _LOW) ^ c1 ^ k0, (one >> 32 & _LOW) ^ c3 ^ k1
        c1, c3 = two & _LOW, one & _LOW
        k0, k1 = k0 + philox.WEYL[0] & _LOW, k1 + philox.WEYL[1] & _LOW
    return c0, c1, c2, c3


def _box_muller(words: Four) -> list[Tensor]:
    """Compute the deviates of the four rows of a block."""
    cosines, sines = [], []
    for even, odd in (words[:2], words[2:]):
        radius = _radius(even)
        sign = (1 - 2 * (odd >> 31)).float()
        # Bits 0 to 30 as a signed number: the angle in units of pi/2.
        turn = ((odd & 0x7FFFFFFF ^ 0x40000000) - 0x40000000).float() * 2.0**-30
        square = turn * turn
        cosines.append(sign * (_polynomial(philox.COSINE, square) * radius))
        sines.append(_polynomial(philox.SINE, square) * turn * radius)
    return cosines + sines


def _radius(word: Tensor) -> Tensor:
    u = word.float() + 0.5
    bits = u.view(torch.int32) - (philox.SQRT_HALF + (32 << 23))
    exponent = (bits >> 23).float()
    mantissa = ((bits & 0x007FFFFF) + philox.SQRT_HALF).view(torch.float32)
    s = (mantissa - 1) / (mantissa + 1)
    logarithm = _polynomial(philox.LOGARITHM, s * s) * s
    # torch's float32 root on the host is not always correctly rounded; through float64 it is.
    return (exponent * -philox.LN2_TWICE - logarithm).double().sqrt().float()


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    first, *rest = coefficients[::-1]
    out = torch.full_like(x, first)
    for coefficient in rest:
        out = out * x + coefficient
    return out

"""Philox4x32-10 and normal deviates from it, in NumPy.

A block of four 32-bit words is a function of a 128-bit counter and a 64-bit key (Salmon et al.
2011, doi:10.1145/2063384.2063405); two words become two normal deviates (Box & Muller 1958,
doi:10.1214/aoms/1177706645). Logarithm, sine and cosine are polynomials evaluated with the
operations that IEEE 754 rounds exactly (+, -, x, /, square root), so every processor gives the
same bits; NumPy's own differ in the last bit from one instruction set to the next.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.generator.noise.address import ROWS, Address, Window, address_words

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

ROUNDS = 10
#: Multipliers of the two lanes of a counter, and the increments of the key per round.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)

#: sin(pi/2 x) / x and cos(pi/2 x) in x^2 for x in [-1, 1], lowest power first; errors below 5e-8.
SINE = (
    1.5707963705062866,
    -0.6459637880325317,
    0.07968992739915848,
    -0.004674157593399286,
    0.00015167852689046413,
)
COSINE = (
    0.9999999403953552,
    -1.2336982488632202,
    0.2536507546901703,
    -0.020810628309845924,
    0.0008581906440667808,
)
#: 2 ln(m) / s in s^2 for s = (m - 1) / (m + 1), m in [sqrt(1/2), sqrt(2)); error below 6e-7.
LOGARITHM = (4.000000476837158, 1.3330438137054443, 0.8259493708610535)
LN2_TWICE = 1.3862943649291992
#: The bits of sqrt(1/2) in float32.
SQRT_HALF = 0x3F3504F3

#: Counters that are processed at once: few enough to stay in a core's cache.
BLOCK = 16384

_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)


def philox(x: Words, y: Words, *, offset: Words, key: Words) -> tuple[Words, Words]:
    """Philox4x32-10 of many counters and keys at once.

    A counter (c0, c1, c2, c3) is given in two lanes: x has c0 and c2, and y ^ offset has c1 and
    c3, so that words that differ between keys are not repeated for all counters.

    Parameters
    ----------
    x, y
        (2, 1, counters).
    offset, key
        (2, keys, 1).

    Returns
    -------
    pair of arrays (2, keys, counters)
        The words 0 and 2 of every block, and the words 1 and 3.

    Examples
    --------
    >>> zero = np.zeros((2, 1, 1), np.uint32)
    >>> even, odd = philox(zero, zero, offset=zero, key=zero)
    >>> [hex(word) for pair in zip(even.ravel(), odd.ravel()) for word in pair]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    multipliers = np.array(MULTIPLIERS, np.uint64).reshape(2, 1, 1)
    keys = _round_keys(key)
    # The first round does not depend on the key until its very end.
    product = x * multipliers
    halves = product.view(np.uint32)
    even = (halves[::-1, :, _HIGH::2] ^ y) ^ (keys[0] ^ offset)
    odd = halves[::-1, :, _LOW::2]
    # The odd words are views of the product until the next round has read them: two buffers.
    products = [np.empty(even.shape, np.uint64) for _ in range(2)]
    for number in range(1, ROUNDS):
        product = products[number % 2]
        halves = product.view(np.uint32)
        np.multiply(even, multipliers, out=product)
        np.bitwise_xor(halves[::-1, :, _HIGH::2], odd, out=even)
        np.bitwise_xor(even, keys[number], out=even)
        odd = halves[::-1, :, _LOW::2]
    return even, odd


def deviates(x: Words, y: Words, *, offset: Words, key: Words) -> Floats:
    """Compute four standard normal deviates per counter and key; parameters as in `philox`.

    Returns
    -------
    array (4, keys, counters)
        Words 0 and 1 give the deviates 0 and 2, words 2 and 3 the deviates 1 and 3.
    """
    out = np.empty((4, key.shape[1], x.shape[2]), np.float32)
    for first in range(0, x.shape[2], BLOCK):
        some = np.s_[..., first : first + BLOCK]
        even, odd = philox(x[some], y[some], offset=offset, key=key)
        part = out[some]
        _box_muller(even, odd, cosines=part[:2], sines=part[2:])
    return out


def _round_keys(key: Words) -> Words:
    """Return the keys of all rounds, (rounds, *key.shape)."""
    numbers = np.arange(ROUNDS, dtype=np.uint32).reshape(-1, 1, 1, 1)
    return key + numbers * np.array(WEYL, np.uint32).reshape(2, 1, 1)


def _box_muller(even: Words, odd: Words, *, cosines: Floats, sines: Floats) -> None:
    """Compute two deviates per pair of words: radius from the even, direction from the odd one."""
    radius = _radius(even)
    odd = np.ascontiguousarray(odd)  # a strided view, which is read twice
    # The top bit of the direction is the sign of the cosine, the others an angle in +-pi/2.
    turn = (odd << np.uint32(1)).view(np.int32).astype(np.float32)
    turn *= np.float32(2.0**-31)
    square = turn * turn
    part = _polynomial(SINE, square)
    part *= turn
    np.multiply(part, radius, out=sines)
    sign = odd & np.uint32(0x80000000)
    radius.view(np.uint32)[...] ^= sign
    np.multiply(_polynomial(COSINE, square, out=part), radius, out=cosines)


def _radius(words: Words) -> Floats:
    """sqrt(-2 ln u) of u = (word + 1/2) / 2^32, which is never 0."""
    u = words.astype(np.float32)
    u += np.float32(0.5)
    # u / 2^32 = mantissa x 2^exponent, mantissa in [sqrt(1/2), sqrt(2)), from the bits of u: the
    # polynomial of the logarithm is accurate near 1 only.
    bits = u.view(np.int32)
    bits -= np.int32(SQRT_HALF + (32 << 23))
    exponent = (bits >> np.int32(23)).astype(np.float32)
    bits &= np.int32(0x007FFFFF)
    bits += np.int32(SQRT_HALF)
    s = u + np.float32(1)
    u -= np.float32(1)
    np.divide(u, s, out=s)
    square = np.multiply(s, s, out=u)
    logarithm = _polynomial(LOGARITHM, square)
    logarithm *= s
    exponent *= np.float32(-LN2_TWICE)
    exponent -= logarithm
    return np.sqrt(exponent, out=exponent)


def _polynomial(
    coefficients: tuple[float, ...], x: Floats, out: Floats | None = None
) -> NDArray[Any]:
    """Evaluate a polynomial by Horner's rule, into ``out`` if given."""
    first, *rest = coefficients[::-1]
    out = np.multiply(x, np.float32(first), out=out)
    out += np.float32(rest[0])
    for coefficient in rest[1:]:
        out *= x
        out += np.float32(coefficient)
    return out


def normals(
    addresses: Sequence[Address],
    level: int,
    shape: tuple[int, int, int],
    *,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Compute the deviates of one level for a batch of addresses.

    Parameters
    ----------
    addresses
        One per member of the batch.
    level
        Number of the level, coarsest 0.
    shape
        (latents, height, width) of the level, or of a part of it.
    origin
        First row and column of the part on the whole level.

    Returns
    -------
    array of shape (len(addresses), *shape)

    Raises
    ------
    ConfigError
        If a number is negative or too large for the address.

    Examples
    --------
    >>> a, b = Address(0, "2018-05-17", 0, "prior"), Address(0, "2018-05-17", 1, "prior")
    >>> both, alone = normals([a, b], 0, (1, 6, 6)), normals([b], 0, (1, 6, 6))
    >>> bool((both[1] == alone[0]).all()), bool((both[0] == both[1]).any())
    (True, False)
    >>> part = normals([a], 0, (1, 2, 3), origin=(3, 1))
    >>> bool((part[0] == both[0, :, 3:5, 1:4]).all())
    True
    """
    return host_maps(addresses, [Window(level, shape, origin)])[0]


def host_maps(addresses: Sequence[Address], windows: Sequence[Window]) -> list[NDArray[np.float32]]:
    """Compute the deviates of several windows, each (len(addresses), *window.shape)."""
    out = [np.empty((len(addresses), *window.shape), np.float32) for window in windows]
    if not windows:
        return out
    words = address_words(addresses).T[..., None]
    # One call for all windows: the cost of a coarse level is mostly that of the NumPy calls.
    lanes = [_lanes(window) for window in windows]
    x, y = (np.concatenate(parts, axis=-1)[:, None] for parts in zip(*lanes, strict=True))
    together = max(1, BLOCK // x.shape[-1])
    for first in range(0, len(addresses), together):
        some = slice(first, first + together)
        flat, start = deviates(x, y, offset=words[2:, some], key=words[:2, some]), 0
        for maps, window, (lane, _) in zip(out, windows, lanes, strict=True):
            stop = start + lane.shape[-1]
            _unfold(flat[..., start:stop], window, out=maps[some])
            start = stop
    return out


def _lanes(window: Window) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return counter words 0 and 2, and 1 and 3, of all blocks of a window; each (2, blocks)."""
    latents, _, width = window.shape
    x = np.empty((2, latents, len(window.row_blocks), width), np.uint32)
    y = np.zeros_like(x)
    x[0] = np.arange(window.origin[1], window.origin[1] + width, dtype=np.uint32)
    x[1] = np.arange(latents, dtype=np.uint32)[:, None, None] + np.uint32(window.level << 16)
    y[0] = np.array(window.row_blocks, np.uint32)[:, None]
    return x.reshape(2, -1), y.reshape(2, -1)


def _unfold(flat: NDArray[np.float32], window: Window, *, out: NDArray[np.float32]) -> None:
    """Write the deviates of blocks, (4, addresses, blocks), to their rows."""
    latents, _, width = window.shape
    blocks = flat.reshape(ROWS, -1, latents, len(window.row_blocks), width)
    above = window.origin[0] % ROWS  # rows of the first block that lie outside
    for row in range(ROWS):
        target = out[:, :, (row - above) % ROWS :: ROWS]
        first = int(row < above)
        target[...] = blocks[row, :, :, first : first + target.shape[2]]

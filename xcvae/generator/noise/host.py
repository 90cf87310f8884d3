"""Normal deviates on the host, as NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xcvae.generator.noise.address import ROWS, Address, Window, address_words
from xcvae.generator.noise.philox import BLOCK, deviates

__all__ = ["host_maps", "normals"]


def normals(
    addresses: Sequence[Address],
    level: int,
    shape: tuple[int, int, int],
    *,
    origin: tuple[int, int] = (0, 0),
) -> NDArray[np.float32]:
    """Deviates of one level for a batch of addresses.

    Parameters
    ----------
    addresses
        One per member of the batch.
    level
        Number of the level, coarsest 0.
    shape
        (latents, height, width) of the level, or of a part of it.
    origin
        Row and column, on the whole level, of the part's first element.

    Returns
    -------
    array of shape (len(addresses), *shape)

    Raises
    ------
    ConfigError
        If a number is negative or has no room in the address.

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
    """Deviates of several windows at once, each (len(addresses), *window.shape)."""
    out = [np.empty((len(addresses), *window.shape), np.float32) for window in windows]
    if not windows:
        return out
    words = address_words(addresses).T[..., None]
    # One call for all windows: most of a coarse level's cost would be that of the calls.
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
    """Counter words 0 and 2, and 1 and 3, of all blocks of a window; each (2, blocks)."""
    latents, _, width = window.shape
    x = np.empty((2, latents, len(window.row_blocks), width), np.uint32)
    y = np.zeros_like(x)
    x[0] = np.arange(window.origin[1], window.origin[1] + width, dtype=np.uint32)
    x[1] = np.arange(latents, dtype=np.uint32)[:, None, None] + np.uint32(window.level << 16)
    y[0] = np.array(window.row_blocks, np.uint32)[:, None]
    return x.reshape(2, -1), y.reshape(2, -1)


def _unfold(flat: NDArray[np.float32], window: Window, *, out: NDArray[np.float32]) -> None:
    """Put the deviates of blocks, (4, addresses, blocks), where they belong."""
    latents, _, width = window.shape
    blocks = flat.reshape(ROWS, -1, latents, len(window.row_blocks), width)
    above = window.origin[0] % ROWS  # rows of the first block that lie outside
    for row in range(ROWS):
        target = out[:, :, (row - above) % ROWS :: ROWS]
        first = int(row < above)
        target[...] = blocks[row, :, :, first : first + target.shape[2]]

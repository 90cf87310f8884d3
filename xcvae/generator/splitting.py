"""Where to cut a domain that is too large to be drawn in one piece, and how wide a halo is.

The maps of the finest levels take nearly all of the memory and see little of their surroundings;
those of the coarsest are small and see far. So the ladder is cut in two at a level, the seam: the
seam and what is coarser is drawn for the whole domain, what is finer tile by tile. A tile goes
through the network with a halo as wide as the network can see below the seam, so that its core
comes out as it would from the undivided domain.

Where a window ends within the domain, convolutions see zeros instead of what is there. `reach` and
`rise_reach` count how far this gets: a 3 x 3 convolution spreads it by a cell, halving a map
halves it (rounded up), doubling a map doubles it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, cast

from torch import nn

from xcvae.errors import ConfigError, explain
from xcvae.generator.architecture import Architecture
from xcvae.generator.ladder import Ladder
from xcvae.generator.passes import Place

__all__ = ["Split", "Tile", "reach", "rise_reach", "split_domain", "tile_size"]

#: How many cells a change spreads in one convolution, and in the two of a residual block.
CONVOLUTION, BLOCK = 1, 2


@dataclass(frozen=True)
class Tile:
    """A part of the domain, in pixels.

    Attributes
    ----------
    core
        What is kept of it.
    window
        What the network sees: the core with its halo.
    """

    core: Place
    window: Place

    @property
    def inside(self) -> Place:
        """The core as a part of the window."""
        rows, columns = (
            slice(core.start - window.start, core.stop - window.start)
            for core, window in zip(self.core, self.window, strict=True)
        )
        return rows, columns

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the window."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start


@dataclass(frozen=True)
class Split:
    """Which levels are drawn in tiles, and in which.

    Attributes
    ----------
    fine
        Number of levels below the seam.
    cell
        Pixels along a side of a cell of the seam.
    halo
        Pixels that a window is wider than its core, at least, where the domain goes on.
    tiles
        Row by row. Their cores are whole cells of the seam and cover the domain once.
    """

    fine: int
    cell: int
    halo: int
    tiles: tuple[Tile, ...]


def tile_size(
    tile: Mapping[str, int] | None, domain: Mapping[str, int], architecture: Architecture
) -> tuple[int, int] | None:
    """Rows and columns of a tile that was asked for by dims.

    Parameters
    ----------
    tile
        Pixels by dim; a dim that is not named is not divided. None divides neither.
    domain
        Size of the maps by dim, y first.
    architecture
        Of the model.

    Returns
    -------
    pair of int or None
        None where the domain fits into one tile.

    Raises
    ------
    ConfigError
        For other dims, and for tiles smaller than a cell of the second finest level.

    Examples
    --------
    >>> tile_size({"y": 64}, {"y": 300, "x": 200}, Architecture((8, 8), (2, 2)))
    (64, 200)
    """
    asked = tile or {}
    for dim in asked:
        if dim not in domain:
            _refuse(f"tile['{dim}']", f"the dims of the maps, {' and '.join(domain)}", dim, "")
    smallest = 2 * architecture.patch
    for dim, length in domain.items():
        if asked.get(dim, length) < min(smallest, length):
            _refuse(
                f"tile['{dim}']",
                f"at least {smallest} pixels, a cell of the second finest level",
                asked[dim],
                "Tiles take the least time where they are large against their halo: try 256.",
            )
    rows, columns = (min(asked.get(dim, length), length) for dim, length in domain.items())
    return None if [rows, columns] == list(domain.values()) else (rows, columns)


def rise_reach(network: Ladder, halvings: int) -> list[int]:
    """Cells next to a cut that come out wrong in the features of each level, finest first.

    Parameters
    ----------
    network
        The ladder.
    halvings
        Of the coarsest level that matters.
    """
    pyramid = network.encode_condition
    wrong = [CONVOLUTION]
    for blocks in list(pyramid.blocks)[:halvings]:
        wrong.append(-(-wrong[-1] // 2) + BLOCK * len(cast(nn.Sequential, blocks)))
    return wrong


def reach(network: Ladder, fine: int, *, posterior: bool) -> int:
    """Cells of the finest level next to a cut that come out wrong in the output.

    Parameters
    ----------
    network
        The ladder.
    fine
        Number of levels that are drawn with the cut; above them all is right.
    posterior
        Whether the target is seen, which takes one convolution more per level.
    """
    guides = rise_reach(network, fine - 1)[:fine]
    wrong = 0
    for level, guide in zip(network.rungs[-fine:], reversed(guides), strict=True):
        mixed = CONVOLUTION if posterior else 0
        wrong = max(2 * wrong, guide) + mixed + BLOCK * len(level.blocks)
    return wrong + CONVOLUTION


def split_domain(
    network: Ladder, size: tuple[int, int], tile: tuple[int, int], *, posterior: bool
) -> Split:
    """Divide a domain so that the largest map in the network is as small as can be.

    A seam further up makes the maps of the whole domain smaller, and the halos wider.

    Parameters
    ----------
    network
        The ladder.
    size, tile
        Rows and columns of the domain, and of the core of a tile at most: one of them is less.
    posterior
        Whether the target is seen.
    """
    levels = len(network.rungs)
    shortest = min(side for side, length in zip(tile, size, strict=True) if side < length)
    possible = [
        _split(network, size, tile, fine=fine, posterior=posterior)
        for fine in range(1, max(levels, 2))
        if network.patch * 2**fine <= shortest
    ]
    return min(possible, key=lambda split: _largest_map(network, size, split))


def _split(
    network: Ladder, size: tuple[int, int], tile: tuple[int, int], *, fine: int, posterior: bool
) -> Split:
    cell = network.patch * 2**fine
    halo = network.patch * reach(network, fine, posterior=posterior)
    if fine < len(network.rungs):
        halo = max(halo, cell * rise_reach(network, fine)[fine])
    step = cell
    if network.constraint is not None:
        # A block that has a pixel in the core must be in the window, all of it and all right.
        side = network.constraint.side
        halo, step = halo + side - 1, math.lcm(cell, side)
    rows, columns = (
        list(_along(length, longest, halo=halo, cell=cell, step=step))
        for length, longest in zip(size, tile, strict=True)
    )
    tiles = [Tile((y, x), (high, wide)) for y, high in rows for x, wide in columns]
    return Split(fine, cell, halo, tuple(tiles))


def _along(
    length: int, longest: int, *, halo: int, cell: int, step: int
) -> Iterator[tuple[slice, slice]]:
    """Cores and windows along an axis: cores of about the same length, in whole cells."""
    if longest >= length:
        yield slice(0, length), slice(0, length)
        return
    count = -(-length // (longest // cell * cell))
    core = -(-length // (count * cell)) * cell
    for start in range(0, length, core):
        stop = min(start + core, length)
        first = max(start - halo, 0) // step * step
        last = -(-(stop + halo) // step) * step
        yield slice(start, stop), slice(first, min(last, length))


def _largest_map(network: Ladder, size: tuple[int, int], split: Split) -> float:
    """Values of the largest map of one member: that of a window, or that of the seam."""
    widest = max(math.prod(tile.shape) for tile in split.tiles) / network.patch**2
    above = network.rungs[: -split.fine]
    seam = math.prod(-(-length // split.cell) for length in size)
    return max(
        widest * network.rungs[-1].prior.in_channels,
        seam * above[-1].prior.in_channels if above else 0,
    )


def _refuse(where: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError(explain(where, expected=expected, got=repr(got), remedy=remedy))

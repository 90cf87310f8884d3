"""Divide a domain into tiles, and the levels of a ladder at the seam.

The window of a tile, which goes through the network, is so much wider than its core that no wrong
value at a cut reaches the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from xcvae.errors import ConfigError
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Ladder

#: Rows and columns of the domain.
Place = tuple[slice, slice]

#: Bytes that the largest map of a member may take, in float32, before the seam becomes coarser. A
#: store records it: the number of fine levels decides on last digits.
SEAM_BYTES = 2**25

#: Cells that a change spreads in one convolution, and in the two of a residual block.
CONVOLUTION, BLOCK = 1, 2


@dataclass(frozen=True)
class Tile:
    """A part of the domain, in pixels.

    Attributes
    ----------
    core
        Part whose values are used.
    window
        Part that goes through the network: the core with its halo.
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
    """Division of the levels at the seam, and of the domain into tiles.

    Attributes
    ----------
    fine
        Number of levels below the seam; 0 for a domain in one piece.
    cell
        Pixels along a side of a cell of the seam.
    halo
        Smallest distance, in pixels, from a core to a cut side of its window.
    tiles
        Tiles, row by row. Their cores are whole cells of the seam and cover the domain once.
    margins
        Pixels around the core that each fine level needs, coarsest first: the finer, the fewer.
    step
        Windows begin at multiples of it.
    """

    fine: int
    cell: int
    halo: int
    tiles: tuple[Tile, ...]
    margins: tuple[int, ...]
    step: int

    @staticmethod
    def whole(network: Ladder, size: tuple[int, int]) -> Split:
        """Return the division into one piece: all levels are those of the whole domain."""
        place = slice(0, size[0]), slice(0, size[1])
        return Split(0, network.patch, 0, (Tile(place, place),), (), network.patch)

    def places(self, tile: Tile) -> list[Place]:
        """Return the part of a window that each fine level computes, coarsest first."""
        return [
            (
                _widened(tile.core[0], tile.window[0], margin, self.step),
                _widened(tile.core[1], tile.window[1], margin, self.step),
            )
            for margin in self.margins
        ]


def _widened(core: slice, window: slice, margin: int, step: int) -> slice:
    """Widen a core by a margin at least, in whole steps, within its window."""
    first = (core.start - margin) // step * step
    last = -(-(core.stop + margin) // step) * step
    return slice(max(first, window.start), min(last, window.stop))


def cells_of(place: Place, cell: int) -> Place:
    """Convert pixels to cells; an incomplete cell at the edge of the domain counts."""
    rows, columns = (slice(one.start // cell, -(-one.stop // cell)) for one in place)
    return rows, columns


def tile_size(
    tile: Mapping[str, int] | None, domain: Mapping[str, int], architecture: Architecture
) -> tuple[int, int] | None:
    """Return rows and columns of a tile that is given by dims.

    Parameters
    ----------
    tile
        Pixels by dim; a dim that is not named is not divided. None divides neither.
    domain
        Size of the maps by dim, y first.
    architecture
        Architecture of the model.

    Returns
    -------
    pair of int or None
        None if the domain fits into one tile.

    Raises
    ------
    ConfigError
        For other dims, and for tiles smaller than a cell of the second finest level.

    Examples
    --------
    >>> tile_size({"y": 64}, {"y": 300, "x": 200}, Architecture((8, 8), (2, 2)))
    (64, 200)
    """
    requested = tile or {}
    for dim in requested:
        if dim not in domain:
            _refuse(
                f"tile['{dim}']",
                f"the dims of the maps, {' and '.join(domain)}",
                dim,
                "Name the dims as in the target, for example "
                f"tile={{{', '.join(f'{name!r}: 256' for name in domain)}}}.",
            )
    smallest = 2 * architecture.patch
    for dim, length in domain.items():
        if requested.get(dim, length) < min(smallest, length):
            _refuse(
                f"tile['{dim}']",
                f"at least {smallest} pixels, a cell of the second finest level",
                requested[dim],
                "Large tiles are fastest, because every tile has a halo: try 256.",
            )
    rows, columns = (min(requested.get(dim, length), length) for dim, length in domain.items())
    return None if [rows, columns] == list(domain.values()) else (rows, columns)


def rise_reach(network: Ladder, halvings: int) -> list[int]:
    """Count the cells next to a cut that are wrong in the features of each level, finest first.

    Parameters
    ----------
    network
        The ladder.
    halvings
        Number of halvings from the finest level to the coarsest one of interest.
    """
    wrong = [CONVOLUTION]
    for blocks in list(network.encode_condition.blocks)[:halvings]:
        # Halving maps n wrong cells to ceil(n / 2); then the blocks spread them.
        wrong.append(-(-wrong[-1] // 2) + BLOCK * len(blocks))
    return wrong


def reach(network: Ladder, fine: int, *, posterior: bool) -> int:
    """Count the cells of the finest level next to a cut that are wrong in the output.

    Parameters
    ----------
    network
        The ladder.
    fine
        Number of levels that are drawn with the cut; the coarser ones have no cut.
    posterior
        True if the target is encoded, which takes one convolution more per level.
    """
    guides = rise_reach(network, fine - 1)[:fine]
    wrong = 0
    for level, guide in zip(list(network.levels)[-fine:], reversed(guides), strict=True):
        mixed = CONVOLUTION if posterior else 0
        wrong = max(2 * wrong, guide) + mixed + BLOCK * len(level.blocks)
    return wrong + CONVOLUTION


def descent_margins(network: Ladder, fine: int, *, posterior: bool) -> list[int]:
    """Count the cells around a core that each fine level needs, coarsest first.

    Features are right in the whole window: only what a level computes itself is wrong at a cut.
    """
    needed, margins = CONVOLUTION, list[int]()
    for level in reversed(list(network.levels)[-fine:]):
        needed += BLOCK * len(level.blocks) + (CONVOLUTION if posterior else 0)
        margins.append(needed)
        needed = -(-needed // 2)
    return margins[::-1]


def split_domain(
    network: Ladder,
    size: tuple[int, int],
    tile: tuple[int, int],
    *,
    posterior: bool,
    side: int = 0,
    seam: int = SEAM_BYTES,
) -> Split:
    """Divide a domain with as few fine levels, and so as narrow halos, as the memory permits.

    A coarser seam makes the maps of the whole domain smaller, and the halos wider.

    Parameters
    ----------
    network
        The ladder.
    size, tile
        Rows and columns of the domain, and the largest ones of the core of a tile; the tile is
        smaller along one side at least.
    posterior
        True if the target is encoded.
    side
        Pixels along a side of the blocks whose means are kept; 0 for that of the constraint.
    seam
        Bytes that the largest map of a member may take in float32. If no division keeps to them,
        and with 0, the largest map is as small as possible.
    """
    levels = len(network.levels)
    shortest = min(extent for extent, n in zip(tile, size, strict=True) if extent < n)
    possible = [
        _split(network, size, tile, fine=fine, posterior=posterior, side=side)
        for fine in range(1, max(levels, 2))
        if network.patch * 2**fine <= shortest
    ]
    largest = [_largest_map(network, size, split) for split in possible]
    limit = max(seam / 4, min(largest))
    return next(one for one, values in zip(possible, largest, strict=True) if values <= limit)


def _split(
    network: Ladder,
    size: tuple[int, int],
    tile: tuple[int, int],
    *,
    fine: int,
    posterior: bool,
    side: int = 0,
) -> Split:
    cell = network.patch * 2**fine
    halo = network.patch * reach(network, fine, posterior=posterior)
    if fine < len(network.levels):
        halo = max(halo, cell * rise_reach(network, fine)[fine])
    step, blocks = cell, 0
    if network.constraint is not None:
        # A block with a pixel in the core must be in the window as a whole, with right values.
        side = side or network.constraint.side
        blocks = side - 1
        halo, step = halo + blocks, math.lcm(cell, side)
    rows, columns = (
        list(_along(length, longest, halo=halo, cell=cell, step=step))
        for length, longest in zip(size, tile, strict=True)
    )
    tiles = [Tile((y, x), (high, wide)) for y, high in rows for x, wide in columns]
    cells = descent_margins(network, fine, posterior=posterior)
    margins = [
        blocks + network.patch * 2 ** (fine - 1 - level) * cells[level] for level in range(fine)
    ]
    return Split(fine, cell, halo, tuple(tiles), tuple(margins), step)


def _along(
    length: int, longest: int, *, halo: int, cell: int, step: int
) -> Iterator[tuple[slice, slice]]:
    """Yield cores and windows along an axis: cores of about the same length, in whole cells."""
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
    """Count the values of the largest map of one member: that of a window or of the seam."""
    widest = max(math.prod(tile.shape) for tile in split.tiles) / network.patch**2
    above = list(network.levels)[: -split.fine]
    seam = math.prod(-(-length // split.cell) for length in size)
    return max(
        widest * network.levels[-1].prior.in_channels,
        seam * above[-1].prior.in_channels if above else 0,
    )


def _refuse(where: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError.of(where, expected=expected, got=repr(got), remedy=remedy)

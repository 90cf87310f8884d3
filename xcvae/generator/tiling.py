"""Draw batches of a whole domain, or of a domain in tiles.

The coarse levels of the ladder are drawn for the whole domain, the fine ones tile by tile. The seam
is the level between them: its cells are the unit of all cuts. The window of a tile, which goes
through the network, is so much wider than its core that no wrong value at a cut reaches the core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from xcvae.errors import ConfigError
from xcvae.fields.batches import Batch
from xcvae.generator.device import autocast
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.noise import Address, TimeAxis, Window, level_origins, normal_maps

#: Rows and columns of the domain.
Place = tuple[slice, slice]


@dataclass(frozen=True)
class DrawBatch:
    """Noise and options of the fields that are drawn together.

    Attributes
    ----------
    addresses
        Addresses of the noise, one per member.
    released
        Share of the latents of each level, coarsest first, that follow the prior; None for draws
        from the prior without the target.
    temperature
        Factor on the standard deviation of the latents.
    device
        Device of the network.
    axes
        Time axis of each level, coarsest first, or None; see `normal_maps`.
    ceilings
        Largest value of a pixel of each field, see `Ladder.descend`.
    """

    addresses: Sequence[Address]
    released: Sequence[float] | None
    temperature: float
    device: torch.device
    axes: Sequence[TimeAxis | None] | None = None
    ceilings: Tensor | None = None

    @property
    def posterior(self) -> bool:
        """True if the target is encoded."""
        return self.released is not None

    def descend(
        self,
        network: Ladder,
        encoded: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        """Descend the encoded levels of a ladder.

        Parameters
        ----------
        network
            The ladder.
        encoded
            Features, one row per member.
        windows
            Rectangles that ``encoded`` covers on each of its levels, coarsest first.
        state
            Output of the next coarser level, if there is one.

        Returns
        -------
        Tensor
            The output of `Ladder.descend`.
        """
        noise = normal_maps(self.addresses, windows, device=self.device, axes=self.axes)
        released = None if self.released is None else [self.released[w.level] for w in windows]
        with torch.inference_mode(), autocast(self.device):
            return network.descend(
                encoded,
                noise,
                released=released,
                order=self._order(windows),
                temperature=self.temperature,
                state=state,
                ceilings=self.ceilings,
            ).output

    def _order(self, windows: Sequence[Window]) -> list[Tensor | None] | None:
        """Deviates that rank the latents for release, the same for all members of a storm."""
        if self.released is None:
            return None
        of_storm = [replace(a, realization=0, mode="dial", attempt=0) for a in self.addresses]
        partly = [w for w in windows if 0 < self.released[w.level] < 1]
        maps = normal_maps(of_storm, partly, device=self.device, axes=self.axes)
        by_level = dict(zip((w.level for w in partly), maps, strict=True))
        return [by_level.get(w.level) for w in windows]


@dataclass(frozen=True)
class _Domain:
    """Domain that a network draws.

    Attributes
    ----------
    network
        The ladder, on ``device``.
    device
        Device of the network.
    """

    network: Ladder
    device: torch.device

    def _encode(self, part: Batch, *, posterior: bool, levels: int | None = None) -> Encoded:
        own = part.packed().to(self.device)
        with torch.inference_mode(), autocast(self.device):
            return self.network.encode(
                own.c, own.pooled, own.x if posterior else None, levels=levels, side=own.side
            )


class WholeDomain(_Domain):
    """Draws the domain in one piece."""

    def encode(self, batch: Batch, sample: int, *, posterior: bool) -> Encoded:
        """Encode a sample, once for all its members."""
        return self._encode(batch.take([sample]), posterior=posterior)

    def draw(
        self, batch: Batch, samples: Sequence[int], encoded: Encoded, draw_batch: DrawBatch
    ) -> Iterator[tuple[Place, Tensor]]:
        """Draw a member of each of ``samples`` in one piece.

        Yields
        ------
        place, output
            Rows and columns of the piece, and its values, (members, 1, y, x).
        """
        shapes = self.network.shapes(batch.c.shape[-2], batch.c.shape[-1])
        windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        yield (slice(None), slice(None)), draw_batch.descend(self.network, encoded, windows)


@dataclass(frozen=True)
class TiledDomain(_Domain):
    """Draws the domain tile by tile; of the whole domain only the seam and the result are stored.

    Attributes
    ----------
    network, device
        The ladder, and its device.
    size
        Rows and columns of the domain.
    split
        Tiles from `split_domain`.
    """

    size: tuple[int, int]
    split: Split

    def encode(self, batch: Batch, sample: int, *, posterior: bool) -> Encoded:
        """Encode a sample for the levels above the tiles, once for all its members."""
        fine = self.split.fine
        if fine == len(self.network.levels):
            return Encoded([], [] if posterior else None, None, None, None, self.size)
        vector, seam = None, _Seam(self.split.cell, self.size)
        for tile in self.split.tiles:
            encoded = self._encode_window(batch, sample, tile, levels=fine + 1, posterior=posterior)
            seam.write(tile, [encoded.guides[0], *(encoded.features or [])[:1]])
            vector = encoded.vector
        pyramids = [self.network.encode_condition, self.network.encode_target]
        with torch.inference_mode(), autocast(self.device):
            guides, *features = (
                pyramid.rise(maps, first=fine)
                for pyramid, maps in zip(pyramids, seam.maps, strict=False)
            )
        return Encoded(guides, features[0] if posterior else None, vector, None, None, self.size)

    def draw(
        self, batch: Batch, samples: Sequence[int], encoded: Encoded, draw_batch: DrawBatch
    ) -> Iterator[tuple[Place, Tensor]]:
        """Draw a member of each of ``samples``, tile by tile.

        Parameters
        ----------
        batch
            Maps of the whole domain, on any device: one window at a time goes to the network's.
        samples
            Rows of the batch, one per member.
        encoded
            Result of `encode`, one row per member.
        draw_batch
            Noise and options.

        Yields
        ------
        place, output
            Rows and columns of the core of a tile, and its values, (members, 1, y, x).
        """
        state = None
        if encoded.guides:
            shapes = self.network.shapes(*self.size)[: len(encoded.guides)]
            windows = [Window(level, shape) for level, shape in enumerate(shapes)]
            state = draw_batch.descend(self.network, encoded, windows)
        for tile in self.split.tiles:
            seen = {
                s: self._encode_window(
                    batch, s, tile, levels=self.split.fine, posterior=draw_batch.posterior
                )
                for s in dict.fromkeys(samples)
            }
            joined = Encoded.join([seen[s] for s in samples])
            above = None if state is None else state[..., *_cells(tile.window, self.split.cell)]
            output = draw_batch.descend(self.network, joined, self.windows(tile), above)
            yield tile.core, output[..., *tile.inside]

    def _encode_window(
        self, batch: Batch, sample: int, tile: Tile, *, levels: int, posterior: bool
    ) -> Encoded:
        """Encode the window of a tile for the ``levels`` finest levels."""
        rows, columns = tile.window
        part = batch.crop(rows.start, columns.start, *tile.shape).take([sample])
        return self._encode(part, posterior=posterior, levels=levels)

    def windows(self, tile: Tile) -> list[Window]:
        """Return the rectangles of a tile on the fine levels, coarsest first."""
        fine, patch = self.split.fine, self.network.patch
        above = len(self.network.levels) - fine
        rows, columns = tile.window
        origins = level_origins((rows.start // patch, columns.start // patch), fine)
        shapes = self.network.shapes(*tile.shape)[above:]
        return [
            Window(above + level, shape, origin)
            for level, (shape, origin) in enumerate(zip(shapes, origins, strict=True))
        ]


class _Seam:
    """Maps of the whole domain at the level of the seam, assembled from tiles."""

    def __init__(self, cell: int, size: tuple[int, int]) -> None:
        self.cell = cell
        self.shape = tuple(-(-length // cell) for length in size)
        self.maps: list[Tensor] = []

    def write(self, tile: Tile, maps: Sequence[Tensor]) -> None:
        if not self.maps:
            self.maps = [
                one.new_empty((*one.shape[:2], *self.shape)).to(memory_format=torch.channels_last)
                for one in maps
            ]
        place, inside = _cells(tile.core, self.cell), _cells(tile.inside, self.cell)
        for whole, part in zip(self.maps, maps, strict=True):
            whole[..., *place] = part[..., *inside]


def _cells(place: Place, cell: int) -> Place:
    """Convert pixels to cells of the seam; an incomplete cell at the edge of the domain counts."""
    rows, columns = (slice(one.start // cell, -(-one.stop // cell)) for one in place)
    return rows, columns


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
        Number of levels below the seam.
    cell
        Pixels along a side of a cell of the seam.
    halo
        Smallest distance, in pixels, from a core to a cut side of its window.
    tiles
        Tiles, row by row. Their cores are whole cells of the seam and cover the domain once.
    """

    fine: int
    cell: int
    halo: int
    tiles: tuple[Tile, ...]


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


def split_domain(
    network: Ladder,
    size: tuple[int, int],
    tile: tuple[int, int],
    *,
    posterior: bool,
    side: int = 0,
) -> Split:
    """Divide a domain so that the largest map in the network is as small as possible.

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
    """
    levels = len(network.levels)
    shortest = min(extent for extent, n in zip(tile, size, strict=True) if extent < n)
    possible = [
        _split(network, size, tile, fine=fine, posterior=posterior, side=side)
        for fine in range(1, max(levels, 2))
        if network.patch * 2**fine <= shortest
    ]
    return min(possible, key=lambda split: _largest_map(network, size, split))


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
    step = cell
    if network.constraint is not None:
        # A block with a pixel in the core must be in the window as a whole, with right values.
        side = side or network.constraint.side
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

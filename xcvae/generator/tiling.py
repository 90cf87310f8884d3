"""Drawing a domain tile by tile, as `splitting` cuts it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, cast

import torch
from torch import Tensor, nn

from xcvae.errors import ConfigError, explain
from xcvae.fields.batches import Batch
from xcvae.generator.device import autocast
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.noise import Address, Window, level_origins, normal_maps

__all__ = [
    "DrawBatch",
    "Place",
    "Split",
    "Tile",
    "TiledDomain",
    "WholeDomain",
    "reach",
    "rise_reach",
    "split_domain",
    "tile_size",
]


#: Rows and columns of the domain.
Place = tuple[slice, slice]


@dataclass(frozen=True)
class DrawBatch:
    """What one pass through the network is to draw.

    Attributes
    ----------
    addresses
        Of the noise, one per member.
    freed
        Share of the latents of each level, coarsest first, that follow the prior; None where the
        target is not seen at all.
    temperature
        Factor on the standard deviation of the latents.
    device
        Where the network is.
    """

    addresses: Sequence[Address]
    freed: Sequence[float] | None
    temperature: float
    device: torch.device

    @property
    def posterior(self) -> bool:
        """Whether the target is seen."""
        return self.freed is not None

    def through(
        self,
        network: Ladder,
        known: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        """Go down the levels that are known.

        Parameters
        ----------
        network
            The ladder.
        known
            One row per member.
        windows
            The place of ``known`` on each of its levels, coarsest first.
        state
            Of the next coarser level, if there is one.

        Returns
        -------
        Tensor
            The output of `Ladder.descend`.
        """
        noise = normal_maps(self.addresses, windows, device=self.device)
        freed = None if self.freed is None else [self.freed[w.level] for w in windows]
        with torch.inference_mode(), autocast(self.device):
            return network.descend(
                known,
                noise,
                freed=freed,
                order=self._order(windows),
                temperature=self.temperature,
                state=state,
            ).output

    def _order(self, windows: Sequence[Window]) -> list[Tensor | None] | None:
        """Deviates that tell which latents are freed first: the same for all members of a storm."""
        if self.freed is None:
            return None
        of_storm = [replace(a, realization=0, mode="dial", attempt=0) for a in self.addresses]
        partly = [w for w in windows if 0 < self.freed[w.level] < 1]
        maps = normal_maps(of_storm, partly, device=self.device)
        found = dict(zip((w.level for w in partly), maps, strict=True))
        return [found.get(w.level) for w in windows]


@dataclass(frozen=True)
class WholeDomain:
    """Draws the domain in one piece.

    Attributes
    ----------
    network
        The ladder, on ``device``.
    device
        Where the network is.
    """

    network: Ladder
    device: torch.device

    def encode(self, batch: Batch, sample: int, *, posterior: bool) -> Encoded:
        """What is known of a sample, once for all its members."""
        own = batch.take([sample]).packed().to(self.device)
        with torch.inference_mode(), autocast(self.device):
            return self.network.encode(own.c, own.pooled, own.x if posterior else None)

    def draw(
        self, batch: Batch, samples: Sequence[int], known: Encoded, one: DrawBatch
    ) -> Iterator[tuple[Place, Tensor]]:
        """Draw a member of each of ``samples``; the one piece that there is.

        Yields
        ------
        place, output
            Where the piece belongs, and its values, (members, 1, y, x).
        """
        shapes = self.network.shapes(batch.c.shape[-2], batch.c.shape[-1])
        windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        yield (slice(None), slice(None)), one.through(self.network, known, windows)


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
        wrong.append(-(-wrong[-1] // 2) + BLOCK * len(cast("nn.Sequential", blocks)))
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


@dataclass(frozen=True)
class TiledDomain:
    """Draws the domain tile by tile; what it keeps of the whole is the seam and the result.

    Attributes
    ----------
    network
        The ladder, on ``device``.
    device
        Where the network is.
    size
        Rows and columns of the domain.
    split
        From `split_domain`.
    """

    network: Ladder
    device: torch.device
    size: tuple[int, int]
    split: Split

    def encode(self, batch: Batch, sample: int, *, posterior: bool) -> Encoded:
        """What the levels above the tiles know of a sample, once for all its members."""
        fine = self.split.fine
        if fine == len(self.network.rungs):
            return Encoded([], [] if posterior else None, None, None, None, self.size)
        vector, seam = None, _Seam(self.split.cell, self.size)
        for tile in self.split.tiles:
            known = self._see(batch, sample, tile, levels=fine + 1, posterior=posterior)
            seam.put(tile, [known.guides[0], *(known.features or [])[:1]])
            vector = known.vector
        pyramids = [self.network.encode_condition, self.network.encode_target]
        with torch.inference_mode(), autocast(self.device):
            guides, *features = (
                pyramid.rise(maps, first=fine)
                for pyramid, maps in zip(pyramids, seam.maps, strict=False)
            )
        return Encoded(guides, features[0] if posterior else None, vector, None, None, self.size)

    def draw(
        self, batch: Batch, samples: Sequence[int], known: Encoded, one: DrawBatch
    ) -> Iterator[tuple[Place, Tensor]]:
        """Draw a member of each of ``samples``, tile by tile.

        Parameters
        ----------
        batch
            Maps of the whole domain, wherever they are: a window at a time goes to the device.
        samples
            Rows of the batch, one per member.
        known
            From `encode`, one row per member.
        one
            Noise and dial.

        Yields
        ------
        place, output
            Where the core of a tile belongs, and its values, (members, 1, y, x).
        """
        state = None
        if known.guides:
            shapes = self.network.shapes(*self.size)[: len(known.guides)]
            windows = [Window(level, shape) for level, shape in enumerate(shapes)]
            state = one.through(self.network, known, windows)
        for tile in self.split.tiles:
            seen = {
                s: self._see(batch, s, tile, levels=self.split.fine, posterior=one.posterior)
                for s in dict.fromkeys(samples)
            }
            joined = Encoded.join([seen[s] for s in samples])
            above = None if state is None else state[..., *_cells(tile.window, self.split.cell)]
            output = one.through(self.network, joined, self.windows(tile), above)
            yield tile.core, output[..., *tile.inside]

    def _see(
        self, batch: Batch, sample: int, tile: Tile, *, levels: int, posterior: bool
    ) -> Encoded:
        """Encode the window of a tile, as far up as is asked for."""
        rows, columns = tile.window
        part = batch.crop(rows.start, columns.start, *tile.shape).take([sample])
        own = part.packed().to(self.device)
        with torch.inference_mode(), autocast(self.device):
            return self.network.encode(
                own.c, own.pooled, own.x if posterior else None, levels=levels
            )

    def windows(self, tile: Tile) -> list[Window]:
        """The place of a tile on each of the fine levels, coarsest first."""
        fine, patch = self.split.fine, self.network.patch
        above = len(self.network.rungs) - fine
        rows, columns = tile.window
        origins = level_origins((rows.start // patch, columns.start // patch), fine)
        shapes = self.network.shapes(*tile.shape)[above:]
        return [
            Window(above + level, shape, origin)
            for level, (shape, origin) in enumerate(zip(shapes, origins, strict=True))
        ]


class _Seam:
    """Maps of the whole domain at the level of the seam, put together from tiles."""

    def __init__(self, cell: int, size: tuple[int, int]) -> None:
        self.cell = cell
        self.shape = tuple(-(-length // cell) for length in size)
        self.maps: list[Tensor] = []

    def put(self, tile: Tile, maps: Sequence[Tensor]) -> None:
        if not self.maps:
            self.maps = [
                one.new_empty((*one.shape[:2], *self.shape)).to(memory_format=torch.channels_last)
                for one in maps
            ]
        place, inside = _cells(tile.core, self.cell), _cells(tile.inside, self.cell)
        for whole, part in zip(self.maps, maps, strict=True):
            whole[..., *place] = part[..., *inside]


def _cells(place: Place, cell: int) -> Place:
    """Pixels as cells of the seam: those begun at the end of the domain count."""
    rows, columns = (slice(one.start // cell, -(-one.stop // cell)) for one in place)
    return rows, columns

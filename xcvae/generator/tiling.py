"""Drawing a domain tile by tile, as `splitting` cuts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xcvae.fields.batch import Batch
from xcvae.generator.ladder import Encoded, Ladder
from xcvae.generator.noise import Window, level_origins
from xcvae.generator.numerics import autocast
from xcvae.generator.passes import Pass, Place
from xcvae.generator.splitting import Split, Tile

__all__ = ["Tiles"]


@dataclass(frozen=True)
class Tiles:
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
        self, batch: Batch, samples: Sequence[int], known: Encoded, one: Pass
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

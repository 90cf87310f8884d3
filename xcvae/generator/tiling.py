"""Draw batches of a whole domain, or of a domain in tiles.

The coarse levels of the ladder are drawn for the whole domain, the fine ones tile by tile. The seam
is the level between them: its cells are the unit of all cuts. On a CPU the members of a tile are
drawn one by one, so that their maps stay in the caches, and several tiles at a time, one in each
thread; on a GPU tiles follow each other, and the members of a draw batch are drawn together.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from xcvae.fields.batches import Batch
from xcvae.generator.device import autocast
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.noise import Address, TimeAxis, Window, normal_maps, words_on
from xcvae.generator.replays import Replays
from xcvae.generator.sharing import cores
from xcvae.generator.splitting import Place, Split, Tile, cells_of

T = TypeVar("T")
R = TypeVar("R")
#: Takes rows and columns of a part of the domain, members that were drawn together, and values.
Write = Callable[[Place, slice, Tensor], None]

#: Cells of a map up to which kernels for a batch of one differ in last digits from those for more.
SMALL_MAP = 2**10


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
    replays, rows
        Replays passes down the whole ladder on a GPU, and the row of the encoded samples of each
        field, (members,). None: every kernel is launched by itself, and the encoded samples have a
        row per member.
    """

    addresses: Sequence[Address]
    released: Sequence[float] | None
    temperature: float
    device: torch.device
    axes: Sequence[TimeAxis | None] | None = None
    ceilings: Tensor | None = None
    replays: Replays | None = None
    rows: Tensor | None = None

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
        released = None if self.released is None else [self.released[w.level] for w in windows]
        options: dict[str, Any] = {
            "released": released,
            "temperature": self.temperature,
            "state": state,
            "ceilings": self.ceilings,
        }
        if self.replays is not None and self.rows is not None and self.axes is None:
            storms = None if released is None else words_on(self.device, self._storms)
            words = words_on(self.device, self.addresses)
            return self.replays.descend(encoded, self.rows, words, windows, storms, **options)
        noise = normal_maps(self.addresses, windows, device=self.device, axes=self.axes)
        order = self._order(windows)
        with torch.inference_mode(), autocast(self.device):
            known = encoded if self.rows is None else encoded.take(self.rows)
            return network.descend(known, noise, order=order, **options).output

    def descend_alone(
        self,
        network: Ladder,
        encoded: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        """Descend for a single member, with the bits that it has in a batch of several.

        oneDNN has other kernels for a single small map (differences were found up to 20 x 20
        cells in float32, none in larger maps and none between batches of two and of eight): these
        levels, which cost little, are drawn twice.
        """
        small = sum(window.shape[-2] * window.shape[-1] <= SMALL_MAP for window in windows)
        if small:
            ceilings = None if self.ceilings is None else torch.cat([self.ceilings] * 2)
            pair = replace(self, addresses=[*self.addresses] * 2, ceilings=ceilings)
            twice = Encoded.join([encoded.part(0, small)] * 2)
            above = None if state is None else torch.cat([state] * 2)
            state = pair.descend(network, twice, windows[:small], above)[:1]
        if small == len(windows):
            assert state is not None
            return state
        return self.descend(network, encoded.part(small, len(windows)), windows[small:], state)

    def of(self, rows: slice) -> DrawBatch:
        """Return the draw batch of some members."""
        ceilings = None if self.ceilings is None else self.ceilings[rows]
        return replace(self, addresses=self.addresses[rows], ceilings=ceilings)

    def at(self, core: Place) -> DrawBatch:
        """Return the draw batch of a tile with this core: the same for all tiles."""
        return self

    @property
    def _storms(self) -> list[Address]:
        """Addresses of the deviates that rank latents: all members of a storm share them."""
        return [replace(a, realization=0, mode="dial", attempt=0) for a in self.addresses]

    def _order(self, windows: Sequence[Window]) -> list[Tensor | None] | None:
        """Deviates that rank the latents for release, the same for all members of a storm."""
        if self.released is None:
            return None
        partly = [w for w in windows if 0 < self.released[w.level] < 1]
        maps = normal_maps(self._storms, partly, device=self.device, axes=self.axes)
        by_level = dict(zip((w.level for w in partly), maps, strict=True))
        return [by_level.get(w.level) for w in windows]


@dataclass(frozen=True)
class Domain:
    """Draws a domain, in one piece or tile by tile; of tiles only seam and result are stored.

    Attributes
    ----------
    network, device
        The ladder, and its device.
    size
        Rows and columns of the domain.
    split
        Tiles from `split_domain`, or one piece.
    threads
        Tiles that are drawn at a time on a CPU.
    budget
        Bytes for the features of tiles that are stored, so that they are not encoded again.
    """

    network: Ladder
    device: torch.device
    size: tuple[int, int]
    split: Split
    threads: int = 1
    budget: int = 0
    _stored: dict[tuple[int, int], Encoded] = field(default_factory=dict, repr=False)

    @property
    def tiled(self) -> bool:
        """True if fine levels are drawn tile by tile."""
        return self.split.fine > 0

    def encode(self, batch: Batch, sample: int, *, posterior: bool) -> Encoded:
        """Encode a sample for the levels above the tiles, once for all its members."""
        fine = self.split.fine
        if not self.tiled:
            return self._encode(batch.take([sample]), posterior=posterior)
        if fine == len(self.network.levels):
            return Encoded([], [] if posterior else None, None, None, None, self.size)
        seam = _Seam(self.split.cell, self.size)

        def encode(number: int) -> Tensor | None:
            tile = self.split.tiles[number]
            encoded = self._encode_window(batch, sample, tile, levels=fine + 1, posterior=posterior)
            seam.write(tile, [encoded.guides[0], *(encoded.features or [])[:1]])
            self._store(sample, number, encoded.part(1, fine + 1))
            return encoded.vector

        self._stored.clear()
        vector = self._for_each(encode, range(len(self.split.tiles)))[0]
        pyramids = [self.network.encode_condition, self.network.encode_target]
        with torch.inference_mode(), autocast(self.device):
            guides, *features = (
                pyramid.rise(maps, first=fine)
                for pyramid, maps in zip(pyramids, seam.maps, strict=False)
            )
        return Encoded(guides, features[0] if posterior else None, vector, None, None, self.size)

    def encode_together(
        self, batch: Batch, samples: Sequence[int], replays: Replays | None, *, posterior: bool
    ) -> Encoded:
        """Encode samples of a domain in one piece, in one batch."""
        assert not self.tiled
        own = batch.take(samples).packed().to(self.device)
        x = own.x if posterior else None
        encode = self.network.encode if replays is None else replays.encode
        with torch.inference_mode(), autocast(self.device):
            return encode(own.c, own.pooled, x, side=own.side)

    def draw_whole(self, encoded: Encoded, draw_batch: DrawBatch) -> Tensor:
        """Draw members of a domain in one piece, (members, 1, y, x), from `encode_together`."""
        shapes = self.network.shapes(*self.size)
        windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        return draw_batch.descend(self.network, encoded, windows)

    def draw(
        self,
        batch: Batch,
        samples: Sequence[int],
        encoded: Mapping[int, Encoded],
        draw_batch: DrawBatch,
        write: Write,
    ) -> None:
        """Draw a member of each of ``samples``.

        Parameters
        ----------
        batch
            Maps of the whole domain, on any device: one window at a time goes to the network's.
        samples
            Rows of the batch, one per member.
        encoded
            Result of `encode` by sample.
        draw_batch
            Noise and options.
        write
            Takes rows and columns of the core of a tile, the members that were drawn together,
            and their values, (members, 1, y, x). Called from several threads on a CPU.
        """
        passes = self._passes(len(samples))
        states = self._for_each(
            lambda rows: self._draw_coarse(encoded, samples[rows], draw_batch.of(rows)), passes
        )
        if not self.tiled:
            (output,) = states
            assert output is not None
            write(self.split.tiles[0].core, slice(0, len(samples)), output)
            return

        def draw(number: int) -> None:
            tile, seen = self.split.tiles[number], dict[int, Encoded]()
            for rows, state in zip(passes, states, strict=True):
                own = set(samples[rows])
                seen = {s: one for s, one in seen.items() if s in own} | {
                    s: self._features(batch, s, number, posterior=draw_batch.posterior)
                    for s in own - seen.keys()
                }
                joined = _joined([seen[s] for s in samples[rows]])
                own_batch = draw_batch.of(rows).at(tile.core)
                write(tile.core, rows, self._draw_tile(own_batch, joined, tile, state))

        self._for_each(draw, range(len(self.split.tiles)))

    def members_at_once(self, budget: int) -> int:
        """Return the number of members whose maps at the seam take so many bytes, at least one."""
        above = list(self.network.levels)[: -self.split.fine]
        if not above:
            return 2**16
        cells = math.prod(-(-length // self.split.cell) for length in self.size)
        return max(1, budget // (4 * cells * above[-1].prior.in_channels))

    @property
    def _alone(self) -> bool:
        """True if members go through the network one by one."""
        return self.tiled and self.device.type == "cpu"

    def _passes(self, members: int) -> list[slice]:
        """Return the members that go through the network together: one in tiles on a CPU."""
        if not self._alone:
            return [slice(0, members)]
        return [slice(row, row + 1) for row in range(members)]

    def _draw_coarse(
        self, encoded: Mapping[int, Encoded], samples: Sequence[int], draw_batch: DrawBatch
    ) -> Tensor | None:
        """Draw the levels above the tiles for the whole domain; None if there are none."""
        joined = _joined([encoded[s] for s in samples])
        if not joined.guides:
            return None
        shapes = self.network.shapes(*self.size)[: len(joined.guides)]
        windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        return self._descend(draw_batch, joined, windows)

    def _draw_tile(
        self, draw_batch: DrawBatch, encoded: Encoded, tile: Tile, state: Tensor | None
    ) -> Tensor:
        """Draw the fine levels of a tile; return its core.

        The finer the level, the less of the window can still reach the core, and only that is
        computed.
        """
        origin: Place = (slice(0, 0), slice(0, 0))  # the state of the seam covers the domain
        cell = self.split.cell
        places = self.split.places(tile)
        for level, (place, window) in enumerate(zip(places, self.windows(tile), strict=True)):
            if state is not None:
                state = state[..., *cells_of(_relative(place, origin), cell)]
            cell //= 2
            part = encoded.part(level, level + 1)
            inside = _relative(place, tile.window)
            state = self._descend(draw_batch, _cut(part, inside, cell), [window], state)
            origin = place
        assert state is not None
        return state[..., *_relative(tile.core, origin)]

    def _descend(
        self,
        draw_batch: DrawBatch,
        encoded: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        alone = self._alone and len(draw_batch.addresses) == 1
        descend = draw_batch.descend_alone if alone else draw_batch.descend
        return descend(self.network, encoded, windows, state)

    def _for_each(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call a function for each item; in tiles on a CPU, several at a time."""
        if self._alone and self.threads > 1:
            return cores(self.threads).map(function, items)
        return [function(item) for item in items]

    def _features(self, batch: Batch, sample: int, number: int, *, posterior: bool) -> Encoded:
        """Return the features of a tile for the fine levels, stored ones if there are."""
        stored = self._stored.get((sample, number))
        if stored is not None:
            return stored
        tile, fine = self.split.tiles[number], self.split.fine
        encoded = self._encode_window(batch, sample, tile, levels=fine, posterior=posterior)
        self._store(sample, number, encoded)
        return encoded

    def _store(self, sample: int, number: int, encoded: Encoded) -> None:
        """Store the features of a tile while the budget lasts."""
        used = sum(one.nbytes for one in list(self._stored.values()))
        if used + encoded.nbytes <= self.budget:
            # Copies: these two are views of all conditions of the window.
            base, coarse = (
                None if maps is None else maps.clone() for maps in (encoded.base, encoded.coarse)
            )
            self._stored[sample, number] = replace(encoded, base=base, coarse=coarse)

    def _encode(self, part: Batch, *, posterior: bool, levels: int | None = None) -> Encoded:
        own = part.packed().to(self.device)
        with torch.inference_mode(), autocast(self.device):
            return self.network.encode(
                own.c, own.pooled, own.x if posterior else None, levels=levels, side=own.side
            )

    def _encode_window(
        self, batch: Batch, sample: int, tile: Tile, *, levels: int, posterior: bool
    ) -> Encoded:
        """Encode the window of a tile for the ``levels`` finest levels."""
        rows, columns = tile.window
        part = batch.crop(rows.start, columns.start, *tile.shape).take([sample])
        return self._encode(part, posterior=posterior, levels=levels)

    def windows(self, tile: Tile) -> list[Window]:
        """Return the rectangles of a tile that its fine levels compute, coarsest first."""
        fine = self.split.fine
        above, found = len(self.network.levels) - fine, list[Window]()
        for level, place in enumerate(self.split.places(tile)):
            rows, columns = cells_of(place, self.split.cell // 2 ** (level + 1))
            shape = (
                self.network.latents[above + level],
                rows.stop - rows.start,
                columns.stop - columns.start,
            )
            found.append(Window(above + level, shape, (rows.start, columns.start)))
        return found


def _relative(place: Place, window: Place) -> Place:
    """Return a place as a part of a window."""
    rows, columns = (
        slice(own.start - whole.start, own.stop - whole.start)
        for own, whole in zip(place, window, strict=True)
    )
    return rows, columns


def _cut(encoded: Encoded, place: Place, cell: int) -> Encoded:
    """Cut a part out of the features of one level, whose cells have a side of some pixels."""
    cells = cells_of(place, cell)
    features = encoded.features
    return replace(
        encoded,
        guides=[maps[..., *cells] for maps in encoded.guides],
        features=None if features is None else [maps[..., *cells] for maps in features],
        base=None if encoded.base is None else encoded.base[..., *place],
        coarse=None if encoded.coarse is None else encoded.coarse[..., *place],
        size=(place[0].stop - place[0].start, place[1].stop - place[1].start),
    )


def _joined(parts: Sequence[Encoded]) -> Encoded:
    """Concatenate encoded samples; a single one is not copied."""
    return Encoded.join(parts) if len(parts) > 1 else parts[0]


class _Seam:
    """Maps of the whole domain at the level of the seam, assembled from tiles."""

    def __init__(self, cell: int, size: tuple[int, int]) -> None:
        self.cell = cell
        self.shape = tuple(-(-length // cell) for length in size)
        self.maps: list[Tensor] = []
        self._lock = threading.Lock()

    def write(self, tile: Tile, maps: Sequence[Tensor]) -> None:
        """Write the core of a tile; tiles may come from several threads."""
        with self._lock:
            if not self.maps:
                self.maps = [
                    one.new_empty((*one.shape[:2], *self.shape)).to(
                        memory_format=torch.channels_last
                    )
                    for one in maps
                ]
        place, inside = cells_of(tile.core, self.cell), cells_of(tile.inside, self.cell)
        for whole, part in zip(self.maps, maps, strict=True):
            whole[..., *place] = part[..., *inside]

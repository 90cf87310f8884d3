"""The sampler of a trained network: from addresses of noise to physical fields."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcvae.errors import OutOfMemoryError
from xcvae.fields.batches import Batch, to_device
from xcvae.fields.scaling import Scaling
from xcvae.generator.device import autocast, precision
from xcvae.generator.means import tiled_decoding, tiled_means
from xcvae.generator.memory import draws_at_once, stored_bytes
from xcvae.generator.network.ladder import Drawn, Encoded, Ladder
from xcvae.generator.noise import Address, TimeAxis
from xcvae.generator.replays import Replays
from xcvae.generator.sharing import SharedEncoding, cores
from xcvae.generator.splitting import SEAM_BYTES, Place, Split, split_domain
from xcvae.generator.tiling import Domain, DrawBatch

#: Limits of pixels and of fields per draw batch. More fields are no faster on a CPU, a GPU needs
#: many to be busy, and on large maps one field uses the whole device.
MAX_PIXELS, MAX_FIELDS = {"cpu": 2**18, "cuda": 2**21}, {"cpu": 8, "cuda": 128}

#: Samples that a GPU encodes together.
ENCODED = 8
#: Largest result, in bytes, that a GPU writes itself: its memory is reserved for it.
PINNED = 2**30

#: Member, sample, rows and columns of a field in the array of members.
Index = tuple[int, int, slice, slice]
Pairs = list[tuple[int, int]]
T = TypeVar("T")
R = TypeVar("R")
#: Calls a function for each of several items, and returns the results.
ForEach = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
_Copy = tuple[Tensor, torch.cuda.Event | None, NDArray[np.float32], list[Index]]


@dataclass(frozen=True)
class FieldSampler:
    """Draws physical fields from a network, on one device.

    Attributes
    ----------
    network
        The trained ladder, on ``device``.
    scaling
        Maps normalised values back to physical ones.
    device
        Device of the network.
    limit
        Largest value of a pixel of a member, physical.
    replays
        Replays passes on a GPU; None to launch every kernel by itself.
    seam
        Bytes that decide on the seam of tiles; see `split_domain`.
    """

    network: Ladder
    scaling: Scaling
    device: torch.device
    limit: float = math.inf
    replays: Replays | None = None
    seam: int = SEAM_BYTES

    def draw(
        self,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        *,
        released: list[float] | None,
        temperature: float,
        tile: tuple[int, int] | None = None,
        axes: Sequence[TimeAxis | None] | None = None,
        limits: NDArray[np.float64] | None = None,
        threads: int = 1,
        shared: SharedEncoding | None = None,
    ) -> NDArray[np.float32]:
        """Draw members of every sample.

        Parameters
        ----------
        batch
            Conditions and, for the posterior, targets.
        addresses
            Addresses of the noise, ``addresses[member][sample]``.
        released
            Shares from `release_shares`; None draws from the prior without the target.
        temperature
            Factor on the standard deviation of the latents.
        tile
            Rows and columns of a tile at most; None draws in one piece.
        axes
            Time axis of each level, coarsest first; None for members that do not evolve.
        limits
            Largest value of a pixel of each sample; by default ``limit`` for all.
        threads
            Tiles, or batches of fields in one piece, that are drawn at a time on a CPU, and no more
            than there is memory for; with 1, all torch threads draw each of them.
        shared
            Encoding that draws of the same single sample share.

        Returns
        -------
        array (realization, sample, y, x)
            Physical; NaN where masked.

        Raises
        ------
        OutOfMemoryError
            If the device has no room for a draw batch, even with its cache emptied.
        """
        if limits is None:
            limits = np.full(len(batch), self.limit)
        options = DrawBatch((), released, temperature, self.device, axes)
        attempt = functools.partial(
            self._draw, batch, addresses, options, tile=tile, threads=threads,
            limits=torch.as_tensor(limits, dtype=torch.float64), shared=shared,
        )  # fmt: skip
        try:
            return attempt()
        except torch.cuda.OutOfMemoryError:
            # The missing memory may be that of recordings, or in blocks of another size in the
            # cache of torch.
            if self.replays is not None:
                self.replays.forget()
            torch.cuda.empty_cache()
        try:
            return attempt()
        except torch.cuda.OutOfMemoryError as error:
            raise _out_of_memory(error, batch, tile) from error

    def _draw(
        self,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        options: DrawBatch,
        *,
        tile: tuple[int, int] | None,
        threads: int,
        limits: Tensor,
        shared: SharedEncoding | None,
    ) -> NDArray[np.float32]:
        domain = self._domain(batch, tile, posterior=options.posterior, threads=threads)
        if self.device.type == "cuda" and not domain.tiled:
            out = self._draw_whole(domain, batch, addresses, options, limits)
        else:
            encoded: dict[int, Encoded] = {}
            if shared is not None:
                assert len(batch) == 1
                domain, encoded = shared.of(
                    self.network,
                    # With its domain, which stores features of tiles.
                    lambda: (domain, {0: domain.encode(batch, 0, posterior=options.posterior)}),
                )
            out = self._draw_batches(
                domain, batch, addresses, options, limits=limits, encoded=encoded, tile=tile
            )
        out[:, ~batch.mask[:, 0].cpu().numpy()] = np.nan
        return out

    def _draw_batches(
        self,
        domain: Domain,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        options: DrawBatch,
        *,
        limits: Tensor,
        encoded: dict[int, Encoded],
        tile: tuple[int, int] | None,
    ) -> NDArray[np.float32]:
        """Draw members batch by batch, (realization, sample, y, x)."""
        out = np.empty((len(addresses), len(batch), *batch.c.shape[-2:]), np.float32)
        together, padding = self._draw_batch(domain, batch, tile)
        host_copy = HostCopy(self.device)

        def encode(sample: int) -> Encoded:
            return domain.encode(batch, sample, posterior=options.posterior)

        def draw(part: Pairs) -> None:
            # Padded with copies: the batch size decides on the last digits of a convolution.
            padded = _padded(part, together) if padding else part
            samples = [s for s, _ in padded]
            # Where block means are kept, the network itself caps: a cap afterwards loses rain.
            ceilings = self._ceilings(limits[samples])
            noise = [addresses[m][s] for s, m in padded]
            draw_batch = replace(options, addresses=noise, ceilings=ceilings)

            def write(place: Place, rows: slice, output: Tensor) -> None:
                own = part[rows]
                fields = self._physical(output[: len(own)], limits[[s for s, _ in own]])
                host_copy.submit(fields, out, [(m, s, *place) for s, m in own])

            domain.draw(batch, samples, encoded, draw_batch, write)

        pairs = [(s, m) for s in range(len(batch)) for m in range(len(addresses))]
        parts = [pairs[k : k + together] for k in range(0, len(pairs), together)]
        for_each, number = self._at_once(domain, together)
        for k in range(0, len(parts), number):
            some = parts[k : k + number]
            _encode(encoded, {s: None for part in some for s, _ in part}, encode, for_each)
            for_each(draw, some)
        host_copy.flush()
        return out

    def _at_once(self, domain: Domain, together: int) -> tuple[ForEach, int]:
        """Return what calls a function for several samples or batches, and for how many.

        On a CPU, a batch on each core makes more fields than one on all of them.
        """
        if domain.tiled or self.device.type != "cpu" or domain.threads == 1:
            return _one_by_one, 1
        number = draws_at_once(domain.size, together, self.network, most=domain.threads)
        if number == 1:
            return _one_by_one, 1
        # In float32 last digits may depend on the threads.
        threads = 1 if precision(self.device) == "float32" else domain.threads // number
        # Several batches for each core, where they are quick: all cores wait for the last one.
        return cores(number, threads).map, number * min(4, together)

    def _draw_whole(
        self,
        domain: Domain,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        options: DrawBatch,
        limits: Tensor,
    ) -> NDArray[np.float32]:
        """Draw domains in one piece on a GPU, (realization, sample, y, x).

        Several samples are encoded together, as a single one does not keep a GPU busy. All batches
        are padded to one size, so that a field does not depend on what is drawn with it.
        """
        size = (batch.c.shape[-2], batch.c.shape[-1])
        together = draw_batch_size("cuda", size)
        encoded_together = min(ENCODED, together)
        out = _host_maps((len(addresses) * len(batch), *size), self.device)
        for first in range(0, len(batch), encoded_together):
            group = range(first, min(first + encoded_together, len(batch)))
            padded = _padded(group, encoded_together)
            encoded = domain.encode_together(
                batch, padded, self.replays, posterior=options.posterior
            )
            pairs = [(m, s) for m in range(len(addresses)) for s in group]
            for start in range(0, len(pairs), together):
                part = pairs[start : start + together]
                own = _padded(part, together)
                samples = [s for _, s in own]
                rows = torch.tensor([s - first for s in samples])
                draw_batch = replace(
                    options,
                    addresses=[addresses[m][s] for m, s in own],
                    ceilings=self._ceilings(limits[samples]),
                    replays=self.replays,
                    rows=to_device(rows, self.device),
                )
                fields = self._physical(domain.draw_whole(encoded, draw_batch), limits[samples])
                # Straight to their places, while the GPU goes on: no copy by the host.
                for run in _runs([m * len(batch) + s for m, s in part]):
                    target = out[run.place : run.place + run.length]
                    target.copy_(fields[run.row : run.row + run.length], non_blocking=True)
        torch.cuda.current_stream(self.device).synchronize()
        return out.numpy().reshape(len(addresses), len(batch), *size)

    def observed(self, batch: Batch) -> NDArray[np.float32]:
        """Return the target of a batch; (sample, y, x), physical, NaN where masked."""
        assert batch.x is not None
        return self._masked(batch, self.scaling.physical(batch.x)[:, 0])

    def reconstruct(
        self, batch: Batch, latents_of: Sequence[int], *, tile: tuple[int, int] | None = None
    ) -> NDArray[np.float32]:
        """Decode posterior means, each sample those of ``latents_of``; (sample, y, x)."""
        order = torch.as_tensor(list(latents_of), device=self.device)
        z = [q.mu[order] for q in self.posterior_means(batch, tile=tile).posterior]
        if tile is not None:
            return self._masked(batch, self._decoded_in_tiles(batch, z, tile))
        with torch.inference_mode(), autocast(self.device):
            own = batch.packed().to(self.device)
            output = self.network.decode(self.network.encode(own.c, own.pooled, side=own.side), z)
        return self._masked(batch, self._physical(output))

    def _decoded_in_tiles(self, batch: Batch, z: Sequence[Tensor], tile: tuple[int, int]) -> Tensor:
        domain = self._domain(batch, tile, posterior=False, threads=torch.get_num_threads())
        fields = torch.empty(len(batch), *domain.size)

        def write(place: Place, _: slice, output: Tensor, sample: int) -> None:
            fields[sample : sample + 1, *place] = self._physical(output).cpu()

        for sample in range(len(batch)):
            latents = [maps[sample : sample + 1] for maps in z]
            into = functools.partial(write, sample=sample)
            tiled_decoding(batch, sample, latents, domain, into)
        return fields

    def posterior_means(self, batch: Batch, *, tile: tuple[int, int] | None = None) -> Drawn:
        """Descend the ladder along the posterior means: posterior and prior of every level.

        In tiles the output is left out.
        """
        if tile is not None:
            threads = torch.get_num_threads()
            domain = self._domain(batch, tile, posterior=True, threads=threads)
            return tiled_means(batch, domain)
        own = batch.packed().to(self.device)
        shapes = self.network.shapes(batch.c.shape[-2], batch.c.shape[-1])
        zeros = [torch.zeros(len(batch), *shape, device=self.device) for shape in shapes]
        with torch.inference_mode(), autocast(self.device):
            drawn: Drawn = self.network(own.c, own.pooled, zeros, x=own.x, side=own.side)
        return drawn

    def deviations(
        self, batch: Batch, *, tile: tuple[int, int] | None = None
    ) -> list[NDArray[np.float32]]:
        """Return the posterior means in units of the prior, coarsest level first."""
        drawn = self.posterior_means(batch, tile=tile)
        return [
            ((q.mu - p.mu) * torch.exp(-p.log_sigma)).float().cpu().numpy()
            for q, p in zip(drawn.posterior, drawn.prior, strict=True)
        ]

    def levels(self, batch: Batch, *, tile: tuple[int, int] | None = None) -> list[LevelReport]:
        """Measure the information in every level for the samples of a batch, coarsest first."""
        drawn, reports = self.posterior_means(batch, tile=tile), []
        for q, p in zip(drawn.posterior, drawn.prior, strict=True):
            kl = q.kl_map(p).float()
            per_channel = kl.mean(dim=(0, 2, 3))
            reports.append(
                LevelReport(
                    size=(kl.shape[-2], kl.shape[-1]),
                    kl=float(kl.sum(dim=(1, 2, 3)).mean()),
                    active=float((per_channel > 0.01).float().mean()),
                )
            )
        return reports

    def _draw_batch(
        self, domain: Domain, batch: Batch, tile: tuple[int, int] | None
    ) -> tuple[int, bool]:
        """Return the number of fields per draw batch, and True if batches are padded to it."""
        if domain.tiled and self.device.type == "cpu":
            return domain.members_at_once(stored_bytes()), False
        size = (batch.c.shape[-2], batch.c.shape[-1])
        if domain.tiled and tile is not None:
            size = tile
        return draw_batch_size(self.device.type, size), True

    def _domain(
        self, batch: Batch, tile: tuple[int, int] | None, *, posterior: bool, threads: int
    ) -> Domain:
        size = (batch.c.shape[-2], batch.c.shape[-1])
        if tile is None or (tile[0] >= size[0] and tile[1] >= size[1]):
            split = Split.whole(self.network, size)
        else:
            split = split_domain(
                self.network, size, tile, posterior=posterior, side=batch.side, seam=self.seam
            )
        return Domain(self.network, self.device, size, split, threads, stored_bytes())

    def _ceilings(self, limits: Tensor) -> Tensor | None:
        """Return limits in normalised space, where the network caps; else None."""
        if self.network.constraint is None:
            return None
        rain = self.scaling.target
        return to_device((torch.log1p(limits / rain.eps) / rain.divisor).float(), self.device)

    def _physical(self, output: Tensor, limits: Tensor | None = None) -> Tensor:
        """Physical fields on the device, (batch, y, x), none above its limit."""
        fields = self.scaling.physical(output.float())[:, 0]
        if self.network.constraint is not None:
            return fields
        if limits is None:
            return fields.clamp(max=self.limit)
        return torch.minimum(fields, to_device(limits[:, None, None].float(), self.device))

    def _masked(self, batch: Batch, fields: Tensor) -> NDArray[np.float32]:
        """Copy fields to the host, with NaN where the batch is masked."""
        mask = batch.mask[:, 0].cpu().numpy()
        return np.where(mask, fields.cpu().numpy(), np.nan).astype(np.float32)


@dataclass(frozen=True)
class LevelReport:
    """Information that one level of the ladder carries.

    Attributes
    ----------
    size
        Height and width of the level's map.
    kl
        KL(q || p) in nats per sample, along the path of the posterior means: a few percent less
        than the mean over posterior draws, which the training log has.
    active
        Share of latent channels whose KL is above 0.01 nats per pixel of the level.
    """

    size: tuple[int, int]
    kl: float
    active: float


def _one_by_one(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [function(item) for item in items]


def _encode(
    encoded: dict[int, Encoded],
    samples: Collection[int],
    encode: Callable[[int], Encoded],
    for_each: ForEach,
) -> None:
    """Encode samples, once for all their members, and forget others."""
    for other in encoded.keys() - samples:
        del encoded[other]
    missing = [s for s in samples if s not in encoded]
    encoded.update(zip(missing, for_each(encode, missing), strict=True))


def release_shares(position: float, levels: int) -> list[float]:
    """Return the share of each level's latents, coarsest first, that follow the prior.

    The finest level is released first, then the next coarser one: whatever is released is drawn
    from the prior given all latents that still follow the storm.

    Parameters
    ----------
    position
        Position between posterior (0) and prior (1).
    levels
        Number of levels.

    Examples
    --------
    >>> release_shares(0.5, 3)
    [0.0, 0.5, 1.0]
    """
    released = position * levels
    return [min(1.0, max(0.0, released - (levels - 1 - level))) for level in range(levels)]


def draw_batch_size(device: str, size: tuple[int, int]) -> int:
    """Return the number of fields per draw batch.

    The number depends on the kind of device and the size of the maps only, and batches are padded
    to it: so a field does not depend on how many are drawn together, nor on the memory that
    happens to be free (convolution kernels, and with them last digits, change with the batch
    size).

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    size
        Rows and columns that go through the network at a time.

    Examples
    --------
    >>> sizes = (128, 128), (1024, 1024)
    >>> [draw_batch_size("cpu", size) for size in sizes], draw_batch_size("cuda", sizes[0])
    ([8, 1], 128)
    """
    most = MAX_FIELDS[device]
    fitting = max(1, MAX_PIXELS[device] // math.prod(size))
    return min(most, 1 << (fitting.bit_length() - 1))


@dataclass(frozen=True)
class _Run:
    """Rows that follow each other, here and in the result."""

    row: int
    place: int
    length: int


def _runs(places: Sequence[int]) -> list[_Run]:
    """Divide rows into runs whose places follow each other.

    Examples
    --------
    >>> [(run.row, run.place, run.length) for run in _runs([4, 5, 9, 10, 11, 2])]
    [(0, 4, 2), (2, 9, 3), (5, 2, 1)]
    """
    starts = [0, *(i for i in range(1, len(places)) if places[i] != places[i - 1] + 1)]
    ends = [*starts[1:], len(places)]
    return [_Run(a, places[a], b - a) for a, b in zip(starts, ends, strict=True)]


def _padded(items: Sequence[T], length: int) -> list[T]:
    """Repeat the last item up to a length."""
    return [*items, *[items[-1]] * (length - len(items))]


def _host_maps(shape: Sequence[int], device: torch.device) -> Tensor:
    """Make maps on the host, in memory that a GPU writes to while the host goes on, if few."""
    pinned = device.type == "cuda" and 4 * math.prod(shape) <= PINNED
    return torch.empty(*shape, pin_memory=pinned)


class HostCopy:
    """Copies fields from a device to the host while the device computes the next ones.

    On a GPU the copy goes into pinned memory on the stream that computes the fields, and the host
    reads it after the next copy was queued. On a CPU fields are written at once.

    Parameters
    ----------
    device
        Device of the fields.
    asynchronous
        Write each submitted copy at the next call; by default on a GPU only.
    """

    def __init__(self, device: torch.device, *, asynchronous: bool | None = None) -> None:
        self.on_gpu = device.type == "cuda"
        self.asynchronous = self.on_gpu if asynchronous is None else asynchronous
        self._pending: _Copy | None = None

    def submit(self, fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
        """Start to copy fields, (fields, y, x), to their places in an array of the host."""
        if not self.asynchronous:
            _write(fields, out, places)
            return
        host = torch.empty(fields.shape, dtype=fields.dtype, pin_memory=self.on_gpu)
        host.copy_(fields, non_blocking=True)
        copied = None
        if self.on_gpu:
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            # Of the stream that copies, also if another GPU is the current one of this thread.
            copied.record(torch.cuda.current_stream(fields.device))
        # Only now: the GPU has work to do while the host writes the previous fields.
        self.flush()
        self._pending = host, copied, out, list(places)

    def flush(self) -> None:
        """Wait for the last copy, and write its fields to their places."""
        if self._pending is None:
            return
        fields, copied, out, places = self._pending
        self._pending = None
        if copied is not None:
            copied.synchronize()
        _write(fields, out, places)


def _write(fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
    for place, field in zip(places, fields.numpy(), strict=True):
        out[place] = field


def _out_of_memory(
    error: Exception, batch: Batch, tile: tuple[int, int] | None
) -> OutOfMemoryError:
    rows, columns = tile or (batch.c.shape[-2], batch.c.shape[-1])
    return OutOfMemoryError.of(
        "device",
        expected=f"memory for maps of {rows} by {columns} pixels",
        got=str(error).splitlines()[0],
        remedy="Draw in tiles (tile='auto'), or smaller ones, such as tile={'y': 256, 'x': 256}; "
        "give the device to this process alone, or use device='cpu'.",
    )

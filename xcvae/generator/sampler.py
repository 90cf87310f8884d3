"""From a network and addresses of noise to physical fields."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcvae.errors import OutOfMemoryError, explain
from xcvae.fields.batches import Batch
from xcvae.fields.scaling import Scaling
from xcvae.generator.device import autocast
from xcvae.generator.network.ladder import Drawn, Encoded, Ladder
from xcvae.generator.noise import Address
from xcvae.generator.tiling import DrawBatch, TiledDomain, WholeDomain, split_domain

__all__ = ["Drawing", "HostCopy", "LevelReport", "freed_levels", "pass_size"]


Index = tuple[int, int, slice, slice]


class HostCopy:
    """Takes fields off a device while the next ones are made there.

    On a GPU they are copied into pinned memory without waiting, on the stream that makes them; they
    are looked at when those of the next pass are under way. On a CPU they are there at once.

    Parameters
    ----------
    device
        Where the fields are made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._under_way: tuple[Tensor, torch.cuda.Event, NDArray[np.float32], list[Index]] | None
        self._under_way = None

    def expect(self, fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
        """Send fields, (fields, y, x), on their way to their places in an array of the host."""
        if self.device.type != "cuda":
            _put(fields, out, places)
            return
        host = torch.empty(fields.shape, dtype=fields.dtype, pin_memory=True)
        host.copy_(fields, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        # Only now: the GPU has work to do while the host puts the last ones in place.
        self.wait()
        self._under_way = host, arrived, out, list(places)

    def wait(self) -> None:
        """Put in place what is still under way."""
        if self._under_way is None:
            return
        fields, arrived, out, places = self._under_way
        self._under_way = None
        arrived.synchronize()
        _put(fields, out, places)


def _put(fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
    for place, field in zip(places, fields.numpy(), strict=True):
        out[place] = field


#: Pixels and fields of a pass through the network at most: on a CPU more fields are no faster, a
#: GPU wants many to be busy, and large maps need no company.
PIXELS, FIELDS = {"cpu": 2**18, "cuda": 2**20}, {"cpu": 8, "cuda": 64}


def pass_size(device: str, size: tuple[int, int], *, tiled: bool = False) -> int:
    """Fields per pass through the network.

    It depends on the kind of device and the size of the maps only, and passes are padded to it:
    so a field does not depend on how many were drawn with it, nor on the memory that happened to
    be free (convolution kernels, and with them last digits, change with the batch size).

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    size
        Rows and columns that go through the network at a time.
    tiled
        Whether these are those of a tile: its conditions are encoded again in every pass.

    Examples
    --------
    >>> pass_size("cpu", (128, 128)), pass_size("cpu", (1024, 1024)), pass_size("cuda", (128, 128))
    (8, 1, 64)
    """
    most = FIELDS[device]
    if tiled and device == "cpu":
        return most
    fitting = max(1, PIXELS[device] // math.prod(size))
    return min(most, 1 << (fitting.bit_length() - 1))


def freed_levels(spread: float, levels: int) -> list[float]:
    """Share of the latents of each level, coarsest first, that are freed to follow the prior.

    The finest level goes first, and the next one when it is done: whatever is freed is then
    drawn from the prior given all that is kept.

    Examples
    --------
    >>> freed_levels(0.5, 3)
    [0.0, 0.5, 1.0]
    """
    turn = spread * levels
    return [min(1.0, max(0.0, turn - (levels - 1 - level))) for level in range(levels)]


@dataclass(frozen=True)
class LevelReport:
    """What one level of the ladder carries.

    Attributes
    ----------
    size
        Height and width of the level's map.
    kl
        KL(q || p) in nats per sample.
    active
        Share of latent channels whose KL is above 0.01 nats per pixel of the level.
    """

    size: tuple[int, int]
    kl: float
    active: float


@dataclass(frozen=True)
class Drawing:
    """A network ready to draw.

    Attributes
    ----------
    network
        The trained ladder, on ``device``.
    scaling
        The way back to physical values.
    device
        Where the network is.
    limit
        Amount that no pixel of a member exceeds, physical.
    """

    network: Ladder
    scaling: Scaling
    device: torch.device
    limit: float = math.inf

    def members(
        self,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        *,
        freed: list[float] | None,
        temperature: float,
        tile: tuple[int, int] | None = None,
    ) -> NDArray[np.float32]:
        """Draw members of every sample; ``addresses[member][sample]``, ``freed`` None: prior.

        Parameters
        ----------
        batch
            Conditions and, for the posterior, targets.
        addresses
            Of the noise.
        freed
            From `freed_levels`.
        temperature
            Factor on the standard deviation of the latents.
        tile
            Rows and columns of a tile at most; None draws in one piece.

        Returns
        -------
        array (realization, sample, y, x)
            Physical; NaN where masked.
        """
        draw = functools.partial(
            self._members, batch, addresses, freed=freed, temperature=temperature, tile=tile
        )
        try:
            return draw()
        except torch.cuda.OutOfMemoryError:
            # What torch keeps for later may be what is lacking now, in pieces of another size.
            torch.cuda.empty_cache()
        try:
            return draw()
        except torch.cuda.OutOfMemoryError as error:
            raise _too_large(error, batch, tile) from error

    def _members(
        self,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        *,
        freed: list[float] | None,
        temperature: float,
        tile: tuple[int, int] | None,
    ) -> NDArray[np.float32]:
        pairs = [(s, m) for s in range(len(batch)) for m in range(len(addresses))]
        out = np.empty((len(addresses), len(batch), *batch.c.shape[-2:]), np.float32)
        posterior = freed is not None
        painter = self._painter(batch, tile, posterior=posterior)
        tiled = isinstance(painter, TiledDomain)
        size = tile if tiled and tile else (batch.c.shape[-2], batch.c.shape[-1])
        together = pass_size(self.device.type, size, tiled=tiled)
        landing = HostCopy(self.device)
        known: dict[int, Encoded] = {}
        for start in range(0, len(pairs), together):
            part = pairs[start : start + together]
            filled = part + [part[-1]] * (together - len(part))
            samples = [s for s, _ in filled]
            # Samples are encoded one by one, once for all their members.
            known = {
                s: known[s] if s in known else painter.encode(batch, s, posterior=posterior)
                for s in dict.fromkeys(samples)
            }
            joined = Encoded.join([known[s] for s in samples])
            one = DrawBatch([addresses[m][s] for s, m in filled], freed, temperature, self.device)
            for place, output in painter.draw(batch, samples, joined, one):
                places = [(m, s, *place) for s, m in part]
                landing.expect(self._physical(output[: len(part)]), out, places)
        landing.wait()
        out[:, ~batch.mask[:, 0].cpu().numpy()] = np.nan
        return out

    def observed(self, batch: Batch) -> NDArray[np.float32]:
        """The target of a batch; (sample, y, x), physical, NaN where masked."""
        assert batch.x is not None
        fields = self.scaling.physical(batch.x).cpu().numpy()[:, 0]
        return np.where(batch.mask[:, 0].cpu().numpy(), fields, np.nan).astype(np.float32)

    def reconstruction(self, batch: Batch, latents_of: Sequence[int]) -> NDArray[np.float32]:
        """Decode posterior means, each sample those of ``latents_of``; (sample, y, x)."""
        order = torch.as_tensor(list(latents_of), device=self.device)
        with torch.inference_mode(), autocast(self.device):
            z = [q.mu[order] for q in self.encoded(batch).posterior]
            own = batch.packed().to(self.device)
            output = self.network.decode(self.network.encode(own.c, own.pooled), z)
        fields = self._physical(output).cpu().numpy()
        return np.where(batch.mask[:, 0].cpu().numpy(), fields, np.nan).astype(np.float32)

    def encoded(self, batch: Batch) -> Drawn:
        """Posterior and prior of every level along the posterior means."""
        own = batch.packed().to(self.device)
        silent = [torch.zeros(len(batch), *s, device=self.device) for s in self._shapes(batch)]
        with torch.inference_mode(), autocast(self.device):
            drawn: Drawn = self.network(own.c, own.pooled, silent, x=own.x)
        return drawn

    def levels(self, batch: Batch) -> list[LevelReport]:
        """What every level carries for the samples of a batch, coarsest first."""
        drawn, reports = self.encoded(batch), []
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

    def _painter(
        self, batch: Batch, tile: tuple[int, int] | None, *, posterior: bool
    ) -> WholeDomain | TiledDomain:
        size = (batch.c.shape[-2], batch.c.shape[-1])
        if tile is None or (tile[0] >= size[0] and tile[1] >= size[1]):
            return WholeDomain(self.network, self.device)
        split = split_domain(self.network, size, tile, posterior=posterior)
        return TiledDomain(self.network, self.device, size, split)

    def _shapes(self, batch: Batch) -> list[tuple[int, int, int]]:
        return self.network.shapes(batch.c.shape[-2], batch.c.shape[-1])

    def _physical(self, output: Tensor) -> Tensor:
        """Physical fields on the device, (batch, y, x), none above the limit."""
        return self.scaling.physical(output.float())[:, 0].clamp(max=self.limit)


def _too_large(error: Exception, batch: Batch, tile: tuple[int, int] | None) -> OutOfMemoryError:
    rows, columns = tile or (batch.c.shape[-2], batch.c.shape[-1])
    return OutOfMemoryError(
        explain(
            "device",
            expected=f"memory for maps of {rows} by {columns} pixels",
            got=str(error).splitlines()[0],
            remedy="Draw in (smaller) tiles, such as tile={'y': 256, 'x': 256}, give the device to "
            "this process alone, or use device='cpu'.",
        )
    )

"""From a network and addresses of noise to physical fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcvae.fields.batches import Batch
from xcvae.fields.scaling import Scaling
from xcvae.generator.ladder import Drawn, Encoded, Ladder
from xcvae.generator.noise import Address
from xcvae.generator.numerics import autocast
from xcvae.generator.passes import Pass, Whole
from xcvae.generator.splitting import split_domain
from xcvae.generator.tiling import Tiles

__all__ = ["PASS", "Drawing", "LevelReport", "freed_levels"]

#: Fields per pass through the network. Always this many, padded if need be, so that a field does
#: not depend on how many were drawn with it (convolution kernels change with the batch size).
PASS = 8


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
        pairs = [(s, m) for s in range(len(batch)) for m in range(len(addresses))]
        out = np.empty((len(addresses), len(batch), *batch.c.shape[-2:]), np.float32)
        posterior = freed is not None
        painter = self._painter(batch, tile, posterior=posterior)
        known: dict[int, Encoded] = {}
        for start in range(0, len(pairs), PASS):
            part = pairs[start : start + PASS]
            filled = part + [part[-1]] * (PASS - len(part))
            samples = [s for s, _ in filled]
            # Samples are encoded one by one, once for all their members.
            known = {
                s: known[s] if s in known else painter.encode(batch, s, posterior=posterior)
                for s in dict.fromkeys(samples)
            }
            joined = Encoded.join([known[s] for s in samples])
            one = Pass([addresses[m][s] for s, m in filled], freed, temperature, self.device)
            for (rows, columns), output in painter.draw(batch, samples, joined, one):
                fields = np.minimum(self._physical(output.float()), self.limit)
                for (s, m), field in zip(part, fields, strict=False):
                    out[m, s, rows, columns] = field
        out[:, ~batch.mask[:, 0].cpu().numpy()] = np.nan
        return out

    def observed(self, batch: Batch) -> NDArray[np.float32]:
        """The target of a batch; (sample, y, x), physical, NaN where masked."""
        assert batch.x is not None
        fields = self._physical(batch.x)
        return np.where(batch.mask[:, 0].cpu().numpy(), fields, np.nan).astype(np.float32)

    def reconstruction(self, batch: Batch, latents_of: Sequence[int]) -> NDArray[np.float32]:
        """Decode posterior means, each sample those of ``latents_of``; (sample, y, x)."""
        order = torch.as_tensor(list(latents_of), device=self.device)
        with torch.inference_mode(), autocast(self.device):
            z = [q.mu[order] for q in self.encoded(batch).posterior]
            own = batch.packed().to(self.device)
            output = self.network.decode(self.network.encode(own.c, own.pooled), z)
        fields = np.minimum(self._physical(output.float()), self.limit)
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
    ) -> Whole | Tiles:
        size = (batch.c.shape[-2], batch.c.shape[-1])
        if tile is None or (tile[0] >= size[0] and tile[1] >= size[1]):
            return Whole(self.network, self.device)
        split = split_domain(self.network, size, tile, posterior=posterior)
        return Tiles(self.network, self.device, size, split)

    def _shapes(self, batch: Batch) -> list[tuple[int, int, int]]:
        return self.network.shapes(batch.c.shape[-2], batch.c.shape[-1])

    def _physical(self, output: Tensor) -> NDArray[np.float32]:
        fields: NDArray[np.float32] = self.scaling.physical(output).cpu().numpy()[:, 0]
        return fields

"""From a network and addresses of noise to physical fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcvae.fields.batches import Batch
from xcvae.fields.scaling import Scaling
from xcvae.generator.ladder import Drawn, Encoded, Ladder, level_sizes
from xcvae.generator.noise import Address, normals
from xcvae.generator.numerics import autocast

__all__ = ["PASS", "Drawing", "LevelReport", "freed_levels"]

#: Fields per pass through the network. Always this many, padded if need be, so that a field does
#: not depend on how many were drawn with it (convolution kernels change with the batch size).
PASS = 8


def freed_levels(spread: float, levels: int) -> list[float]:
    """How far each level, coarsest first, is freed from the posterior towards the prior.

    The finest level starts first; each level is freed over two of the ``levels + 1`` equal parts
    of the dial, so that two neighbours move at any time and diversity grows without steps.

    Examples
    --------
    >>> freed_levels(0.5, 3)
    [0.0, 0.5, 1.0]
    """
    turn = spread * (levels + 1)
    return [min(1.0, max(0.0, (turn - (levels - 1 - level)) / 2)) for level in range(levels)]


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
    latents
        Latent channels per level, coarsest first.
    device
        Where the network is.
    """

    network: Ladder
    scaling: Scaling
    latents: tuple[int, ...]
    device: torch.device

    def members(
        self,
        batch: Batch,
        addresses: Sequence[Sequence[Address]],
        *,
        freed: list[float] | None,
        temperature: float,
    ) -> NDArray[np.float32]:
        """Draw members of every sample; ``addresses[member][sample]``, ``freed`` None: prior.

        Returns
        -------
        array (realization, sample, y, x)
            Physical; NaN where masked.
        """
        pairs = [(s, m) for s in range(len(batch)) for m in range(len(addresses))]
        out = np.empty((len(addresses), len(batch), *batch.c.shape[-2:]), np.float32)
        known: dict[int, Encoded] = {}
        for start in range(0, len(pairs), PASS):
            part = pairs[start : start + PASS]
            filled = part + [part[-1]] * (PASS - len(part))
            # Samples are encoded one by one, once for all their members.
            needed = {s for s, _ in part}
            known = {
                s: known[s] if s in known else self._encode(batch.take([s]), freed) for s in needed
            }
            noise = self._noise(batch, [addresses[m][s] for s, m in filled])
            joined = Encoded.join([known[s] for s, _ in filled])
            with torch.inference_mode(), autocast(self.device):
                drawn = self.network.descend(joined, noise, freed=freed, temperature=temperature)
            for (s, m), field in zip(part, self._physical(drawn.output.float()), strict=False):
                out[m, s] = field
        out[:, ~batch.mask[:, 0].cpu().numpy()] = np.nan
        return out

    def reconstruction(self, batch: Batch, latents_of: Sequence[int]) -> NDArray[np.float32]:
        """Decode posterior means, each sample those of ``latents_of``; (sample, y, x)."""
        order = torch.as_tensor(list(latents_of), device=self.device)
        with torch.inference_mode(), autocast(self.device):
            z = [q.mu[order] for q in self.encoded(batch).posterior]
            output = self.network.decode(self._encode(batch, freed=None), z)
        fields = self._physical(output.float())
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

    def _encode(self, batch: Batch, freed: list[float] | None) -> Encoded:
        own = batch.packed().to(self.device)
        with torch.inference_mode(), autocast(self.device):
            return self.network.encode(own.c, own.pooled, None if freed is None else own.x)

    def _noise(self, batch: Batch, addresses: Sequence[Address]) -> list[Tensor]:
        return [
            torch.from_numpy(normals(addresses, level, shape)).to(self.device)
            for level, shape in enumerate(self._shapes(batch))
        ]

    def _shapes(self, batch: Batch) -> list[tuple[int, int, int]]:
        sizes = level_sizes((batch.c.shape[-2], batch.c.shape[-1]), len(self.latents))
        return [(z, h, w) for z, (h, w) in zip(self.latents, sizes, strict=True)]

    def _physical(self, output: Tensor) -> NDArray[np.float32]:
        fields: NDArray[np.float32] = self.scaling.physical(output).cpu().numpy()[:, 0]
        return fields

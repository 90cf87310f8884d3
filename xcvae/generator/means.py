"""Posterior means of a domain in tiles: assembled, and decoded.

Both go the way of a draw, with zeros or given latents in the place of noise.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from xcvae.fields.batches import Batch
from xcvae.generator.device import autocast
from xcvae.generator.network.ladder import Drawn, Encoded, Ladder, Normal
from xcvae.generator.noise import Window
from xcvae.generator.splitting import Place, cells_of
from xcvae.generator.tiling import Domain, DrawBatch, Write


@dataclass(frozen=True)
class _Means(DrawBatch):
    """A descent along posterior means, which writes the distributions of all levels.

    Attributes
    ----------
    size
        Rows and columns of the domain.
    core
        Pixels whose values are right; None for all.
    found
        Maps of the whole domain by level: means and log sigmas of posterior and prior.
    """

    size: tuple[int, int] = (0, 0)
    core: Place | None = None
    found: dict[int, list[Tensor]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def at(self, core: Place) -> _Means:
        """Return the draw batch of a tile with this core."""
        return replace(self, core=core)

    def descend(
        self,
        network: Ladder,
        encoded: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        """Descend along the posterior means, and write what the levels see."""
        zeros = [torch.zeros(1, *window.shape, device=self.device) for window in windows]
        with torch.inference_mode(), autocast(self.device):
            drawn = network.descend(encoded, zeros, state=state)
        for window, q, p in zip(windows, drawn.posterior, drawn.prior, strict=True):
            self._write(network, window, [q.mu, q.log_sigma, p.mu, p.log_sigma])
        return drawn.output

    def distributions(self, levels: int) -> tuple[list[Normal], list[Normal]]:
        """Return posterior and prior of every level, coarsest first."""
        found = [self.found[level] for level in range(levels)]
        return [Normal(*maps[:2]) for maps in found], [Normal(*maps[2:]) for maps in found]

    def _write(self, network: Ladder, window: Window, maps: Sequence[Tensor]) -> None:
        (first_row, first_column), (_, height, width) = window.origin, window.shape
        if self.core is None:
            rows, columns = slice(0, height), slice(0, width)
        else:
            halvings = len(network.latents) - 1 - window.level
            rows, columns = cells_of(self.core, network.patch * 2**halvings)
        with self.lock:
            if window.level not in self.found:
                size = network.shapes(*self.size)[window.level][1:]
                self.found[window.level] = [one.new_empty((*one.shape[:2], *size)) for one in maps]
        for whole, part in zip(self.found[window.level], maps, strict=True):
            whole[..., rows, columns] = part[
                ...,
                rows.start - first_row : rows.stop - first_row,
                columns.start - first_column : columns.stop - first_column,
            ]


@dataclass(frozen=True)
class _Decoding(DrawBatch):
    """A descent with given latents.

    Attributes
    ----------
    latents
        Maps of the whole domain, coarsest level first.
    """

    latents: Sequence[Tensor] = ()

    def descend(
        self,
        network: Ladder,
        encoded: Encoded,
        windows: Sequence[Window],
        state: Tensor | None = None,
    ) -> Tensor:
        """Decode the part of the latents in the windows."""
        parts = []
        for window in windows:
            (y, x), (_, height, width) = window.origin, window.shape
            parts.append(self.latents[window.level][..., y : y + height, x : x + width])
        with torch.inference_mode(), autocast(self.device):
            return network.decode(encoded, parts, state)


def tiled_means(batch: Batch, domain: Domain) -> Drawn:
    """Descend along the posterior means of every sample; see `FieldSampler.posterior_means`.

    Parameters
    ----------
    batch
        With the target.
    domain
        Tiles for draws with the target.

    Returns
    -------
    Drawn
        With an empty output.
    """
    found, levels = [], len(domain.network.latents)
    for sample in range(len(batch)):
        means = _Means((), [0.0] * levels, 1.0, domain.device, size=domain.size)
        encoded = {sample: domain.encode(batch, sample, posterior=True)}
        domain.draw(batch, [sample], encoded, means, lambda *_: None)
        found.append(means.distributions(levels))
    posterior, prior = (
        [_joined(level) for level in zip(*kind, strict=True)] for kind in zip(*found, strict=True)
    )
    return Drawn(torch.empty(0), posterior, prior)


def tiled_decoding(
    batch: Batch, sample: int, latents: Sequence[Tensor], domain: Domain, write: Write
) -> None:
    """Decode latents under the conditions of a sample.

    Parameters
    ----------
    batch, sample
        Conditions, and the row of the sample.
    latents
        Maps of the whole domain, coarsest level first, (1, latents, y, x).
    domain
        Tiles for draws without the target.
    write
        Takes the parts of the field; see `Domain.draw`.
    """
    encoded = {sample: domain.encode(batch, sample, posterior=False)}
    decoding = _Decoding((), None, 1.0, domain.device, latents=latents)
    domain.draw(batch, [sample], encoded, decoding, write)


def _joined(parts: Sequence[Normal]) -> Normal:
    return Normal(torch.cat([n.mu for n in parts]), torch.cat([n.log_sigma for n in parts]))

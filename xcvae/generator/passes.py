"""One pass through the network: which members it draws, and from what noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xcvae.fields.batch import Batch
from xcvae.generator.ladder import Encoded, Ladder
from xcvae.generator.noise import Address, Window, normal_maps
from xcvae.generator.numerics import autocast

__all__ = ["Pass", "Place", "Whole"]

#: Rows and columns of the domain.
Place = tuple[slice, slice]


@dataclass(frozen=True)
class Pass:
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
class Whole:
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
        self, batch: Batch, samples: Sequence[int], known: Encoded, one: Pass
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

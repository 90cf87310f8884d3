"""The conditional ladder VAE: encoder q, learned prior p and decoder, coarse to fine.

At every level l, coarsest first, the running state h of the decoder (which has seen the condition
c and all coarser latents) gives the prior p(z_l | z_<l, c); joined with the features of the target
x it gives the posterior q(z_l | z_<l, c, x), expressed relative to the prior. A latent is a map
with the size of its level, so it cannot be bypassed by a bottleneck, and the prior is trained,
so draws without an observation come from where the decoder was trained.

References: Sonderby et al. 2016 (arXiv:1602.02282), Vahdat & Kautz 2020 (arXiv:2007.03898),
Child 2021 (arXiv:2011.10650), Sohn et al. 2015 (NeurIPS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from xcvae.generator.blocks import ContextEncoder, Modulation, ResidualBlock, double, halve, silence

__all__ = ["Drawn", "Ladder", "Level", "Normal", "level_sizes"]

LOG_SIGMA_RANGE = (-6.0, 3.0)


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Heights and widths of the levels, coarsest first.

    Examples
    --------
    >>> level_sizes((35, 53), 3)
    [(9, 14), (18, 27), (35, 53)]
    """
    sizes = [size]
    for _ in range(levels - 1):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes[::-1]


@dataclass(frozen=True)
class Normal:
    """Independent normal distributions, one per latent and pixel; tensors (batch, latent, h, w)."""

    mu: Tensor
    log_sigma: Tensor

    def kl(self, prior: Normal) -> Tensor:
        """KL(self || prior) in nats per sample, summed over latents and pixels; (batch,)."""
        return self.kl_map(prior).flatten(1).sum(1)

    def kl_map(self, prior: Normal) -> Tensor:
        """KL(self || prior) in nats of each latent at each pixel; (batch, latent, h, w)."""
        difference = self.log_sigma - prior.log_sigma
        shift = (self.mu - prior.mu) * torch.exp(-prior.log_sigma)
        return 0.5 * (torch.exp(2 * difference) + shift.square() - 1) - difference

    def towards(self, prior: Normal, weight: float) -> Normal:
        """Go from self (0) to the prior (1) on the straight path of mean and log-sigma."""
        return Normal(
            torch.lerp(self.mu, prior.mu, weight),
            torch.lerp(self.log_sigma, prior.log_sigma, weight),
        )

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Place standard normal deviates; ``temperature`` scales sigma."""
        return self.mu + temperature * torch.exp(self.log_sigma) * noise


@dataclass(frozen=True)
class Drawn:
    """What one pass through the ladder gives.

    Attributes
    ----------
    output
        The field in the model's normalised space, (batch, 1, y, x); below zero means dry.
    posterior, prior
        Distributions per level, coarsest first. ``posterior`` is empty without a target.
    """

    output: Tensor
    posterior: list[Normal]
    prior: list[Normal]

    def kl(self) -> list[Tensor]:
        """KL(q || p) of every level in nats per sample, coarsest first; each (batch,)."""
        return [q.kl(p) for q, p in zip(self.posterior, self.prior, strict=True)]


class Level(nn.Module):
    """One rung: prior, posterior, the latent's way into the state, and residual blocks."""

    def __init__(
        self, channels: int, features: int, latents: int, blocks: int, context: int
    ) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels, 2 * latents, 1)
        self.mix = nn.Conv2d(channels + features, channels, 3, padding=1)
        self.posterior = nn.Conv2d(channels, 2 * latents, 1)
        self.inject = nn.Conv2d(latents, channels, 1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(blocks)))
        self.modulation = Modulation(context, channels) if context else None
        for head in (self.prior, self.posterior):
            silence(head)

    def prior_of(self, h: Tensor) -> Normal:
        mu, log_sigma = self.prior(h).float().chunk(2, dim=1)
        return Normal(mu, log_sigma.clamp(*LOG_SIGMA_RANGE))

    def posterior_of(self, h: Tensor, features: Tensor, prior: Normal) -> Normal:
        joined = nn.functional.silu(self.mix(torch.cat([h, features], dim=1)))
        mu, log_sigma = self.posterior(joined).float().chunk(2, dim=1)
        # Relative to the prior in its own unit of spread, so that a zero head means KL = 0.
        return Normal(
            prior.mu + mu * torch.exp(prior.log_sigma),
            (prior.log_sigma + log_sigma).clamp(*LOG_SIGMA_RANGE),
        )

    def modulate(self, h: Tensor, vector: Tensor | None) -> Tensor:
        if self.modulation is None or vector is None:
            return h
        out: Tensor = self.modulation(h, vector)
        return out

    def refine(self, h: Tensor, z: Tensor) -> Tensor:
        out: Tensor = self.blocks(h + self.inject(z))
        return out


class Pyramid(nn.Module):
    """Feature maps of an input at every level of the ladder, returned coarsest first.

    The full grid gets a single convolution: residual blocks there cost a third of a training
    step and changed no score.
    """

    def __init__(self, inputs: int, channels: Sequence[int], blocks: int) -> None:
        super().__init__()
        fine_first = list(channels)[::-1]
        self.stem = nn.Conv2d(inputs, fine_first[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(c) for _ in range(blocks))) for c in fine_first[1:]
        )
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(fine_first))

    def forward(self, maps: Tensor) -> list[Tensor]:
        features: list[Tensor] = [self.stem(maps)]
        for widen, block in zip(self.widen, self.blocks, strict=True):
            features.append(block(widen(halve(features[-1]))))
        return features[::-1]


class Ladder(nn.Module):
    """The network p(x | c) with its posterior q(z | x, c).

    Parameters
    ----------
    conditions
        Channels of ``c``: stretched conditions, statics, mask and position maps.
    pooled
        Values per sample of conditions that have no place on the grid; 0 for none.
    channels, latents
        Feature and latent channels per level, coarsest first.
    blocks
        Residual blocks per level of the decoder.
    base
        Channel of ``c`` that the output is added to (the stretched coarse rain), or None.
    context
        Length of the vector that pooled conditions are summarised in.
    """

    def __init__(
        self,
        *,
        conditions: int,
        pooled: int,
        channels: Sequence[int],
        latents: Sequence[int],
        blocks: int = 2,
        base: int | None = None,
        context: int = 64,
    ) -> None:
        super().__init__()
        self.base = base
        self.encode_condition = Pyramid(conditions + 1, channels, 1)
        self.encode_target = Pyramid(conditions + 2, channels, 1)
        self.encode_context = ContextEncoder(pooled, context) if pooled else None
        size = context if pooled else 0
        self.levels = nn.ModuleList(
            Level(c, c, z, blocks, size) for c, z in zip(channels, latents, strict=True)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))
        self.head = nn.Conv2d(channels[-1], 1, 3, padding=1)
        silence(self.head)

    def forward(
        self,
        c: Tensor,
        pooled: Tensor | None,
        noise: Sequence[Tensor],
        *,
        x: Tensor | None = None,
        freed: Sequence[float] | None = None,
        temperature: float = 1.0,
    ) -> Drawn:
        """Draw one field per sample.

        Parameters
        ----------
        c
            Condition maps on the target grid, (batch, conditions, y, x).
        pooled
            (batch, pooled) or None.
        noise
            Standard normal deviates per level, coarsest first, (batch, latents[l], h_l, w_l).
        x
            The target in normalised space, (batch, 1, y, x); None draws from the prior.
        freed
            Per level, how far z goes from posterior (0) to prior (1); all 0 by default.
        temperature
            Scales the sigma that the deviates are multiplied with.
        """
        c = with_edges(c)
        guides, vector = self._guides(c, pooled)
        features = None if x is None else self.encode_target(torch.cat([c, x], dim=1))
        posteriors, priors = [], []
        h = guides[0]
        for index, level in enumerate(self._rungs()):
            h = level.modulate(h, vector)
            q = p = level.prior_of(h)
            if features is not None:
                q = level.posterior_of(h, features[index], p)
                posteriors.append(q)
            priors.append(p)
            source = q if freed is None else q.towards(p, freed[index])
            h = level.refine(h, source.sample(noise[index], temperature))
            h = self._climb(h, index, guides)
        return Drawn(self._finish(h, c), posteriors, priors)

    def decode(self, c: Tensor, pooled: Tensor | None, latents: Sequence[Tensor]) -> Tensor:
        """Decode given latents (coarsest first) instead of drawing them; (batch, 1, y, x)."""
        c = with_edges(c)
        guides, vector = self._guides(c, pooled)
        h = guides[0]
        for index, level in enumerate(self._rungs()):
            h = level.refine(level.modulate(h, vector), latents[index])
            h = self._climb(h, index, guides)
        return self._finish(h, c)

    def _rungs(self) -> list[Level]:
        return cast(list[Level], list(self.levels))

    def _guides(self, c: Tensor, pooled: Tensor | None) -> tuple[list[Tensor], Tensor | None]:
        vector = None
        if self.encode_context is not None and pooled is not None:
            vector = self.encode_context(pooled)
        return self.encode_condition(c), vector

    def _climb(self, h: Tensor, index: int, guides: list[Tensor]) -> Tensor:
        if index + 1 == len(self.levels):
            return h
        guide = guides[index + 1]
        return double(self.narrow[index](h), (guide.shape[-2], guide.shape[-1])) + guide

    def _finish(self, h: Tensor, c: Tensor) -> Tensor:
        output: Tensor = self.head(h)
        return output if self.base is None else output + c[:, self.base : self.base + 1]


def with_edges(c: Tensor) -> Tensor:
    """Add a map of ones, so that zero-padded convolutions see where the domain ends."""
    return torch.cat([c, c.new_ones(c.shape[0], 1, *c.shape[2:])], dim=1)

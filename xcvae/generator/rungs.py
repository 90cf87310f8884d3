"""What a ladder is made of: a rung with its prior and posterior, and the pyramids beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor, nn

from xcvae.generator.blocks import Modulation, ResidualBlock, SeparableBlock, halve, silence

__all__ = ["Level", "Normal", "Pyramid"]

LOG_SIGMA_RANGE = (-6.0, 3.0)


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

    def freed(self, prior: Normal, share: float, order: Tensor | None) -> Normal:
        """Let a share of the latents go, from self (0) to the prior (1).

        Each latent follows either the observed storm or the prior, never something in between:
        given those that are kept, the others come from the model's own conditional distribution,
        so that what is drawn is as well calibrated as a draw from the prior. Means that go over
        gradually give members that differ more from each other than from the storm.

        Parameters
        ----------
        prior
            Of the same level.
        share
            Of the latents, 0 to 1.
        order
            Standard normal deviates: those below the quantile of ``share`` are freed.
        """
        if share in (0.0, 1.0):
            return prior if share else self
        assert order is not None
        go = order < NormalDist().inv_cdf(share)
        return Normal(
            torch.where(go, prior.mu, self.mu), torch.where(go, prior.log_sigma, self.log_sigma)
        )

    def widened(self, factor: float) -> Normal:
        """Multiply sigma."""
        return self if factor == 1 else Normal(self.mu, self.log_sigma + math.log(factor))

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Place standard normal deviates; ``temperature`` scales sigma."""
        return self.mu + temperature * torch.exp(self.log_sigma) * noise


class Level(nn.Module):
    """One rung: prior, posterior, the latent's way into the state, and residual blocks."""

    def __init__(
        self,
        channels: int,
        features: int,
        latents: int,
        blocks: int,
        context: int,
        *,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.prior = nn.Conv2d(channels, 2 * latents, 1)
        self.mix = nn.Conv2d(channels + features, channels, 3, padding=1)
        self.posterior = nn.Conv2d(channels, 2 * latents, 1)
        self.inject = nn.Conv2d(latents, channels, 1)
        self.blocks = _blocks(channels, blocks, separable=separable)
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


def _blocks(channels: int, count: int, *, separable: bool) -> nn.Sequential:
    kind = SeparableBlock if separable else ResidualBlock
    return nn.Sequential(*(kind(channels) for _ in range(count)))


class Pyramid(nn.Module):
    """Feature maps of an input at every level of the ladder, returned coarsest first.

    The full grid gets a single convolution: residual blocks there cost a third of a training
    step. (What they are worth in skill at equal steps was not measured.)
    """

    def __init__(self, inputs: int, channels: Sequence[int], blocks: int, separable: int) -> None:
        super().__init__()
        fine_first = list(channels)[::-1]
        self.stem = nn.Conv2d(inputs, fine_first[0], 3, padding=1)
        self.blocks = nn.ModuleList(
            _blocks(c, blocks, separable=level < separable)
            for level, c in enumerate(fine_first[1:], start=1)
        )
        self.widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(fine_first))

    def forward(self, maps: Tensor, levels: int | None = None) -> list[Tensor]:
        """Features of so many of the finest levels; of all by default."""
        return self.rise(self.stem(maps), last=None if levels is None else levels - 1)

    def rise(self, maps: Tensor, *, first: int = 0, last: int | None = None) -> list[Tensor]:
        """Features of a level and of the coarser ones.

        Parameters
        ----------
        maps
            Features of the level that lies ``first`` halvings above the finest.
        first, last
            Halvings behind ``maps``, and behind the coarsest features that are wanted.
        """
        features = [maps]
        steps = list(zip(self.widen, self.blocks, strict=True))
        for widen, block in steps[first:last]:
            features.append(block(widen(halve(features[-1]))))
        return features[::-1]

"""What a ladder is made of: a rung with its prior and posterior, and the pyramids beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from xcvae.generator.blocks import Modulation, ResidualBlock, halve, silence

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

    def towards(self, prior: Normal, weight: float) -> Normal:
        """Go from self (0) to the prior (1) without losing variance on the way.

        The mean goes over as the cosine of a quarter turn, and the variances are added as its
        squares: if the posterior, averaged over storms, fills the prior, so does every point in
        between. On the straight path of mean and log-sigma it does not, and what is drawn halfway
        is too smooth and too dry.
        """
        if weight in (0.0, 1.0):
            return prior if weight else self
        kept, freed = math.cos(weight * math.pi / 2), math.sin(weight * math.pi / 2)
        return Normal(
            prior.mu + kept * (self.mu - prior.mu),
            torch.logaddexp(
                2 * (self.log_sigma + math.log(kept)), 2 * (prior.log_sigma + math.log(freed))
            )
            / 2,
        )

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Place standard normal deviates; ``temperature`` scales sigma."""
        return self.mu + temperature * torch.exp(self.log_sigma) * noise


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
    step. (What they are worth in skill at equal steps was not measured.)
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

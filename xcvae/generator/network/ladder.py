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

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xcvae.generator.network.constraint import BlockMeans
from xcvae.generator.network.layers import (
    ContextEncoder,
    Modulation,
    ResidualBlock,
    SeparableBlock,
    double,
    fold,
    halve,
    silence,
    unfold,
)

__all__ = ["Drawn", "Encoded", "Ladder", "Level", "Normal", "Pyramid", "level_sizes"]


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


R = TypeVar("R")


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
class Encoded:
    """What is known of a batch before a latent is drawn.

    Attributes
    ----------
    guides, features
        Feature maps of the condition and, for posterior draws, of the target, coarsest first.
    vector
        Summary of pooled conditions, (batch, context).
    base
        What the output is added to, (batch, 1, y, x).
    coarse
        Block means that the output has to keep, in the target's normalised space, repeated over
        their pixels; (batch, 1, y, x).
    size
        Height and width of the field.
    first
        Number of the level of ``guides[0]``: 0, or more where the finest levels alone are known.
    """

    guides: list[Tensor]
    features: list[Tensor] | None
    vector: Tensor | None
    base: Tensor | None
    coarse: Tensor | None
    size: tuple[int, int]
    first: int = 0

    @staticmethod
    def join(parts: Sequence[Encoded]) -> Encoded:
        """Put encoded batches of the same kind one after the other."""

        def joined(maps: Sequence[Tensor | None]) -> Tensor | None:
            present = [m for m in maps if m is not None]
            return torch.cat(present) if present else None

        features = None
        if all(p.features is not None for p in parts):
            features = [
                torch.cat(level) for level in zip(*(p.features or [] for p in parts), strict=True)
            ]
        return Encoded(
            guides=[torch.cat(level) for level in zip(*(p.guides for p in parts), strict=True)],
            features=features,
            vector=joined([p.vector for p in parts]),
            base=joined([p.base for p in parts]),
            coarse=joined([p.coarse for p in parts]),
            size=parts[0].size,
            first=parts[0].first,
        )


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
    separable
        How many of the finest levels have separable blocks.
    base
        Channel of ``c`` that the output is added to (the stretched coarse rain), or None.
    context
        Length of the vector that pooled conditions are summarised in.
    patch
        Side of the squares of pixels that the finest level works on as one.
    constraint
        Makes the output keep its block means, which are the last channel of ``c``; None for none.
    checkpointing
        Work features out again for the gradients instead of keeping them: less memory, more time.
    """

    def __init__(
        self,
        *,
        conditions: int,
        pooled: int,
        channels: Sequence[int],
        latents: Sequence[int],
        blocks: int = 2,
        separable: int = 0,
        base: int | None = None,
        context: int = 64,
        patch: int = 1,
        constraint: BlockMeans | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.base, self.constraint, self.checkpointing = base, constraint, checkpointing
        self.patch, self.latents = patch, tuple(latents)
        # Factor of the prior's sigma where latents follow it: 1 until it is measured.
        self.calibrated = 1.0
        self.encode_condition = Pyramid((conditions + 1) * patch**2, channels, 1, separable)
        self.encode_target = Pyramid((conditions + 2) * patch**2, channels, 1, separable)
        self.encode_context = ContextEncoder(pooled, context) if pooled else None
        self.levels = nn.ModuleList(
            Level(c, c, z, blocks, context if pooled else 0, separable=left <= separable)
            for left, c, z in zip(range(len(channels), 0, -1), channels, latents, strict=True)
        )
        self.narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))
        self.head = nn.Conv2d(channels[-1], patch**2, 3, padding=1)
        silence(self.head)

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Latent channels, height and width of every level for a field, coarsest first."""
        finest = (-(-height // self.patch), -(-width // self.patch))
        sizes = level_sizes(finest, len(self.latents))
        return [(z, h, w) for z, (h, w) in zip(self.latents, sizes, strict=True)]

    def forward(
        self, c: Tensor, pooled: Tensor | None, noise: Sequence[Tensor], *, x: Tensor | None = None
    ) -> Drawn:
        """Encode a batch, then draw one field per sample: see `encode` and `descend`."""
        return self.descend(self.encode(c, pooled, x), noise)

    def encode(
        self,
        c: Tensor,
        pooled: Tensor | None,
        x: Tensor | None = None,
        *,
        levels: int | None = None,
    ) -> Encoded:
        """Everything that is known before a latent is drawn.

        Parameters
        ----------
        c
            Condition maps on the target grid, (batch, conditions, y, x).
        pooled
            (batch, pooled) or None.
        x
            The target in normalised space, (batch, 1, y, x); None for draws from the prior.
        levels
            How many of the finest levels are wanted; all of them by default.
        """
        # A map of ones lets zero-padded convolutions see where the domain ends.
        c = torch.cat([c, c.new_ones(c.shape[0], 1, *c.shape[2:])], dim=1)
        vector = None
        if self.encode_context is not None and pooled is not None:
            vector = self.encode_context(pooled)
        seen = fold(c, self.patch)
        features = None
        if x is not None:
            both = torch.cat([seen, fold(x, self.patch)], dim=1)
            features = self._lean(self.encode_target, both, levels)
        guides = self._lean(self.encode_condition, seen, levels)
        return Encoded(
            guides=guides,
            features=features,
            vector=vector,
            base=None if self.base is None else c[:, self.base : self.base + 1],
            coarse=None if self.constraint is None else c[:, -2:-1],
            size=(c.shape[-2], c.shape[-1]),
            first=len(self.levels) - len(guides),
        )

    def descend(
        self,
        known: Encoded,
        noise: Sequence[Tensor],
        *,
        freed: Sequence[float] | None = None,
        order: Sequence[Tensor | None] | None = None,
        temperature: float = 1.0,
        state: Tensor | None = None,
    ) -> Drawn:
        """Draw one field per encoded sample, from the coarsest level to the finest.

        Parameters
        ----------
        known
            From `encode`; with a target the draw is from the posterior. The next three are per
            level that is known.
        noise
            Standard normal deviates, coarsest first, (batch, latents[l], h_l, w_l).
        freed
            The share of the latents that follow the prior; all 0 by default.
        order
            Deviates that tell which latents are freed first, shaped like the noise;
            None where all or none are.
        temperature
            Scales the sigma that the deviates are multiplied with.
        state
            What the next coarser level gave, where levels are drawn in two parts.

        Returns
        -------
        Drawn
            Where the finest level is not among those that are known, its output is the state
            that the next finer one goes on with.
        """
        posteriors, priors, h = [], [], state
        last = known.first + len(known.guides)
        for index, level in enumerate(self.rungs[known.first : last]):
            h = level.modulate(self._enter(h, index, known), known.vector)
            q = p = level.prior_of(h)
            if known.features is not None:
                q = self._lean(level.posterior_of, h, known.features[index], p)
                posteriors.append(q)
            priors.append(p)
            wide = p.widened(self.calibrated)
            source = wide if known.features is None else q
            if freed is not None:
                source = source.freed(wide, freed[index], None if order is None else order[index])
            h = self._lean(level.refine, h, source.sample(noise[index], temperature))
        assert h is not None
        return Drawn(self._finish(h, known) if last == len(self.levels) else h, posteriors, priors)

    def decode(self, known: Encoded, latents: Sequence[Tensor]) -> Tensor:
        """Decode given latents (coarsest first) instead of drawing them; (batch, 1, y, x)."""
        h = known.guides[0]
        for index, level in enumerate(self.rungs):
            h = self._enter(h if index else None, index, known)
            h = level.refine(level.modulate(h, known.vector), latents[index])
        return self._finish(h, known)

    @property
    def rungs(self) -> list[Level]:
        """The levels, coarsest first."""
        return cast("list[Level]", list(self.levels))

    def _lean(self, function: Callable[..., R], *given: object) -> R:
        if not (self.checkpointing and torch.is_grad_enabled()):
            return function(*given)
        return cast(
            "R", checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)
        )

    def _enter(self, h: Tensor | None, index: int, known: Encoded) -> Tensor:
        """The state with which a level begins, from that of the next coarser one, if any."""
        guide = known.guides[index]
        if h is None:
            return guide
        narrow = self.narrow[known.first + index - 1]
        return double(narrow(h), (guide.shape[-2], guide.shape[-1])) + guide

    def _finish(self, h: Tensor, known: Encoded) -> Tensor:
        output = unfold(self.head(h), self.patch, known.size)
        if known.base is not None:
            output = output + known.base
        if self.constraint is not None and known.coarse is not None:
            output = self.constraint(output.float(), known.coarse.float())
        return output

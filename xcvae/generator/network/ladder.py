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
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Any, TypeVar, cast

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
    unfold,
    zero_init,
)

R = TypeVar("R")

#: Bounds of every log sigma: exp(-6) keeps KL finite, exp(3) keeps a stray draw in float range.
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

    def release_to_prior(self, prior: Normal, share: float, order: Tensor | None) -> Normal:
        """Replace a share of the latents' distributions, from none (0) to all (1), by the prior's.

        Each latent follows either the observed storm or the prior, never something in between:
        given the latents of the storm, the released ones come from the model's own conditional
        distribution, so that members are as well calibrated as draws from the prior. Means that
        are interpolated give members that differ more from each other than from the storm.

        Parameters
        ----------
        prior
            Distribution of the same level.
        share
            Share of the latents that is released, 0 to 1.
        order
            Standard normal deviates: those below the quantile of ``share`` are released.
        """
        if share in (0.0, 1.0):
            return prior if share else self
        assert order is not None
        # A fixed deviate per latent and a rising quantile: no latent is taken back as share grows.
        released = order < NormalDist().inv_cdf(share)
        return Normal(
            torch.where(released, prior.mu, self.mu),
            torch.where(released, prior.log_sigma, self.log_sigma),
        )

    def scale_sigma(self, factor: float) -> Normal:
        """Multiply sigma by a factor."""
        return self if factor == 1 else Normal(self.mu, self.log_sigma + math.log(factor))

    def sample(self, noise: Tensor, temperature: float = 1.0) -> Tensor:
        """Turn standard normal deviates into a sample; ``temperature`` scales sigma."""
        return self.mu + temperature * torch.exp(self.log_sigma) * noise


class Level(nn.Module):
    """One level of the ladder: prior, posterior, injection of the latent, residual blocks."""

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
            zero_init(head)

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
        residual = (
            _blocks(c, blocks, separable=level < separable)
            for level, c in enumerate(fine_first[1:], start=1)
        )
        # Cast, here and below, because the stubs of ModuleList lose the type of its modules.
        self.blocks = cast("Sequence[nn.Sequential]", nn.ModuleList(residual))
        widen = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(fine_first))
        self.widen = cast("Sequence[nn.Conv2d]", widen)

    def forward(self, maps: Tensor, levels: int | None = None) -> list[Tensor]:
        """Return the features of the ``levels`` finest levels; of all by default."""
        return self.rise(self.stem(maps), last=None if levels is None else levels - 1)

    def rise(self, maps: Tensor, *, first: int = 0, last: int | None = None) -> list[Tensor]:
        """Return the features of a level and of the coarser ones.

        Parameters
        ----------
        maps
            Features of the level that lies ``first`` halvings above the finest.
        first, last
            Halvings that ``maps``, and the coarsest features to return, have gone through.
        """
        features = [maps]
        steps = list(zip(self.widen, self.blocks, strict=True))
        for widen, block in steps[first:last]:
            features.append(block(widen(halve(features[-1]))))
        return features[::-1]


def level_sizes(size: tuple[int, int], levels: int) -> list[tuple[int, int]]:
    """Return heights and widths of the levels, coarsest first.

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
    """Features of a batch that are computed before a latent is drawn.

    Attributes
    ----------
    guides, features
        Feature maps of the condition and, for posterior draws, of the target, coarsest first.
    vector
        Summary of pooled conditions, (batch, context); None without any.
    base
        Field that the output is added to, (batch, 1, y, x).
    coarse
        Block means that the output has to keep, in the target's normalised space, repeated over
        their pixels; (batch, 1, y, x).
    size
        Height and width of the field.
    first
        Number of the level of ``guides[0]``: 0, or more if only the finest levels are encoded.
    side
        Pixels along a side of the blocks of ``coarse``; 0 for that of the constraint.
    """

    guides: list[Tensor]
    features: list[Tensor] | None
    vector: Tensor | None
    base: Tensor | None
    coarse: Tensor | None
    size: tuple[int, int]
    first: int = 0
    side: int = 0

    def part(self, start: int, stop: int) -> Encoded:
        """Return some of the encoded levels, counted from the coarsest of them."""
        features = None if self.features is None else self.features[start:stop]
        guides = self.guides[start:stop]
        return replace(self, guides=guides, features=features, first=self.first + start)

    def take(self, rows: Tensor) -> Encoded:
        """Pick samples by an index, (rows,), on the device of the maps."""

        def taken(maps: Tensor) -> Tensor:
            if maps.dim() != 4:  # the vector
                return maps.index_select(0, rows)
            # In the layout of convolutions, which an index would lose.
            return maps.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)

        return replace(
            self,
            guides=[taken(maps) for maps in self.guides],
            features=None if self.features is None else [taken(maps) for maps in self.features],
            vector=None if self.vector is None else taken(self.vector),
            base=None if self.base is None else taken(self.base),
            coarse=None if self.coarse is None else taken(self.coarse),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all maps."""
        maps = [*self.guides, *(self.features or []), self.base, self.coarse]
        return sum(one.nbytes for one in maps if one is not None)

    @staticmethod
    def join(parts: Sequence[Encoded]) -> Encoded:
        """Concatenate encoded batches of the same kind."""

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
            side=parts[0].side,
        )


@dataclass(frozen=True)
class Drawn:
    """Result of one pass through the ladder.

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
        """Return KL(q || p) of every level in nats per sample, coarsest first; each (batch,)."""
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
        # Factor of the prior's sigma where latents follow it, of each level; see `calibrate`.
        self.sigma_factors: tuple[float, ...] = (1.0,) * len(channels)
        self.encode_condition = Pyramid((conditions + 1) * patch**2, channels, 1, separable)
        self.encode_target = Pyramid((conditions + 2) * patch**2, channels, 1, separable)
        self.encode_context = ContextEncoder(pooled, context) if pooled else None
        levels = (
            Level(c, c, z, blocks, context if pooled else 0, separable=left <= separable)
            for left, c, z in zip(range(len(channels), 0, -1), channels, latents, strict=True)
        )
        self.levels = cast("Sequence[Level]", nn.ModuleList(levels))
        narrow = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(channels))
        self.narrow = cast("Sequence[nn.Conv2d]", narrow)
        self.head = nn.Conv2d(channels[-1], patch**2, 3, padding=1)
        zero_init(self.head)

    def shapes(self, height: int, width: int) -> list[tuple[int, int, int]]:
        """Return latent channels, height and width of every level of a field, coarsest first."""
        finest = (-(-height // self.patch), -(-width // self.patch))
        sizes = level_sizes(finest, len(self.latents))
        return [(z, h, w) for z, (h, w) in zip(self.latents, sizes, strict=True)]

    def noise(
        self, count: int, maps: Tensor, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Draw deviates for ``count`` fields of the size of ``maps``, coarsest level first."""
        shapes = self.shapes(maps.shape[-2], maps.shape[-1])
        options: Any = {"generator": generator, "device": maps.device}
        return [torch.randn(count, *shape, **options) for shape in shapes]

    def forward(
        self,
        c: Tensor,
        pooled: Tensor | None,
        noise: Sequence[Tensor],
        *,
        x: Tensor | None = None,
        side: int = 0,
    ) -> Drawn:
        """Encode a batch, then draw one field per sample: see `encode` and `descend`."""
        return self.descend(self.encode(c, pooled, x, side=side), noise)

    def encode(
        self,
        c: Tensor,
        pooled: Tensor | None,
        x: Tensor | None = None,
        *,
        levels: int | None = None,
        side: int = 0,
    ) -> Encoded:
        """Compute the features that do not depend on a latent.

        Parameters
        ----------
        c
            Condition maps on the target grid, (batch, conditions, y, x).
        pooled
            (batch, pooled) or None.
        x
            The target in normalised space, (batch, 1, y, x); None for draws from the prior.
        levels
            Number of levels to encode, counted from the finest; all by default.
        side
            Pixels along a side of the blocks whose means are kept; 0 for that of the constraint.
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
            features = self._checkpointed(self.encode_target, both, levels)
        guides = self._checkpointed(self.encode_condition, seen, levels)
        return Encoded(
            guides=guides,
            features=features,
            vector=vector,
            base=None if self.base is None else c[:, self.base : self.base + 1],
            coarse=None if self.constraint is None else c[:, -2:-1],
            size=(c.shape[-2], c.shape[-1]),
            first=len(self.levels) - len(guides),
            side=side,
        )

    def descend(
        self,
        encoded: Encoded,
        noise: Sequence[Tensor],
        *,
        released: Sequence[float] | None = None,
        order: Sequence[Tensor | None] | None = None,
        temperature: float = 1.0,
        state: Tensor | None = None,
        ceilings: Tensor | None = None,
    ) -> Drawn:
        """Draw one field per encoded sample, from the coarsest level to the finest.

        Parameters
        ----------
        encoded
            From `encode`; with a target the draw is from the posterior. The next three have one
            entry per encoded level.
        noise
            Standard normal deviates, coarsest first, (batch, latents[l], h_l, w_l).
        released
            Share of the latents that follow the prior; all 0 by default.
        order
            Deviates that decide which latents are released first, shaped like the noise; None
            where all or none are.
        temperature
            Factor of the sigma that the deviates are multiplied with.
        state
            Output of the next coarser level, if the ladder is descended in two parts.
        ceilings
            Largest value of a pixel of each sample in normalised space, (batch,), where block
            means are kept; by default that of the constraint.

        Returns
        -------
        Drawn
            Without the finest level, its output is the state that the next finer level takes.
        """
        posteriors, priors, h = [], [], state
        last = encoded.first + len(encoded.guides)
        # A list: a slice of a ModuleList is a new module, which takes as long as a small layer.
        for index, level in enumerate(list(self.levels)[encoded.first : last]):
            h = level.modulate(self._input_state(h, index, encoded), encoded.vector)
            q = p = level.prior_of(h)
            if encoded.features is not None:
                q = self._checkpointed(level.posterior_of, h, encoded.features[index], p)
                posteriors.append(q)
            priors.append(p)
            prior = p.scale_sigma(self.sigma_factors[encoded.first + index])
            source = prior if encoded.features is None else q
            if released is not None:
                rank = None if order is None else order[index]
                source = source.release_to_prior(prior, released[index], rank)
            h = self._checkpointed(level.refine, h, source.sample(noise[index], temperature))
        assert h is not None
        if last == len(self.levels):
            h = self._output(h, encoded, ceilings)
        return Drawn(h, posteriors, priors)

    def decode(
        self, encoded: Encoded, latents: Sequence[Tensor], state: Tensor | None = None
    ) -> Tensor:
        """Decode given latents (coarsest first) instead of drawing them; see `descend`."""
        h, last = state, encoded.first + len(encoded.guides)
        for index, level in enumerate(list(self.levels)[encoded.first : last]):
            h = level.modulate(self._input_state(h, index, encoded), encoded.vector)
            h = level.refine(h, latents[index])
        assert h is not None
        return self._output(h, encoded) if last == len(self.levels) else h

    def _checkpointed(self, function: Callable[..., R], *arguments: object) -> R:
        """Call a function, and drop its intermediate results if `checkpointing` is on."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return function(*arguments)
        # No random numbers are drawn inside, so that their state need not be saved.
        return cast(
            "R", checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        )

    def _input_state(self, h: Tensor | None, index: int, encoded: Encoded) -> Tensor:
        """Return the input state of a level, from the output of the next coarser one, if any."""
        guide = encoded.guides[index]
        if h is None:
            return guide
        narrow = self.narrow[encoded.first + index - 1]
        return double(narrow(h), (guide.shape[-2], guide.shape[-1])) + guide

    def _output(self, h: Tensor, encoded: Encoded, ceilings: Tensor | None = None) -> Tensor:
        """Turn the state of the finest level into the field."""
        output = unfold(self.head(h), self.patch, encoded.size)
        if encoded.base is not None:
            output = output + encoded.base
        if self.constraint is not None and encoded.coarse is not None:
            coarse = encoded.coarse.float()
            output = self.constraint(output.float(), coarse, encoded.side, ceilings)
        return output

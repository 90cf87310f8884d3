"""The ELBO: likelihoods of the target given the reconstruction, and the KL divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from xcvae.errors import ComponentError
from xcvae.generator.losses.state import LossState, check_sides, pool
from xcvae.registry.components import Component, Range


@dataclass(frozen=True)
class KL(Component):
    """KL(q || p) over all levels, in nats per pixel, with warm-up and free bits.

    Parameters
    ----------
    beta
        Weight of the KL; 1 makes the sum with `Laplace` the negative ELBO.
    warmup
        Share of the training over which beta rises (Bowman et al. 2016, arXiv:1511.06349). The
        rise starts .02 ahead: with .1, at a fifth of beta, and beta is whole at a share of .08.
    free_bits
        Nats per level and sample without a cost (Kingma et al. 2016, arXiv:1606.04934): one
        number for all levels, or one for each, coarsest first.
    """

    beta: Annotated[float, Range(0)] = 1.0
    warmup: Annotated[float, Range(0, 1)] = 0.1
    free_bits: Annotated[float | tuple[float, ...], Range(0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.free_bits, tuple) and min(self.free_bits, default=-1.0) < 0:
            raise self._refusal("a number >= 0 for each level, coarsest first")

    def __call__(self, state: LossState) -> Tensor:
        ramp = min(1.0, (state.progress + 0.02) / self.warmup) if self.warmup else 1.0
        floors = self._floors(len(state.kl))
        levels = [
            level.mean().clamp(min=floor) for level, floor in zip(state.kl, floors, strict=True)
        ]
        return self.beta * ramp * torch.stack(levels).sum() / state.pixels().mean()

    def _floors(self, levels: int) -> tuple[float, ...]:
        if not isinstance(self.free_bits, tuple):
            return (self.free_bits,) * levels
        if len(self.free_bits) != levels:
            raise self._refusal(f"one number for each of the {levels} levels, coarsest first")
        return self.free_bits

    def _refusal(self, expected: str) -> ComponentError:
        return ComponentError.of(
            "KL, parameter 'free_bits'",
            expected=expected,
            got=repr(self.free_bits),
            remedy="Give one number for all levels, or a list with one for each.",
        )


#: Initial value and lower bound of a learned scale: without a bound, a record that can be
#: reconstructed exactly has no best scale.
START, FLOOR = 0.06, 1e-4

Scale = float | Literal["learned"]


@dataclass(frozen=True)
class Laplace(Component):
    """Negative log-likelihood of a Laplace distribution, censored at dry; nats per pixel.

    The likelihood of a dry pixel is the mass of the distribution at and below zero, because every
    output there is dry.

    Parameters
    ----------
    scale
        Scale of the distribution in normalised space; "learned" makes the training find it
        (Rybkin et al. 2021, arXiv:2006.13202), beginning at 0.06.
    weight
        Factor of the term.
    """

    scale: Annotated[float | Literal["learned"], Range(1e-6)] = 0.06
    weight: Annotated[float, Range(0)] = 1.0

    def learned(self) -> dict[str, float]:
        """Return the trainable values: initial value by name."""
        return _learned("laplace_log_scale", self.scale)

    def __call__(self, state: LossState) -> Tensor:
        scale = _scale(state, "laplace_log_scale", self.scale)
        return self.weight * state.mean(_censored(state.x, state.output, scale))


@dataclass(frozen=True)
class MultiscaleLaplace(Component):
    """`Laplace` of the fields and of their means over windows, each with a scale of its own.

    The sum of the mean over pixels and, for every further pooling, the mean over windows; a
    window is weighted by its share of valid pixels, and averages take values below zero as zero.
    Poolings are not independent of each other, so the sum is a composite likelihood (Varin et al.
    2011, Statistica Sinica 21, 5-42) and not the likelihood of an ELBO.

    Parameters
    ----------
    poolings
        Sides of the square windows that are averaged; 1 is the pixels themselves.
    scale
        Scale of the distribution in normalised space: one for all poolings, one for each, or
        "learned" for one each that the training finds, beginning at 0.06.
    weight
        Factor of the term.
    """

    poolings: tuple[int, ...] = (1, 4, 16)
    scale: Annotated[float | tuple[float, ...] | Literal["learned"], Range(1e-6)] = 0.06
    weight: Annotated[float, Range(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sides(self, self.poolings)
        if not isinstance(self.scale, tuple):
            return
        if len(self.scale) != len(self.poolings) or min(self.scale) < 1e-6:
            raise ComponentError.of(
                "MultiscaleLaplace, parameter 'scale'",
                expected=f"a number >= 1e-06 for each of the poolings {self.poolings}",
                got=repr(self.scale),
                remedy="Give one number for all poolings, as many as poolings, or 'learned'.",
            )

    def learned(self) -> dict[str, float]:
        """Return the trainable values: initial value by name."""
        values: dict[str, float] = {}
        for side, scale in self._scales():
            values |= _learned(_name(side), scale)
        return values

    def __call__(self, state: LossState) -> Tensor:
        terms = []
        for side, given in self._scales():
            scale = _scale(state, _name(side), given)
            if side == 1:
                terms.append(state.mean(_censored(state.x, state.output, scale)))
                continue
            share = pool(state.mask.to(state.x.dtype), side)
            # Without a valid pixel both sums are zero, whatever the divisor.
            divisor = share.clamp(min=1e-9)
            x = pool(state.x * state.mask, side) / divisor
            output = pool(state.reconstruction("normalised") * state.mask, side) / divisor
            nats = _censored(x, output, scale) * share
            terms.append(nats.sum() / share.sum().clamp(min=1e-9))
        return self.weight * torch.stack(terms).sum()

    def _scales(self) -> list[tuple[int, Scale]]:
        if isinstance(self.scale, tuple):
            return list(zip(self.poolings, self.scale, strict=True))
        return [(side, self.scale) for side in self.poolings]


@dataclass(frozen=True)
class Hurdle(Component):
    """Negative log-likelihood of a hurdle: wet or dry, then the wet amount; nats per pixel.

    A pixel is wet with the probability ``sigmoid(output / occurrence)``. Where it is, its amount
    has a Laplace distribution about the output, restricted to above zero (after Cragg 1971,
    doi:10.2307/1909582). An alternative to `Laplace`, which has one scale for both questions.

    Parameters
    ----------
    scale
        Scale of the distribution of amounts in normalised space, or "learned", beginning at 0.06.
    occurrence
        Output in normalised space at which the odds of wet are e to 1, or "learned", beginning
        at 0.06.
    weight
        Factor of the term.
    """

    scale: Annotated[float | Literal["learned"], Range(1e-6)] = 0.06
    occurrence: Annotated[float | Literal["learned"], Range(1e-6)] = 0.06
    weight: Annotated[float, Range(0)] = 1.0

    def learned(self) -> dict[str, float]:
        """Return the trainable values: initial value by name."""
        scale = _learned("hurdle_log_scale", self.scale)
        return scale | _learned("hurdle_log_occurrence", self.occurrence)

    def __call__(self, state: LossState) -> Tensor:
        scale = _scale(state, "hurdle_log_scale", self.scale)
        logit = state.output / _scale(state, "hurdle_log_occurrence", self.occurrence)
        # Restricted to above zero, a Laplace about a negative output is the one about zero.
        output = state.output.clamp(min=0)
        above = torch.log1p(-0.5 * torch.exp(-output / scale))
        amount = (state.x - output).abs() / scale + (2 * scale).log() + above
        wet = F.softplus(-logit) + amount
        return self.weight * state.mean(torch.where(state.x > 0, wet, F.softplus(logit)))


def _censored(x: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    """-log of the Laplace density at x about the output; of its mass up to zero where x is dry."""
    wet = (x - output).abs() / scale + (2 * scale).log()
    above = output / scale
    # -log P(value <= 0), in the form that is stable on each side of zero.
    below = -torch.log1p(-0.5 * torch.exp(above.clamp(max=0)))
    dry = torch.where(above > 0, above + math.log(2), below)
    return torch.where(x > 0, wet, dry)


def _learned(name: str, given: Scale) -> dict[str, float]:
    return {name: math.log(START - FLOOR)} if given == "learned" else {}


def _scale(state: LossState, name: str, given: Scale) -> Tensor:
    if isinstance(given, str):
        return state.parameter(name).exp() + FLOOR
    # Filled on the device: copying a Python number there would synchronise with the host.
    return state.x.new_full((), given)


def _name(side: int) -> str:
    return f"multiscale_laplace_log_scale_{side}"

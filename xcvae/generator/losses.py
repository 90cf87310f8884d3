"""The terms a training can be asked to minimise, by name.

Every term is a frozen dataclass of its parameters, called with the `LossState` of the step; it
gives a scalar tensor. ``weight`` multiplies the term. Physical parameters are in the target's
units unless they are given as text with units.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from xcvae.errors import ComponentError, explain
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.fields.units import parse_quantity
from xcvae.registry.components import Component

__all__ = [
    "CRPS",
    "KL",
    "Gradient",
    "IntensityWeightedMAE",
    "Laplace",
    "LossState",
    "Mass",
]


@dataclass
class LossState:
    """What a loss term can see of one training step. Nothing is computed before it is asked for.

    Attributes
    ----------
    x, output
        Target and reconstruction in the model's normalised space, (batch, 1, y, x).
    mask
        True where the target is valid; same shape.
    kl
        KL(q || p) per level in nats per sample, coarsest first; each (batch,).
    step, progress
        Number of the step, and the share of the training that is done, 0 to 1.
    scaling, record
        The border to physical values, and the record of the training data.
    draw
        Draws one field from the prior for each sample of the batch, normalised.
    """

    x: Tensor
    output: Tensor
    mask: Tensor
    kl: list[Tensor]
    step: int
    progress: float
    scaling: Scaling
    record: Record
    draw: Callable[[], Tensor]
    _draws: list[Tensor] = field(default_factory=list)

    @cached_property
    def observed(self) -> Tensor:
        """The target in physical units."""
        return self.scaling.physical(self.x)

    @cached_property
    def reconstructed(self) -> Tensor:
        """The reconstruction in physical units."""
        return self.scaling.physical(self.output)

    def prior_draws(self, count: int) -> list[Tensor]:
        """``count`` prior draws per sample, normalised; drawn once and shared by all terms."""
        while len(self._draws) < count:
            self._draws.append(self.draw())
        return self._draws[:count]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over valid pixels."""
        return (values * self.mask).sum() / self.mask.sum().clamp(min=1)

    def pixels(self) -> Tensor:
        """Valid pixels per sample, at least 1."""
        return self.mask.flatten(1).sum(1, dtype=torch.float32).clamp(min=1)


def _in_range(term: str, name: str, value: float, low: float, high: float = math.inf) -> None:
    if not low <= value <= high:
        raise ComponentError(
            explain(
                f"loss {term}, parameter {name}",
                expected=f"a number from {low:g} to {high:g}",
                got=value,
                remedy="Change it in `losses`.",
            )
        )


@dataclass(frozen=True)
class Laplace(Component):
    """Negative log-likelihood of a Laplace distribution, censored at dry; nats per pixel.

    A dry pixel only asks for an output at or below zero, because everything below zero is dry:
    its likelihood is the mass of the distribution there.

    Parameters
    ----------
    scale
        Scale of the distribution in normalised space.
    weight
        Factor of the term.
    """

    scale: float = 0.06
    weight: float = 1.0

    def __post_init__(self) -> None:
        _in_range("laplace", "scale", self.scale, 1e-6)

    def __call__(self, state: LossState) -> Tensor:
        wet = (state.x - state.output).abs() / self.scale + math.log(2 * self.scale)
        above = state.output / self.scale
        # -log P(value <= 0), in the form that is stable on each side of zero.
        below = -torch.log1p(-0.5 * torch.exp(above.clamp(max=0)))
        dry = torch.where(above > 0, above + math.log(2), below)
        return self.weight * state.mean(torch.where(state.x > 0, wet, dry))


@dataclass(frozen=True)
class KL(Component):
    """KL(q || p) over all levels, in nats per pixel, with warm-up and free bits.

    Parameters
    ----------
    beta
        Weight of the KL; 1 makes the sum with `Laplace` the negative ELBO.
    warmup
        Share of the training over which beta rises from near 0 (Bowman et al. 2016,
        arXiv:1511.06349).
    free_bits
        Nats per level and sample that cost nothing (Kingma et al. 2016, arXiv:1606.04934).
    """

    beta: float = 1.0
    warmup: float = 0.1
    free_bits: float = 0.0

    def __post_init__(self) -> None:
        _in_range("kl", "beta", self.beta, 0)
        _in_range("kl", "warmup", self.warmup, 0, 1)
        _in_range("kl", "free_bits", self.free_bits, 0)

    def __call__(self, state: LossState) -> Tensor:
        ramp = min(1.0, (state.progress + 0.02) / self.warmup) if self.warmup else 1.0
        floor = torch.as_tensor(self.free_bits, device=state.x.device)
        levels = torch.stack([torch.maximum(level.mean(), floor) for level in state.kl])
        return self.beta * ramp * levels.sum() / state.pixels().mean()


@dataclass(frozen=True)
class IntensityWeightedMAE(Component):
    """Absolute error of the reconstruction, weighted by the observed intensity; physical.

    The weight is ``w_min + intensity / scale``, at most ``w_max``, times ``tail_boost`` where the
    observation is above a quantile of the wet pixels of the training record.

    Parameters
    ----------
    scale
        Intensity that adds 1 to the weight; a number in the target's units or text with units.
    w_min, w_max
        Bounds of the weight.
    tail_boost
        Factor of the weight in the tail.
    tail_quantile
        Where the tail begins, as a quantile of the wet pixels of the training record.
    weight
        Factor of the term.
    """

    scale: float | str = "10 mm h-1"
    w_min: float = 0.1
    w_max: float = 2.0
    tail_boost: float = 1.5
    tail_quantile: float = 0.95
    weight: float = 1.0

    def __post_init__(self) -> None:
        _in_range("intensity_weighted_mae", "w_min", self.w_min, 0, self.w_max)
        _in_range("intensity_weighted_mae", "tail_boost", self.tail_boost, 0)
        _in_range("intensity_weighted_mae", "tail_quantile", self.tail_quantile, 0, 1)

    def __call__(self, state: LossState) -> Tensor:
        scale = parse_quantity(
            self.scale, units=state.record.units, what="loss intensity_weighted_mae, scale"
        )
        tail = state.record.quantile(self.tail_quantile, wet=True)
        weights = (self.w_min + state.observed / scale).clamp(max=self.w_max)
        weights = torch.where(state.observed > tail, weights * self.tail_boost, weights)
        return self.weight * state.mean(weights * (state.reconstructed - state.observed).abs())


@dataclass(frozen=True)
class Gradient(Component):
    """Absolute error of the differences between neighbouring pixels; physical units.

    Parameters
    ----------
    weight
        Factor of the term (``lambda_grad`` of the old scripts).
    """

    weight: float = 0.1

    def __call__(self, state: LossState) -> Tensor:
        error = state.reconstructed - state.observed
        mask = state.mask
        total = error.new_zeros(())
        for dim in (-2, -1):
            pairs = mask.narrow(dim, 1, mask.shape[dim] - 1) * mask.narrow(
                dim, 0, mask.shape[dim] - 1
            )
            steps = error.diff(dim=dim).abs() * pairs
            total = total + steps.sum() / pairs.sum().clamp(min=1)
        return self.weight * total


@dataclass(frozen=True)
class Mass(Component):
    """Absolute difference of the mean rain of each sample; physical units.

    Parameters
    ----------
    weight
        Factor of the term (``lambda_mass`` of the old scripts).
    """

    weight: float = 0.05

    def __call__(self, state: LossState) -> Tensor:
        error = ((state.reconstructed - state.observed) * state.mask).flatten(1).sum(1)
        return self.weight * (error / state.pixels()).abs().mean()


@dataclass(frozen=True)
class CRPS(Component):
    """Almost-fair CRPS of prior draws at several poolings, as a share of the record's mean rain.

    Trains the prior for what users of an ensemble see: draws without an observation
    (Lang et al. 2024, arXiv:2412.15832). The ELBO alone leaves the prior with too little rain;
    this term alone loses spread and fine scales: use it beside the ELBO, late.

    Parameters
    ----------
    draws
        Prior draws per step, at least 2.
    poolings
        Sides of the square windows that are averaged before scoring.
    alpha
        1 is the fair score; slightly less keeps the draws from drifting apart.
    weight
        Factor of the term.
    """

    draws: int = 2
    poolings: tuple[int, ...] = (1, 4, 16)
    alpha: float = 0.95
    weight: float = 2.0

    def __post_init__(self) -> None:
        _in_range("crps", "draws", self.draws, 2)
        _in_range("crps", "alpha", self.alpha, 0, 1)

    def __call__(self, state: LossState) -> Tensor:
        members = [state.scaling.physical(draw) for draw in state.prior_draws(self.draws)]
        total = state.x.new_zeros(())
        for side in self.poolings:
            pooled = [_pool(member * state.mask, side) for member in members]
            total = total + self._score(pooled, _pool(state.observed * state.mask, side))
        return self.weight * total / (len(self.poolings) * state.record.mean)

    def _score(self, members: list[Tensor], observed: Tensor) -> Tensor:
        count = len(members)
        skill = torch.stack([(m - observed).abs().mean() for m in members]).mean()
        pairs = [(a - b).abs().mean() for i, a in enumerate(members) for b in members[i + 1 :]]
        spread = torch.stack(pairs).mean()
        return skill - 0.5 * (1 - (1 - self.alpha) / count) * spread


def _pool(field: Tensor, side: int) -> Tensor:
    if side == 1:
        return field
    return F.avg_pool2d(field, side, ceil_mode=True, count_include_pad=False)

"""Errors of the reconstruction, per pixel or of sums over pixels; physical units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from xcvae.fields.units import parse_quantity
from xcvae.generator.losses.state import LossState
from xcvae.registry.components import Component, Range, in_range


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
        Threshold of the tail, as a quantile of the wet pixels of the training record.
    weight
        Factor of the term.
    """

    scale: float | str = "10 mm h-1"
    w_min: Annotated[float, Range(0)] = 0.1
    w_max: float = 2.0
    tail_boost: Annotated[float, Range(0)] = 1.5
    tail_quantile: Annotated[float, Range(0, 1)] = 0.95
    weight: Annotated[float, Range(0)] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_range(self, "w_min", 0, self.w_max)

    def __call__(self, state: LossState) -> Tensor:
        scale = parse_quantity(
            self.scale, units=state.record.units, what="loss intensity_weighted_mae, scale"
        )
        tail = state.record.quantile(self.tail_quantile, wet=True)
        weights = (self.w_min + state.observed / scale).clamp(max=self.w_max)
        weights = torch.where(state.observed > tail, weights * self.tail_boost, weights)
        return self.weight * state.mean(weights * (state.reconstructed - state.observed).abs())


@dataclass(frozen=True)
class Quantile(Component):
    """Pinball loss of the reconstruction, mostly in the tail, as a share of the record's mean.

    The loss of amounts that went through ``v(amount) = max(amount, t) + below * min(amount, t)``,
    with t a quantile of the wet pixels of the training record: errors above t count in full,
    those below by the factor ``below``. As v rises, the best answer stays the quantile of level
    ``level`` (Gneiting 2011, doi:10.1198/jasa.2011.r10138; with ``below`` 0 it is the score of
    Taggart 2022, doi:10.1002/qj.4206, which has no gradient where a heavy pixel is missed).

    Parameters
    ----------
    level
        Quantile that the reconstruction is fitted to: above 0.5, too little costs more than too
        much. One level, because a mean over several is the loss of their mean level.
    tail_quantile
        Threshold of the tail, as a quantile of the wet pixels of the training record; 0 counts
        all errors in full.
    below
        Weight of an error below the tail, 0 to 1.
    weight
        Factor of the term.
    """

    level: Annotated[float, Range(0, 1)] = 0.75
    tail_quantile: Annotated[float, Range(0, 1)] = 0.95
    below: Annotated[float, Range(0, 1)] = 0.1
    weight: Annotated[float, Range(0)] = 1.0

    def __call__(self, state: LossState) -> Tensor:
        threshold = state.record.quantile(self.tail_quantile, wet=True)
        lacking = self._amount(state.observed, threshold) - self._amount(
            state.reconstructed, threshold
        )
        loss = state.mean(torch.maximum(self.level * lacking, (self.level - 1) * lacking))
        return self.weight * loss / state.typical("physical")

    def _amount(self, amount: Tensor, threshold: float) -> Tensor:
        return amount.clamp(min=threshold) + self.below * amount.clamp(max=threshold)


@dataclass(frozen=True)
class Gradient(Component):
    """Absolute error of the differences between neighbouring pixels; physical units.

    Parameters
    ----------
    weight
        Factor of the term (``lambda_grad`` of the old scripts).
    """

    weight: Annotated[float, Range(0)] = 0.1

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

    weight: Annotated[float, Range(0)] = 0.05

    def __call__(self, state: LossState) -> Tensor:
        error = ((state.reconstructed - state.observed) * state.mask).flatten(1).sum(1)
        return self.weight * (error / state.pixels()).abs().mean()

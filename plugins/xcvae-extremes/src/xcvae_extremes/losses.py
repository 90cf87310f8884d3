"""A loss for the tail of rain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from xcvae.plugins import Component, LossState, Range, in_range, parse_quantity

__all__ = ["Pinball"]


@dataclass(frozen=True)
class Pinball(Component):
    """Quantile (pinball) loss of the reconstruction, where it or the observation is extreme.

    ``max(tau e, (tau - 1) e)`` of the error e = observed - reconstructed, in multiples of the
    threshold, averaged over the pixels where one of the two is above the threshold: missed
    exceedances and false ones both cost. With ``tau`` above 0.5 too little rain costs more than too
    much. Zero if no pixel exceeds it. See Koenker and Bassett 1978,
    https://doi.org/10.2307/1913643.

    Parameters
    ----------
    tau
        Level of the quantile, between 0 and 1.
    threshold
        Start of the tail: "10 mm h-1", or a number in the target's units. With None it is a
        quantile of the training record.
    quantile
        Level of that quantile, of the wet pixels of the record.
    weight
        Factor of the term.
    """

    tau: float = 0.8
    threshold: str | float | None = None
    quantile: float = 0.95
    weight: Annotated[float, Range(0)] = 0.1

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "tau", 0.001, 0.999)
        in_range(self, "quantile", 0, 1)
        in_range(self, "threshold", above=0)
        in_range(self, "weight", 0)

    def __call__(self, state: LossState) -> Tensor:
        """Return the loss, a scalar."""
        limit = self._limit(state)
        error = (state.observed - state.reconstructed) / limit
        cost = torch.maximum(self.tau * error, (self.tau - 1.0) * error)
        extreme = (torch.maximum(state.observed, state.reconstructed) > limit) & state.mask
        return self.weight * (cost * extreme).sum() / extreme.sum().clamp(min=1)

    def _limit(self, state: LossState) -> float:
        if self.threshold is not None:
            units = state.record.units
            return parse_quantity(self.threshold, units=units, what="loss pinball, threshold")
        # A record without any rain has no quantile; its wet threshold is a tail all the same.
        return state.record.quantile(self.quantile, wet=True) or state.record.wet_threshold

"""What the latents tell beyond the prior: the second half of the ELBO."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from xcvae.errors import ComponentError, explain
from xcvae.generator.losses.state import LossState
from xcvae.registry.components import Component
from xcvae.registry.ranges import in_range

__all__ = ["KL"]


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
        Nats per level and sample that cost nothing (Kingma et al. 2016, arXiv:1606.04934): one
        number for all levels, or one for each, coarsest first.
    """

    beta: float = 1.0
    warmup: float = 0.1
    free_bits: float | tuple[float, ...] = 0.0

    def __post_init__(self) -> None:
        in_range(self, "beta", 0)
        in_range(self, "warmup", 0, 1)
        in_range(self, "free_bits", 0)
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
        return ComponentError(
            explain(
                "KL, parameter 'free_bits'",
                expected=expected,
                got=repr(self.free_bits),
                remedy="Change it in `losses`; one number alone is for all levels.",
            )
        )

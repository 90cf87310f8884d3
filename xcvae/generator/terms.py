"""The loss terms of a training at work: what they learn, what they return, what is logged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xcvae.generator.fit import Stage, Term
from xcvae.generator.losses import LossState, learned_by
from xcvae.registry import call, wrong_result

__all__ = ["columns_of", "learned_values", "value_of"]


def learned_values(stages: tuple[Stage, ...], device: torch.device) -> dict[str, nn.Parameter]:
    """What loss terms learn beside the network, such as the scale of a likelihood."""
    initial = learned_by(pair for stage in stages for pair in stage.losses)
    return {
        name: nn.Parameter(torch.tensor(value, dtype=torch.float32, device=device))
        for name, value in initial.items()
    }


def value_of(term: Term, state: LossState) -> Tensor:
    """Call a loss term, and make sure that what comes back can be added up."""
    value = call("loss", term, state)
    if isinstance(value, Tensor) and value.ndim == 0:
        return value
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise wrong_result("loss", term, expected="a tensor without dimensions", got=got)


def columns_of(name: str, value: Tensor) -> dict[str, float]:
    """Columns of the log for a learned scalar or vector."""
    numbers = value.detach().flatten().tolist()
    if len(numbers) == 1:
        return {name: numbers[0]}
    return {f"{name}_{i}": number for i, number in enumerate(numbers)}

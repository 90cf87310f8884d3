"""States of training steps, made of plain maps, for loss terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from xcvae.fields.record import Record
from xcvae.fields.scaling import RainScaling, Scaling
from xcvae.generator.losses import LossState, learned_of

SCALING = Scaling(RainScaling("mm h-1", 0.1), {})


def normalised(rain: np.ndarray) -> torch.Tensor:
    """Physical maps (batch, y, x) to a tensor (batch, 1, y, x)."""
    return torch.from_numpy(SCALING.target.normalise(rain)[:, None])


def state(
    rain: np.ndarray,
    reconstruction: np.ndarray,
    mask: np.ndarray | None = None,
    draws: Sequence[np.ndarray] = (),
    *,
    progress: float = 1.0,
    learns: bool = False,
    term: Any = None,
    record: Record | None = None,
    learned: Mapping[str, torch.Tensor] | None = None,
) -> LossState:
    """Make a state of physical maps (batch, y, x); with ``learns``, all maps have gradients."""
    x = normalised(rain)
    members = iter([normalised(draw).requires_grad_(learns) for draw in draws])
    valid = np.ones(rain.shape, bool) if mask is None else mask
    values = {name: torch.tensor(value) for name, value in learned_of(term).items()}
    return LossState(
        x=torch.where(torch.from_numpy(valid)[:, None], x, 0.0),
        output=normalised(reconstruction).requires_grad_(learns),
        mask=torch.from_numpy(valid)[:, None],
        kl=[torch.full((len(rain),), 3.0), torch.full((len(rain),), 0.5)],
        step=0,
        progress=progress,
        scaling=SCALING,
        record=record or Record.of([rain], units="mm h-1", wet_threshold=0.1),
        draw=lambda: next(members),
        learned={name: v.requires_grad_(learns) for name, v in (learned or values).items()},
    )


@pytest.fixture
def seen() -> Callable[..., LossState]:
    return state


@pytest.fixture
def rain() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.where(rng.random((2, 8, 10)) < 0.4, 0, rng.gamma(0.5, 4, (2, 8, 10)))

"""Pinball loss against its formula and its known minimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from xcvae_extremes.losses import Pinball

from xcvae.testing import make_loss_state


def value(loss: torch.Tensor) -> float:
    return float(loss.detach())


def test_pinball_loss_averages_formula_over_exceedances() -> None:
    state = make_loss_state(masked=True)
    y, r = (one.detach().numpy() for one in (state.observed, state.reconstructed))
    extreme = (np.maximum(y, r) > 2.0) & state.mask.numpy()
    assert extreme.sum() > 50
    errors = (y - r)[extreme] / 2.0
    expected = np.mean([0.9 * e if e > 0 else -0.1 * e for e in errors])
    loss = Pinball(tau=0.9, threshold="2 mm h-1", weight=3.0)(state)
    assert value(loss) == pytest.approx(3 * expected, rel=1e-5)


def test_pinball_threshold_is_converted_to_target_units() -> None:
    hourly = Pinball(threshold="2 mm h-1")(make_loss_state())
    daily = Pinball(threshold="2 mm h-1")(make_loss_state(units="mm/day"))
    assert value(daily) == pytest.approx(value(hourly), rel=1e-4)


def test_pinball_threshold_defaults_to_quantile_of_training_record() -> None:
    state = make_loss_state()
    limit = state.record.quantile(0.8, wet=True)
    assert value(Pinball(quantile=0.8)(state)) == pytest.approx(
        value(Pinball(threshold=limit)(state))
    )


@pytest.mark.parametrize("tau", [0.6, 0.8])
def test_pinball_loss_is_minimal_at_observed_quantile(tau: float) -> None:
    state = make_loss_state(samples=6)
    scale = state.scaling.target
    level = torch.linspace(0.5, 2.5, 400)
    term = Pinball(tau=tau, threshold=1e-9)
    costs = []
    for one in level:
        state = make_loss_state(samples=6, guess=lambda x, one=one: torch.full_like(x, float(one)))
        costs.append(value(term(state)))
    best = float(scale.physical(level[int(np.argmin(costs))]))
    quantile = np.quantile(state.observed.numpy(), tau)
    assert best == pytest.approx(quantile, rel=0.02)


def test_pinball_loss_without_exceedance_is_zero() -> None:
    state = make_loss_state()
    loss = Pinball(threshold="900 mm h-1")(state)
    assert value(loss) == 0.0
    loss.backward()
    assert not state.output.grad.any()

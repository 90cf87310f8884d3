"""The spread that gives a requested diversity."""

from __future__ import annotations

import math

import pytest

from xcvae.ensemble.dataset import to_dataset
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.ensemble.spread import (
    EVALUATIONS,
    MEMBERS,
    resolve_spread,
    solve_spread,
)
from xcvae.errors import ConfigError
from xcvae.metrics.spatial import diversity

CURVES = {
    "line": lambda s: 0.01 + 0.39 * s,
    "late": lambda s: 0.01 + 0.39 * s**3,
    "step": lambda s: 0.01 + 0.39 / (1 + math.exp(-10 * (s - 0.6))),
    "early": lambda s: 0.01 + 0.39 / (1 + math.exp(-10 * (s - 0.3))),
}


@pytest.mark.parametrize("target", [0.05, 0.1, 0.2, 0.3, 0.38])
@pytest.mark.parametrize("curve", CURVES)
def test_solve_spread_meets_tolerance_and_budget(curve, target):
    tried = []

    def diversity_at(spread):
        tried.append(spread)
        return CURVES[curve](spread)

    solution = solve_spread(diversity_at, target)
    assert solution.diversity == pytest.approx(target, abs=0.005)
    assert CURVES[curve](solution.spread) == solution.diversity
    assert len(tried) == solution.evaluations <= EVALUATIONS
    assert all(0.0 <= spread <= 1.0 for spread in tried)


@pytest.mark.parametrize("target", [0.001, 0.45])
def test_solve_spread_refuses_an_unreachable_target_with_the_range(target):
    with pytest.raises(ConfigError, match=r"0\.010 \(spread 0\) to 0\.400 \(spread 1\), got 0\."):
        solve_spread(CURVES["line"], target)


def test_solve_spread_accepts_targets_within_tolerance_of_the_ends():
    assert solve_spread(CURVES["line"], 0.403).spread == 1.0
    assert solve_spread(CURVES["line"], 0.007).spread == 0.0


def test_solve_spread_returns_the_closest_spread_if_the_budget_is_too_small():
    with pytest.warns(
        UserWarning, match=r"diversity: 0\.1 was asked for, and .* is the nearest of 3"
    ):
        solution = solve_spread(CURVES["step"], 0.1, evaluations=3)
    assert solution.evaluations == 3
    assert abs(solution.diversity - 0.1) <= min(abs(CURVES["step"](s) - 0.1) for s in (0.0, 1.0))


@pytest.mark.parametrize("samples", [1, 4])
def test_resolve_spread_draws_blocks_that_fit_into_memory(few, model, samples):
    drawn = []

    def spy(field, context):
        drawn.append(field.sizes["time"])
        return field

    request = SampleRequest(mode="posterior", members=MEMBERS, diversity=0.15, postprocess=[spy])
    sampler = EnsembleSampler.prepare(few, model, request)
    drawn.clear()
    whole = resolve_spread(sampler, 0.15, progress=False)
    assert max(drawn) == few.sizes["time"]
    drawn.clear()
    bytes_of_samples = samples * 4 * MEMBERS * 48 * 36
    blocks = resolve_spread(sampler, 0.15, progress=False, block_bytes=bytes_of_samples)
    assert max(drawn) == samples
    assert blocks.spread == pytest.approx(whole.spread, abs=1e-6)
    reached = float(diversity(to_dataset(blocks, few).pr, few.pr))
    assert blocks.solution.diversity == pytest.approx(reached, abs=1e-9)


@pytest.mark.parametrize("networks", [1, 6])
def test_resolve_spread_draws_members_of_every_network(few, model, monkeypatch, networks):
    """The first members are those of different networks."""
    request = SampleRequest(mode="posterior", members=2, diversity=0.15, postprocess=[])
    sampler = EnsembleSampler.prepare(few.isel(time=[0]), model, request)
    monkeypatch.setattr(model, "networks", type(model.networks)([model.network] * networks))
    drawn = []
    draw = EnsembleSampler.draw

    def spy(self, realizations, samples):
        drawn.append(len(realizations))
        return draw(self, realizations, samples)

    monkeypatch.setattr(EnsembleSampler, "draw", spy)
    resolve_spread(sampler, 0.15, progress=False)
    assert set(drawn) == {max(MEMBERS, networks)}


def test_resolve_spread_uses_the_solution_of_an_unfinished_run(few, model):
    request = SampleRequest(mode="posterior", members=2, diversity=0.15)
    sampler = EnsembleSampler.prepare(few, model, request)
    notes = {"dial": {"spread": 0.123, "diversity": 0.14, "evaluations": 5}}
    resolved = resolve_spread(sampler, 0.15, notes, progress=False)
    assert (resolved.spread, resolved.solution.diversity) == (0.123, 0.14)
    assert resolved.identity() == sampler.identity()
    assert resolved.identity()["spread"] is None

"""The spread that gives a diversity is found in few evaluations."""

from __future__ import annotations

import math

import pytest

from xcvae.ensemble.spread import EVALUATIONS, pick_samples, solve_spread
from xcvae.errors import ConfigError

CURVES = {
    "line": lambda s: 0.01 + 0.39 * s,
    "late": lambda s: 0.01 + 0.39 * s**3,
    "step": lambda s: 0.01 + 0.39 / (1 + math.exp(-10 * (s - 0.6))),
    "early": lambda s: 0.01 + 0.39 / (1 + math.exp(-10 * (s - 0.3))),
}


@pytest.mark.parametrize("target", [0.05, 0.1, 0.2, 0.3, 0.38])
@pytest.mark.parametrize("curve", CURVES)
def test_the_diversity_is_met_within_the_tolerance_and_the_budget(curve, target):
    asked = []

    def diversity_at(spread):
        asked.append(spread)
        return CURVES[curve](spread)

    dial = solve_spread(diversity_at, target)
    assert dial.diversity == pytest.approx(target, abs=0.005)
    assert CURVES[curve](dial.spread) == dial.diversity
    assert len(asked) == dial.evaluations <= EVALUATIONS
    assert all(0.0 <= spread <= 1.0 for spread in asked)


@pytest.mark.parametrize("target", [0.001, 0.45])
def test_out_of_reach_says_what_is_in_reach(target):
    with pytest.raises(ConfigError, match=r"0\.010 \(spread 0\) to 0\.400 \(spread 1\), got 0\."):
        solve_spread(CURVES["line"], target)


def test_the_ends_count_as_reached_within_the_tolerance():
    assert solve_spread(CURVES["line"], 0.403).spread == 1.0
    assert solve_spread(CURVES["line"], 0.007).spread == 0.0


def test_a_budget_that_is_too_small_gives_the_closest_spread_tried():
    dial = solve_spread(CURVES["step"], 0.1, evaluations=3)
    assert dial.evaluations == 3
    assert abs(dial.diversity - 0.1) <= min(abs(CURVES["step"](s) - 0.1) for s in (0.0, 1.0))


def test_samples_are_spread_over_the_data_without_repeats():
    assert pick_samples(3, at_most=8) == [0, 1, 2]
    assert pick_samples(1) == [0]
    picked = pick_samples(1000, at_most=5)
    assert picked == [0, 250, 500, 749, 999]

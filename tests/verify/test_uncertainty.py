"""The rank of a quantile: uniform if members are right, whatever storms there were."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xcvae.verify.resampling import quantile_rank


@pytest.fixture
def rain() -> np.ndarray:
    """Members and, as the last of them, the observation; one storm outdoes all others."""
    random = np.random.default_rng(4)
    fields = random.exponential(1.0, (10, 40, 16, 16)) * random.lognormal(0, 1, (40, 1, 1))
    fields[-1, 0] *= 20
    return fields


def test_one_storm_does_not_make_a_tail_too_weak(rain: np.ndarray) -> None:
    members, observed = rain[:-1], rain[-1]
    assert np.quantile(members, 0.999) < 0.65 * np.quantile(observed, 0.999)
    rank, error = quantile_rank(members, observed, 0.999)
    assert abs(rank - 0.5) < 2 * error


def test_weak_members_are_told(rain: np.ndarray) -> None:
    rank, error = quantile_rank(0.6 * rain[:-1], rain[-1], 0.999)
    assert rank - 0.5 > 4 * error


def test_dry_maps_and_gaps_do_not_count(rain: np.ndarray) -> None:
    members, observed = rain[:-1], rain[-1]
    expected = quantile_rank(members[:, 2:], observed[2:], 0.999)
    members[:, 0], observed[0], observed[1] = 0.0, 0.0, np.nan
    assert quantile_rank(members, observed, 0.999) == pytest.approx(expected)
    assert quantile_rank(members[:, :2], observed[:2], 0.999) == (0.5, math.inf)

"""Intervals cover true values at their level; the rank of a quantile is uniform if calibrated."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import stdtrit

from xcvae.verify.grouping import thirds_of
from xcvae.verify.resampling import (
    MAX_PIECES,
    RESAMPLES,
    Sums,
    _weights,
    estimate,
    fit_autocorrelation,
    interval,
    mean_variance,
    pieces_of,
    quantile_rank,
)


def test_interval_covers_the_mean_at_its_level() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        sums = random.normal(1.0, 1.0, 60)
        group = pieces_of(np.zeros(60, dtype=int)).groups[0]
        _, low, high = interval(lambda total, sums=sums: total(sums) / 60, group)
        covered.append(low <= 1.0 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize(("pieces", "samples", "length"), [(100, 100, 10), (500, 5000, 7)])
def test_interval_resamples_blocks_of_the_root_of_the_number_of_samples(
    pieces: int, samples: int, length: int
) -> None:
    draws: list[np.ndarray] = []

    def finish(total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        draws.append(total(np.eye(pieces)))
        return total(np.arange(float(pieces)))

    interval(finish, (0, pieces, samples), autocorrelation=np.eye(pieces)[0])
    _, drawn, _ = (
        draws  # of the score, its resamples (times that each piece is drawn), and the rest
    )
    assert (drawn.sum(axis=1) == pieces).all()
    # Neighbours are drawn together unless a block starts or ends between them.
    deviation = drawn - 1.0
    variance = (deviation**2).mean()
    for lag in (1, 2, length, 2 * length):
        together = (deviation * np.roll(deviation, lag, axis=1)).mean() / variance
        share = length / pieces
        expected = (max(0.0, 1.0 - lag / length) - share) / (1.0 - share)
        assert together == pytest.approx(expected, abs=0.05)


def correlated(random: np.random.Generator, memory: float, noise: float) -> np.ndarray:
    series = random.normal(size=150)
    for i in range(1, 150):
        series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * series[i]
    return series + noise * random.normal(size=150)


@pytest.mark.parametrize(("memory", "noise"), [(0.5, 0.0), (0.8, 0.0), (0.9, 1.0)])
def test_interval_covers_the_mean_of_autocorrelated_samples(memory: float, noise: float) -> None:
    random = np.random.default_rng(3)
    covered = []
    for _ in range(250):
        series = correlated(random, memory, noise)
        group = pieces_of(np.zeros(150, dtype=int)).groups[0]
        _, low, high = interval(lambda total, sums=series + 5.0: total(sums) / 150, group)
        covered.append(low <= 5.0 <= high)
    # Blocks of twelve alone cover .93, .86 and .77; a plain autoregressive fit .83 of the last.
    assert 0.90 <= np.mean(covered) <= 0.99


def divide(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


@pytest.mark.parametrize(("memory", "count"), [(0.8, 16), (0.8, 24), (0.5, 24), (0.9, 96)])
def test_two_standard_errors_cover_the_mean_of_dependent_samples(memory: float, count: int) -> None:
    random = np.random.default_rng(5)
    before, after = [], []
    thirds = np.array_split(np.argsort(np.sin(np.arange(count))), 3)  # in no order of time
    of_thirds = []
    for _ in range(400):
        series = random.normal(size=count)
        for i in range(1, count):
            series[i] = memory * series[i - 1] + np.sqrt(1 - memory**2) * series[i]
        parts = np.stack([series, np.ones(count)], axis=1)
        for found, correlation in ((before, None), (after, memory ** np.arange(count))):
            mean, error = estimate(parts, divide, correlation)
            found.append(abs(mean) < 2 * error)
        for third in thirds:
            mean, error = estimate(parts, divide, memory ** np.arange(count), third)
            of_thirds.append(abs(mean) < 2 * error)
    assert np.mean(before) < (0.8 if memory == 0.5 else 0.52)
    assert 0.92 <= np.mean(after) <= 0.992
    assert 0.88 <= np.mean(of_thirds) <= 0.992


def test_interval_respects_limits_of_scores() -> None:
    random = np.random.default_rng(4)
    events = (random.random(12) < 0.15).astype(float)
    group = pieces_of(np.zeros(12, dtype=int)).groups[0]
    value, low, high = interval(lambda total: total(events) / 12, group, (0.0, 1.0))
    assert 0 == low < value < high < 1
    assert interval(lambda total: total(events) / 12, group)[1] < 0


def test_interval_encloses_the_value_of_a_curved_score() -> None:
    values = np.random.default_rng(7).normal(size=20)
    values -= values.mean()  # the square of any resampled mean is larger than that of the mean
    value, low, high = interval(lambda total: (total(values) / 20) ** 2, (0, 20, 20))
    assert low <= value < 1e-20 < high


def test_interval_of_a_positive_score_is_stretched_by_factors() -> None:
    values = np.array([0.1, 0.1, 0.1, 0.1, 0.1, 3.0])
    similar = 0.9 ** np.arange(6)  # stretches the interval
    value, low, high = interval(
        lambda total: total(values) / 6, (0, 6, 6), (0.0, np.inf), autocorrelation=similar
    )
    _, linear, _ = interval(lambda total: total(values) / 6, (0, 6, 6), autocorrelation=similar)
    assert linear < 0 < low < value < high
    # Stretched away from the value, on both sides, compared with independent pieces.
    _, least, most = interval(
        lambda total: total(values) / 6, (0, 6, 6), (0.0, np.inf), autocorrelation=similar**40
    )
    assert low < least < value < most < high


def test_interval_is_stretched_by_autocorrelation_and_few_independent_samples() -> None:
    count, length = 36, 6
    values = np.random.default_rng(6).normal(size=count)

    def half(decay: float) -> float:
        value, low, _ = interval(
            lambda total: total(values) / count,
            (0, count, count),
            autocorrelation=decay ** np.arange(count),
        )
        return value - low

    def expected(decay: float) -> float:
        whole, block = (mean_variance(decay ** np.arange(count), n) for n in (count, length))
        missing = np.sqrt(whole / (length / count * (block - whole)))
        return float(missing * stdtrit(max(min(6.0, 1.0 / whole) - 1.0, 3.0), 0.975))

    assert half(0.8) / half(0.0) == pytest.approx(expected(0.8) / expected(0.0))
    assert expected(0.8) > 1.5 * expected(0.0)


def test_interval_of_what_one_piece_alone_has_is_unknown() -> None:
    """All resamples that had the piece were equal: the interval had no width."""
    hits, events = np.zeros(24), np.zeros(24)
    hits[7], events[7] = 3.0, 5.0

    def finish(total: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        some = total(events)
        with np.errstate(invalid="ignore"):
            return np.where(some > 0, total(hits) / some, np.nan)

    value, low, high = interval(finish, (0, 24, 24), (0.0, 1.0))
    assert value == pytest.approx(0.6)
    assert np.isnan([low, high]).all()
    hits[15], events[15] = 1.0, 4.0
    value, low, high = interval(finish, (0, 24, 24), (0.0, 1.0))
    assert low < value < high


def test_interval_is_wider_for_similar_neighbours() -> None:
    random = np.random.default_rng(1)
    steps = random.normal(size=15)
    group = pieces_of(np.zeros(240, dtype=int)).groups[0]
    widths = []
    for series in (np.repeat(steps, 16), random.permutation(np.repeat(steps, 16))):
        _, low, high = interval(lambda total, series=series: total(series) / 240, group)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_pieces_follow_the_order_of_time() -> None:
    """Neighbours in time are neighbouring pieces, whatever their positions."""
    pieces = pieces_of(np.array([0, 1, 0, -1, 1, 0]), np.array([5, 4, 3, 2, 1, 0]))
    assert pieces.of_sample.tolist() == [2, 4, 1, -1, 3, 0]
    assert pieces.groups == ((0, 3, 3), (3, 5, 2))


def test_pieces_are_few_for_many_samples() -> None:
    groups = np.zeros(5000, dtype=int)
    groups[::3] = 1
    groups[0] = -1
    pieces = pieces_of(groups)
    assert pieces.count <= 2 * MAX_PIECES
    assert pieces.of_sample[0] == -1
    sums = Sums(pieces.count)
    for i in range(1, 5000):
        sums.add(int(pieces.of_sample[i]), {"one": np.asarray(1.0), "group": np.asarray(groups[i])})
    for number, group in enumerate(pieces.groups):
        assert sums.of(group)["one"].sum() == group[2] == (groups == number).sum()
        assert set(sums.of(group)["group"] / sums.of(group)["one"]) == {number}


def test_fit_autocorrelation_of_noisy_series() -> None:
    random = np.random.default_rng(5)
    for memory, noise in ((0.0, 0.0), (0.7, 0.0), (0.9, 1.0)):
        expected = memory ** np.arange(1, 9) / (1 + noise**2)
        found = np.mean(
            [fit_autocorrelation(correlated(random, memory, noise))[1:9] for _ in range(300)],
            axis=0,
        )
        np.testing.assert_allclose(found, expected, atol=0.1)


def test_mean_variance_grows_with_autocorrelation() -> None:
    assert mean_variance(np.array([1.0, 0, 0, 0]), 4) == pytest.approx(1 / 4)
    assert mean_variance(np.ones(4), 4) == pytest.approx(1)
    covariance = 0.6 ** np.abs(np.subtract.outer(np.arange(7), np.arange(7)))
    assert mean_variance(0.6 ** np.arange(7), 7) == pytest.approx(covariance.mean())
    assert fit_autocorrelation(np.array([3.0, 3.0, 3.0])).tolist() == [1, 0, 0]


@pytest.fixture
def rain() -> np.ndarray:
    """Members and, last, the observation; one storm exceeds all others."""
    random = np.random.default_rng(4)
    fields = random.exponential(1.0, (10, 40, 16, 16)) * random.lognormal(0, 1, (40, 1, 1))
    fields[-1, 0] *= 20
    return fields


def test_quantile_rank_is_robust_to_a_single_storm(rain: np.ndarray) -> None:
    members, observed = rain[:-1], rain[-1]
    assert np.quantile(members, 0.999) < 0.65 * np.quantile(observed, 0.999)
    rank, error = quantile_rank(members, observed, 0.999)
    assert abs(rank - 0.5) < 2 * error


def test_quantile_rank_counts_ties_half(rain: np.ndarray) -> None:
    observed = rain[-1]
    assert quantile_rank(np.stack([observed] * 4), observed, 0.999)[0] == 0.5
    mixed = np.stack([observed, observed, 0.5 * observed, 2.0 * observed])
    assert quantile_rank(mixed, observed, 0.999)[0] == 0.5


def test_quantile_rank_detects_weak_members(rain: np.ndarray) -> None:
    rank, error = quantile_rank(0.6 * rain[:-1], rain[-1], 0.999)
    assert rank - 0.5 > 4 * error


def test_quantile_rank_skips_dry_maps_and_gaps(rain: np.ndarray) -> None:
    members, observed = rain[:-1], rain[-1]
    expected = quantile_rank(members[:, 2:], observed[2:], 0.999)
    members[:, 0], observed[0], observed[1] = 0.0, 0.0, np.nan
    assert quantile_rank(members, observed, 0.999) == pytest.approx(expected)
    assert quantile_rank(members[:, :2], observed[:2], 0.999) == (0.5, math.inf)


@pytest.mark.parametrize(("count", "samples"), [(1, 5), (8, 16), (50, 3)])
def test_error_of_a_rank_is_that_of_uniform_ranks(count: int, samples: int) -> None:
    rain = np.random.default_rng(0).exponential(5.0, (count + 1, samples, 9, 9))
    _, error = quantile_rank(rain[1:], rain[0], 0.9)
    assert error == pytest.approx(np.sqrt(np.var(np.arange(count + 1) / count) / samples))


def test_autocorrelation_of_a_short_series_is_corrected_for_its_length() -> None:
    """1, ..., 5 have .4 at lag 1, and that is (1 + 4 x .4) / 5 too little (Kendall 1954)."""
    found = fit_autocorrelation(np.arange(5.0))
    np.testing.assert_allclose(found, 0.92 ** np.arange(5))


def test_resamples_are_the_same_in_every_process() -> None:
    again = _weights.__wrapped__(23, 5)
    np.testing.assert_array_equal(again, _weights(23, 5))
    assert again.shape == (RESAMPLES, 23)
    assert (again.sum(axis=1) == 23).all()


def test_sums_that_are_not_resampled_have_one_piece() -> None:
    sums = Sums(1)
    for piece, value in ((0, 1.0), (7, 2.5)):
        sums.add(piece, {"total": np.asarray(value)})
    assert sums.values["total"].tolist() == [3.5]


def test_thirds_of_windows_are_those_of_their_means() -> None:
    """Windows of one to three samples: their sums would have another order."""
    amounts = np.array([9.0, 4.0, 4.0, 4.0, 1.0, np.nan, 1.0, np.nan, 6.0, 6.0])
    found = thirds_of(amounts, np.array([0, 1, 4, 7, 8]), "time").values.tolist()
    assert [found[n] for n in (0, 1, 2, 4)] == ["3 most", "1 least", "1 least", "2 middle"]
    assert np.isnan(found[3])  # nothing is known of it


@pytest.mark.parametrize("count", [3, 4, 6])
def test_two_errors_of_few_samples_are_an_interval_of_about_95_percent(count):
    """As of Student's t; two plain standard errors of three samples cover 82 %."""
    parts = np.random.default_rng(0).normal(size=(2000, count))
    # Leaving one out, a mean is over the others: the pairs have sums and numbers.
    found = [
        estimate(np.stack([one, np.ones(count)], axis=1), lambda sums: float(sums[0] / sums[1]))
        for one in parts
    ]
    covered = np.mean([abs(mean) <= 2 * error for mean, error in found])
    assert 0.9 < covered < 0.97

"""Intervals cover what is true as often as they say, and know what a score cannot be."""

from __future__ import annotations

import numpy as np
import pytest

from xcvae.verify.intervals import MAX_PIECES, Sums, interval, pieces_of


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        sums = random.normal(1.0, 1.0, 60)
        group = pieces_of(np.zeros(60, dtype=int)).groups[0]
        _, low, high = interval(lambda total, sums=sums: total(sums) / 60, group)
        covered.append(low <= 1.0 <= high)
    assert 0.9 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("memory", [0.5, 0.8])
def test_intervals_cover_the_truth_where_samples_remember(memory: float) -> None:
    random = np.random.default_rng(3)
    covered = []
    for _ in range(250):
        noise = random.normal(size=150)
        for i in range(1, 150):
            noise[i] = memory * noise[i - 1] + np.sqrt(1 - memory**2) * noise[i]
        group = pieces_of(np.zeros(150, dtype=int)).groups[0]
        _, low, high = interval(lambda total, sums=noise + 5.0: total(sums) / 150, group)
        covered.append(low <= 5.0 <= high)
    # Blocks of twelve alone, which do not hold all of a memory of 0.8, cover .86 of the time.
    assert 0.91 <= np.mean(covered) <= 0.99


def test_intervals_end_where_scores_do() -> None:
    random = np.random.default_rng(4)
    events = (random.random(12) < 0.15).astype(float)
    group = pieces_of(np.zeros(12, dtype=int)).groups[0]
    value, low, high = interval(lambda total: total(events) / 12, group, (0.0, 1.0))
    assert 0 == low < value < high < 1
    assert interval(lambda total: total(events) / 12, group)[1] < 0


def test_intervals_are_wider_where_neighbours_are_alike() -> None:
    random = np.random.default_rng(1)
    steps = random.normal(size=15)
    group = pieces_of(np.zeros(240, dtype=int)).groups[0]
    widths = []
    for series in (np.repeat(steps, 16), random.permutation(np.repeat(steps, 16))):
        _, low, high = interval(lambda total, series=series: total(series) / 240, group)
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_many_samples_are_kept_in_few_pieces() -> None:
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

"""The threads of a training that is limited by minutes."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import xcvae
from xcvae.generator.training.threads import PAUSE, thread_counts


def paced(most, seconds, steps):
    """Numbers of threads of so many steps that take ``seconds(number, step)``."""
    choice = thread_counts(most)
    numbers = [next(choice)]
    for step in range(steps - 1):
        numbers.append(choice.send(seconds(numbers[-1], step)))
    return numbers


def alone(number, _):
    return 1 / number**0.8


def crowded(number, _):
    """Two of eight cores are taken."""
    return alone(number, _) if number <= 6 else 3.0


def test_zero_row_all_threads_are_kept_and_little_is_spent_on_others():
    for most in (2, 8, 64):
        numbers = Counter(paced(most, alone, 1000))
        assert numbers[most] > 970


def test_where_cores_are_taken_the_rest_is_used():
    numbers = paced(8, crowded, 1000)
    assert Counter(numbers)[4] > 950
    assert numbers[:20].count(8) <= 5
    busy = paced(64, lambda n, _: 0.1 if n == 1 else 2.0, 100)
    assert Counter(busy)[1] > 50


def test_it_comes_back_when_the_others_are_gone():
    numbers = paced(8, lambda n, step: (crowded if step < 100 else alone)(n, step), 1000)
    assert Counter(numbers[:100])[4] > 70
    assert Counter(numbers[600:])[8] > 390


def test_where_it_makes_no_difference_all_are_kept():
    numbers = paced(4, lambda _, step: 1 + 0.05 * (step % 2), 1000)
    assert Counter(numbers)[4] > 950


def test_one_slow_step_changes_nothing():
    numbers = paced(4, lambda n, step: 50.0 if step % 40 == 0 else alone(n, step), PAUSE)
    assert Counter(numbers)[4] > PAUSE - 10


@pytest.mark.parametrize("limits", [{"max_minutes": 0.1}, {"max_steps": 12}])
def test_a_training_leaves_the_threads_as_they_were(test_radar, limits, monkeypatch):
    """And does not touch them where its number of steps is given."""
    seen, choose, before = [], torch.set_num_threads, torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n) or choose(n))
    choose(2)
    try:
        xcvae.train(
            test_radar,
            target="pr",
            conditions=["pr_coarse"],
            fit={"crop": 48, "batch_size": 4, "validations": 1, **limits},
            progress=False,
        )
        assert torch.get_num_threads() == 2
        assert (1 in seen) == ("max_minutes" in limits)
    finally:
        choose(before)

"""Tuning of the threads of a training that is limited by minutes."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
import torch

import xcvae
from xcvae.generator.training.threads import PAUSE, ThreadTuner, thread_counts


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


def test_thread_counts_use_all_threads_on_an_idle_machine():
    for most in (2, 8, 64):
        numbers = Counter(paced(most, alone, 1000))
        assert numbers[most] > 970


def test_thread_counts_avoid_busy_cores():
    numbers = paced(8, crowded, 1000)
    assert Counter(numbers)[4] > 950
    assert numbers[:20].count(8) <= 5
    busy = paced(64, lambda n, _: 0.1 if n == 1 else 2.0, 100)
    assert Counter(busy)[1] > 50


def test_thread_counts_recover_when_cores_become_free():
    numbers = paced(8, lambda n, step: (crowded if step < 100 else alone)(n, step), 1000)
    assert Counter(numbers[:100])[4] > 70
    assert Counter(numbers[600:])[8] > 390


def test_thread_counts_keep_all_threads_without_a_gain():
    numbers = paced(4, lambda _, step: 1 + 0.05 * (step % 2), 1000)
    assert Counter(numbers)[4] > 950


def test_thread_counts_ignore_single_slow_steps():
    numbers = paced(4, lambda n, step: 50.0 if step % 40 == 0 else alone(n, step), PAUSE)
    assert Counter(numbers)[4] > PAUSE - 10


@pytest.fixture
def chosen(monkeypatch):
    """Numbers of threads that torch is set to in this thread, from two at the start."""
    numbers, choose, before = [], torch.set_num_threads, torch.get_num_threads()
    own = threading.get_ident()
    choose(2)

    def note(number: int) -> None:
        if threading.get_ident() == own:
            numbers.append(number)
        choose(number)

    monkeypatch.setattr(torch, "set_num_threads", note)
    yield numbers
    choose(before)


def test_thread_tuner_sets_and_restores_the_number_of_threads(chosen):
    with ThreadTuner() as tuner:
        for _ in range(8):
            tuner.record(seconds=0.1 if torch.get_num_threads() == 1 else 2.0)
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    assert chosen == [1, 2]


@pytest.mark.parametrize(
    ("limits", "tuned"),
    [
        ({"max_minutes": 0.01}, True),
        ({"max_steps": 2}, False),
        ({"max_steps": 2, "max_minutes": 10.0}, False),
        ({"max_steps": 10_000, "max_minutes": 0.01}, True),
    ],
)
def test_train_tunes_and_restores_threads_where_minutes_end_it(
    test_radar, limits, tuned, chosen, monkeypatch
):
    timed, record = [], ThreadTuner.record

    def note(tuner: ThreadTuner, seconds: float) -> None:
        timed.append(torch.get_num_threads())
        record(tuner, seconds)

    monkeypatch.setattr(ThreadTuner, "record", note)
    xcvae.train(
        test_radar,
        target="pr",
        conditions=["pr_coarse"],
        fit={"crop": 24, "batch_size": 2, "validations": 1, **limits},
        generator={"channels": [8, 8], "latents": [2, 1]},
        progress=False,
    )
    assert torch.get_num_threads() == 2
    assert timed[:1] == ([2] if tuned else [])

"""Tuning of torch's threads in a training that is limited by minutes.

Torch's threads wait for each other after every operation. Alone on their cores, all of them are
fastest; on a busy machine a step with all of them can take twenty times as long as one with a
single thread. So other numbers are tried now and then, and the faster one is used.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator

import torch

from xcvae.generator.sharing import use_threads

#: Steps that a candidate is timed over, and steps between two trials, at first.
STEPS, PAUSE = 3, 50
#: Drop a candidate if its first step, which prepares kernels, is this many times slower than usual.
TOO_LONG = 3.0
#: Use a candidate if its steps take this share of the time or less.
GAIN = 0.9


class ThreadTuner:
    """Sets the number of torch's threads for every step, and restores it at the end.

    Last digits then depend on the clock, so it is for steps from which on the number of steps does,
    too.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with ThreadTuner() as tuner:
    ...     tuner.record(seconds=0.1)
    >>> torch.get_num_threads() == before
    True
    """

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self.choice = thread_counts(self.most)

    def __enter__(self) -> ThreadTuner:
        next(self.choice)
        return self

    def __exit__(self, *error: object) -> None:
        use_threads(self.most)

    def record(self, seconds: float) -> None:
        """Record the seconds of a step, and set the threads for the next one."""
        number = self.choice.send(seconds)
        if number != torch.get_num_threads():
            use_threads(number)


def thread_counts(most: int) -> Generator[int, float]:
    """Generate the number of threads of each step; receives the seconds of that step.

    Starts with ``most``. Candidates are one thread, and half and twice the current number. They are
    tried after a few steps, again at once if one of them is faster, and else after a pause that
    doubles.

    Examples
    --------
    >>> seconds = {1: 0.1, 2: 2.0}  # on a busy machine
    >>> choice = thread_counts(2)
    >>> number = next(choice)
    >>> for _ in range(8):
    ...     number = choice.send(seconds[number])
    >>> number
    1
    """
    best, previous, pause = most, most, PAUSE
    yield best  # prepares kernels
    recent = yield from _steps(best, STEPS)
    while True:
        for other in sorted({1, max(1, best // 2), min(most, 2 * best)} - {best, previous}):
            usual = statistics.median(recent)
            if (yield other) > TOO_LONG * usual:
                continue
            tried = yield from _steps(other, STEPS)
            if statistics.median(tried) <= GAIN * usual:
                best, previous, recent, pause = other, best, tried, PAUSE
                break
        else:
            recent = (yield from _steps(best, pause))[-STEPS:]
            previous, pause = best, 2 * pause


def _steps(number: int, count: int) -> Generator[int, float, list[float]]:
    """Use a number of threads for ``count`` steps; return their seconds."""
    seconds = []
    for _ in range(count):
        seconds.append((yield number))  # noqa: PERF401  a comprehension cannot yield
    return seconds

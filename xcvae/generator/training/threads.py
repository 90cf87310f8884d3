"""How many threads of torch a training that is limited by minutes uses: as many as pay.

Torch's threads wait for each other after every operation. Alone on their cores, all of them are
the fastest; beside other programs a step with all of them can take twenty times as long as one
with a single thread. So other numbers are tried now and then, and the clock decides.
"""

from __future__ import annotations

import statistics
from collections.abc import Generator

import torch

__all__ = ["ThreadTuner", "paces"]

#: Steps that a number is judged by, and steps from one look at the others to the next, at first.
STEPS, PAUSE = 3, 50
#: The first step of a number prepares kernels; it is given up if that took so many times as long.
TOO_LONG = 3.0
#: Another number is taken if its steps take this share of the time or less.
GAIN = 0.9


class ThreadTuner:
    """Sets the threads of torch for every step, and what they were when it is left.

    It makes last digits depend on the clock, and so is for a training whose number of steps does.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with Pace() as pace:
    ...     pace.took(seconds=0.1)
    >>> torch.get_num_threads() == before
    True
    """

    def __init__(self) -> None:
        self.most = torch.get_num_threads()
        self.choice = paces(self.most)

    def __enter__(self) -> ThreadTuner:
        next(self.choice)
        return self

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self.most)

    def took(self, seconds: float) -> None:
        """Say what a step took; sets the threads for the next one."""
        number = self.choice.send(seconds)
        if number != torch.get_num_threads():
            torch.set_num_threads(number)


def paces(most: int) -> Generator[int, float]:
    """Numbers of threads, one for each step; is sent the seconds of that step.

    Begins with the most. One, half and twice as many as are in use are looked at after a few steps,
    again at once if one of them is better, and else after a pause that doubles.

    Examples
    --------
    >>> seconds = {1: 0.1, 2: 2.0}  # beside a busy program
    >>> choice = paces(2)
    >>> number = next(choice)
    >>> for _ in range(8):
    ...     number = choice.send(seconds[number])
    >>> number
    1
    """
    best, left, pause = most, most, PAUSE
    yield best  # prepares kernels
    known = yield from _steps(best, STEPS)
    while True:
        for other in sorted({1, max(1, best // 2), min(most, 2 * best)} - {best, left}):
            usual = statistics.median(known)
            if (yield other) > TOO_LONG * usual:
                continue
            tried = yield from _steps(other, STEPS)
            if statistics.median(tried) <= GAIN * usual:
                best, left, known, pause = other, best, tried, PAUSE
                break
        else:
            known = (yield from _steps(best, pause))[-STEPS:]
            left, pause = best, 2 * pause


def _steps(number: int, count: int) -> Generator[int, float, list[float]]:
    """So many steps with a number of threads; returns their seconds."""
    seconds = []
    for _ in range(count):
        seconds.append((yield number))  # noqa: PERF401  a comprehension cannot yield
    return seconds

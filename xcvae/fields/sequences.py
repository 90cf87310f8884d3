"""Consecutive samples: their usual step, the runs that they form, the windows that they fill."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def consecutive(times: Rows, rows: Rows | None = None) -> tuple[int, list[Rows]]:
    """Return the usual step of some rows, and the runs of rows that follow each other by it.

    Parameters
    ----------
    times
        Time of every sample, in any unit, in any order.
    rows
        Positions of the samples that count; all by default.

    Returns
    -------
    int, list of arrays
        The most frequent step, 0 without two different times; and the positions of each run of at
        least one sample, in the order of time.

    Examples
    --------
    >>> step, runs = consecutive(np.array([0, 5, 10, 40, 45, 99]))
    >>> step, [run.tolist() for run in runs]
    (5, [[0, 1, 2], [3, 4], [5]])
    """
    rows = np.arange(len(times)) if rows is None else rows
    order = rows[np.argsort(times[rows], kind="stable")]
    steps = np.diff(times[order])
    usual, counts = np.unique(steps[steps > 0], return_counts=True)
    if not len(usual):
        return 0, [order]
    step = int(usual[np.argmax(counts)])
    return step, np.split(order, np.flatnonzero(steps != step) + 1)


def segments(runs: list[Rows], most: int, *, exact: bool = False) -> list[Rows]:
    """Cut runs into segments of about equal length, ``most`` samples or fewer.

    With ``exact``, segments have ``most`` samples, and the last one of a run the rest.

    Examples
    --------
    >>> [part.tolist() for part in segments([np.arange(7), np.arange(7, 9)], 5)]
    [[0, 1, 2, 3], [4, 5, 6], [7, 8]]
    >>> [part.tolist() for part in segments([np.arange(7)], 5, exact=True)]
    [[0, 1, 2, 3, 4], [5, 6]]
    """
    if exact:
        return [part for run in runs for part in np.split(run, range(most, len(run), most))]
    return [part for run in runs for part in np.array_split(run, -(-len(run) // most))]


def windows(times: Rows, runs: list[Rows], length: int, window: int) -> list[Rows]:
    """Return the samples of each window of time that has all its samples, in the order of time.

    Windows start at multiples of their duration, as hours and days do.

    Parameters
    ----------
    times
        Time of every sample: the start of the step that it stands for.
    runs
        From `consecutive`.
    length
        Number of samples that fill a window.
    window
        Its duration, in the unit of the times.

    Examples
    --------
    >>> times = np.arange(10, 65, 5)
    >>> [part.tolist() for part in windows(times, consecutive(times)[1], 4, 20)]
    [[2, 3, 4, 5], [6, 7, 8, 9]]
    """
    found: list[Rows] = []
    for run in runs:
        numbers = times[run] // window
        for part in np.split(run, np.flatnonzero(np.diff(numbers)) + 1):
            found += [part] if len(part) == length else []
    return found

"""Blocks of samples within a budget of memory, runs of consecutive ones, and even picks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Rows = NDArray[np.int64]

SLAB = 8_000_000
"""Values of a slab: 64 MB as the float64 that statistics are made of."""


def block_length(sample_bytes: int, budget: int) -> int:
    """Return how many samples fit into a budget of bytes; at least one.

    Examples
    --------
    >>> block_length(100, 450), block_length(100, 50)
    (4, 1)
    """
    return max(1, budget // max(1, sample_bytes))


def block_slices(count: int, length: int) -> Iterator[slice]:
    """Cut ``count`` samples into blocks of equal length; the last one may be shorter.

    Examples
    --------
    >>> list(block_slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, count, length):
        yield slice(start, min(start + length, count))


def join_chunks(chunks: Iterable[int], length: int) -> list[slice]:
    """Join chunks of samples into blocks of at most a length; a longer chunk is a block.

    Edges of blocks are edges of chunks, so that no chunk is read, or drawn, twice.

    Examples
    --------
    >>> join_chunks((2, 2, 2, 7), 4)
    [slice(0, 4, None), slice(4, 6, None), slice(6, 13, None)]
    """
    found, start, stop = [], 0, 0
    for chunk in chunks:
        if stop > start and stop + chunk - start > length:
            found.append(slice(start, stop))
            start = stop
        stop += chunk
    return [*found, slice(start, stop)]


def slabs(da: xr.DataArray, values: int = SLAB) -> Iterator[tuple[int, xr.DataArray]]:
    """Cut a field along its first dim into slabs of about so many values: (start, slab)."""
    if da.ndim == 0:
        yield 0, da
        return
    for block in block_slices(da.shape[0], block_length(da.size // max(1, da.shape[0]), values)):
        yield block.start, da[block]


def take_samples(
    ds: xr.Dataset, sample: str, rows: NDArray[np.int64], *, shared: str
) -> xr.Dataset:
    """Copy samples, but for one variable whose maps are not copied if that is possible.

    It is for consecutive samples in memory, in the order of C: in another layout, last digits of
    what is computed from them could differ from those of a copy.

    Parameters
    ----------
    ds, sample
        The Dataset, and its sample dim.
    rows
        Positions of the samples.
    shared
        Name of a variable that the caller does not change; it may be missing.
    """
    if shared in ds and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
        view = ds[shared].variable.isel({sample: slice(int(rows[0]), int(rows[-1]) + 1)})
        if view.chunks is None and view.values.flags.c_contiguous:
            return ds.drop_vars(shared).isel({sample: rows}).assign({shared: view})
    return ds.isel({sample: rows})


def evenly_spaced(count: int, most: int, *, down: bool = False) -> NDArray[np.int64]:
    """Return positions of at most ``most`` of ``count`` samples, evenly spaced, each once.

    Parameters
    ----------
    count, most
        Numbers of samples.
    down
        Round positions down, not to the nearest. The samples that a training validates on are
        picked like this; another rule would change which weights are saved.

    Examples
    --------
    >>> evenly_spaced(3, 5), evenly_spaced(9, 3)
    (array([0, 1, 2]), array([0, 4, 8]))
    """
    positions = np.linspace(0, max(count - 1, 0), min(count, most))
    return np.unique((np.floor if down else np.round)(positions).astype(np.int64))


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


def some_pixels(da: xr.DataArray, sample: str) -> NDArray[np.float64]:
    """Return some pixels of consecutive samples, (sample, pixel): not all of lazy data is read."""
    count = da.sizes[sample]
    most = min(count, 96 if da.chunks else 1000)
    start = (count - most) // 2
    some = {d: slice(None, None, max(1, n // 16)) for d, n in da.sizes.items() if d != sample}
    few = da.isel({sample: slice(start, start + most), **some}).transpose(sample, ...)
    return few.values.astype(np.float64).reshape(most, -1)

"""Samples in random order from data larger than memory: blocks, pools and a reader thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence, Sized
from queue import Empty, Queue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

#: Contiguous samples per read at most, and reads that are shuffled together.
BLOCK, POOL = 64, 8
#: Default memory of a pool. Three exist at a time: one in use, one ready, one being read.
POOL_BYTES = 256 * 2**20


B = TypeVar("B", bound=Sized)
T = TypeVar("T")


def epochs(
    count: int, size: int, rng: np.random.Generator, chosen: int, heavy: NDArray[np.int64]
) -> Generator[NDArray[np.int64]]:
    """Yield rows of batches in random order; ``chosen`` of each are drawn from ``heavy``."""
    while True:
        order = rng.permutation(count)
        # A remainder shorter than a batch is left out of this epoch, unless it is all samples.
        for start in range(0, max(count - size + 1, 1), size):
            rows = order[start : start + size]
            if chosen:
                rows[:chosen] = rng.choice(heavy, len(rows[:chosen]))
            yield rows


def streamed(
    load: Callable[[slice], B],
    gather: Callable[[Sequence[B], Sequence[tuple[int, int]]], B],
    *,
    count: int,
    size: int,
    sample_bytes: int,
    rng: np.random.Generator,
    part: slice = slice(None),
    past: int = 0,
    pool_bytes: int | None = None,
) -> Generator[B]:
    """Yield batches in random order, without end, while a thread reads the next pool.

    Parameters
    ----------
    load
        Reads contiguous samples.
    gather
        Picks samples out of several reads: number of the read, number in it.
    count, size
        Samples in all, and per batch.
    sample_bytes
        Memory that a sample takes.
    rng
        Generator of the order. The thread has one of its own.
    part
        Rows of every batch that are yielded.
    past
        Number of batches to skip: the stream goes on behind them, and does not read their pools.
    pool_bytes
        Memory of a pool; by default `POOL_BYTES`.
    """
    reader, picks = (np.random.default_rng(rng.integers(2**63)) for _ in range(2))
    block, reads = pool_shape(size, sample_bytes, pool_bytes)

    def plans() -> Generator[tuple[list[int], list[NDArray[np.int64]]]]:
        """Yield the blocks of every pool, and the rows of its batches."""
        while True:
            for pool in _pools(count, block, reads, reader):
                order = picks.permutation(sum(min(block, count - start) for start in pool))
                starts = range(0, max(len(order) - size + 1, 1), size)
                yield pool, [order[start : start + size] for start in starts]

    def pools() -> Generator[tuple[list[B], list[NDArray[np.int64]]]]:
        left = past
        for pool, rows in plans():
            if left < len(rows):
                yield [load(slice(s, s + block)) for s in pool], rows[left:]
            left = max(0, left - len(rows))

    with contextlib.closing(ahead(pools())) as ready:
        for pool, batches in ready:
            begins = np.cumsum([0, *map(len, pool)])
            for rows in batches:
                # Picked out of the reads: joining them into one pool would copy every sample again.
                sources = np.searchsorted(begins, rows[part], side="right") - 1
                picked = zip(sources, rows[part] - begins[sources], strict=True)
                yield gather(pool, [(int(number), int(row)) for number, row in picked])


def ahead(items: Generator[T]) -> Generator[T]:
    """Yield the items of a generator, while a thread computes the next one.

    An error of the generator is raised here. Closing ends the thread after its current item, and
    closes the generator.

    Examples
    --------
    >>> list(ahead(square**2 for square in range(4)))
    [0, 1, 4, 9]
    """
    ready: Queue[tuple[T] | BaseException | None] = Queue(maxsize=1)
    done = threading.Event()

    def read() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    ready.put((item,))
                    if done.is_set():
                        return
            ready.put(None)
        except BaseException as problem:  # noqa: BLE001  # the consumer raises it
            ready.put(problem)

    threading.Thread(target=read, daemon=True, name="xcvae-reader").start()
    try:
        while (found := ready.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield found[0]
    finally:
        done.set()
        with contextlib.suppress(Empty):
            ready.get_nowait()  # a reader that waits for room sees the end


def pool_shape(size: int, sample_bytes: int, pool_bytes: int | None = None) -> tuple[int, int]:
    """Return samples per read and reads per pool: as many as fit, but at least a batch.

    Examples
    --------
    >>> pool_shape(16, 100_000), pool_shape(16, 16_000_000), pool_shape(1, 10**9)
    ((64, 8), (2, 8), (1, 1))
    """
    budget = POOL_BYTES if pool_bytes is None else pool_bytes
    wanted = max(size, min(BLOCK * POOL, budget // max(1, sample_bytes)))
    block = min(BLOCK, max(1, wanted // POOL))
    return block, -(-wanted // block)


def _pools(count: int, block: int, reads: int, rng: np.random.Generator) -> list[list[int]]:
    """Return starts of blocks in random order, in pools of at least ``reads`` if possible."""
    starts = rng.permutation(np.arange(0, count, block))
    return [[int(s) for s in pool] for pool in np.array_split(starts, max(1, len(starts) // reads))]

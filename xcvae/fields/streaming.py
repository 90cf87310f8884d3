"""Samples in random order from data that is too large to hold: blocks, pools and a reader ahead."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from queue import Empty, Queue
from typing import Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["ahead", "pool_shape", "streamed"]

#: Contiguous samples per read at most, and reads that are shuffled together.
BLOCK, POOL = 64, 8
#: Memory that a pool takes. Three exist at a time: one in use, one ready, one being read.
POOL_BYTES = 256 * 2**20


class Block(Protocol):
    """Samples that can be picked from."""

    def __len__(self) -> int: ...
    def take(self, rows: NDArray[np.int64]) -> Self: ...


B = TypeVar("B", bound=Block)
T = TypeVar("T")


def streamed(
    load: Callable[[slice], B],
    join: Callable[[Sequence[B]], B],
    *,
    count: int,
    size: int,
    sample_bytes: int,
    rng: np.random.Generator,
    part: slice = slice(None),
) -> Generator[B]:
    """Batches in random order, without end, while a thread reads the next pool.

    Parameters
    ----------
    load
        Reads contiguous samples.
    join
        Puts reads one after the other.
    count, size
        Samples in all, and per batch.
    sample_bytes
        Memory that a sample takes.
    rng
        Of the order. The thread has a generator of its own.
    part
        Rows of every batch that are handed on.
    """
    reader, picks = (np.random.default_rng(rng.integers(2**63)) for _ in range(2))
    block, reads = pool_shape(size, sample_bytes)

    def pools() -> Generator[B]:
        while True:
            for pool in _pools(count, block, reads, reader):
                yield join([load(slice(s, s + block)) for s in pool])

    with contextlib.closing(ahead(pools())) as ready:
        for pool in ready:
            order = picks.permutation(len(pool))
            for start in range(0, max(len(order) - size + 1, 1), size):
                yield pool.take(order[start : start + size][part])


def ahead(items: Generator[T]) -> Generator[T]:
    """Hand on what a generator yields, while a thread works out the next item.

    An error of the generator is raised here. Closing this one ends the thread after the item that
    it is at, and closes the generator.

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
        except BaseException as problem:  # noqa: BLE001  # handed over: the consumer raises it
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
            ready.get_nowait()  # lets a reader that waits to hand over see the end


def pool_shape(size: int, sample_bytes: int) -> tuple[int, int]:
    """Samples per read, and reads per pool: as many as memory allows, but at least a batch.

    Examples
    --------
    >>> pool_shape(16, 100_000), pool_shape(16, 16_000_000), pool_shape(1, 10**9)
    ((64, 8), (2, 8), (1, 1))
    """
    wanted = max(size, min(BLOCK * POOL, POOL_BYTES // max(1, sample_bytes)))
    block = min(BLOCK, max(1, wanted // POOL))
    return block, -(-wanted // block)


def _pools(count: int, block: int, reads: int, rng: np.random.Generator) -> list[list[int]]:
    """Starts of blocks in random order, in pools of at least so many reads, if there are."""
    starts = rng.permutation(np.arange(0, count, block))
    return [[int(s) for s in pool] for pool in np.array_split(starts, max(1, len(starts) // reads))]

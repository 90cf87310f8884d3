"""What a process is like that draws: its torch threads, and what decides on its last digits."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from xcvae.registry.discovery import version_of

if TYPE_CHECKING:
    import torch

__all__ = [
    "Place",
    "numeric_environment",
    "one_thread_if_digits_differ",
    "place",
    "threads_of_pool",
    "threads_on",
    "threads_shared",
    "use_threads",
]

Place = tuple[str, int, int]


def place() -> Place:
    """Return host, process and number of cores that this process may use."""
    from dask.system import CPU_COUNT

    # That of Dask: it knows the limits of containers too.
    return socket.gethostname(), os.getpid(), CPU_COUNT


def threads_on(places: Mapping[Any, Place]) -> int:
    """Return how many torch threads every process may use so that none waits for a core.

    Parameters
    ----------
    places
        The :func:`place` of every worker; workers of one process share its threads.

    Examples
    --------
    >>> threads_on({"a": ("host", 1, 8), "b": ("host", 2, 8)})
    4
    """
    processes = set(places.values())
    crowded = Counter(host for host, _, _ in processes)
    return max(1, min((cores // crowded[host] for host, _, cores in processes), default=1))


def threads_of_pool() -> int:
    """Return how many torch threads every process of a pool of Dask may use."""
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // _in_pool())


@contextmanager
def threads_shared() -> Iterator[int]:
    """Share the torch threads of this thread out among those of Dask, for a while.

    Yields
    ------
    int
        How many each of them may use.
    """
    import torch

    number = torch.get_num_threads()
    try:
        yield max(1, number // _in_pool())
    finally:
        # Whatever thread set it last, new threads begin with that number.
        torch.set_num_threads(number)


def _in_pool() -> int:
    """Return the number of threads or processes of the pool of Dask."""
    from dask import config
    from dask.system import CPU_COUNT

    pool = config.get("pool", None)
    size = getattr(pool, "_max_workers", None) or config.get("num_workers", None)
    return int(size or CPU_COUNT)


@contextmanager
def one_thread_if_digits_differ(device: torch.device) -> Iterator[None]:
    """Leave a draw one torch thread for a while, where last digits depend on their number.

    In float32, oneDNN shares the sum of some convolutions out among threads; in bfloat16 it was
    never seen to. Draws go side by side anyway.
    """
    import torch

    from xcvae.generator.device import precision

    if device.type != "cpu" or precision(device) != "float32":
        yield
        return
    number = torch.get_num_threads()
    use_threads(1)
    try:
        yield
    finally:
        use_threads(number)


def use_threads(number: int) -> None:
    """Set the number of torch threads for what this thread computes."""
    import torch

    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


@lru_cache(maxsize=4)
def numeric_environment(device: torch.device) -> Mapping[str, str]:
    """Return what decides on the last digits of a draw in this process on a device."""
    from xcvae.generator.device import precision

    packages = ("numpy", "torch")
    versions = {f"{name} version": version_of(name) or "unknown" for name in packages}
    return {**versions, "device": device.type, "precision": precision(device)}

"""Torch threads of the processes that draw, and the environment that decides on last digits."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from xcvae.registry.discovery import version_of

if TYPE_CHECKING:
    import torch


WorkerLocation = tuple[str, int, int]


def worker_location() -> WorkerLocation:
    """Return host, process and number of cores that this process may use."""
    from dask.system import CPU_COUNT

    # The count of Dask, which respects the limits of containers.
    return socket.gethostname(), os.getpid(), CPU_COUNT


def threads_per_process(locations: Mapping[Any, WorkerLocation]) -> int:
    """Return the number of torch threads per process with which no process waits for a core.

    Parameters
    ----------
    locations
        The :func:`worker_location` of every worker; workers of one process share its threads.

    Examples
    --------
    >>> threads_per_process({"a": ("host", 1, 8), "b": ("host", 2, 8)})
    4
    """
    processes = set(locations.values())
    crowded = Counter(host for host, _, _ in processes)
    return max(1, min((cores // crowded[host] for host, _, cores in processes), default=1))


def threads_of_pool() -> int:
    """Return the number of torch threads for each process of a pool of Dask."""
    from dask.system import CPU_COUNT

    return max(1, CPU_COUNT // _pool_size())


@contextmanager
def shared_threads() -> Iterator[int]:
    """Share the torch threads of this thread among the threads of Dask, during a context.

    NumPy multiplies matrices on one thread meanwhile: after a product on several, such as that of
    a large coarse map, OpenBLAS keeps their cores busy for a tenth of a second.

    Yields
    ------
    int
        Torch threads for each of them.
    """
    with _blas.one_thread():
        yield max(1, torch_threads() // _pool_size())


class _Blas:
    """Number of threads that NumPy multiplies matrices on: one while any context is entered."""

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), set[object]()
        self._limits: threadpool_limits | None = None

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Use one thread during a context; the last one that ends restores the number."""
        user = object()
        with self._lock:
            if not self._users:
                self._limits = threadpool_limits(limits=1, user_api="blas")
            self._users.add(user)
        try:
            yield
        finally:
            with self._lock:
                self._users.discard(user)  # unknown in a process that was forked meanwhile
                if not self._users:
                    self._restore()

    def begin_anew(self) -> None:
        """Forget the contexts of other threads in a forked process, where they never end."""
        self._lock, self._users = threading.Lock(), set[object]()
        self._restore()

    def _restore(self) -> None:
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None


_blas = _Blas()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_blas.begin_anew)


def torch_threads() -> int:
    """Return the number of torch threads of what this thread computes."""
    import torch

    return int(torch.get_num_threads())


def threads_of_draws() -> int:
    """Return the number of regions of a store that threads of this process draw at a time."""
    return _pool_size()


def _pool_size() -> int:
    """Return the number of threads or processes of the pool of Dask."""
    from dask import config
    from dask.system import CPU_COUNT

    pool = config.get("pool", None)
    size = getattr(pool, "_max_workers", None) or config.get("num_workers", None)
    return int(size or CPU_COUNT)


@contextmanager
def one_thread_if_digits_differ(device: torch.device) -> Iterator[None]:
    """Use one torch thread during a context, where last digits depend on the number of threads.

    In float32, oneDNN splits the sum of some convolutions among threads; in bfloat16 that was
    never observed. Several draws run at a time anyway.
    """
    from xcvae.generator.device import precision
    from xcvae.generator.sharing import threads_here

    differ = device.type == "cpu" and precision(device) == "float32"
    with threads_here(1 if differ else None):
        yield


@lru_cache(maxsize=1)
def _versions() -> Mapping[str, str]:
    return {f"{name} version": version_of(name) or "unknown" for name in ("numpy", "torch")}


def numeric_environment(device: torch.device) -> Mapping[str, str]:
    """Return all that decides on the last digits of a draw now, on a device.

    A process may change its precision between draws.
    """
    from xcvae.generator.device import compiles, precision

    found = {**_versions(), "device": device.type, "precision": precision(device)}
    return {**found, "compiled": "yes"} if compiles(device) else found

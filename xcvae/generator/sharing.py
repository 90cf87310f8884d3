"""Share the cores of the process, and the inputs of a sample, among draws that run at a time."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn

T = TypeVar("T")
R = TypeVar("R")
_setting_threads = threading.Lock()
_all_latest: weakref.WeakSet[Latest[Any]] = weakref.WeakSet()


def use_threads(number: int) -> int:
    """Set the number of torch threads of this thread, and of no other.

    `torch.set_num_threads` sets the number for threads that start later, too: one that starts
    while others draw would have theirs for good. Another thread restores it at once; only a thread
    that starts in that moment has this number.

    Parameters
    ----------
    number
        Torch threads.

    Returns
    -------
    int
        Torch threads of threads that start later.
    """
    with _setting_threads:
        of_new_threads = in_new_thread(torch.get_num_threads)
        try:
            torch.set_num_threads(number)
        finally:
            in_new_thread(lambda: torch.set_num_threads(of_new_threads))
    return of_new_threads


@contextmanager
def threads_here(number: int | None) -> Iterator[None]:
    """Use a number of torch threads for what this thread computes during a context.

    Parameters
    ----------
    number
        Torch threads; None for as many as before.

    Examples
    --------
    >>> before = torch.get_num_threads()
    >>> with threads_here(before + 2):
    ...     torch.get_num_threads() - before, in_new_thread(torch.get_num_threads) - before
    (2, 0)
    """
    before, of_new_threads = torch.get_num_threads(), None
    if number is None or number == before:
        yield
        return
    try:
        of_new_threads = use_threads(number)
        yield
    finally:
        if of_new_threads == before:
            torch.set_num_threads(before)  # one call, which another Ctrl+C does not interrupt
        else:
            use_threads(before)


def in_new_thread(function: Callable[[], T]) -> T:
    """Return the result of a function that a new thread calls."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


class Cores:
    """Cores for the calls that divide their work into items: tiles, or batches of fields.

    A call keeps one core until its last item, so that its maps stay in the caches of this core.
    Cores that no call keeps help the others, an item at a time: one call alone has all of them,
    and with as many calls as cores none waits for another.

    Parameters
    ----------
    number
        Items that are computed at a time, of all calls together.
    threads
        Torch threads for each: more than one where memory limits the number of items.
    """

    def __init__(self, number: int, threads: int = 1) -> None:
        self._number, self._threads = number, threads
        # Calls that keep a core, or wait for one, and cores that help others.
        self._keeping, self._waiting, self._helping = set[object](), set[object](), 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    @property
    def free(self) -> int:
        """Number of cores that compute nothing."""
        return self._number - len(self._keeping) - self._helping

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call a function for each item.

        Parameters
        ----------
        function
            Must not divide its own work here. A single item has the torch threads of free cores,
            too, but no more than the calling thread has.
        items
            Its arguments.

        Returns
        -------
        list
            The results, in the order of the items.
        """
        results: dict[int, R] = {}
        waiting = deque(range(len(items)))

        def compute_next() -> None:
            try:
                number = waiting.popleft()
            except IndexError:  # another thread was faster
                return
            try:
                results[number] = function(items[number])
            except BaseException:
                waiting.clear()
                raise

        if not items:
            return []
        self._share(compute_next, waiting, torch.get_num_threads())
        return [results[number] for number in range(len(items))]

    def _share(
        self, compute_next: Callable[[], None], waiting: deque[int], most_threads: int
    ) -> None:
        """Compute all items of a call, on one core that it keeps and on those that are free."""
        helpers, threads = min(self._number, len(waiting)) - 1, self._threads
        call = object()
        with ThreadPoolExecutor(max(1, helpers), "xcvae-draw") as pool:
            try:
                free = self._keep_one(call)
                helping = [pool.submit(self._help, compute_next, waiting) for _ in range(helpers)]
                alone = min(most_threads, threads * (1 + free))
                with threads_here(threads if helpers else alone):
                    while waiting:
                        compute_next()
            finally:
                # First, and at once: nothing below is done if Ctrl+C comes twice.
                self._keeping.discard(call)
                waiting.clear()
                self._wake_up()
        for one in helping:
            one.result()

    def _help(self, compute_next: Callable[[], None], waiting: deque[int]) -> None:
        """Compute items of a call while there are some, on cores that no call keeps."""
        with threads_here(self._threads):
            while self._borrow_one(waiting):
                try:
                    compute_next()
                finally:
                    with self._lock:
                        self._helping -= 1
                    self._wake_up()

    def _keep_one(self, call: object) -> int:
        """Wait for a core for a call; return the number of those that are free."""
        with self._lock:
            self._waiting.add(call)
            try:
                self._wait_for(lambda: self.free > 0)
            finally:
                self._waiting.discard(call)
            self._keeping.add(call)
            return self.free

    def _borrow_one(self, waiting: deque[int]) -> bool:
        """Wait for a core that no call wants; return False once no items are waiting."""
        with self._lock:
            self._wait_for(lambda: not waiting or self.free > len(self._waiting))
            if not waiting:
                return False
            self._helping += 1
            return True

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait with the lock; look again after a second, as Ctrl+C may come before a wake-up."""
        while not self._changed.wait_for(condition, timeout=1.0):
            pass

    def _wake_up(self) -> None:
        with self._lock:
            self._changed.notify_all()


@functools.cache
def cores(number: int, threads: int = 1) -> Cores:
    """Return the cores that all draws of this process share; see `Cores`."""
    return Cores(number, threads)


def _begin_anew() -> None:
    """Forget in a forked process what other threads of its parent had: they are not in it."""
    global _setting_threads  # noqa: PLW0603
    _setting_threads = threading.Lock()
    cores.cache_clear()
    for latest in list(_all_latest):
        latest.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@dataclass(eq=False)
class SharedEncoding:
    """Encoding of one sample, which draws of its members share: made by the first of them.

    Each network has its own.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _found: dict[nn.Module, Any] = field(default_factory=dict, repr=False)

    def of(self, network: nn.Module, make: Callable[[], T]) -> T:
        """Return the encoding of a network; others wait while it is made.

        Parameters
        ----------
        network
            The network.
        make
            Makes the encoding.
        """
        with self._lock:
            if network not in self._found:
                self._found[network] = make()
            found: T = self._found[network]
            return found


class Latest(Generic[T]):
    """The latest of several values, which draws share while they use it.

    Parameters
    ----------
    permanent
        Keep a value that no draw uses any more: others of the same key will follow.
    """

    def __init__(self, *, permanent: bool = False) -> None:
        self._permanent = permanent
        self.begin_anew()
        _all_latest.add(self)

    def begin_anew(self) -> None:
        """Forget the value, and the draws that use it."""
        self._lock, self._users = threading.Lock(), 0
        self._values: dict[int, T] = {}

    @contextmanager
    def of(self, key: int, load: Callable[[], T]) -> Iterator[T]:
        """Lend the value of a key; others wait while it is loaded."""
        with self._lock:
            if key not in self._values:
                self._values.clear()  # not two in memory
                self._values[key] = load()
            value = self._values[key]
            self._users += 1
        try:
            yield value
        finally:
            with self._lock:
                self._users = max(0, self._users - 1)  # 0 in a process that was forked meanwhile
                if self._users == 0 and not self._permanent:
                    self._values.clear()

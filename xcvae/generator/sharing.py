"""What draws that run at a time share: the cores of the process, and the encoding of a sample."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from xcvae.fields.batches import Batch
    from xcvae.generator.network.ladder import Encoded, Ladder
    from xcvae.generator.tiling import Domain

T = TypeVar("T")
R = TypeVar("R")


class Cores:
    """Cores for the calls that divide their work into items, such as tiles.

    A call keeps one core until its last item, so that its maps stay in the caches of this core.
    Cores that no call keeps help the others, an item at a time: one call alone has all of them,
    and with as many calls as cores none waits for another.

    Parameters
    ----------
    number
        Items that are computed at a time, of all calls together.
    """

    def __init__(self, number: int) -> None:
        self._number = self._free = number
        self._calls_waiting = 0
        self._changed = threading.Condition()

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """Call a function for each item, each on one core.

        Parameters
        ----------
        function
            Runs with a single torch thread if there are several items.
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

        before = torch.get_num_threads()
        try:
            self._share(compute_next, waiting)
        finally:
            # New threads start with the number that any thread has set last.
            torch.set_num_threads(before)
        return [results[number] for number in range(len(items))]

    def _share(self, compute_next: Callable[[], None], waiting: deque[int]) -> None:
        """Compute all items of a call, on one core that it keeps and on those that are free."""
        helpers = min(self._number, len(waiting)) - 1
        with ThreadPoolExecutor(max(1, helpers), "xcvae-tile", torch.set_num_threads, (1,)) as pool:
            self._keep_one()
            try:
                helping = [pool.submit(self._help, compute_next, waiting) for _ in range(helpers)]
                if helpers:
                    torch.set_num_threads(1)
                while waiting:
                    compute_next()
            finally:
                waiting.clear()
                self._give_back()
        for one in helping:
            one.result()

    def _help(self, compute_next: Callable[[], None], waiting: deque[int]) -> None:
        """Compute items of a call while there are some, on cores that no call keeps."""
        while self._borrow_one(waiting):
            try:
                compute_next()
            finally:
                self._give_back()

    def _keep_one(self) -> None:
        """Wait for a core for a call."""
        with self._changed:
            self._calls_waiting += 1
            try:
                self._changed.wait_for(lambda: self._free > 0)
            finally:
                self._calls_waiting -= 1
            self._free -= 1

    def _borrow_one(self, waiting: deque[int]) -> bool:
        """Wait for a core that no call wants; return False once no items are waiting."""
        with self._changed:
            self._changed.wait_for(lambda: not waiting or self._free > self._calls_waiting)
            if not waiting:
                return False
            self._free -= 1
            return True

    def _give_back(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify_all()


@functools.cache
def cores(number: int) -> Cores:
    """Return the cores that all draws of this process share."""
    return Cores(number)


@dataclass(eq=False)
class SharedEncoding:
    """Encoding of one sample, which draws of its members share: made by the first of them.

    Each network has its own, with the domain that it was made in: this stores features of tiles.
    """

    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _found: dict[Ladder, tuple[Domain, dict[int, Encoded]]] = field(
        default_factory=dict, repr=False
    )

    def of(
        self, domain: Domain, batch: Batch, *, posterior: bool
    ) -> tuple[Domain, dict[int, Encoded]]:
        """Return the domain and the encoding of a network; others wait while it is made.

        Parameters
        ----------
        domain
            The domain, with the network.
        batch
            The sample alone.
        posterior
            Encode the target too: the same in all draws.

        Returns
        -------
        tuple
            The domain, and the encoded sample by its row in the batch, 0.
        """
        assert len(batch) == 1
        with self._lock:
            if domain.network not in self._found:
                encoded = domain.encode(batch, 0, posterior=posterior)
                self._found[domain.network] = domain, {0: encoded}
            return self._found[domain.network]

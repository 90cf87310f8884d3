"""Independent tasks on a cluster of `distributed`, whose workers come and go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import chain, islice
from time import monotonic
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import uuid4

from xcvae.ensemble.execution.threads import place, threads_on
from xcvae.errors import StoreError, explain

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["ClusterRun"]

PER_THREAD = 4
"""Calls that wait per thread of a cluster: enough that none idles, few enough to be nothing."""
WORTH = 0.1
"""Seconds of work in a call on a cluster, which costs milliseconds: short tasks share one."""
MOST = 64
"""Tasks that share a call, at most."""
TRIES = 3
"""Results in a row that may not be fetched before their task is given up."""
FETCHING = 20.0
"""Seconds for fetching what a worker has done. If it dies just then, `distributed` may wait for it
forever (seen with 2026.8.0), so that the tasks are done again."""
GLANCE = 1.0
"""Seconds between two looks at how many workers there are."""
PATIENCE = 60.0
"""Seconds without any worker after which a cluster is given up."""

T = TypeVar("T")
R = TypeVar("R")


class ClusterRun(Generic[T, R]):
    """Tasks on a cluster: a few calls per thread are under way, never the whole ensemble.

    Parameters
    ----------
    client
        Of the cluster.
    function
        Takes a task and perhaps the number of torch threads to use; does not raise.
    lost
        Makes a result for a task that came to nothing.
    """

    def __init__(
        self, client: Client, function: Callable[..., R], lost: Callable[[T, Exception], R]
    ) -> None:
        self.client, self.function, self.lost = client, function, lost
        self._workforce = _Workforce(client)
        self._name, self._calls = f"draw-{uuid4().hex}", 0
        self._going: dict[Future[tuple[list[R], float]], list[T]] = {}
        self._alone: list[T] = []
        self._unfetched = 0

    def results(self, tasks: Iterator[T]) -> Iterator[R]:
        """Do them all; results come as they are there.

        Raises
        ------
        StoreError
            There has been no worker for a minute.
        """
        try:
            while self._submit(tasks):
                for future in self._finished():
                    yield from self._fetch(future)
        except (CancelledError, OSError) as error:
            # The scheduler is gone, and with it whatever its workers were at.
            gone = ConnectionError(f"the scheduler was lost ({type(error).__name__}: {error})")
            for task in chain(*self._going.values(), self._alone, tasks):
                yield self.lost(task, gone)
        finally:
            with suppress(CancelledError, OSError):
                self.client.cancel(list(self._going))  # type: ignore[no-untyped-call]

    def _submit(self, tasks: Iterator[T]) -> bool:
        """Hand over as much as there is room for; whether anything is under way."""
        force = self._workforce
        force.look()
        while len(self._going) < force.room and (some := self._next(tasks)):
            future = self.client.submit(
                _several, self.function, some, force.threads,
                key=f"{self._name}-{self._calls:08d}", pure=False, priority=-self._calls,
            )  # fmt: skip
            self._going[future] = some
            self._calls += 1
        return bool(self._going)

    def _next(self, tasks: Iterator[T]) -> list[T]:
        """Take what the next call does: one task that is tried again, or some new ones."""
        if self._alone:
            return [self._alone.pop()]
        return list(islice(tasks, self._workforce.share))

    def _finished(self) -> list[Future[tuple[list[R], float]]]:
        """Wait for some; a cluster without workers is not waited for forever."""
        from distributed import wait

        while True:
            try:
                state = wait(  # type: ignore[no-untyped-call]
                    list(self._going), timeout=PATIENCE, return_when="FIRST_COMPLETED"
                )
                return list(state.done)
            except TimeoutError:
                _wait_for_a_worker(self.client)

    def _fetch(self, future: Future[tuple[list[R], float]]) -> list[R]:
        """Return the results of a call; none, if its tasks are tried again."""
        some = self._going.pop(future)
        try:
            results, seconds = future.result(timeout=FETCHING)
        except Exception as error:  # noqa: BLE001  of any kind: the other tasks go on
            return self._after(error, some)
        self._unfetched = 0
        self._workforce.took(seconds / len(some))
        return results

    def _after(self, error: Exception, some: list[T]) -> list[R]:
        """Try the tasks of a failed call again, each alone, or give the only one up."""
        unfetched = isinstance(error, TimeoutError)
        # Only one of several may be the cause, or none.
        again = len(some) > 1 or (unfetched and self._unfetched < TRIES)
        self._unfetched += unfetched
        if again:
            self._alone += some
            return []
        return [self.lost(some[0], error)]


def _several(
    function: Callable[..., R], tasks: list[T], threads: int | None
) -> tuple[list[R], float]:
    """Do some tasks on a worker; results and seconds."""
    start = monotonic()
    return [function(task, threads) for task in tasks], monotonic() - start


class _Workforce:
    """How many calls a cluster can take, of how many tasks, with what torch threads.

    Clusters may grow.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self.room = 2
        self.share = 1
        self.threads: int | None = None
        self._workers: set[str] = set()
        self._looked = float("-inf")

    def look(self) -> None:
        """Look again, if the last time is over a second ago: it takes a round trip."""
        if monotonic() - self._looked < GLANCE:
            return
        threads = self.client.nthreads()  # type: ignore[no-untyped-call]
        self.room = max(2, PER_THREAD * sum(threads.values()))
        if set(threads) != self._workers:
            self._workers = set(threads)
            places = self.client.run(place, on_error="ignore")
            # In the process of the caller, threads are the caller's business.
            own = any(process == os.getpid() for _, process, _ in places.values())
            self.threads = None if own or not places else threads_on(places)
        self._looked = monotonic()

    def took(self, seconds: float) -> None:
        """Learn how long a task takes; tasks differ, so that the share grows step by step."""
        fitting = int(WORTH / max(seconds, WORTH / MOST))
        self.share = max(1, min(fitting, 2 * self.share))


def _wait_for_a_worker(client: Client) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise StoreError(
            explain(
                "cluster",
                expected="workers",
                got=f"none for {PATIENCE:g} s",
                remedy="Start some; the same call goes on with what is missing.",
            )
        ) from None

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

from xcvae.ensemble.execution.threads import threads_per_process, worker_location
from xcvae.ensemble.progress import TaskEnd
from xcvae.errors import StoreError

if TYPE_CHECKING:
    from distributed import Client, Future


CALLS_PER_THREAD = 4
"""Calls that wait per thread of a cluster: enough that none idles, few enough for any memory."""
CALL_SECONDS = 0.1
"""Least work in a call on a cluster, which costs milliseconds: short tasks share one."""
TASKS_PER_CALL = 64
"""Tasks that share a call, at most."""
FETCHES = 3
"""Results in a row that may not be fetched before their task is given up."""
FETCH_SECONDS = 20.0
"""Time for fetching a result. If the worker dies just then, `distributed` may wait for it forever
(seen with 2026.8.0); after this time, the tasks are done again."""
REFRESH_SECONDS = 1.0
"""Time between two counts of the workers: each takes a round trip."""

T = TypeVar("T")
R = TypeVar("R")


class ClusterRun(Generic[T, R]):
    """Tasks on a cluster: a few calls per thread are submitted at a time, never all.

    Parameters
    ----------
    client
        Client of the cluster.
    function
        Takes a task and perhaps the number of torch threads to use; does not raise.
    patience
        Seconds without any worker after which the cluster is given up.
    """

    def __init__(self, client: Client, function: Callable[..., R], patience: float) -> None:
        self._client, self._function, self._patience = client, function, patience
        self._capacity = _Capacity(client)
        self._name, self._calls = f"draw-{uuid4().hex}", 0
        self._submitted: dict[Future[tuple[list[R], float]], list[T]] = {}
        self._retries: list[T] = []
        self._unfetched = 0

    def events(self, tasks: Iterator[T]) -> Iterator[TaskEnd[T, R]]:
        """Do all tasks; yield an event as soon as one has ended.

        Raises
        ------
        StoreError
            There has been no worker for too long.
        """
        try:
            while self._submit(tasks):
                for future in self._wait():
                    yield from self._fetch(future)
        except (CancelledError, OSError) as error:
            # The scheduler is lost, and with it all tasks that its workers were running.
            lost = ConnectionError(f"the scheduler was lost ({type(error).__name__}: {error})")
            for task in chain(*self._submitted.values(), self._retries, tasks):
                yield TaskEnd(task, error=lost)
        finally:
            with suppress(CancelledError, OSError):
                self._client.cancel(list(self._submitted))  # type: ignore[no-untyped-call]

    def _submit(self, tasks: Iterator[T]) -> bool:
        """Submit as many calls as the cluster has room for; False if none is left."""
        capacity = self._capacity
        capacity.refresh()
        while len(self._submitted) < capacity.calls and (share := self._next_call(tasks)):
            future = self._client.submit(
                _call, self._function, share, capacity.threads,
                key=f"{self._name}-{self._calls:08d}", pure=False, priority=-self._calls,
            )  # fmt: skip
            self._submitted[future] = share
            self._calls += 1
        return bool(self._submitted)

    def _next_call(self, tasks: Iterator[T]) -> list[T]:
        """Return the tasks of the next call: one that is tried again, or some new ones."""
        if self._retries:
            return [self._retries.pop()]
        return list(islice(tasks, self._capacity.tasks_per_call))

    def _wait(self) -> list[Future[tuple[list[R], float]]]:
        """Wait until some calls have ended, as long as the cluster has workers."""
        from distributed import wait

        while True:
            try:
                state = wait(  # type: ignore[no-untyped-call]
                    list(self._submitted), timeout=self._patience, return_when="FIRST_COMPLETED"
                )
                return list(state.done)
            except TimeoutError:
                _wait_for_a_worker(self._client, self._patience)

    def _fetch(self, future: Future[tuple[list[R], float]]) -> list[TaskEnd[T, R]]:
        """Return the events of a call; none, if its tasks are tried again."""
        share = self._submitted.pop(future)
        try:
            results, seconds = future.result(timeout=FETCH_SECONDS)
        except Exception as error:  # noqa: BLE001  of any kind: the other tasks go on
            return self._retry(error, share)
        self._unfetched = 0
        self._capacity.record(seconds / len(share))
        return [TaskEnd(task, result) for task, result in zip(share, results, strict=True)]

    def _retry(self, error: Exception, share: list[T]) -> list[TaskEnd[T, R]]:
        """Try the tasks of a failed call again, each in its own call, or give the only one up."""
        unfetched = isinstance(error, TimeoutError)
        # One of several may be the cause, or none of them.
        again = len(share) > 1 or (unfetched and self._unfetched < FETCHES)
        self._unfetched += unfetched
        if again:
            self._retries += share
            return []
        return [TaskEnd(share[0], error=error)]


def _call(function: Callable[..., R], tasks: list[T], threads: int | None) -> tuple[list[R], float]:
    """Do some tasks on a worker; return results and seconds."""
    start = monotonic()
    return [function(task, threads) for task in tasks], monotonic() - start


class _Capacity:
    """Number of calls that a cluster takes, their tasks, and torch threads; clusters may grow."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.calls = 2
        self.tasks_per_call = 1
        self.threads: int | None = None
        self._workers: set[str] = set()
        self._refreshed = float("-inf")

    def refresh(self) -> None:
        """Count the workers again, if the last time is long ago."""
        if monotonic() - self._refreshed < REFRESH_SECONDS:
            return
        threads = self._client.nthreads()  # type: ignore[no-untyped-call]
        self.calls = max(2, CALLS_PER_THREAD * sum(threads.values()))
        if set(threads) != self._workers:
            self._workers = set(threads)
            locations = self._client.run(worker_location, on_error="ignore")
            # Workers in the process of the caller leave its threads as they are.
            own = any(process == os.getpid() for _, process, _ in locations.values())
            self.threads = None if own or not locations else threads_per_process(locations)
        self._refreshed = monotonic()

    def record(self, seconds: float) -> None:
        """Take the time of a task; tasks differ, so that the share at most doubles at a time."""
        fitting = int(CALL_SECONDS / max(seconds, CALL_SECONDS / TASKS_PER_CALL))
        self.tasks_per_call = max(1, min(fitting, 2 * self.tasks_per_call))


def _wait_for_a_worker(client: Client, patience: float) -> None:
    try:
        client.wait_for_workers(1, timeout=patience)
    except TimeoutError:
        raise StoreError.of(
            "cluster",
            expected="workers",
            got=f"none for {patience:g} s",
            remedy="Start workers, then repeat the call: it draws what is missing.",
        ) from None

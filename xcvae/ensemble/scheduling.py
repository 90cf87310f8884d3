"""Independent tasks on the Dask scheduler that the caller uses: threads, processes or a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from xcvae.ensemble.workers import place, threads_of_pool, threads_on, threads_shared
from xcvae.errors import StoreError, explain

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Tasks", "cluster_in_use", "shares_memory", "side_by_side"]

PER_THREAD = 3
"""Tasks that wait per thread of the cluster: enough that none idles, few enough to be nothing."""
AT_ONCE = 512
"""Tasks handed to a scheduler in this process at a time: what they hold stays small."""
TRIES = 3
"""Pools that may break without any result before the rest of the tasks is given up."""
GLANCE = 1.0
"""Seconds between two looks at how many workers there are."""
PATIENCE = 60.0
"""Seconds without any worker after which a cluster is given up."""

T = TypeVar("T")
R = TypeVar("R")


def cluster_in_use() -> Client | None:
    """Return the client of the cluster that Dask would compute on now; None if there is none."""
    from dask.base import get_scheduler

    scheduler = get_scheduler()  # type: ignore[no-untyped-call]
    owner = getattr(scheduler, "__self__", None)
    return owner if hasattr(owner, "scheduler_info") else None


def shares_memory() -> bool:
    """Whether tasks run in this process."""
    from dask import local, threaded
    from dask.base import get_scheduler

    return get_scheduler() in (None, threaded.get, local.get_sync)  # type: ignore[no-untyped-call]


def side_by_side() -> bool:
    """Whether tasks run in threads of this process, each with torch threads of its own."""
    from dask import threaded
    from dask.base import get_scheduler

    return get_scheduler() in (None, threaded.get)  # type: ignore[no-untyped-call]


def _threads() -> AbstractContextManager[int | None]:
    """How many torch threads each of the tasks in this process may use; None: as it is."""
    if side_by_side():
        return threads_shared()
    return nullcontext(None if shares_memory() else threads_of_pool())


class Tasks(Generic[T, R]):
    """Calls of one function, in order, each on its own.

    Parameters
    ----------
    function
        Takes a task and perhaps the number of torch threads to use. It does not
        raise: what goes wrong is part of what it returns.
    lost
        Makes a result for a task that came to nothing because a worker died over it again and
        again, or the scheduler did.
    """

    def __init__(self, function: Callable[..., R], lost: Callable[[T, Exception], R]) -> None:
        self.function, self.lost = function, lost

    def run(self, tasks: Iterable[T], seen: Callable[[R], None]) -> list[R]:
        """Do them all; ``seen`` is told every result in this process as soon as it is there.

        Raises
        ------
        StoreError
            A cluster has had no worker for a minute.
        """
        client = cluster_in_use()
        waiting = iter(tasks)
        results: list[R] = []
        if client is None:
            while some := list(islice(waiting, AT_ONCE)):
                results += self._patiently(some, seen)
            return results
        for result in self._on_cluster(client, waiting):
            seen(result)
            results.append(result)
        return results

    def _patiently(self, tasks: list[T], seen: Callable[[R], None]) -> list[R]:
        """Do some; if a process of a pool dies, go on with a new pool and what is left."""
        left: dict[int, T] = dict(enumerate(tasks))
        results: list[R] = []
        fruitless = 0
        while left:

            def noted(number: int, result: R, left: dict[int, T] = left) -> None:
                del left[number]
                results.append(result)
                seen(result)

            before = len(left)
            try:
                with _threads() as threads:
                    self._here(dict(left), threads, noted)
            except BrokenProcessPool as error:
                if len(left) < before:
                    continue
                # The first was under way, and may be the cause; the others get another try.
                fruitless += 1
                given_up = list(left.items())[: 1 if fruitless < TRIES else None]
                for number, task in given_up:
                    noted(number, self.lost(task, error))
        return results

    def _here(
        self, tasks: dict[int, T], threads: int | None, seen: Callable[[int, R], None]
    ) -> None:
        from dask import config
        from dask.base import compute
        from dask.callbacks import Callback
        from dask.delayed import delayed

        # traverse=False: Dask would otherwise look for arrays inside a task and compute them.
        function = delayed(self.function, pure=False, traverse=False)
        # Dask takes independent tasks by their names: so they are done in their order.
        run = f"draw-{uuid4().hex}"
        calls = [
            function(
                delayed(task, pure=False, traverse=False),
                threads,
                dask_key_name=f"{run}-{number:08d}",
            )
            for number, task in tasks.items()
        ]

        def after(key: Any, result: Any, *_: Any) -> None:
            if str(key).startswith(run):
                seen(int(str(key)[-8:]), result)

        # One by one: a process that dies takes no results of others with it.
        with config.set(chunksize=1), Callback(posttask=after):  # type: ignore[no-untyped-call]
            compute(*calls)  # type: ignore[no-untyped-call]

    def _on_cluster(self, client: Client, tasks: Iterator[T]) -> Iterator[R]:
        """Keep a few tasks per thread under way: the cluster never holds the whole ensemble."""
        run, number = f"draw-{uuid4().hex}", 0
        going: dict[Future[R], T] = {}
        try:
            workforce = _Workforce(client)
            while True:
                workforce.look()
                for task in islice(tasks, max(0, workforce.room - len(going))):
                    key = f"{run}-{number:08d}"
                    future = client.submit(
                        self.function, task, workforce.threads, key=key, pure=False,
                        priority=-number,
                    )  # fmt: skip
                    going[future], number = task, number + 1
                if not going:
                    return
                for future in _finished(client, going):
                    yield self._result(future, going.pop(future))
        except (CancelledError, OSError) as error:
            # The scheduler is gone, and with it whatever its workers were at.
            gone = ConnectionError(f"the scheduler was lost ({type(error).__name__}: {error})")
            for task in [*going.values(), *tasks]:
                yield self.lost(task, gone)
        finally:
            with suppress(CancelledError, OSError):
                client.cancel(list(going))  # type: ignore[no-untyped-call]

    def _result(self, future: Future[R], task: T) -> R:
        try:
            result: R = future.result()
        except Exception as error:  # noqa: BLE001  of any kind: the other tasks go on
            return self.lost(task, error)
        return result


class _Workforce:
    """How many tasks a cluster can take, and the torch threads of each; clusters may grow."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.room = 2
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


def _finished(client: Client, going: dict[Future[R], T]) -> list[Future[R]]:
    """Wait for some; a cluster without workers is not waited for forever."""
    from distributed import wait

    while True:
        try:
            state = wait(  # type: ignore[no-untyped-call]
                list(going), timeout=PATIENCE, return_when="FIRST_COMPLETED"
            )
            return list(state.done)
        except TimeoutError:
            if not client.nthreads():  # type: ignore[no-untyped-call]
                raise StoreError(
                    explain(
                        "cluster",
                        expected="workers",
                        got=f"none for {PATIENCE:g} s",
                        remedy="Start some; the same call goes on with what is missing.",
                    )
                ) from None

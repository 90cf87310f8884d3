"""Independent tasks on the Dask scheduler that the caller uses: threads, processes or a cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain, islice
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from xcvae.ensemble.workers import place, threads_of_pool, threads_on, threads_shared
from xcvae.errors import StoreError, explain

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Tasks", "cluster_in_use", "shares_memory", "side_by_side"]

PER_THREAD = 4
"""Calls that wait per thread of a cluster: enough that none idles, few enough to be nothing."""
WORTH = 0.1
"""Seconds of work in a call on a cluster, which costs milliseconds: short tasks share one."""
MOST = 64
"""Tasks that share a call, at most."""
AT_ONCE = 512
"""Tasks handed to a scheduler in this process at a time: what they hold stays small."""
TRIES = 3
"""Pools that may break, and results that may not be fetched, before tasks are given up."""
FETCHING = 20.0
"""Seconds for fetching what a worker has done. If it dies just then, `distributed` may wait for it
forever (seen with 2026.8.0), so that the tasks are done again."""
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
    """Calls of one function, each on its own; Dask chooses the order.

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

    def run(self, tasks: Iterable[T], seen: Callable[[R], None]) -> None:
        """Do them all; ``seen`` gets every result in this process as soon as it is there.

        Raises
        ------
        StoreError
            A cluster has had no worker for a minute.
        """
        client = cluster_in_use()
        waiting = iter(tasks)
        if client is None:
            while some := list(islice(waiting, AT_ONCE)):
                self._patiently(some, seen)
            return
        for result in self._on_cluster(client, waiting):
            seen(result)

    def _patiently(self, tasks: list[T], seen: Callable[[R], None]) -> None:
        """Do some; if a process of a pool dies, go on with a new pool and what is left."""
        left: dict[int, T] = dict(enumerate(tasks))
        fruitless = 0
        while left:

            def noted(number: int, result: R, left: dict[int, T] = left) -> None:
                del left[number]
                seen(result)

            before = len(left)
            begun: list[int] = []
            try:
                with _threads() as threads:
                    self._here(dict(left), threads, begun.append, noted)
            except BrokenProcessPool as error:
                if len(left) < before:
                    continue
                # One that was under way may be the cause; the others get another try.
                fruitless += 1
                suspects = [number for number in begun if number in left][:1]
                for number in suspects if fruitless < TRIES else list(left):
                    noted(number, self.lost(left[number], error))

    def _here(
        self,
        tasks: dict[int, T],
        threads: int | None,
        begun: Callable[[int], None],
        seen: Callable[[int, R], None],
    ) -> None:
        from dask import config
        from dask.base import compute
        from dask.callbacks import Callback
        from dask.delayed import delayed

        # traverse=False: Dask would otherwise look for arrays inside a task and compute them.
        function = delayed(self.function, pure=False, traverse=False)
        run = f"draw-{uuid4().hex}"
        calls = [
            function(
                delayed(task, pure=False, traverse=False),
                threads,
                dask_key_name=f"{run}-{number:08d}",
            )
            for number, task in tasks.items()
        ]

        def before(key: Any, *_: Any) -> None:
            if str(key).startswith(run):
                begun(int(str(key)[-8:]))

        def after(key: Any, result: Any, *_: Any) -> None:
            if str(key).startswith(run):
                seen(int(str(key)[-8:]), result)

        # One by one: a process that dies takes no results of others with it.
        with config.set(chunksize=1), Callback(pretask=before, posttask=after):  # type: ignore[no-untyped-call]
            compute(*calls)  # type: ignore[no-untyped-call]

    def _on_cluster(self, client: Client, tasks: Iterator[T]) -> Iterator[R]:
        """Keep a few calls per thread under way: the cluster never holds the whole ensemble."""
        run, number, unfetched = f"draw-{uuid4().hex}", 0, 0
        going: dict[Future[tuple[list[R], float]], list[T]] = {}
        alone: list[list[T]] = []
        try:
            workforce = _Workforce(client)
            while True:
                workforce.look()
                while len(going) < workforce.room and (
                    some := alone.pop() if alone else list(islice(tasks, workforce.share))
                ):
                    future = client.submit(
                        _several, self.function, some, workforce.threads,
                        key=f"{run}-{number:08d}", pure=False, priority=-number,
                    )  # fmt: skip
                    going[future], number = some, number + 1
                if not going:
                    return
                for future in _finished(client, going):
                    some = going.pop(future)
                    try:
                        results, seconds = future.result(timeout=FETCHING)
                    except Exception as error:  # noqa: BLE001  of any kind: the other tasks go on
                        # Only one of several may be the cause, or none.
                        if len(some) > 1 or (isinstance(error, TimeoutError) and unfetched < TRIES):
                            alone += [[task] for task in some]
                        else:
                            yield self.lost(some[0], error)
                        unfetched += isinstance(error, TimeoutError)
                        continue
                    unfetched = 0
                    workforce.took(seconds / len(some))
                    yield from results
        except (CancelledError, OSError) as error:
            # The scheduler is gone, and with it whatever its workers were at.
            gone = ConnectionError(f"the scheduler was lost ({type(error).__name__}: {error})")
            for task in chain(*going.values(), *alone, tasks):
                yield self.lost(task, gone)
        finally:
            with suppress(CancelledError, OSError):
                client.cancel(list(going))  # type: ignore[no-untyped-call]


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


def _finished(client: Client, going: dict[Future[R], Any]) -> list[Future[R]]:
    """Wait for some; a cluster without workers is not waited for forever."""
    from distributed import wait

    while True:
        try:
            state = wait(  # type: ignore[no-untyped-call]
                list(going), timeout=PATIENCE, return_when="FIRST_COMPLETED"
            )
            return list(state.done)
        except TimeoutError:
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

"""Independent tasks on the Dask scheduler that the caller uses: threads, processes or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from xcvae.ensemble.execution.cluster import ClusterRun
from xcvae.ensemble.execution.threads import threads_of_pool, threads_shared

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Tasks", "cluster_in_use", "shares_memory", "side_by_side"]

AT_ONCE = 512
"""Tasks handed to a scheduler in this process at a time: what they hold stays small."""
TRIES = 3
"""Pools that may break before tasks are given up."""

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
        for result in ClusterRun(client, self.function, self.lost).results(waiting):
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
            partial: list[int] = []
            try:
                with _threads() as threads:
                    self._here(dict(left), threads, partial.append, noted)
            except BrokenProcessPool as error:
                if len(left) < before:
                    continue
                # One that was under way may be the cause; the others get another try.
                fruitless += 1
                suspects = [number for number in partial if number in left][:1]
                for number in suspects if fruitless < TRIES else list(left):
                    noted(number, self.lost(left[number], error))

    def _here(
        self,
        tasks: dict[int, T],
        threads: int | None,
        partial: Callable[[int], None],
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
                partial(int(str(key)[-8:]))

        def after(key: Any, result: Any, *_: Any) -> None:
            if str(key).startswith(run):
                seen(int(str(key)[-8:]), result)

        # One by one: a process that dies takes no results of others with it.
        with config.set(chunksize=1), Callback(pretask=before, posttask=after):  # type: ignore[no-untyped-call]
            compute(*calls)  # type: ignore[no-untyped-call]

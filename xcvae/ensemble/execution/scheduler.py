"""Independent tasks on the Dask scheduler in use: threads, processes or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from xcvae.ensemble.execution.cluster import ClusterRun
from xcvae.ensemble.execution.threads import shared_threads, threads_of_pool
from xcvae.ensemble.progress import TaskEnd

if TYPE_CHECKING:
    from distributed import Client


TASKS_AT_ONCE = 512
"""Tasks handed to a scheduler in this process at a time: they take memory."""
BROKEN_POOLS = 3
"""Pools in a row that may break without a result before the tasks are given up."""

T = TypeVar("T")
R = TypeVar("R")


def cluster_in_use() -> Client | None:
    """Return the client of the cluster that Dask would compute on now; None if there is none."""
    from dask.base import get_scheduler

    scheduler = get_scheduler()  # type: ignore[no-untyped-call]
    owner = getattr(scheduler, "__self__", None)
    return owner if hasattr(owner, "scheduler_info") else None


def shares_memory() -> bool:
    """Tell if tasks run in this process."""
    from dask import local, threaded
    from dask.base import get_scheduler

    return get_scheduler() in (None, threaded.get, local.get_sync)  # type: ignore[no-untyped-call]


def runs_in_threads() -> bool:
    """Tell if tasks run in threads of this process, each with torch threads of its own."""
    from dask import threaded
    from dask.base import get_scheduler

    return get_scheduler() in (None, threaded.get)  # type: ignore[no-untyped-call]


def _threads_per_task() -> AbstractContextManager[int | None]:
    """Share the torch threads among the tasks in this process; None leaves them as they are."""
    if runs_in_threads():
        return shared_threads()
    return nullcontext(None if shares_memory() else threads_of_pool())


class Executor(Generic[T, R]):
    """Calls one function for each task, in an order that Dask chooses.

    Parameters
    ----------
    function
        Takes a task and perhaps the number of torch threads to use. It does not raise: errors are
        part of its result.
    patience
        Seconds without any worker after which a cluster is given up.
    """

    def __init__(self, function: Callable[..., R], *, patience: float = 60.0) -> None:
        self._function, self._patience = function, patience

    def run(self, tasks: Iterable[T], on_task_end: Callable[[TaskEnd[T, R]], None]) -> None:
        """Do all tasks; call ``on_task_end`` in this process as soon as one has ended.

        Raises
        ------
        StoreError
            A cluster has had no worker for too long.
        """
        client = cluster_in_use()
        waiting = iter(tasks)
        if client is None:
            while batch := list(islice(waiting, TASKS_AT_ONCE)):
                self._run_batch(batch, on_task_end)
            return
        run = ClusterRun[T, R](client, self._function, self._patience)
        for event in run.events(waiting):
            on_task_end(event)

    def _run_batch(self, batch: list[T], on_task_end: Callable[[TaskEnd[T, R]], None]) -> None:
        """Do some tasks; if a process of a pool dies, go on with a new pool."""
        left: dict[int, T] = dict(enumerate(batch))
        broken = 0
        while left:

            def note_end(
                number: int,
                result: R | None,
                error: Exception | None = None,
                left: dict[int, T] = left,
            ) -> None:
                on_task_end(TaskEnd(left.pop(number), result, error))

            before = len(left)
            started: list[int] = []
            try:
                with _threads_per_task() as threads:
                    self._compute(dict(left), threads, started.append, note_end)
            except BrokenProcessPool as error:
                if len(left) < before:
                    broken = 0  # only pools in a row that did nothing count
                    continue
                # A task that was running may be the cause; the others get another try.
                broken += 1
                suspects = [number for number in started if number in left][:1]
                for number in suspects if broken < BROKEN_POOLS else list(left):
                    note_end(number, None, error)

    def _compute(
        self,
        tasks: dict[int, T],
        threads: int | None,
        note_start: Callable[[int], None],
        note_end: Callable[[int, R], None],
    ) -> None:
        from dask import config
        from dask.base import compute
        from dask.callbacks import Callback
        from dask.delayed import delayed

        # traverse=False: Dask would otherwise look for arrays inside a task and compute them.
        function = delayed(self._function, pure=False, traverse=False)
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
                note_start(int(str(key)[-8:]))

        def after(key: Any, result: Any, *_: Any) -> None:
            if str(key).startswith(run):
                note_end(int(str(key)[-8:]), result)

        # One task per chunk: a process that dies takes no results of others with it.
        with config.set(chunksize=1), Callback(pretask=before, posttask=after):  # type: ignore[no-untyped-call]
            compute(*calls)  # type: ignore[no-untyped-call]

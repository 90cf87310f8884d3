"""The same ensemble wherever it is drawn: threads, processes, and clusters of any size."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from uuid import uuid4

import dask
import numpy as np
import pytest
import torch
from dask.system import CPU_COUNT
from threadpoolctl import threadpool_info, threadpool_limits

from xcvae.ensemble.execution.cluster import FETCHES, ClusterRun
from xcvae.ensemble.execution.scheduler import Executor
from xcvae.ensemble.execution.threads import (
    shared_threads,
    threads_per_process,
    worker_location,
)
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sample import sample
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.ensemble.store.base import Region
from xcvae.ensemble.store.local import FileLedger, LocalRegionWriter
from xcvae.ensemble.store.write import Outcome, Task, draw_and_write, failure_message
from xcvae.errors import MismatchError, StoreError
from xcvae.generator.model import Model
from xcvae.generator.sharing import in_new_thread, threads_here

MADE = {"members": 5, "seed": 7, "progress": False}
#: Timescales of the levels are given: the record of the model has no consecutive times.
EVOLVING = {**MADE, "temporal": "coherent", "timescales": ["9 d", "1 d", "1 h", 0]}


@pytest.fixture(scope="module")
def lazy(few, model):
    return sample(few, model, **MADE).pr.values


def test_lazy_members_are_drawn_several_at_a_time(few, model, lazy, monkeypatch):
    """A draw on each core makes more fields than one draw on all of them."""
    both, before = Barrier(2), torch.get_num_threads()
    stem = model.networks[0].encode_condition.stem
    torch.set_num_threads(2)

    def wait_for_another(*_: object) -> None:
        both.wait(20)

    hook = stem.register_forward_pre_hook(wait_for_another)
    try:
        with dask.config.set(scheduler="threads", num_workers=2):
            blocks = sample(few, model, chunks={"time": 1}, **MADE).pr
            np.testing.assert_array_equal(blocks.values, lazy)
        # So are the batches of one block.
        np.testing.assert_array_equal(sample(few, model, **MADE).pr.values, lazy)
    finally:
        hook.remove()
        torch.set_num_threads(before)


def test_threads_of_dask_multiply_matrices_on_one_thread():
    """Those of OpenBLAS would keep the cores busy after each product."""

    def blas_threads(*_: object) -> list[int]:
        return [lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"]

    found = []
    with threadpool_limits(limits=2, user_api="blas"), dask.config.set(scheduler="threads"):
        before = blas_threads()
        Executor(blas_threads).run([1, 2], lambda event: found.append(event.result))
        assert blas_threads() == before
    assert found == [[1] * len(before)] * 2


def test_overlapping_runs_give_back_the_threads_of_blas():
    """Each of two stores, written at a time, restored the number that it had found."""

    def blas_threads() -> set[int]:
        return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}

    with threadpool_limits(limits=2, user_api="blas"):
        first, second = shared_threads(), shared_threads()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas_threads() == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == {2}


def test_threads_that_start_during_a_draw_have_all_torch_threads(few, model, tmp_path):
    """They had those of a draw, and passed them on to all threads that started later."""
    before, found = torch.get_num_threads(), set()
    torch.set_num_threads(3)

    def during_draw(*_: object) -> None:
        found.add(in_new_thread(torch.get_num_threads))

    hook = model.networks[0].encode_condition.stem.register_forward_pre_hook(during_draw)
    try:
        with dask.config.set(scheduler="threads", num_workers=1):
            sample(few, model, store=tmp_path / "e.zarr", chunks={"time": 1}, **MADE)
            sample(few, model, chunks={"time": 1}, **MADE).pr.compute()
        found.add(in_new_thread(torch.get_num_threads))
    finally:
        hook.remove()
        torch.set_num_threads(before)
    assert found == {3}


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_local_schedulers_write_same_ensemble(few, model, lazy, tmp_path, scheduler):
    with dask.config.set(scheduler=scheduler):
        # Regions and blocks with other members of a sample share its data, and no other's.
        chunks = {"realization": 2, "time": 1}
        ens = sample(few, model, store=tmp_path / "e.zarr", chunks=chunks, **MADE)
        np.testing.assert_array_equal(ens.pr.values, lazy)
        np.testing.assert_array_equal(sample(few, model, chunks=chunks, **MADE).pr.values, lazy)


def test_members_do_not_depend_on_order_of_regions(few, model, lazy):
    ens = sample(few, model, chunks={"realization": 2, "time": 1}, **MADE)
    for i, j in np.random.default_rng(0).permutation([(i, j) for i in range(5) for j in range(6)]):
        np.testing.assert_array_equal(ens.pr[i, j].values, lazy[i, j])


def test_clusters_of_any_size_write_same_ensemble(few, model, lazy, tmp_path):
    distributed = pytest.importorskip("distributed")
    cores, seen, caller = CPU_COUNT, {}, os.getpid()
    wanted = {4: [0, 1, 2, 3, 4, 5], 2: [0, 1, 2, 3, 4, 5], 1: [1, 4, 5]}
    with (
        distributed.LocalCluster(
            n_workers=4, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        for count, chunks in ((4, (1, 1)), (2, (5, 2)), (1, (2, 3))):
            known = list(client.nthreads())
            client.retire_workers(known[count:], close_workers=True)
            options = {**MADE, "chunks": {"realization": chunks[0], "time": chunks[1]}}
            store = tmp_path / f"{count}.zarr"
            ens = sample(
                few.isel(time=wanted[count]).chunk({"time": 1}), model, store=store, **options
            )
            np.testing.assert_array_equal(ens.pr.values, lazy[:, wanted[count]])
            if count == 2:
                # Times that share knots are drawn by different processes.
                store = tmp_path / "evolving.zarr"
                ens = sample(few, model, store=store, chunks={"time": 1}, **EVOLVING)
                drawn = sample(few, model, **EVOLVING).pr.values
                np.testing.assert_array_equal(ens.pr.values, drawn)
                tiles = {**options, "tile": {"y": 24, "x": 24}}
                tiled = sample(few, model, store=tmp_path / "tiled.zarr", **tiles)
                np.testing.assert_array_equal(tiled.pr.values, lazy)
            # Where regions are drawn: Dask starts processes with one thread for torch.
            notes = tmp_path / f"threads of {count}"
            notes.mkdir()

            def note(field, context, notes=notes):
                if os.getpid() != caller:  # where it is tried first
                    (notes / uuid4().hex).write_text(str(torch.get_num_threads()))
                return field

            options = {**MADE, "chunks": {"time": 1}, "postprocess": [note]}
            sample(few, model, store=tmp_path / f"noted{count}.zarr", **options)
            seen[count] = {int(one.read_text()) for one in notes.iterdir()}
        # The copy has no file: it gets one for as long as it travels.
        bare = copy.copy(model)
        bare.path = None
        ens = sample(few, bare, store=tmp_path / "bare.zarr", **MADE)
        np.testing.assert_array_equal(ens.pr.values, lazy)
        assert bare.path is None
        broken = few.chunk({"time": 1}).copy()
        broken["pr"] = broken.pr.where(broken.time != few.time.values[3], -1.0)
        with pytest.raises(StoreError, match=r"got 5 done, 1 failed:\n  region 3 .*negative"):
            sample(broken, model, store=tmp_path / "b.zarr", chunks={"time": 1}, **MADE)
    assert not list(tmp_path.glob(".*.model-*"))
    assert seen[1] == {cores}
    assert seen[4] <= {1, max(1, cores // 4)}
    entries = FileLedger.within(tmp_path / "4.zarr").entries()
    assert len(entries) == 30


def test_torch_threads_of_caller_are_unchanged(few, model, lazy, tmp_path):
    distributed = pytest.importorskip("distributed")
    before = torch.get_num_threads()
    assert before != CPU_COUNT + 1
    torch.set_num_threads(CPU_COUNT + 1)
    try:
        with distributed.Client(
            processes=False, n_workers=1, threads_per_worker=2, dashboard_address=":0"
        ):
            ens = sample(few, model, store=tmp_path / "e.zarr", chunks={"time": 2}, **MADE)
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == CPU_COUNT + 1
        assert torch.get_num_threads() == CPU_COUNT + 1
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(ens.pr.values, lazy)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_members_do_not_depend_on_number_of_torch_threads(few, model, precision, monkeypatch):
    monkeypatch.setenv("XCVAE_PRECISION", precision)
    before, drawn = torch.get_num_threads(), {}
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            with dask.config.set(scheduler="synchronous"):
                drawn[number] = sample(few, model, **MADE).pr.values
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(drawn[2], drawn[1])
    np.testing.assert_array_equal(drawn[3], drawn[1])


def test_dask_threads_draw_concurrently_and_share_torch_threads(few, model, lazy, tmp_path):
    before, seen, together = torch.get_num_threads(), set(), Barrier(2)

    def noted(field, context):
        if field.values.any():
            seen.add(torch.get_num_threads())
        return field

    def meeting(self, batch, *given, **how):
        # Passes only if two draws are under way at the same time.
        together.wait(timeout=60)
        return drawn(self, batch, *given, **how)

    drawn = Model.draw
    torch.set_num_threads(4)
    try:
        with (
            dask.config.set(scheduler="threads", num_workers=2),
            pytest.MonkeyPatch.context() as patched,
        ):
            patched.setattr(Model, "draw", meeting)
            ens = sample(
                few, model, store=tmp_path / "e.zarr", chunks={"time": 1},
                **{**MADE, "postprocess": [noted]},
            )  # fmt: skip
        assert torch.get_num_threads() == 4
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
    assert seen <= {2, 4}
    assert 2 in seen
    plain = sample(few, model, **{**MADE, "postprocess": []})
    np.testing.assert_array_equal(ens.pr.values, plain.pr.values)


def test_killed_process_of_pool_fails_one_region(few, model, lazy, tmp_path, monkeypatch):
    parent, storm, fuse = os.getpid(), few.time.values[3], tmp_path / "fuse"
    threads = tmp_path / "threads"
    threads.mkdir()
    fuse.touch()
    # What a process would use if nobody told it.
    monkeypatch.setenv("OMP_NUM_THREADS", str(CPU_COUNT + 1))

    def deadly(field, context):
        if os.getpid() != parent:
            import torch

            (threads / str(torch.get_num_threads())).touch()
            if storm in field.time.values and fuse.exists():
                os.kill(os.getpid(), signal.SIGKILL)
        return field

    options = {**MADE, "chunks": {"time": 1}, "store": tmp_path / "e.zarr", "postprocess": [deadly]}
    with (
        dask.config.set(scheduler="processes", num_workers=CPU_COUNT),
        # With the pool goes what else was under way in it.
        pytest.raises(StoreError, match=r"[45] done, [12] failed:\n(.*\n)*.*region 3 .*BrokenPro"),
    ):
        sample(few, model, **options)
    assert [path.name for path in threads.iterdir()] == ["1"]
    fuse.unlink()
    ens = sample(few, model, **options)
    np.testing.assert_array_equal(
        ens.pr.values, sample(few, model, **{**options, "store": None}).pr.values
    )


def test_task_that_kills_worker_fails_alone_in_shared_call(monkeypatch):
    distributed = pytest.importorskip("distributed")

    def doing(task, threads):
        if task == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    found, lost, shares, submit = [], [], [], distributed.Client.submit

    def on_task_end(event):
        (found if event.error is None else lost).append(event.task)

    def noted(client, function, done_by, some, *given, **how):
        shares.append(len(some))
        return submit(client, function, done_by, some, *given, **how)

    monkeypatch.setattr(distributed.Client, "submit", noted)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.Client(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
        ),
    ):
        Executor(doing).run(range(300), on_task_end)
    # The scheduler also suspects the one that waits next on the worker.
    assert 200 in lost
    assert len(lost) <= 2
    assert sorted(found + lost) == list(range(300))
    assert max(shares) > 8
    assert len(shares) < 200


class Lost:
    """A stand-in for a future of `distributed` whose worker died while its result was fetched."""

    def result(self, timeout):
        raise TimeoutError


class Finished:
    """A stand-in for a future of `distributed`: results of a call, and its seconds."""

    def result(self, timeout):
        return ["written"], 1.0


def test_task_is_given_up_after_lost_results_in_a_row():
    """A result that arrives starts the count again."""
    run = ClusterRun(None, str, patience=1.0)

    def fetched(future):
        run._submitted[future] = ["task"]
        return run._fetch(future)

    for _ in range(2):
        assert [fetched(Lost()) for _ in range(FETCHES)] == [[]] * FETCHES
        assert [end.result for end in fetched(Finished())] == ["written"]
    assert [fetched(Lost()) for _ in range(FETCHES)] == [[]] * FETCHES
    assert [type(end.error) for end in fetched(Lost())] == [TimeoutError]


def test_cluster_without_workers_is_given_up():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.Client(n_workers=0, processes=False, dashboard_address=":0"),
        pytest.raises(StoreError, match="expected workers, got none for 1 s"),
    ):
        Executor(lambda task, _: task, patience=1.0).run([1], print)


@pytest.fixture
def remote_cluster(tmp_path):
    """Scheduler and worker as processes of their own; the one of the scheduler."""
    pytest.importorskip("distributed")
    file = tmp_path / "scheduler.json"
    start = ["--no-dashboard", "--scheduler-file", str(file)]
    commands = [
        ["dask_scheduler", "--port", "0", *start],
        ["dask_worker", "--nthreads", "1", *start],
    ]
    processes = []
    try:
        for module, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        yield file, processes[0].pid
    finally:
        for process in processes:
            process.terminate()
            process.wait(30)


def test_lost_scheduler_fails_remaining_regions(few, model, tmp_path, remote_cluster):
    from distributed import Client

    file, pid = remote_cluster
    storm = few.time.values[2]

    def deadly(field, context):
        if storm in field.time.values and field.values.any():
            os.kill(pid, signal.SIGKILL)
        return field

    options = {**MADE, "chunks": {"time": 1}, "postprocess": [deadly], "store": tmp_path / "e.zarr"}
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s"}),
        Client(scheduler_file=str(file), timeout="60s") as client,
    ):
        client.wait_for_workers(1, timeout=60)
        with pytest.raises(StoreError, match="the scheduler was lost") as raised:
            sample(few, model, **options)
    assert "region 5 (" in str(raised.value)
    assert "repeat the call" in str(raised.value)


def test_worker_without_store_folder_fails_region(few, model, tmp_path):
    region = Region(0, (0, 1), (0, 1))
    source = sampler_of(few, model).subset(region)
    found = draw_and_write(
        Task(source, LocalRegionWriter(tmp_path / "pr", (1, 1), "t"), region, "c")
    )
    assert found.state == "failed"
    assert "not in a folder that all workers share" in found.error


def test_worker_with_other_environment_is_refused(few, model):
    region = Region(0, (0, 2), (1, 3))
    sampler = sampler_of(few, model)
    part = sampler.subset(region)
    assert part.draw_region(region)[0].shape[:2] == (2, 2)
    expected = part.environment_of_run
    assert {"torch version", "numpy version", "precision", "device"} == expected.keys()
    assert set(expected.items()) <= set(sampler.environment().items())
    other = replace(part, environment_of_run={**expected, "precision": "float8"})
    with pytest.raises(MismatchError, match="expected precision float8, got precision "):
        other.draw_region(region)


def test_regions_of_same_samples_share_subset(few, model):
    sampler = sampler_of(few.chunk(time=1), model)
    first, other, third = (
        sampler.subset(Region(n, (n, n + 1), samples))
        for n, samples in enumerate([(0, 2), (0, 2), (2, 4)])
    )
    assert first is other
    assert third is not first
    assert len(third.prepared.__dask_graph__()) < 40


def test_load_once_returns_one_model_per_device(model):
    from xcvae.generator.model import load_once

    one, other = (load_once(str(model.path), model.sha256, device) for device in ("cpu", "cuda"))
    assert one is not other
    assert pickle.loads(pickle.dumps(model)) is one


def sampler_of(ds, model):
    return EnsembleSampler.prepare(ds, model, SampleRequest(members=4, seed=7))


def test_threads_per_process_shares_cores_of_host():
    assert threads_per_process({i: ("a", i, 8) for i in range(2)}) == 4
    assert threads_per_process(dict.fromkeys(range(2), ("a", 1, 8))) == 8
    assert threads_per_process({i: ("a", i, 2) for i in range(4)}) == 1
    assert threads_per_process({1: ("a", 1, 8), 2: ("b", 1, 8), 3: ("b", 2, 8)}) == 4
    host, process, cores = worker_location()
    assert process == os.getpid()
    assert 1 <= cores <= (os.cpu_count() or 1)
    assert host


def test_threads_here_sets_number_of_torch_threads_of_this_thread_only():
    before = torch.get_num_threads()
    with threads_here(before + 1):
        assert torch.get_num_threads() == before + 1
        assert in_new_thread(torch.get_num_threads) == before
        with threads_here(None):
            assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_failure_message_lists_eight_regions_and_counts_untried(tmp_path):
    regions = [Region(i, (0, 1), (i, i + 1)) for i in range(20)]
    failed = [Outcome(one, "failed", error="OSError: full") for one in regions[:12]]
    left = [Outcome(one, "untried") for one in regions[12:15]]
    done = [Outcome(one, "done", 10) for one in regions[15:]]
    message = failure_message(
        tmp_path / "e.zarr", [*done, *left, *failed], 30, lambda one: f"#{one.number}"
    )
    assert "expected all 30 regions drawn and written, got 15 done, 12 failed:" in message
    assert "region 7 (#7): OSError: full" in message
    assert "#8" not in message
    assert "and 4 more" in message
    assert "3 not tried after trouble with the disk" in message


def end_process_at_some(task: int, threads: int | None = None) -> int:
    """Return the task; every sixth one kills its process."""
    if task % 6 == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def test_pools_that_return_something_do_not_count_as_broken_in_a_row():
    """Twenty tasks of thirty were given up, although most pools had done some."""
    ended = {}
    with dask.config.set(
        scheduler="processes", num_workers=1, **{"multiprocessing.context": "fork"}
    ):
        Executor(end_process_at_some).run(
            range(30), lambda end: ended.setdefault(end.task, end.error)
        )
    failed = [task for task, error in ended.items() if error is not None]
    assert sorted(ended) == list(range(30))
    assert sorted(failed) == [0, 6, 12, 18, 24]

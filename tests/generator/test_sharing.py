"""Cores that draws share: a call keeps one, and free ones help the others."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from xcvae.generator.sharing import Cores, Latest, cores, use_threads

PATIENCE = 20.0


def test_map_returns_results_in_order_with_one_torch_thread_for_each_item():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = Cores(3).map(lambda n: (n, torch.get_num_threads()), range(7))
        assert found == [(n, 1) for n in range(7)]
        # A single item has nothing to share.
        assert Cores(3).map(lambda n: (n, torch.get_num_threads()), [7]) == [(7, 2)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_call_has_free_cores_and_none_that_another_keeps():
    cores, started, ended = Cores(2), threading.Event(), threading.Event()
    both = threading.Barrier(2)
    own, threads = threading.get_ident(), []

    def one_item(_: int) -> bool:
        started.set()
        return ended.wait(PATIENCE)

    def item(number: int) -> None:
        threads.append(threading.get_ident())
        if number == 3:
            ended.set()
            assert other.result(PATIENCE) == [True]
        if number > 3:
            both.wait(PATIENCE)  # needs two threads

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(cores.map, one_item, [0])
        assert started.wait(PATIENCE)
        cores.map(item, range(6))
    assert threads[:4] == [own] * 4
    assert len(set(threads[4:])) == 2


@pytest.mark.parametrize("wrong", [0, 5])
def test_error_of_an_item_ends_the_call_and_frees_its_cores(wrong):
    cores, before = Cores(2), torch.get_num_threads()

    def item(number: int) -> int:
        if number == wrong:
            raise ValueError("wrong item")
        return number

    for _ in range(3):
        with pytest.raises(ValueError, match="wrong item"):
            cores.map(item, range(6))
    assert torch.get_num_threads() == before
    assert cores.map(lambda n: n, range(6)) == list(range(6))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_process_has_the_cores_that_threads_of_its_parent_use():
    """It waited for a core forever: the thread that has it is not in the child."""
    before = torch.get_num_threads()

    def child(_: int) -> int:
        process = os.fork()
        if process == 0:
            signal.alarm(int(PATIENCE))
            use_threads(before + 1)
            os._exit(len(cores(2).map(abs, [1, -2])))
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    assert cores(2).map(child, [1, 2]) == [2, 2]


@pytest.mark.parametrize(("permanent", "loads"), [(False, 4), (True, 3)])
def test_latest_value_is_lent_to_all_who_ask_for_it_meanwhile(permanent, loads):
    latest, loaded = Latest(permanent=permanent), []

    def load() -> int:
        loaded.append(len(loaded))
        return loaded[-1]

    with latest.of(0, load) as first, latest.of(0, load) as same:
        assert (first, same) == (0, 0)
        with latest.of(1, load) as other:  # replaces it, for those who come later
            assert other == 1
    with latest.of(1, load) as again:
        assert again == (1 if permanent else 2)
    with latest.of(0, load):
        assert len(loaded) == loads


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_process_does_not_wait_for_what_its_parent_loads():
    latest: Latest[int] = Latest()
    loading, forked = threading.Event(), threading.Event()

    def load():
        loading.set()
        assert forked.wait(30)
        return 1

    def use():
        with latest.of(0, load) as value:
            assert value == 1

    with ThreadPoolExecutor(1) as pool:
        user = pool.submit(use)
        assert loading.wait(30)
        process = os.fork()
        if process == 0:
            signal.alarm(20)
            with latest.of(0, lambda: 2) as value:
                os._exit(value)
        forked.set()
        user.result()
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2

"""The parts that benchmarks share: processes, timing, command lines, folders of results."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.processes import WorkerError, in_fresh_process, memory, module_name
from benchmarks.harness.results import claim_folder
from benchmarks.harness.timing import fields_per_second, interleaved_seconds

CPU = torch.device("cpu")


def test_fresh_process_returns_the_result_of_a_function() -> None:
    found = in_fresh_process(memory, "VmHWM")
    assert 10e6 < found < memory("VmHWM")


def test_error_of_a_fresh_process_is_raised_with_its_traceback() -> None:
    with pytest.raises(WorkerError, match="StopIteration"):
        in_fresh_process(memory, "NoSuchEntry")


def test_module_name_is_the_name_for_python_m() -> None:
    assert module_name(claim_folder.__code__.co_filename) == "benchmarks.harness.results"


def test_interleaved_sides_change_their_order_every_round() -> None:
    order: list[str] = []
    sides = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    seconds = interleaved_seconds(sides, CPU, rounds=3, warm_up=1)
    assert order == [*"ab", *"ba", *"ab", *"ba"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


def test_interleaved_rounds_go_on_for_the_seconds_given() -> None:
    start = time.perf_counter()
    seconds = interleaved_seconds({"a": lambda: time.sleep(0.01)}, CPU, rounds=1, seconds=0.1)
    assert time.perf_counter() - start >= 0.1
    assert len(seconds["a"]) > 3
    assert min(seconds["a"]) >= 0.01


def test_fields_per_second_is_that_of_the_best_batch() -> None:
    best = fields_per_second(lambda _: time.sleep(0.01), (1, 50), CPU, seconds=0.05)
    assert best["batch"] == 50
    assert 0 < best["value"] <= 5000


def test_device_and_lists_of_the_command_line_are_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = BenchmarkParser(__file__, "Test.")
    parser.add_device()
    parser.add_parts(["speed", "memory"])
    parser.add_argument("--seeds", type=comma_separated(int))
    options = parser.parse_args(["memory", "--seeds", "1,2", "--device", "cuda:1"])
    assert (options.parts, options.seeds, options.device) == (["memory"], [1, 2], "cuda:1")
    for wrong in (["--device", "gpu"], ["size"], ["--seeds", "a"]):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong)
    assert "python -m benchmarks.tests.test_harness" in capsys.readouterr().err


def test_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    claim_folder(tmp_path / "a", {"seed": 0})
    claim_folder(tmp_path / "a", {"seed": 0})
    with pytest.raises(SystemExit, match="holds results"):
        claim_folder(tmp_path / "a", {"seed": 1})

"""The benchmark of a GPU runs on the CPU from end to end, so that it works on the day."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu_wheels, on_gpu
from benchmarks.on_gpu import Step, run_step, table


def test_rehearsal_runs_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert on_gpu.main(["--output", str(tmp_path), "--rehearse"]) == 0
    printed = capsys.readouterr().out
    lines = (tmp_path / "table.txt").read_text()
    assert lines in printed
    for name in ("tests", "train", "train_compiled", "draw", "noise", "store", "kernels", "skill"):
        assert json.loads((tmp_path / f"{name}.step.json").read_text())["code"] == 0
    assert "target 5,000" in lines
    assert "engine: " in lines
    assert "xcvae prior, crps: " in lines


def test_step_that_hangs_or_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    hanging = Step("hanging", ["timeit", "-n1", "-r1", "import time; time.sleep(60)"], 1.0)
    failing = Step("failing", ["no_such_module"], 20.0)
    found = [run_step(step, tmp_path, on_gpu.environment_of(None, rehearse=True))
             for step in (hanging, failing)]  # fmt: skip
    assert [step["code"] for step in found] == [-9, 1]
    lines = table(tmp_path, [hanging, failing, Step("later", [], 1.0)])
    assert "stopped at its limit" in lines[1]
    assert "exit code 1, in time" in lines[2]
    assert lines[3].endswith("not run")


def test_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        on_gpu.main(["--output", str(tmp_path), "--rehearse", "--only", "tests", "dancing"])


def test_wheels_cover_what_xcvae_requires_and_nothing_of_cuda() -> None:
    names = gpu_wheels.closure(gpu_wheels.requirements_of("xcvae"), gpu_wheels.PRESENT)
    assert {"xarray", "zarr", "dask", "pint", "intake", "numcodecs", "toolz"} <= set(names)
    assert not {name for name in names if name.startswith(("nvidia", "torch", "triton", "cuda"))}

"""The benchmark of a GPU runs on the CPU from end to end, so that it works on the day."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from benchmarks import gpu_wheels, on_gpu
from benchmarks.harness.processes import ROOT
from benchmarks.harness.radar import open_radar
from benchmarks.harness.untrained import make_trainer
from benchmarks.on_gpu import Step, fitted, run_step, steps_of, table
from benchmarks.speed import kernels, train


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


def test_all_tests_that_need_a_gpu_are_run_there() -> None:
    marked = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "tests").rglob("test_*.py")
        if "pytest.mark.gpu" in file.read_text(encoding="utf-8")
    }
    assert marked == set(on_gpu.GPU_TESTS)


def test_unknown_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        on_gpu.main(["--output", str(tmp_path), "--rehearse", "--only", "tests", "dancing"])


def test_wheels_cover_what_xcvae_requires_and_nothing_of_cuda() -> None:
    names = gpu_wheels.closure(gpu_wheels.requirements_of("xcvae"), gpu_wheels.PRESENT)
    assert {"xarray", "zarr", "dask", "pint", "intake", "numcodecs", "toolz"} <= set(names)
    assert not {name for name in names if name.startswith(("nvidia", "torch", "triton", "cuda"))}


def test_a_step_of_the_training_takes_as_many_tiles_as_are_counted(tmp_path: Path) -> None:
    """The bundled radar has 490 frames, and a batch is at most the record."""
    taken: list[int] = []
    settings = {"crop": 16, "batch_size": 512, "compile": False, "preset": "fast", "device": "cpu"}
    trainer = train.trainer_of(train.record_of(512), settings, 1)
    stream = trainer._stream(trainer.order_rng, 0.0)
    taken += [len(trainer._next(stream)) for _ in range(2)]
    assert taken == [512, 512]
    assert train.record_of(8).sizes == open_radar().sizes


def test_kernels_are_those_of_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def trained(trainer: object) -> None:
        stream = trainer._stream(trainer.order_rng, 0.0)  # type: ignore[attr-defined]
        sizes.append(len(trainer._next(stream)))  # type: ignore[attr-defined]

    monkeypatch.setattr(kernels, "train_once", trained)
    options = argparse.Namespace(
        size=[32, 32], steps=1, batch=16, preset="fast", device="cpu", samples=2
    )
    kernels.works(options, tmp_path)["train"]()
    assert sizes == [16]


def test_a_record_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="need as many samples"):
        make_trainer(
            open_radar().isel(time=slice(7)), generator={"preset": "fast"}, fit={"batch_size": 8}
        )


def options_of(folder: Path, **given: object) -> argparse.Namespace:
    plain = {"output": folder, "rehearse": False, "minutes": 4.0, "data": None}
    return argparse.Namespace(**(plain | given))


def test_steps_end_within_the_call(tmp_path: Path) -> None:
    options = options_of(tmp_path)
    steps = {step.name: step for step in steps_of(options)}
    assert fitted(steps["store"], math.inf, options) == steps["store"]
    short = fitted(steps["store"], 30.0, options)
    assert short is not None
    assert short.seconds == 30.0
    assert fitted(steps["store"], 5.0, options) is None
    skill = fitted(steps["skill"], 300.0, options)
    assert skill is not None
    assert skill.seconds <= 300.0
    assert skill.arguments[skill.arguments.index("--minutes") + 1] == "2.0"
    assert fitted(steps["skill"], 190.0, options) is None


def test_a_step_without_time_is_named_and_is_no_success(tmp_path: Path) -> None:
    call = ["--output", str(tmp_path), "--rehearse", "--only", "noise", "--within", "1"]
    assert on_gpu.main(call) == 1
    assert "not begun: no time was left" in (tmp_path / "table.txt").read_text()


def test_table_has_the_number_of_tests_and_no_figures_of_an_earlier_call(tmp_path: Path) -> None:
    place = tmp_path / "failing.json"
    place.write_text(json.dumps({"rows": [{"name": "old", "value": 1.0, "unit": ""}]}))
    failing = Step("failing", ["no_such_module"], 20.0, place)
    run_step(failing, tmp_path, on_gpu.environment_of(None, rehearse=True))
    (tmp_path / "tests.log").write_text("...\n==== 1 passed, 15 skipped in 60.12s (0:01:00) ====\n")
    done = {"step": "tests", "code": 0, "seconds": 60.0, "ended": "in time"}
    (tmp_path / "tests.step.json").write_text(json.dumps(done))
    lines = table(tmp_path, [failing, Step("tests", [], 1.0)])
    assert not any("old" in line for line in lines)
    assert lines[2].endswith("ok: 1 passed, 15 skipped in 60.12s (0:01:00)")


def test_steps_run_in_the_order_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(step: Step, *_: object) -> dict[str, object]:
        ran.append(step.name)
        return {"step": step.name, "code": 0, "seconds": 0.0, "ended": "in time"}

    monkeypatch.setattr(on_gpu, "run_step", run)
    call = ["--output", str(tmp_path), "--rehearse", "--only", "store", "tests", "train"]
    assert on_gpu.main(call) == 0
    assert ran == ["store", "tests", "train"]

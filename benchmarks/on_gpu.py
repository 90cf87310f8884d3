"""All figures of a GPU in one call: tests, training, drawing, noise, and skill after minutes.

    python -m benchmarks.on_gpu --output DIR [--data STORE] [--wheels DIR] [--only STEP ...]
                                [--within SECONDS]

The machine needs a GPU, Python and torch, and no network: ``--wheels`` installs the packages that
`benchmarks.gpu_wheels` has downloaded into a folder beside the results. Every step is a process of
its own with a limit of time. It prints as it goes, its output and result are written at once, and a
step that fails or takes too long does not stop the next one. ``--only`` names the steps to run, in
that order. ``--within`` limits the whole call: the last steps get less time, the skill trains for
fewer minutes, and a step for which too little time is left is named in the table. That is read from
the files, so that a second call with ``--only`` completes it. ``--data`` is the record of the skill
(see `benchmarks.skill.downscaling`), by default the bundled radar.

``--rehearse`` runs the same steps on the CPU with sizes so small that the figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import ROOT
from benchmarks.harness.results import write_json

#: Figures wanted on an H100: (step, words of the row's name) -> least value, in the row's unit.
TARGETS = {
    ("train_large", "train, in memory"): 5000.0,
    ("train_compiled", "train, in memory"): 5000.0,
    ("draw", "compiled bfloat16 last"): 40_000.0,
    ("store", "engine"): 20_000.0,
}


#: Seconds below which a step is not begun; minutes of training below which skill says nothing,
#: and seconds of the skill beyond its training: calibration, members and scores.
LEAST_SECONDS, LEAST_MINUTES, SCORING = 20.0, 0.5, 180.0

#: The last line of pytest.
COUNTS = re.compile(r"\d+ (passed|failed|skipped|error).* in \d")

#: Modules with tests that need a GPU.
GPU_TESTS = (
    "tests/generator/test_noise_devices.py",
    "tests/generator/test_time_axis.py",
    "tests/generator/test_gpu.py",
)


@dataclass(frozen=True)
class Step:
    """A process of the benchmark.

    Attributes
    ----------
    name
        Of the step and of its files.
    arguments
        Of ``python -m``.
    seconds
        Limit; the process is stopped after it.
    result
        JSON file that the process writes.
    """

    name: str
    arguments: list[str]
    seconds: float
    result: Path | None = None


def steps_of(options: argparse.Namespace) -> Iterator[Step]:
    """Yield the steps, the most telling first."""
    small, folder = options.rehearse, options.output
    device = "cpu" if small else "cuda"
    preset = "fast" if small else "base"
    common = ["--device", device, "--preset", preset]

    def step(name: str, seconds: float, module: str, *arguments: object) -> Step:
        file = folder / f"{name}.json"
        words = [f"benchmarks.{module}", *map(str, arguments), "--output", str(file)]
        return Step(name, words, seconds, file)

    train = ["--only", "bare", *common, "--crop", 16 if small else 128]
    train += ["--steps", 1 if small else 20, "--rounds", 1 if small else 5]
    # Of a step of 8 tiles, an H100 computes in 12 % of the time: it waits for the host.
    size, large = (["--batch-size", number] for number in ((2, 3) if small else (64, 512)))
    draw = ["--size", *(2 * [32 if small else 128]), "--seconds", 0.01 if small else 2]
    draw += ["--batches", *([1] if small else [64, 256])]
    layouts = (
        ["eager bfloat16 last"] if small else ["eager bfloat16 last", "compiled bfloat16 last"]
    )
    kernels = ["--size", *(2 * [32 if small else 128]), "--batch", 4 if small else 64]
    kernels += ["--steps", 1 if small else 20, "--samples", 2 if small else 480]
    noise = ["--size", *(2 * [16 if small else 128]), "--batch", 1 if small else 64]
    # Not the whole folder: other modules need packages that may be missing there.
    # By name, as they end: of tests that are stopped, the log says which passed.
    tests = ["pytest", "-m", "gpu", "-v", "--durations=5", "-p", "no:cacheprovider", *GPU_TESTS]
    yield Step("tests", tests, 180)
    yield step("train", 60, "speed.train", *train, *size)
    yield step("train_large", 60, "speed.train", *train, *large)
    # Compiling takes longer than a rehearsal may, and both sides took longer than two minutes.
    compiled = [] if small else ["--compile", "--eager-bare"]
    yield step("train_compiled", 180, "speed.train", *train, *size, *compiled)
    yield step("draw", 100, "speed.draw", *common, *draw, "--variants", *layouts)
    yield step("noise", 60, "speed.noise", *common, *noise, "--seconds", 0.05 if small else 5)
    store = ["--only", "speed", "--device", device]
    store += ["--seconds", 0.1 if small else 10, "--turns", 1 if small else 2]
    store += ["--preset", preset]
    yield step("store", 90, "speed.sample_store", *store)
    yield step("kernels", 60, "speed.kernels", *common, *kernels)
    yield skill_step(options, options.minutes)


def skill_step(options: argparse.Namespace, minutes: float) -> Step:
    """Return the step that trains for minutes and scores members of test samples."""
    small, folder = options.rehearse, options.output / "skill"
    device, preset = ("cpu", "fast") if small else ("cuda", "base")
    words = ["benchmarks.skill.downscaling", "--output", str(folder), "--device", device]
    words += ["--methods", "bilinear,xcvae", "--preset", preset, "--no-rates"]
    words += ["--minutes", str(0.01 if small else minutes)]
    words += ["--tiles", str(2 if small else 128), "--members", str(2 if small else 16)]
    if options.data is not None:
        words += ["--data", str(options.data)]
    # On a GPU a step of many tiles takes hardly longer than one of few.
    fit = {"batch_size": 64, "crop": 128}
    if small:
        fit = {"max_steps": 2, "batch_size": 2, "crop": 24, "validations": 1}
    words += ["--fit", json.dumps(fit)]
    return Step("skill", words, 60 * minutes + SCORING, folder / "skill.json")


def fitted(step: Step, left: float, options: argparse.Namespace) -> Step | None:
    """Return a step that ends within the seconds that are left; None if they are too few."""
    if step.name == "skill":
        minutes = min(options.minutes, (left - SCORING) / 60)
        enough = minutes >= min(LEAST_MINUTES, options.minutes)
        return skill_step(options, minutes) if enough else None
    return replace(step, seconds=min(step.seconds, left)) if left >= LEAST_SECONDS else None


def run_steps(steps: Sequence[Step], options: argparse.Namespace, start: float) -> bool:
    """Run steps one after the other; return True if all of them ended without an error."""
    site = install(options.wheels, options.output) if options.wheels else None
    environment, good = environment_of(site, rehearse=options.rehearse), True
    for step in steps:
        left = options.within - (time.monotonic() - start)
        own = fitted(step, left, options)
        if own is None:
            print(f"\n=== {step.name}: not begun, {left:.0f} s are left", flush=True)
            found = {"step": step.name, "code": None, "seconds": 0.0, "ended": "no time was left"}
            record = options.output / f"{step.name}.step.json"
            if not record.exists():  # of an earlier call
                write_json(record, found)
        else:
            found = run_step(own, options.output, environment)
        good &= found["code"] == 0
    return good


def run_step(step: Step, folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Run a step, show and keep its output, and write what came of it."""
    print(f"\n=== {step.name} (at most {step.seconds:.0f} s)", flush=True)
    start, lines = time.monotonic(), []
    if step.result is not None:
        step.result.unlink(missing_ok=True)  # of an earlier call: this one may be stopped
    with subprocess.Popen(
        [sys.executable, "-m", *step.arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that workers of the step are stopped with it
    ) as process:
        timer = _stop_after(process, step.seconds)
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
        code = process.wait()
        timer.cancel()
    (folder / f"{step.name}.log").write_text("".join(lines), encoding="utf-8")
    seconds = time.monotonic() - start
    ended = "in time" if seconds < step.seconds else "stopped at its limit"
    found = {"step": step.name, "code": code, "seconds": round(seconds, 1), "ended": ended}
    write_json(folder / f"{step.name}.step.json", found)
    return found


def _stop_after(process: subprocess.Popen[str], seconds: float) -> Any:
    import signal
    import threading

    def stop() -> None:
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    return timer


def install(wheels: Path, folder: Path) -> Path:
    """Install wheels without a network into a folder of their own, and return it."""
    site = folder / "site"
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        raise SystemExit(f"{wheels} holds no wheels: python -m benchmarks.gpu_wheels {wheels}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--upgrade", "--target", str(site), *files], check=True)
    return site


def environment_of(site: Path | None, *, rehearse: bool) -> dict[str, str]:
    """Return the environment of the steps: the checkout first, then the wheels."""
    paths = [str(ROOT), *([str(site)] if site else []), os.environ.get("PYTHONPATH", "")]
    own = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    # Threads of tiny operations wait for each other longer than they compute.
    return {**os.environ, **own, **({"OMP_NUM_THREADS": "1"} if rehearse else {})}


def table(folder: Path, steps: Sequence[Step]) -> list[str]:
    """Return the lines of the table, from the files of all steps that have run."""
    lines = [f"{'step':16} {'seconds':>8}  result"]
    for step in steps:
        record = folder / f"{step.name}.step.json"
        if not record.exists():
            lines.append(f"{step.name:16} {'':>8}  not run")
            continue
        found = json.loads(record.read_text())
        verdict = verdict_of(found, folder)
        lines.append(f"{step.name:16} {found['seconds']:8.1f}  {verdict}")
        if step.result is not None and step.result.exists():
            lines += figures(step.name, json.loads(step.result.read_text()))
    return lines


def verdict_of(found: dict[str, Any], folder: Path) -> str:
    """Return how a step ended; for tests with their number, of which some may be skipped."""
    if found["code"] is None:
        return f"not begun: {found['ended']}"
    verdict = "ok" if found["code"] == 0 else f"exit code {found['code']}, {found['ended']}"
    log = folder / f"{found['step']}.log"
    if found["step"] != "tests" or not log.exists():
        return verdict
    counts = [line.strip("= ") for line in log.read_text().splitlines() if COUNTS.search(line)]
    return f"{verdict}: {counts[-1]}" if counts else verdict


def figures(step: str, content: dict[str, Any]) -> list[str]:
    """Return a line per figure of a result file."""
    values = {row["name"]: (row["value"], row["unit"]) for row in content.get("rows", [])}
    for name in ("draw", "train", "store"):
        if "busy" in content.get(name, {}):
            values[name] = content[name]["rate"], "fields/s"
            values[f"{name}, device busy"] = content[name]["busy"], "of the time"
    for name, rate in content.get("speed", {}).get("fields_per_second", {}).items():
        values[name] = (rate, "fields/s")
    scores = content.get("methods", {}).get("xcvae", {}).get("rows", {})
    for label, row in scores.items():
        for name in ("crps", "spread_skill", "spectral_distance", "p999_ratio"):
            values[f"{label}, {name}"] = (row[name]["value"], "")
    lines = []
    for name, (value, unit) in values.items():
        wanted = [t for (s, words), t in TARGETS.items() if s == step and name.startswith(words)]
        aim = f"   target {wanted[0]:,.0f}" if wanted else ""
        lines.append(f"{'':16} {'':>8}  {name}: {value:,.4g} {unit}{aim}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    start = time.monotonic()
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_output_folder()
    add = parser.add_argument
    add("--data", type=Path, metavar="STORE", help="record of the skill")
    add("--wheels", type=Path, metavar="DIR", help="wheels to install first")
    add("--minutes", type=float, default=4, help="of training before the scores")
    add("--only", nargs="+", metavar="STEP", help="names of steps, in order; default: all")
    add("--within", type=float, default=math.inf, metavar="SECONDS", help="limit of the call")
    add("--rehearse", action="store_true", help="on the CPU, with tiny sizes")
    options = parser.parse_args(argv)
    options.output = options.output.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    steps = list(steps_of(options))
    names = [step.name for step in steps]
    for name in options.only or ():
        if name not in names:
            parser.error(f"--only: unknown step '{name}'; there are {', '.join(names)}")
    by_name = dict(zip(names, steps, strict=True))
    good = run_steps([by_name[name] for name in options.only or names], options, start)
    lines = table(options.output, steps)
    (options.output / "table.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n" + "\n".join(lines))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())

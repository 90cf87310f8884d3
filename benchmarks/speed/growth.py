"""How cost grows: with ensemble, domain, members, conditions and levels; memory of training.

    python benchmarks/growth.py [--only ensemble domain members conditions levels memory]

Drawing is timed in seconds of the processor (of the clock on a GPU), so that what else runs on a
machine matters little; a figure is the median over repeats. "ensemble" goes through `xcvae.sample`
into a store, with a small domain and a narrow network, where all that is not the network weighs
most; the others are `Model.draw` of the preset "small", untrained, whose weights do not matter for
its speed. "memory" is what a training adds to a fresh process: its peak resident memory in a few
steps above what was resident before the first (on a CPU this needs Linux).

A baseline is the same figure elsewhere on its axis; a ratio of 1 means that cost is proportional to
what is drawn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from references.results import Row, report
from references.workbench import make_model, make_trainer, radar

import xcvae

NARROW = {"channels": [8, 8, 8], "latents": [2, 2, 1], "context": 8, "patch": 2}
MEMBERS = 100
AXES = ("ensemble", "domain", "members", "conditions", "levels", "memory")


def clock(device: str) -> float:
    """Seconds of the processor, or of the wall where another one works."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], object], arguments: argparse.Namespace) -> float:
    """Median seconds of a call, after one that warms up."""
    call()
    seconds = []
    for _ in range(arguments.repeats):
        began = clock(arguments.device)
        call()
        seconds.append(clock(arguments.device) - began)
    return median(seconds)


def drawer(
    arguments: argparse.Namespace,
    *,
    side: int = 128,
    members: int = 8,
    conditions: int = 1,
    generator: dict[str, Any] | None = None,
) -> Callable[[], object]:
    """Draw members of one sample."""
    ds = radar((side, side))
    names = ["pr_coarse", *(f"pr_coarse_{k}" for k in range(1, conditions))]
    trainer = make_trainer(
        ds.assign(dict.fromkeys(names, ds.pr_coarse)),
        generator={"preset": arguments.preset, **(generator or {})},
        fit={},
        conditions=names,
        device=arguments.device,
    )
    model, batch = make_model(trainer).to(arguments.device), trainer.batches.load([0])
    return lambda: model.draw(
        batch, seed=0, labels=["a"], realizations=range(members), mode="prior"
    )


def along(
    axis: str, costs: dict[int, float], baseline: int, what: str, target: float | None = None
) -> list[Row]:
    """Rows of an axis; costs are of one field, or of one pixel."""
    return [
        Row.cost(
            f"{axis} {value}",
            1e3 * cost,
            1e3 * costs[baseline],
            unit=f"ms/{what}",
            against=f"{axis} {baseline}",
            target=None if value == baseline else target,
        )
        for value, cost in costs.items()
    ]


def ensemble(arguments: argparse.Namespace) -> list[Row]:
    """Into a store, per field: small ensembles share out what every call takes."""
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(radar((64, 64)), generator=NARROW, fit={}, device=arguments.device)
        model = make_model(trainer).to(arguments.device).save(Path(folder) / "m.xcvae")
        for turn, fields in enumerate([MEMBERS, *arguments.fields]):
            ds = radar((64, 64), samples=fields // MEMBERS)
            place = Path(folder) / f"{turn}.zarr"
            began = clock(arguments.device)
            xcvae.sample(ds, model, members=MEMBERS, store=place, progress=False)
            seconds = clock(arguments.device) - began
            shutil.rmtree(place)
            if turn:  # the first one warms up
                costs[fields] = seconds / fields
    baseline = 10_000 if 10_000 in costs else max(costs)
    rows = along("fields", costs, baseline, "field")
    # Ensembles smaller than that share out less.
    return [
        row if fields <= baseline else Row(**{**vars(row), "target": 0.9})
        for row, fields in zip(rows, costs, strict=True)
    ]


def domain(arguments: argparse.Namespace) -> list[Row]:
    """Per 128 x 128 pixels of a field."""
    costs = {
        side: timed(drawer(arguments, side=side), arguments) / 8 / (side / 128) ** 2
        for side in (64, 128, 256, 512, 1024)
    }
    return along("side", costs, 128, "128 x 128", 0.9)


def members(arguments: argparse.Namespace) -> list[Row]:
    """Per field of one sample, whose condition is encoded once."""
    costs = {n: timed(drawer(arguments, members=n), arguments) / n for n in (1, 4, 8, 16, 64, 256)}
    return along("members", costs, 8, "field")


def conditions(arguments: argparse.Namespace) -> list[Row]:
    """Per field, eight members of a sample."""
    costs = {n: timed(drawer(arguments, conditions=n), arguments) / 8 for n in (1, 2, 4, 8, 16)}
    return along("conditions", costs, 1, "field")


def levels(arguments: argparse.Namespace) -> list[Row]:
    """Per field, eight members of a sample; the finest levels are there always."""
    costs = {
        n: timed(drawer(arguments, generator={"levels": n}), arguments) / 8 for n in range(1, 7)
    }
    return along("levels", costs, 6, "field")


def memory(arguments: argparse.Namespace) -> list[Row]:
    """MB that a training adds, and seconds of a step, with and without checkpointing."""
    cases = [(72, batch) for batch in (2, 4, 8, 16, 32)]
    cases += [(side, 2) for side in (128, 256, 512)]
    rows = []
    for side, batch in cases:
        plain, lean = (added(arguments, side, batch, checkpointing=on) for on in (False, True))
        name = f"batch {batch}, side {side}"
        against = "without checkpointing"
        for number, unit in enumerate(("MB", "s/step")):
            values = {"unit": unit, "against": against}
            rows.append(Row.cost(f"{name}, {unit}", plain[number], plain[number], **values))
            rows.append(Row.cost(f"{name}, lean, {unit}", lean[number], plain[number], **values))
    return rows


def added(
    arguments: argparse.Namespace, side: int, batch: int, *, checkpointing: bool
) -> tuple[float, float]:
    """Ask a fresh process."""
    command = [
        sys.executable, __file__, "--train", str(side), str(batch), str(int(checkpointing)),
        "--preset", arguments.preset, "--device", arguments.device,
    ]  # fmt: skip
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    megabytes, seconds = out.split()[-2:]
    return float(megabytes), float(seconds)


def trained(arguments: argparse.Namespace) -> None:
    """Train a few steps; print what that added to the memory, and seconds of a step."""
    side, batch, lean = arguments.train
    trainer = make_trainer(
        radar((side, side), samples=2 * batch),
        generator={"preset": arguments.preset, "checkpointing": bool(lean)},
        fit={"max_steps": 4, "batch_size": batch, "crop": side, "validations": 1},
        device=arguments.device,
    )
    gpu = arguments.device != "cpu"
    if not gpu:
        # The peak so far, of setting up, is forgotten.
        Path("/proc/self/clear_refs").write_text("5")
    before = torch.cuda.memory_allocated() if gpu else _memory("VmRSS")
    began = clock(arguments.device)
    trainer.run(bar=False)
    seconds = (clock(arguments.device) - began) / 4
    peak = torch.cuda.max_memory_allocated() if gpu else _memory("VmHWM")
    print((peak - before) / 2**20, seconds)


def _memory(name: str) -> int:
    """Bytes of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--fields", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--train", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/growth.json"))
    arguments = parser.parse_args()
    if arguments.train:
        trained(arguments)
        return
    axes = (ensemble, domain, members, conditions, levels, memory)
    wanted = [axis for axis in axes if axis.__name__ in arguments.only]
    rows = [row for axis in wanted for row in axis(arguments)]
    where = {"device": arguments.device, "output": arguments.output}
    report("growth", rows, vars(arguments), **where)


if __name__ == "__main__":
    main()

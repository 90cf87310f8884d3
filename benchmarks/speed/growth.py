"""Growth of cost with ensemble, domain, members, conditions and levels; memory of training.

    python -m benchmarks.speed.growth [--only ensemble domain members conditions levels memory]

Drawing is timed in seconds of the processor (of the clock on a GPU), so that other programs matter
little; a figure is the median over repeats. "ensemble" goes through `xcvae.sample` into a store,
with a small domain and a narrow network, where everything but the network weighs most; the others
are `Model.draw` of an untrained model of the preset "small", since weights do not change its speed.
"memory" is the memory that a training adds to a fresh process: its peak resident memory in a few
steps above that before the first step (on a CPU this needs Linux).

A baseline is the same figure elsewhere on its axis; a ratio of 1 means that cost is proportional to
the amount that is drawn.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import in_fresh_process, memory, reset_peak_memory
from benchmarks.harness.radar import resized_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import processor_clock, seconds_of
from benchmarks.harness.untrained import make_model, make_trainer

NARROW = {"channels": [8, 8, 8], "latents": [2, 2, 1], "context": 8, "patch": 2}
MEMBERS = 100


def processor_seconds(call: Callable[[], object], device: str) -> float:
    """Time a call by the clock of the processor, or on a GPU of the wall."""
    where = torch.device(device)
    return seconds_of(call, where, processor_clock(where))


def median_seconds(call: Callable[[], object], options: argparse.Namespace) -> float:
    """Return median seconds of a call, after one that warms up."""
    call()
    times = (processor_seconds(call, options.device) for _ in range(options.repeats))
    return median(times)


def drawer(
    options: argparse.Namespace,
    *,
    side: int = 128,
    members: int = 8,
    conditions: int = 1,
    generator: dict[str, Any] | None = None,
) -> Callable[[], object]:
    """Return a function that draws members of one sample."""
    ds = resized_radar((side, side))
    names = ["pr_coarse", *(f"pr_coarse_{k}" for k in range(1, conditions))]
    trainer = make_trainer(
        ds.assign(dict.fromkeys(names, ds.pr_coarse)),
        generator={"preset": options.preset, **(generator or {})},
        fit={},
        conditions=names,
        device=options.device,
    )
    model, batch = make_model(trainer).to(options.device), trainer.batches.load([0])
    return lambda: model.draw(
        batch, seed=0, labels=["a"], realizations=range(members), mode="prior"
    )


def along(
    axis: str, costs: dict[int, float], baseline: int, what: str, target: float | None = None
) -> list[Row]:
    """Make the rows of an axis; costs are of one field, or of one pixel."""
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


def ensemble(options: argparse.Namespace) -> list[Row]:
    """Time `sample` into a store, per field: small ensembles share the cost of the call."""
    costs = {}
    with tempfile.TemporaryDirectory() as folder:
        ds = resized_radar((64, 64))
        trainer = make_trainer(ds, generator=NARROW, fit={}, device=options.device)
        model = make_model(trainer).to(options.device).save(Path(folder) / "m.xcvae")
        for turn, fields in enumerate([MEMBERS, *options.fields]):
            ds = resized_radar((64, 64), samples=fields // MEMBERS)
            place = Path(folder) / f"{turn}.zarr"
            call = partial(xcvae.sample, ds, model, members=MEMBERS, store=place, progress=False)
            seconds = processor_seconds(call, options.device)
            shutil.rmtree(place)
            if turn:  # the first one warms up
                costs[fields] = seconds / fields
    baseline = 10_000 if 10_000 in costs else max(costs)
    rows = along("fields", costs, baseline, "field")
    # Ensembles smaller than the baseline spread the cost of the call over fewer fields.
    return [
        row if fields <= baseline else replace(row, target=0.9)
        for row, fields in zip(rows, costs, strict=True)
    ]


def domain(options: argparse.Namespace) -> list[Row]:
    """Time drawing per 128 x 128 pixels of a field."""
    costs = {
        side: median_seconds(drawer(options, side=side), options) / 8 / (side / 128) ** 2
        for side in (64, 128, 256, 512, 1024)
    }
    return along("side", costs, 128, "128 x 128", 0.9)


def members(options: argparse.Namespace) -> list[Row]:
    """Time drawing per field of one sample, whose condition is encoded once."""
    costs = {
        n: median_seconds(drawer(options, members=n), options) / n for n in (1, 4, 8, 16, 64, 256)
    }
    return along("members", costs, 8, "field")


def conditions(options: argparse.Namespace) -> list[Row]:
    """Time drawing per field, eight members of a sample."""
    costs = {
        n: median_seconds(drawer(options, conditions=n), options) / 8 for n in (1, 2, 4, 8, 16)
    }
    return along("conditions", costs, 1, "field")


def levels(options: argparse.Namespace) -> list[Row]:
    """Time drawing per field, eight members of a sample; fewer levels leave out the coarsest."""
    costs = {
        n: median_seconds(drawer(options, generator={"levels": n}), options) / 8
        for n in range(1, 7)
    }
    return along("levels", costs, 6, "field")


def training_memory(options: argparse.Namespace) -> list[Row]:
    """Measure MB that a training adds, and seconds of a step, with and without checkpointing."""
    cases = [(72, batch) for batch in (2, 4, 8, 16, 32)]
    cases += [(side, 2) for side in (128, 256, 512)]
    rows = []
    for side, batch in cases:
        plain, lean = (
            in_fresh_process(
                train_a_few_steps, options.preset, options.device, side, batch, checkpointing
            )
            for checkpointing in (False, True)
        )
        name = f"batch {batch}, side {side}"
        against = "without checkpointing"
        for number, unit in enumerate(("MB", "s/step")):
            values = {"unit": unit, "against": against}
            rows.append(Row.cost(f"{name}, {unit}", plain[number], plain[number], **values))
            rows.append(Row.cost(f"{name}, lean, {unit}", lean[number], plain[number], **values))
    return rows


def train_a_few_steps(
    preset: str, device: str, side: int, batch: int, checkpointing: bool
) -> tuple[float, float]:
    """Train a few steps in this process; return the MB that this adds, and seconds of a step."""
    trainer = make_trainer(
        resized_radar((side, side), samples=2 * batch),
        generator={"preset": preset, "checkpointing": checkpointing},
        fit={"max_steps": 4, "batch_size": batch, "crop": side, "validations": 1},
        device=device,
    )
    gpu = device != "cpu"
    if not gpu:
        reset_peak_memory()  # forget the peak of setting up
    before = torch.cuda.memory_allocated() if gpu else memory("VmRSS")
    seconds = processor_seconds(lambda: trainer.run(progress=False), device) / 4
    peak = torch.cuda.max_memory_allocated() if gpu else memory("VmHWM")
    return (peak - before) / 2**20, seconds


AXES: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "ensemble": ensemble,
    "domain": domain,
    "members": members,
    "conditions": conditions,
    "levels": levels,
    "memory": training_memory,
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--only", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--fields", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_preset()
    parser.add_device()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_output_file("growth.json")
    options = parser.parse_args(argv)
    rows = [row for name, axis in AXES.items() if name in options.only for row in axis(options)]
    report("growth", rows, vars(options), device=options.device, output=options.output)


if __name__ == "__main__":
    main()

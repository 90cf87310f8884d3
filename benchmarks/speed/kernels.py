"""Where the time of drawing, training and storing goes, kernel by kernel, measured.

    python -m benchmarks.speed.kernels --device cuda --preset base [--size 128 128] [--batch 64]

The counterpart of `benchmarks.speed.traffic`, which expects on paper. For each work: the share of
the wall-clock time in which the device computes (a low one means that it waits for launches), and
the kernels, or on a CPU the operators, that take most of its time. Works: ``draw``, members of
four samples by `Model.draw`; ``train``, steps of `xcvae.train` in memory; ``store``,
`sample(store=...)`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import resized_radar
from benchmarks.harness.results import write_json
from benchmarks.harness.timing import synchronize
from benchmarks.harness.untrained import make_model, make_trainer
from benchmarks.speed.sample_store import PER_SAMPLE, repeated
from benchmarks.speed.train import ELBO, train_once

WORKS = ("draw", "train", "store")
#: Kernels that are printed.
MOST = 16


def works(options: argparse.Namespace, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the works by name; each can be called again and again."""
    ds = resized_radar(tuple(options.size), samples=max(8, options.batch))
    fit = {"max_steps": options.steps, "validations": 1, "crop": min(options.size)}
    fit |= {"batch_size": options.batch}
    made = {"generator": {"preset": options.preset}, "fit": fit, "device": options.device}
    trainer, other = (make_trainer(ds, losses=ELBO, **made) for _ in range(2))
    model = make_model(other).to(options.device)
    batch, members = other.batches.load([0, 1, 2, 3]), range(max(1, options.batch // 4))
    path = folder / "model.xcvae"
    model.save(path)
    part = repeated(ds, options.samples).load()
    seeds = iter(range(10**6))

    def draw() -> None:
        for _ in range(options.steps):
            model.draw(
                batch, seed=next(seeds), labels=list("abcd"), realizations=members, mode="prior"
            )

    def store() -> None:
        place = folder / f"{next(seeds)}.zarr"
        xcvae.sample(
            part, model, members=PER_SAMPLE, store=place, device=str(model.device), progress=False
        )

    return {"draw": draw, "train": lambda: train_once(trainer), "store": store}


def measured(work: Callable[[], object], device: Any) -> dict[str, Any]:
    """Run a work once to warm up, once by the clock, and once under the profiler."""
    work()
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    seconds = time.perf_counter() - start
    on_gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as found:
        work()
        synchronize(device)
    kind = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rows = [
        {"kernel": event.key, "calls": event.count, "ms": getattr(event, kind) / 1e3}
        for event in found.key_averages()
    ]
    rows = sorted((row for row in rows if row["ms"] > 0), key=lambda row: -row["ms"])
    busy = sum(row["ms"] for row in rows) / 1e3
    return {"seconds": seconds, "busy": busy / seconds, "kernels": rows}


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("Y", "X"))
    parser.add_preset()
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="passes or steps of a work")
    parser.add_argument(
        "--samples", type=int, default=48, help="of the store, default: %(default)s"
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, default=WORKS)
    parser.add_device()
    parser.add_output_file()
    options = parser.parse_args(argv)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="kernels") as folder:
        device = make_trainer(
            resized_radar((32, 32)), generator={"preset": "fast"}, fit={}, device=options.device
        ).device
        for name, work in works(options, Path(folder)).items():
            if name not in options.only:
                continue
            results[name] = found = measured(work, device)
            milliseconds = sum(row["ms"] for row in found["kernels"])
            fields = options.steps * options.batch
            fields = PER_SAMPLE * options.samples if name == "store" else fields
            found["rate"] = fields / found["seconds"]
            print(
                f"\n{name}: {found['rate']:,.0f} fields/s in {found['seconds']:.3f} s, "
                f"device busy {found['busy']:.0%} of it"
            )
            for row in found["kernels"][:MOST]:
                share, kernel = row["ms"] / milliseconds, row["kernel"][:90]
                print(f"  {share:6.1%} {row['calls']:6} calls {row['ms']:9.2f} ms  {kernel}")
    if options.output is not None:
        write_json(options.output, results)


if __name__ == "__main__":
    main()

"""Cost of `sample(store=...)` beyond the network: speed, time per region, memory of growth.

    python -m benchmarks.speed.sample_store [--only speed dask growth] [--device cuda]
                                            [--output FILE]

speed   fields/s of `sample(store=...)`, everything included from the call to the finished store,
        against the bare forward pass at its best batch: conditions encoded once per sample, the way
        down once per member, noise in memory, results left on the device. The two take turns, with
        the bare pass that makes its noise each time between them.
dask    time of an empty task: by threads, and on a cluster of two processes.
growth  peak memory and time per field for 1,000, 10,000 and 100,000 small fields, each in a fresh
        process and from data streamed out of Zarr.

Without MODEL a network of the preset is trained for a few steps on the bundled radar: its speed
does not depend on its weights.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import in_fresh_process, memory
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import write_json
from benchmarks.harness.timing import fields_per_second, seconds_of
from xcvae.ensemble.execution.scheduler import Executor
from xcvae.ensemble.sampler import inputs_of
from xcvae.generator.device import autocast
from xcvae.generator.model import Model, load
from xcvae.generator.network.ladder import Encoded
from xcvae.generator.noise import Address, Window, normal_maps

PER_SAMPLE = 16
#: Fields in a batch of the bare pass.
BATCHES = {"cpu": (1, 2, 4, 8, 16), "cuda": (16, 64, 256)}
SMALL = {"channels": [24, 24, 24, 16], "latents": [4, 4, 2, 2], "blocks": 1}
#: Samples of a store at most.
MOST = 2000
MEMBERS, GROWTH = 200, (1_000, 10_000, 100_000)

#: Fields per second, and the batch size.
Rate = tuple[float, int]


def train_briefly(place: Path, ds: xr.Dataset, generator: dict[str, Any]) -> Path:
    """Train a model for a few steps."""
    fit = {"max_steps": 20, "batch_size": 4, "crop": 48, "validations": 1}
    xcvae.train(
        ds, target="pr", conditions=["pr_coarse"], generator=generator, fit=fit, path=place,
        progress=False,
    )  # fmt: skip
    return place


class BarePass:
    """The forward pass for all members of one sample, in batches of any size."""

    def __init__(self, model: Model, ds: xr.Dataset) -> None:
        prepared = inputs_of(ds.isel(time=[0]), model.spec, "prior")
        self.batch = model.batches(prepared).load(slice(None)).packed().to(model.device)
        self.network, self.device = model.network, model.device
        shapes = self.network.shapes(*self.batch.c.shape[-2:])
        self.windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        self.ready: dict[int, list[torch.Tensor]] = {}
        self.turn = count()

    def noise(self, size: int) -> list[torch.Tensor]:
        """Make the noise of new members."""
        turn = next(self.turn)
        addresses = [Address(turn, "storm", member, "prior") for member in range(size)]
        return normal_maps(addresses, self.windows, device=self.device)

    def draw(self, size: int, *, new_noise: bool = False) -> None:
        """Draw the members of a sample, so many at a time, or one larger batch."""
        if size not in self.ready:
            self.ready[size] = self.noise(size)
        with torch.inference_mode(), autocast(self.device):
            one = self.network.encode(self.batch.c, self.batch.pooled)
            known = Encoded.join([one] * size)
            for _ in range(max(1, PER_SAMPLE // size)):
                self.network.descend(known, self.noise(size) if new_noise else self.ready[size])

    def rate(self, sizes: Sequence[int], seconds: float, *, new_noise: bool = False) -> Rate:
        """Return fields per second at the best of several sizes."""
        draw = partial(self.draw, new_noise=new_noise)
        best = fields_per_second(draw, sizes, self.device, seconds=seconds, most=10**6)
        size = int(best["batch"])
        return best["value"] * max(PER_SAMPLE, size) / size, size

    def best(self, seconds: float) -> Rate:
        """Return the best rate over all sizes, each timed for so long."""
        return max(self.rate((size,), seconds) for size in BATCHES[self.device.type])


def speed(model: Model, seconds: float, turns: int) -> dict[str, Any]:
    """Compare `sample` into a store with the bare pass, in turn."""
    ds = open_radar(2)
    bare, rows = BarePass(model, ds), []
    fastest, size = bare.best(seconds / 8)
    part = repeated(ds, min(MOST, max(8, round(fastest * seconds / PER_SAMPLE)))).load()
    samples = len(part.time)
    for seed in range(turns):
        row = {
            "bare": bare.rate((size,), seconds / 4)[0],
            "noise too": bare.rate((size,), seconds / 4, new_noise=True)[0],
        }
        with tempfile.TemporaryDirectory() as folder:
            call = partial(
                xcvae.sample, part, model, members=PER_SAMPLE, seed=seed,
                store=Path(folder) / "e.zarr", device=model.device.type, progress=False,
            )  # fmt: skip
            row["engine"] = PER_SAMPLE * samples / seconds_of(call, model.device)
        # At once: a benchmark that is stopped has shown what it measured.
        print("fields/s: " + ", ".join(f"{k} {v:,.0f}" for k, v in row.items()), flush=True)
        rows.append(row)
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    shares = [row["engine"] / row["bare"] for row in rows]
    with_noise = [row["engine"] / row["noise too"] for row in rows]
    return {
        "fields": PER_SAMPLE * samples,
        "best_batch": size,
        "fields_per_second": median,
        "share_of_bare": statistics.median(shares),
        "share_of_bare_with_noise": statistics.median(with_noise),
        "turns": rows,
    }


def empty_task(task: int, threads: int | None = None) -> int:  # noqa: ARG001  as tasks are called
    return task


def dask_overhead(tasks: int = 2000) -> dict[str, float]:
    """Return milliseconds of an empty task, by scheduler."""
    import dask

    found = {}
    with dask.config.set(scheduler="threads"):
        found["threads_ms_per_region"] = _milliseconds(tasks)
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        return found
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        found["cluster_ms_per_region"] = _milliseconds(tasks)
    return found


def _milliseconds(tasks: int) -> float:
    done: list[int] = []
    executor = Executor(empty_task)
    executor.run(range(50), lambda _: None)
    start = time.perf_counter()
    executor.run(range(tasks), lambda event: done.append(event.task))
    milliseconds = 1e3 * (time.perf_counter() - start) / tasks
    assert sorted(done) == list(range(tasks))
    return milliseconds


def growth(folder: Path) -> dict[str, Any]:
    """Measure peak memory and time per field of ensembles of several sizes."""
    model = train_briefly(folder / "tiny.xcvae", cropped(open_radar(0)), SMALL)
    long = repeated(cropped(open_radar(2)), max(GROWTH) // MEMBERS)
    long.to_zarr(folder / "data.zarr", consolidated=False)
    rows = []
    for fields in GROWTH:
        rows.append(in_fresh_process(sample_fields, fields, str(folder), str(model)))
        print(rows[-1], flush=True)
    return {
        "rows": rows,
        "memory_growth": max(row["peak_MB"] for row in rows) / rows[0]["peak_MB"] - 1,
    }


def sample_fields(fields: int, folder: str, model: str) -> dict[str, float]:
    """Draw so many fields into a store in this process; return peak memory and time."""
    ds = xr.open_zarr(Path(folder) / "data.zarr", consolidated=False, chunks={})
    part = ds.isel(time=slice(fields // MEMBERS))
    start = time.perf_counter()
    xcvae.sample(
        part, model, members=MEMBERS, chunks={"realization": MEMBERS, "time": 1},
        store=Path(folder) / f"{fields}.zarr", progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    peak = memory("VmHWM") / 1e6
    return {"fields": fields, "peak_MB": peak, "us_per_field": 1e6 * seconds / fields}


def cropped(ds: xr.Dataset) -> xr.Dataset:
    """Cut four by three cells of the coarse condition: maps of 48 by 36."""
    return ds.isel(y=slice(48), x=slice(36), y_coarse=slice(4), x_coarse=slice(3))


def repeated(ds: xr.Dataset, samples: int) -> xr.Dataset:
    """Repeat the record up to so many samples, each with a time of its own."""
    around = ds.isel(time=np.arange(samples) % len(ds.time))
    times = np.datetime64("2018-05-17", "ns") + np.arange(samples) * np.timedelta64(300, "s")
    return around.assign_coords(time=times).chunk(time=32)


def measure(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    """Run the parts, one after the other."""
    if "speed" in options.only:
        path = options.model or train_briefly(
            folder / "m.xcvae", open_radar(0), {"preset": options.preset}
        )
        model = load(path).to(options.device)
        yield "speed", speed(model, options.seconds, options.turns)
    if "dask" in options.only:
        yield "dask", dask_overhead()
    if "growth" in options.only:
        yield "growth", growth(folder)


def main(argv: Sequence[str] | None = None) -> None:
    parts = ["speed", "dask", "growth"]
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--model", type=Path, help="for `speed`; conditions as in the radar")
    parser.add_argument("--only", nargs="+", default=parts, choices=parts)
    parser.add_preset()
    parser.add_device("auto")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as torch chooses")
    parser.add_argument("--seconds", type=float, default=16, help="of a turn of `speed`, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_output_file()
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory(prefix="engine") as folder:
        for name, found in measure(options, Path(folder)):
            results[name] = found
            print(name, json.dumps(found, indent=1), flush=True)
    if options.output:
        write_json(options.output, results)


if __name__ == "__main__":
    main()

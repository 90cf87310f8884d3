"""What the engine adds to the network: speed into a store, cost per region, memory, growth.

    python benchmarks/engine.py [--only speed dask growth] [--device cuda] [--output engine.json]

speed   fields/s of `sample(store=...)`, everything included from the call to the finished store,
        against the bare forward pass at its best batch: conditions encoded once per sample, the way
        down once per member, noise that is there already, results left where they are. The two
        take turns. In between, the bare pass with its noise made each time.
dask    time of a task that does nothing: by threads, and on a cluster of two processes.
growth  peak memory and time per field for 1,000, 10,000 and 100,000 small fields, each in a fresh
        process and from data streamed out of Zarr.

Without MODEL a network of the preset "small" is trained for a few steps on the bundled radar:
how fast it draws does not depend on what it has learned.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
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
from references.timing import rate

import xcvae
from xcvae.ensemble.inputs import inputs_of
from xcvae.ensemble.scheduling import Tasks
from xcvae.generator.ladder import Encoded
from xcvae.generator.model import Model, load
from xcvae.generator.noise import Address, Window, normal_maps
from xcvae.generator.numerics import autocast

PARTS = ["speed", "dask", "growth"]
PER_SAMPLE, BATCHES = 16, (1, 2, 4, 8, 16)
SMALL = {"channels": [24, 24, 24, 16], "latents": [4, 4, 2, 2], "blocks": 1}
MEMBERS, GROWTH = 200, (1_000, 10_000, 100_000)

Found = tuple[float, int]


def radar(split: int) -> xr.Dataset:
    ds = xcvae.tutorial.open_dataset("radklim")
    return ds.isel(time=(ds.split == split).values).drop_encoding().load()


def trained(place: Path, ds: xr.Dataset, generator: dict[str, Any]) -> Path:
    fit = {"max_steps": 20, "batch_size": 4, "crop": 48, "validations": 1}
    xcvae.train(
        ds, target="pr", conditions=["pr_coarse"], generator=generator, fit=fit, path=place,
        progress=False,
    )  # fmt: skip
    return place


class Bare:
    """The forward pass for all members of one sample, in batches of any size."""

    def __init__(self, model: Model, ds: xr.Dataset) -> None:
        prepared = inputs_of(ds.isel(time=[0]), model.spec, "prior")
        self.batch = model.batches(prepared).load(slice(None)).packed().to(model.device)
        self.network, self.device = model.network, model.device
        shapes = self.network.shapes(*self.batch.c.shape[-2:])
        self.windows = [Window(level, shape) for level, shape in enumerate(shapes)]
        self.there: dict[int, list[torch.Tensor]] = {}
        self.turn = count()

    def noise(self, size: int) -> list[torch.Tensor]:
        """Noise of members that were not there before."""
        turn = next(self.turn)
        addresses = [Address(turn, "storm", member, "prior") for member in range(size)]
        return normal_maps(addresses, self.windows, device=self.device)

    def draw(self, size: int, *, new_noise: bool = False) -> None:
        """Draw the members of a sample, so many at a time."""
        if size not in self.there:
            self.there[size] = self.noise(size)
        with torch.inference_mode(), autocast(self.device):
            one = self.network.encode(self.batch.c, self.batch.pooled)
            known = Encoded.join([one] * size)
            for _ in range(PER_SAMPLE // size):
                self.network.descend(known, self.noise(size) if new_noise else self.there[size])

    def rate(self, sizes: Sequence[int], seconds: float, *, new_noise: bool = False) -> Found:
        """Fields per second at the best of several sizes."""
        draw = partial(self.draw, new_noise=new_noise)
        best = rate(draw, sizes, self.device, seconds=seconds, most=10**6)
        return best["value"] * PER_SAMPLE / best["batch"], int(best["batch"])

    def best(self, seconds: float) -> Found:
        """The same, where every size has its chance."""
        return max(self.rate((size,), seconds) for size in BATCHES)


def speed(model: Model, seconds: float, turns: int) -> dict[str, Any]:
    ds = radar(2)
    bare, rows = Bare(model, ds), []
    fastest, size = bare.best(seconds / 8)
    samples = int(min(len(ds.time), max(8, round(fastest * seconds / PER_SAMPLE))))
    part = ds.isel(time=slice(samples))
    for seed in range(turns):
        row = {
            "bare": bare.rate((size,), seconds / 4)[0],
            "noise too": bare.rate((size,), seconds / 4, new_noise=True)[0],
        }
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            xcvae.sample(
                part, model, members=PER_SAMPLE, seed=seed, store=Path(folder) / "e.zarr",
                device=model.device.type, progress=False,
            )  # fmt: skip
            row["engine"] = PER_SAMPLE * samples / (time.perf_counter() - start)
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


def nothing(task: int, threads: int | None = None) -> int:  # noqa: ARG001  as tasks are called
    return task


def lost(task: int, error: Exception) -> int:
    raise RuntimeError(task) from error


def dask_overhead(tasks: int = 2000) -> dict[str, float]:
    """Milliseconds of a task, by scheduler."""
    import dask

    found = {}
    with dask.config.set(scheduler="threads"):
        found["threads_ms_per_region"] = _each(tasks)
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
        found["cluster_ms_per_region"] = _each(tasks)
    return found


def _each(tasks: int) -> float:
    done: list[int] = []
    Tasks(nothing, lost).run(range(50), done.append)
    done.clear()
    start = time.perf_counter()
    Tasks(nothing, lost).run(range(tasks), done.append)
    milliseconds = 1e3 * (time.perf_counter() - start) / tasks
    assert sorted(done) == list(range(tasks))
    return milliseconds


def growth(folder: Path) -> dict[str, Any]:
    """Peak memory and time per field of ensembles of several sizes."""
    model = trained(folder / "tiny.xcvae", cropped(radar(0)), SMALL)
    long = repeated(cropped(radar(2)), max(GROWTH) // MEMBERS)
    long.to_zarr(folder / "data.zarr", consolidated=False)
    rows = []
    for fields in GROWTH:
        command = [sys.executable, __file__, "--child", str(fields), str(folder), str(model)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout))
        print(rows[-1], flush=True)
    return {
        "rows": rows,
        "memory_growth": max(row["peak_MB"] for row in rows) / rows[0]["peak_MB"] - 1,
    }


def cropped(ds: xr.Dataset) -> xr.Dataset:
    """Cut four by three cells of the coarse condition: maps of 48 by 36."""
    return ds.isel(y=slice(48), x=slice(36), y_coarse=slice(4), x_coarse=slice(3))


def repeated(ds: xr.Dataset, samples: int) -> xr.Dataset:
    """Go round the record until it has so many samples; every one has a time of its own."""
    around = ds.isel(time=np.arange(samples) % len(ds.time))
    times = np.datetime64("2018-05-17", "ns") + np.arange(samples) * np.timedelta64(300, "s")
    return around.assign_coords(time=times).chunk(time=32)


def child(fields: int, folder: Path, model: Path) -> None:
    ds = xr.open_zarr(folder / "data.zarr", consolidated=False, chunks={})
    part = ds.isel(time=slice(fields // MEMBERS))
    start = time.perf_counter()
    xcvae.sample(
        part, model, members=MEMBERS, chunks={"realization": MEMBERS, "time": 1},
        store=folder / f"{fields}.zarr", progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    row = {"fields": fields, "peak_MB": peak(), "us_per_field": 1e6 * seconds / fields}
    print(json.dumps(row))


def peak() -> float:
    """The most memory that this program has had, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count the process that started this one
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1e3
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measured(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    if "speed" in arguments.only:
        path = arguments.model or trained(folder / "m.xcvae", radar(0), {"preset": "small"})
        model = load(path).to(arguments.device)
        yield "speed", speed(model, arguments.seconds, arguments.turns)
    if "dask" in arguments.only:
        yield "dask", dask_overhead()
    if "growth" in arguments.only:
        yield "growth", growth(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="for `speed`; conditions as in the radar")
    parser.add_argument("--only", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: as torch chooses")
    parser.add_argument("--seconds", type=float, default=16, help="of a turn of `speed`, about")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="results as JSON")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.child:
        fields, folder, model = arguments.child
        child(int(fields), Path(folder), Path(model))
        return
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
    }
    with tempfile.TemporaryDirectory(prefix="engine") as folder:
        for name, found in measured(arguments, Path(folder)):
            results[name] = found
            print(name, json.dumps(found, indent=1), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

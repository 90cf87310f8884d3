"""Cost of a scorecard: time beside other packages, and peak memory of large stores.

    python -m benchmarks.speed.scorecard [speed] [memory] [--output FILE]

speed: CRPS, spread-skill and rank histogram in one pass, with intervals, beside `scores` and
`xskillscore` (installed by hand: xskillscore, and numba for its CRPS) on the same arrays, time and
peak memory in fresh processes. memory: the whole scorecard (or `--metrics`) of 100 members of
128 x 128 pixels from Zarr stores of so many samples (`--sizes`; a thousand take 0.6 GB of disk),
each in a fresh process. Needs Linux for peak memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import WorkerError, in_fresh_process, memory
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import Row, report
from benchmarks.speed.scorecard_packages import RIVALS, SIDE, score_with

MEMBERS = 100


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Compare with the other packages."""
    found = {}
    print(f"{'CRPS + spread-skill + ranks':34}{'s':>9}{'ratio':>8}{'peak MB':>9}{'CRPS':>10}")
    for name in ("xcvae", *RIVALS):
        slow = name.endswith("without Numba")
        sizes = (options.members, options.samples, 1 if slow else options.repeats)
        try:
            row = in_fresh_process(score_with, name, *sizes)
        except WorkerError as error:
            if "ModuleNotFoundError" not in str(error):
                raise
            print(f"{name:34}  not installed")
            continue
        row["ratio"] = row["seconds"] / found.get("xcvae", row)["seconds"]
        found[name] = row
        print(
            f"{name:34}{row['seconds']:9.3f}{row['ratio']:8.1f}{row['peak_MB']:9.0f}"
            f"{row['crps']:10.5f}"
        )
    print(f"arrays {found['xcvae']['arrays_MB']:.0f} MB: {options.members} members, "
          f"{options.samples} samples of {SIDE} x {SIDE}")  # fmt: skip
    return found


def make_store(folder: Path, samples: int) -> None:
    """Write members and an observation of real rain, every field flipped and shifted at random.

    A chunk has all members of one sample, as the stores of xcvae have; amounts are those of the
    radar, multiples of 0.12 mm/h.
    """
    radar = open_radar().pr.values[:, :SIDE, :SIDE]
    radar = np.where(radar >= 0.1, radar, 0.0).astype("float32")
    random = np.random.default_rng(7)
    stores = {
        "ensemble": _array(folder, "ensemble", (MEMBERS, samples, SIDE, SIDE)),
        "observed": _array(folder, "observed", (samples, SIDE, SIDE)),
    }
    fields = np.empty((MEMBERS + 1, SIDE, SIDE), "float32")
    for i in range(samples):
        frames = random.integers(0, len(radar), MEMBERS + 1)
        turns = random.integers(0, 2, (MEMBERS + 1, 2))
        shifts = random.integers(0, SIDE, (MEMBERS + 1, 2))
        for field, frame, (down, left), shift in zip(fields, frames, turns, shifts, strict=True):
            turned = radar[frame][:: 1 - 2 * down, :: 1 - 2 * left]
            field[:] = np.roll(turned, tuple(shift), (0, 1))
        stores["ensemble"][:, i] = fields[1:]
        stores["observed"][i] = fields[0]


def _array(folder: Path, name: str, shape: tuple[int, ...]) -> zarr.Array[Any]:
    """Make an empty array of rain in a store of its own, a sample a chunk."""
    dims = ("realization", "time", "y", "x")[-len(shape) :]
    made = zarr.create_array(
        folder / f"{name}.zarr" / "pr", shape=shape, dtype="float32",
        chunks=tuple(1 if dim == "time" else n for dim, n in zip(dims, shape, strict=True)),
        compressors=[zarr.codecs.ZstdCodec(level=1)], fill_value=np.nan, overwrite=True,
        dimension_names=dims, attributes={"units": "mm h-1"},
    )  # fmt: skip
    zarr.open_group(folder / f"{name}.zarr", mode="a")
    return made


def store_memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Score ever larger stores, each in a fresh process."""
    rows = []
    print(f"{'samples':>8}{'GB raw':>8}{'GB disk':>9}{'peak MB':>9}{'s':>8}{'fields/s':>10}")
    for samples in options.sizes:
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            make_store(Path(name), samples)
            row = in_fresh_process(score_store, name, options.metrics or [])
        rows.append(row)
        print(
            f"{samples:8}{row['GB_raw']:8.1f}{row['GB_disk']:9.1f}{row['peak_MB']:9.0f}"
            f"{row['seconds']:8.1f}{row['fields_per_second']:10.0f}", flush=True,
        )  # fmt: skip
    return rows


def score_store(place: str, metrics: list[str]) -> dict[str, Any]:
    """Score a store in this process: all metrics and bilinear beside them, or some metrics."""
    from xcvae.verify.scorecard import evaluate

    folder = Path(place)
    observed, ensemble = (
        xr.open_zarr(folder / f"{name}.zarr", consolidated=False)
        for name in ("observed", "ensemble")
    )
    samples = ensemble.sizes["time"]
    coarse = observed.pr.coarsen(y=8, x=8).mean().rename(y="y_coarse", x="x_coarse")
    ds = observed.assign(pr_coarse=coarse.assign_attrs(units="mm h-1"))
    chosen: dict[str, Any] = {"metrics": metrics, "baselines": []} if metrics else {}
    start = time.perf_counter()
    card = evaluate(ds, ensemble, progress=False, **chosen)
    seconds = time.perf_counter() - start
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "samples": samples,
        "members": MEMBERS,
        "metrics": metrics or "all",
        "GB_raw": ensemble.pr.nbytes / 1e9,
        "GB_disk": disk / 1e9,
        "peak_MB": memory("VmHWM") / 1e6,
        "seconds": seconds,
        "fields_per_second": MEMBERS * samples / seconds,
        **{name: card[name][0].item() for name in metrics or ["crps"]},
    }


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {"speed": speed, "memory": store_memory}


def rows_of(found: dict[str, Any]) -> list[Row]:
    """Make rows of the figures that have a baseline: other packages, and 4 GB of memory."""
    speeds, rows = found.get("speed", {}), []
    for name in RIVALS:
        if name in speeds:
            own, other = speeds["xcvae"], speeds[name]
            rows += [
                Row.cost("three scores", own["seconds"], other["seconds"], unit="s", against=name,
                         target=5.0),
                Row.cost("their memory", max(own["peak_MB"], 1.0), other["peak_MB"], unit="MB",
                         against=name),
            ]  # fmt: skip
    for row in found.get("memory", []):
        name = f"{row['samples']} samples"
        rows.append(Row.cost(name, row["peak_MB"], 4000.0, unit="MB", against="4 GB", target=1.0))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_parts(PARTS)
    parser.add_argument("--members", type=int, default=50, help="speed")
    parser.add_argument("--samples", type=int, default=20, help="speed")
    parser.add_argument("--repeats", type=int, default=3, help="speed: the best counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000], help="memory")
    parser.add_argument("--metrics", nargs="+", help="memory: all, and bilinear, by default")
    parser.add_argument("--folder", type=Path, help="memory: where the stores are made")
    parser.add_output_file()
    options = parser.parse_args(argv)
    found = {part: PARTS[part](options) for part in options.parts or PARTS}
    settings = vars(options) | {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    report("evaluate", rows_of(found), settings, output=options.output, **found)


if __name__ == "__main__":
    main()

"""What a scorecard costs, and whether it is right.

    python benchmarks/evaluate.py [speed] [memory] [coverage] [perfect] [--output evaluate.json]

speed: CRPS, spread-skill and rank histogram in one pass, with intervals, beside `scores` and
`xskillscore` (installed by hand: xskillscore, and numba for its CRPS) on the same arrays, time and
peak memory in fresh processes. memory: the whole scorecard (or `--metrics`) of 100 members of
128 x 128 pixels from Zarr stores of so many samples (`--sizes`; a thousand take 0.6 GB of disk),
each in a fresh process. coverage: how often 95 % intervals hold the true score, for samples that
remember the one before and for such that do not. perfect: members from the distribution of the
observation, of any number. Needs Linux for peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from references import perfection
from references.results import Row, report
from references.scorecards import RIVALS, SIDE, measured, memory_of, worker

HERE = Path(__file__)
MEMBERS = 100
PARTS = ("speed", "memory", "coverage", "perfect")


def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare with the other packages."""
    found = {}
    print(f"{'CRPS + spread-skill + ranks':34}{'s':>9}{'ratio':>8}{'peak MB':>9}{'CRPS':>10}")
    for name in ("xcvae", *RIVALS):
        slow = name.endswith("without Numba")
        sizes = (arguments.members, arguments.samples, 1 if slow else arguments.repeats)
        row = measured(HERE, "--worker", name, *sizes)
        if row is None:
            print(f"{name:34}  not installed")
            continue
        row["ratio"] = row["seconds"] / found.get("xcvae", row)["seconds"]
        found[name] = row
        print(
            f"{name:34}{row['seconds']:9.3f}{row['ratio']:8.1f}{row['peak_MB']:9.0f}"
            f"{row['crps']:10.5f}"
        )
    print(f"arrays {found['xcvae']['arrays_MB']:.0f} MB: {arguments.members} members, "
          f"{arguments.samples} samples of {SIDE} x {SIDE}")  # fmt: skip
    return found


def make_store(folder: Path, samples: int) -> None:
    """Write members and an observation of real rain, every field turned and shifted by chance.

    A chunk has all members of one sample, as the stores of xcvae have; amounts are those of the
    radar, multiples of 0.12 mm/h.
    """
    from xcvae.tutorial import open_dataset

    radar = open_dataset("radklim").pr.values[:, :SIDE, :SIDE]
    radar = np.where(radar >= 0.1, radar, 0.0).astype("float32")
    random = np.random.default_rng(7)
    kept = {
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
        kept["ensemble"][:, i] = fields[1:]
        kept["observed"][i] = fields[0]


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


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Score ever larger stores, each in a fresh process."""
    rows = []
    print(f"{'samples':>8}{'GB raw':>8}{'GB disk':>9}{'peak MB':>9}{'s':>8}{'fields/s':>10}")
    for samples in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            make_store(Path(name), samples)
            row = measured(HERE, "--score", name, *arguments.metrics or [])
            if row is None:
                raise SystemExit("a package that xcvae needs is missing")
        rows.append(row)
        print(
            f"{samples:8}{row['GB_raw']:8.1f}{row['GB_disk']:9.1f}{row['peak_MB']:9.0f}"
            f"{row['seconds']:8.1f}{row['fields_per_second']:10.0f}", flush=True,
        )  # fmt: skip
    return rows


def score(folder: Path, metrics: list[str]) -> None:
    """Score a store in this process: all metrics and bilinear beside them, or some metrics."""
    from xcvae.verify.scorecard import evaluate

    observed, ensemble = (
        xr.open_zarr(folder / f"{name}.zarr", consolidated=False)
        for name in ("observed", "ensemble")
    )
    samples = ensemble.sizes["time"]
    coarse = observed.pr.coarsen(y=8, x=8).mean().rename(y="y_coarse", x="x_coarse")
    ds = observed.assign(pr_coarse=coarse.assign_attrs(units="mm h-1"))
    asked: dict[str, Any] = {"metrics": metrics, "baselines": []} if metrics else {}
    start = time.perf_counter()
    card = evaluate(ds, ensemble, progress=False, **asked)
    seconds = time.perf_counter() - start
    disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(json.dumps({
        "samples": samples, "members": MEMBERS, "metrics": metrics or "all",
        "GB_raw": ensemble.pr.nbytes / 1e9, "GB_disk": disk / 1e9, "peak_MB": memory_of("VmHWM"),
        "seconds": seconds, "fields_per_second": MEMBERS * samples / seconds,
        **{name: card[name][0].item() for name in metrics or ["crps"]},
    }))  # fmt: skip


def coverage(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Count intervals that hold the truth."""
    rows = []
    for samples, remembered in arguments.cases:
        row = perfection.coverage(
            samples=int(samples),
            memory=remembered,
            repeats=arguments.coverage_repeats,
            seed=arguments.coverage_seed,
        )
        rows.append(row)
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return rows


def perfect(_: argparse.Namespace) -> dict[str, Any]:
    """Go through all numbers of members."""
    rows = [perfection.perfect(members) for members in range(2, 65)]
    spread = [row["spread_skill"] for row in rows]
    inside = sum(row["band_low"] <= row["rank_deviation"] <= row["band_high"] for row in rows)
    beyond = sum(row["rank_deviation"] > row["band_99.95"] for row in rows)
    print(f"M = 2 to 64: spread-skill {min(spread):.4f} to {max(spread):.4f}")
    print(f"rank deviation: in its 95 % band {inside} of {len(rows)}, above 99.95 % {beyond}")
    summary = {"spread_skill": [min(spread), max(spread)], "inside_95": inside, "beyond": beyond}
    return {**summary, "rows": rows}


def case(text: str) -> tuple[float, float]:
    """Read "150,0.5": samples and how much one remembers of the one before."""
    samples, remembered = text.split(",")
    return float(samples), float(remembered)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], *map(int, sys.argv[3:]))
        return
    if sys.argv[1:2] == ["--score"]:
        score(Path(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="all by default", metavar="PART")
    parser.add_argument("--members", type=int, default=50, help="speed")
    parser.add_argument("--samples", type=int, default=20, help="speed")
    parser.add_argument("--repeats", type=int, default=3, help="speed: the best counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000], help="memory")
    parser.add_argument("--metrics", nargs="+", help="memory: all, and bilinear, by default")
    parser.add_argument("--folder", type=Path, help="memory: where the stores are made")
    parser.add_argument("--coverage-repeats", type=int, default=500)
    parser.add_argument("--coverage-seed", type=int, default=0, help="of the synthetic ensembles")
    cases = [(60.0, 0.0), (150.0, 0.0), (150.0, 0.5), (150.0, 0.8), (600.0, 0.8)]
    parser.add_argument("--cases", type=case, nargs="+", default=cases, help="coverage: 150,0.5")
    parser.add_argument("--output", type=Path, help="results as JSON")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    for part in arguments.parts or PARTS:
        if part not in PARTS:
            parser.error(f"unknown part '{part}': {', '.join(PARTS)}")
        found[part] = globals()[part](arguments)
    settings = vars(arguments) | {"threads": os.environ.get("OMP_NUM_THREADS", "all")}
    report("evaluate", rows_of(found), settings, output=arguments.output, **found)


def rows_of(found: dict[str, Any]) -> list[Row]:
    """Return what has a baseline: other packages, and 4 GB of memory."""
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


if __name__ == "__main__":
    main()

"""What a scorecard costs, and whether it is right.

    python benchmarks/evaluate.py [speed] [memory] [coverage] [perfect] [--output evaluate.json]

speed: CRPS, spread-skill and rank histogram in one pass, with intervals, beside `scores` and
`xskillscore` (installed by hand: xskillscore, and numba for its CRPS) on the same arrays, time and
peak memory in fresh processes. memory: the whole scorecard of 100 members of 128 x 128 pixels from
a Zarr store with more and more samples. coverage: how often 95 % intervals hold the true score, for
samples that remember the one before and for such that do not. perfect: members from the
distribution of the observation, of any number. Needs Linux for peak memory.
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
from references.scorecards import RIVALS, SIDE, fields, measured, memory_of, worker

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


def make_store(folder: Path, samples: int, *, pool: int = 48) -> None:
    """Write an ensemble of real rain whose chunks repeat: `pool` of them, the others links.

    A chunk has all members of one sample, as the stores of xcvae have.
    """
    store = zarr.create_array(
        folder / "e.zarr" / "pr", shape=(MEMBERS, samples, SIDE, SIDE), dtype="float32",
        chunks=(MEMBERS, 1, SIDE, SIDE), fill_value=np.nan, overwrite=True,
        dimension_names=("realization", "time", "y", "x"), attributes={"units": "mm h-1"},
    )  # fmt: skip
    zarr.open_group(folder / "e.zarr", mode="a")
    for i in range(samples):
        if i < pool:
            store[:, i] = fields(MEMBERS, i)
            continue
        new = folder / "e.zarr" / "pr" / "c" / "0" / str(i) / "0" / "0"
        new.parent.mkdir(parents=True)
        os.link(folder / "e.zarr" / "pr" / "c" / "0" / str(i % pool) / "0" / "0", new)


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Score ever larger stores, each in a fresh process."""
    rows = []
    print(f"{'samples':>8}{'GB raw':>8}{'GB disk':>9}{'peak MB':>9}{'s':>8}{'fields/s':>10}")
    for samples in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            make_store(Path(name), samples)
            row = measured(HERE, "--score", name)
            if row is None:
                raise SystemExit("a package that xcvae needs is missing")
        rows.append(row)
        print(
            f"{samples:8}{row['GB_raw']:8.1f}{row['GB_disk']:9.1f}{row['peak_MB']:9.0f}"
            f"{row['seconds']:8.1f}{row['fields_per_second']:10.0f}", flush=True,
        )  # fmt: skip
    return rows


def score(folder: Path) -> None:
    """Score a store in this process: all metrics, and bilinear beside it."""
    from xcvae.verify.scorecard import evaluate

    ensemble = xr.open_zarr(folder / "e.zarr", consolidated=False)
    samples = ensemble.sizes["time"]
    base = fields(96, 5)
    observed = xr.DataArray(
        base[np.arange(samples) % 96] if samples < 1000 else base[:1].repeat(samples, 0),
        dims=("time", "y", "x"), attrs={"units": "mm h-1"},
    )  # fmt: skip
    del base
    coarse = observed.coarsen(y=8, x=8).mean().rename(y="y_coarse", x="x_coarse")
    ds = xr.Dataset({"pr": observed, "pr_coarse": coarse.assign_attrs(units="mm h-1")})
    chunk = next((folder / "e.zarr").rglob("c/0/0/0/0")).stat().st_size
    start = time.perf_counter()
    card = evaluate(ds, ensemble, progress=False)
    seconds = time.perf_counter() - start
    print(json.dumps({
        "samples": samples, "members": MEMBERS, "GB_raw": ensemble.pr.nbytes / 1e9,
        "GB_disk": chunk * samples / 1e9, "peak_MB": memory_of("VmHWM"), "seconds": seconds,
        "observed_MB": observed.nbytes / 1e6,
        "fields_per_second": MEMBERS * samples / seconds, "crps": card.crps[0].item(),
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
        score(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help="all by default", metavar="PART")
    parser.add_argument("--members", type=int, default=50, help="speed")
    parser.add_argument("--samples", type=int, default=20, help="speed")
    parser.add_argument("--repeats", type=int, default=3, help="speed: the best counts")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000, 4000], help="memory")
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

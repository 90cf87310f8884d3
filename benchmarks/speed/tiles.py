"""Time and memory of large maps drawn in tiles, beside one piece in the same run.

    python -m benchmarks.speed.tiles [PART ...] [--side 1024] [--tiles 256 512] [--members 1 4 16]

"time" draws a sample by `xcvae.sample` into a store, on one thread and on two, from the prior
and around the storm; pieces and tiles in turn, seconds of the clock, best of repeats. A ratio of
.77 means that tiles take 1.3 times as long as one piece. Regions of a store have about 8 MB, so
that maps of this size are drawn in regions of one or two members.

"memory" is what the first call of `xcvae.sample` with one member adds to a fresh process: its peak
resident memory above that before (this needs Linux). The figure per side is the peak, beside one
piece. "--tiles auto" is what xcvae chooses.

The model is untrained: its weights do not change its speed. XCVAE_PRECISION sets its precision.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import dask
import torch
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import in_fresh_process, memory, reset_peak_memory
from benchmarks.harness.radar import resized_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import interleaved_seconds
from benchmarks.harness.untrained import make_model, make_trainer
from xcvae.generator.model import Model

TARGET = 1 / 1.3
#: Size of the radar maps that the model is made for, and their pixels along a side of a cell.
SIZE, CELL = (156, 132), 12
Tile = str | int | None


def untrained(preset: str) -> Model:
    """Return an untrained model for maps of any size."""
    trainer = make_trainer(resized_radar(SIZE), generator={"preset": preset}, fit={}, device="cpu")
    return make_model(trainer)


def as_option(tile: Tile) -> str | dict[str, int] | None:
    """Return the argument ``tile`` of `xcvae.sample`."""
    return {"y": tile, "x": tile} if isinstance(tile, int) else tile


def large_map(side: int) -> xr.Dataset:
    """Return a frame of radar, repeated to a square of whole cells, in the resolution of SIZE."""
    cells = side // CELL
    ds = resized_radar((cells * CELL, cells * CELL), samples=1)
    repeated = {d: [k % ds.sizes[d] for k in range(cells)] for d in ("y_coarse", "x_coarse")}
    return ds.isel(repeated).drop_vars(list(repeated))


def draw(
    ds: xr.Dataset, model: Model, tile: Tile, folder: Path, numbers: Any, **options: Any
) -> None:
    """Draw an ensemble into a new store."""
    store = folder / f"{next(numbers)}.zarr"
    xcvae.sample(ds, model, tile=as_option(tile), store=store, progress=False, **options)


def times(options: argparse.Namespace) -> list[Row]:
    """Time draws in tiles and in one piece."""
    model, ds, rows = untrained(options.preset), large_map(options.side), []
    cases = product(options.threads, ("prior", "posterior"), options.members)
    for threads, mode, members in cases:
        torch.set_num_threads(threads)
        with (
            tempfile.TemporaryDirectory() as folder,
            dask.config.set(scheduler="threads", num_workers=threads),
        ):
            call = partial(
                draw, ds, model, folder=Path(folder), numbers=count(), mode=mode, members=members
            )
            sides = {str(t): partial(call, tile=t) for t in [None, *options.tiles]}
            seconds = interleaved_seconds(sides, torch.device("cpu"), rounds=options.repeats)
        best = {name: min(found) for name, found in seconds.items()}
        rows += [
            Row.cost(
                f"{threads} threads, {mode}, {members} members, tile {tile}",
                best[str(tile)],
                best["None"],
                unit="s",
                against="one piece",
                target=TARGET,
            )
            for tile in options.tiles
        ]
    return rows


def memories(options: argparse.Namespace) -> list[Row]:
    """Measure MB that a draw adds, in tiles and in one piece."""
    rows = []
    for mode, side in product(("prior", "posterior"), options.sides):
        threads = max(options.threads)
        peak = partial(in_fresh_process, peak_of_draw, options.preset, side, mode, threads)
        whole = peak(None)
        rows += [
            Row.cost(
                f"{mode}, side {side}, tile {tile}", peak(tile), whole, unit="MB",
                against="one piece",
            )
            for tile in options.tiles
        ]  # fmt: skip
    return rows


def peak_of_draw(preset: str, side: int, mode: str, threads: int, tile: Tile) -> float:
    """Draw one member in this process; return the MB that this adds at its peak."""
    model = untrained(preset)
    torch.set_num_threads(threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set(scheduler="threads", num_workers=threads),
    ):
        # A small ensemble first, for what the first call loads.
        draw(large_map(SIZE[0]), model, None, Path(folder), count(), mode=mode, members=1)
        ds = large_map(side)
        reset_peak_memory()
        before = memory("VmRSS")
        draw(ds, model, tile, Path(folder), count(1), mode=mode, members=1)
    return (memory("VmHWM") - before) / 2**20


PARTS = {"time": times, "memory": memories}


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_parts(PARTS)
    parser.add_preset()
    parser.add_argument("--side", type=int, default=1024, help="of the maps of 'time'")
    parser.add_argument("--sides", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--tiles", type=_tile, nargs="+", default=[256, 512])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_output_file("tiles.json")
    options = parser.parse_args(argv)
    rows = [row for name in options.parts or PARTS for row in PARTS[name](options)]
    report("tiles", rows, vars(options), output=options.output)


def _tile(text: str) -> Tile:
    return text if text == "auto" else int(text)


if __name__ == "__main__":
    main()

"""Train the ladder and its references alike, score them alike, and print them side by side.

    python benchmarks/skill.py --output DIR [--data STORE] [--device cuda] [--minutes 15]

Without ``--data`` this takes the radar that comes with xcvae. A record of your own is a Zarr store
or NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on, 2 to report. The condition is its block means. Every method that is trained
has the same minutes on the same device and data. Members are drawn from the condition alone for
all test samples (and, for xcvae, from the posterior too), what is below 0.1 mm h-1 becomes 0, and
`xcvae.evaluate` scores them.

The minutes of a training include its validation and leave out what torch.compile takes on a GPU:
for the flat VAE and ``edm`` they begin after the first step of a call, and for xcvae steps that
compile are not counted.

Each method leaves NAME.json and NAME.npz in the folder, so that methods may be run in several
calls. A method that is interrupted (``--stop-after``, or killed) goes on from its checkpoint in the
next call; the exit code is then 75. At its end a call makes the table, skill.json and members.png
of all that is in the folder.

The method ``rainfarm`` needs pysteps (``pip install pysteps``), which no extra of xcvae installs,
and is left out without it. Drawing all test samples by diffusion takes hours on a CPU, so give
``--tiles``, or leave ``edm`` out there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from references import rainfarm
from references.bench import Bench
from references.clock import Deadline, OutOfTime
from references.data import Arena
from references.methods import METHODS
from references.picture import draw_picture
from references.results import write_json
from references.scoring import picture_rows
from references.table import print_table

#: Exit code of a call that ran out of time: the next one goes on.
STOPPED = 75


def assemble(bench: Bench) -> None:
    """Make table, skill.json and members.png of all methods that are done."""
    found = {
        name: json.loads(bench.place(f"{name}.json").read_text())
        for name in METHODS
        if bench.place(f"{name}.json").exists()
    }
    if not found:
        return
    arena = json.loads(bench.place("arena.json").read_text())
    summary = print_table(found, arena)
    write_json(bench.place("skill.json"), {"arena": arena, **summary, "methods": found})
    test = bench.arena.test
    row = picture_rows(bench.arena)[0]
    coarse = test.coarse[row].numpy().repeat(test.side, 0).repeat(test.side, 1)
    top = [("block means (condition)", coarse), ("observed", test.fine[row].numpy())]
    rows = {}
    for name, result in found.items():
        fields = np.load(bench.place(f"{name}.npz"))
        if name == "bilinear":
            top.append((name, fields[name][0, 0]))
        if name in ("bilinear", "block"):
            continue
        for key in fields.files:
            label = f"xcvae {key}" if name == "xcvae" else key
            score = result["rows"][label]["crps"]["value"]
            label = label.replace(", ", ",\n").replace(" posterior", "\nposterior")
            rows[f"{label}\nCRPS {score:.3f}"] = fields[key][:, 0]
    title = f"{arena['data']}: members of one test sample"
    draw_picture(bench.place("members.png"), top, rows, title=title)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for results and checkpoints")
    add("--data", type=Path, help="the record; default: the radar that comes with xcvae")
    add("--target", help="name of the rain; default: pr_hr or pr")
    add("--coarsen", type=int, help="pixels along a side of a block; default 8, bundled radar 12")
    add("--tiles", default="all", help="test samples, evenly spaced: a number, or all")
    add("--methods", default=",".join(METHODS), help="default: %(default)s")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--minutes", type=float, help="training of each method; default 15, with --small 20")
    add("--members", type=int, default=16)
    add("--preset", help="of xcvae's generator; default base, with --small small")
    add("--generator", type=json.loads, default={}, help="JSON: more of xcvae's generator")
    add("--fit", type=json.loads, default={}, help="JSON: keys of xcvae's fit")
    add("--edm", type=json.loads, default={}, help="JSON: settings of the diffusion model")
    add("--small", action="store_true", help="for two CPU cores: small networks, on crops")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes of RainFARM; 0: none")
    add("--stop-after", type=float, help="seconds; the next call goes on")
    add("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    given.methods = given.methods.split(",")
    for name in given.methods:
        if name not in METHODS:
            parser.error(f"--methods: unknown '{name}'; there are {', '.join(METHODS)}")
    if given.tiles != "all" and not given.tiles.isdigit():
        parser.error("--tiles: a number, or all")
    if given.minutes is not None and not given.minutes > 0:
        parser.error("--minutes: more than 0; leave out with --methods what is not to be trained")
    if given.small and given.device == "cuda":
        parser.error("--small is for the CPU")
    return given


def _bench(given: argparse.Namespace, deadline: Deadline) -> Bench:
    tiles = None if given.tiles == "all" else int(given.tiles)
    arena = Arena.open(given.data, target=given.target, side=given.coarsen, tiles=tiles)
    given.output.mkdir(parents=True, exist_ok=True)
    identity = {**arena.identity(), "members": given.members, "seed": given.seed}
    place = given.output / "arena.json"
    if place.exists() and json.loads(place.read_text()) != identity:
        raise SystemExit(f"{given.output} holds results of {place.read_text()}, not {identity}")
    write_json(place, identity)
    use = "cuda" if torch.cuda.is_available() and not given.small else "cpu"
    device = torch.device(use if given.device == "auto" else given.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    small = given.small or device.type == "cpu"
    preset = given.preset or ("small" if small else "base")
    return Bench(
        arena=arena,
        folder=given.output,
        device=device,
        minutes=(20.0 if small else 15.0) if given.minutes is None else given.minutes,
        members=given.members,
        seed=given.seed,
        small=small,
        workers=given.workers,
        deadline=deadline,
        generator={"preset": preset, **given.generator},
        fit=given.fit,
        edm=given.edm,
    )


def main(argv: list[str] | None = None) -> int:
    given = _arguments(argv)
    deadline = Deadline(given.stop_after)
    code, bench = 0, None
    try:
        bench = _bench(given, deadline)
        for name in given.methods:
            if bench.place(f"{name}.json").exists():
                print(f"{name}: done already; remove {bench.place(name)}.json to do it again")
            elif name == "rainfarm" and not rainfarm.available():
                print("rainfarm: left out, it needs pysteps (pip install pysteps)")
            else:
                print(f"{name}: begins", flush=True)
                METHODS[name](bench)
    except OutOfTime:
        deadline.close()
        print("out of time: run the same command again to go on", flush=True)
        code = STOPPED
    finally:
        deadline.close()
    if bench is not None:
        assemble(bench)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Rain from its block means: xcvae, a diffusion model, a flat VAE, RainFARM and interpolation.

    python -m benchmarks.skill.downscaling --output DIR [--data STORE] [--device cuda]
                                           [--minutes 15]

Without ``--data`` this uses the radar that comes with xcvae. A record of your own is a Zarr store
or NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on, 2 to report. The condition is its block means. Every method that is trained
has the same minutes on the same device and data. Members are drawn from the condition alone for
all test samples (and, for xcvae, from the posterior too), rain below 0.1 mm h-1 becomes 0, and
`xcvae.evaluate` scores them.

The minutes of a training include its validation and leave out the time of torch.compile on a GPU:
for the flat VAE and ``edm`` they start after the first step of a call, and for xcvae steps that
compile are not counted.

Each method writes NAME.json and NAME.npz to the folder, so that methods may be run in several
calls. A method that is interrupted (``--stop-after``, or killed) continues from its checkpoint in
the next call; the exit code is then 75. At its end a call makes the table, skill.json and
members.png of all methods in the folder.

The method ``rainfarm`` needs pysteps (``pip install pysteps``), which no extra of xcvae installs,
and is left out without it. Drawing all test samples by diffusion takes hours on a CPU, so give
``--tiles``, or leave ``edm`` out there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.deadline import Deadline
from benchmarks.harness.member_maps import plot_member_maps
from benchmarks.harness.record_splits import RecordSplits
from benchmarks.harness.results import claim_folder, write_json
from benchmarks.models import rainfarm
from benchmarks.skill.comparison import Comparison
from benchmarks.skill.methods import METHODS
from benchmarks.skill.score_table import print_table
from benchmarks.skill.scores import picture_rows


def assemble(run: Comparison) -> None:
    """Print the table, and write skill.json and members.png, of all methods in the folder."""
    found = {
        name: json.loads(run.place(f"{name}.json").read_text())
        for name in METHODS
        if run.place(f"{name}.json").exists()
    }
    if not found:
        return
    identity = json.loads(run.place("arena.json").read_text())
    summary = print_table(found, identity)
    write_json(run.place("skill.json"), {"arena": identity, **summary, "methods": found})
    test = run.splits.test
    row = picture_rows(run.splits)[0]
    coarse = test.coarse[row].numpy().repeat(test.side, 0).repeat(test.side, 1)
    top = [("block means (condition)", coarse), ("observed", test.fine[row].numpy())]
    rows = {}
    for name, result in found.items():
        fields = np.load(run.place(f"{name}.npz"))
        if name == "bilinear":
            top.append((name, fields[name][0, 0]))
        if name in ("bilinear", "block"):
            continue
        for key in fields.files:
            label = f"xcvae {key}" if name == "xcvae" else key
            score = result["rows"][label]["crps"]["value"]
            label = label.replace(", ", ",\n").replace(" posterior", "\nposterior")
            rows[f"{label}\nCRPS {score:.3f}"] = fields[key][:, 0]
    title = f"{identity['data']}: members of one test sample"
    plot_member_maps(run.place("members.png"), top, rows, title=title)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_experiment("auto", edm="settings of the diffusion model")
    add = parser.add_argument
    add("--tiles", default="all", help="test samples, evenly spaced: a number, or all")
    add(
        "--methods",
        type=comma_separated(),
        default=list(METHODS),
        help=f"default: {','.join(METHODS)}",
    )
    add("--minutes", type=float, help="training of each method; default 15, with --small 20")
    add("--members", type=int, default=16)
    add("--preset", help="of xcvae's generator; default base, with --small small")
    add("--small", action="store_true", help="for two CPU cores: small networks, on crops")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes of RainFARM; 0: none")
    add("--seed", type=int, default=0)
    add("--no-rates", action="store_true", help="leave out the speed of drawing")
    options = parser.parse_args(argv)
    for name in options.methods:
        if name not in METHODS:
            parser.error(f"--methods: unknown '{name}'; there are {', '.join(METHODS)}")
    if options.tiles != "all" and not options.tiles.isdigit():
        parser.error("--tiles: a number, or all")
    if options.minutes is not None and not options.minutes > 0:
        parser.error("--minutes: more than 0; leave methods that need no training out of --methods")
    if options.small and options.device.startswith("cuda"):
        parser.error("--small is for the CPU")
    return options


def prepare(options: argparse.Namespace, deadline: Deadline) -> Comparison:
    """Open the record, claim the folder and choose the device."""
    tiles = None if options.tiles == "all" else int(options.tiles)
    splits = RecordSplits.open(
        options.data, target=options.target, side=options.coarsen, tiles=tiles
    )
    identity = {**splits.identity(), "members": options.members, "seed": options.seed}
    claim_folder(options.output, identity)
    best = "cuda" if torch.cuda.is_available() and not options.small else "cpu"
    device = torch.device(best if options.device == "auto" else options.device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    small = options.small or device.type == "cpu"
    preset = options.preset or ("small" if small else "base")
    return Comparison(
        splits=splits,
        folder=options.output,
        device=device,
        minutes=(20.0 if small else 15.0) if options.minutes is None else options.minutes,
        members=options.members,
        seed=options.seed,
        small=small,
        workers=options.workers,
        deadline=deadline,
        rates=not options.no_rates,
        generator={"preset": preset, **options.generator},
        fit=options.fit,
        edm=options.edm,
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    run = None
    with Deadline(options.stop_after) as deadline:
        run = prepare(options, deadline)
        for name in options.methods:
            if run.place(f"{name}.json").exists():
                print(f"{name}: done already; remove {run.place(name)}.json to repeat it")
            elif name == "rainfarm" and not rainfarm.available():
                print("rainfarm: left out, it needs pysteps (pip install pysteps)")
            else:
                print(f"{name}: starts", flush=True)
                METHODS[name](run)
    if run is not None:
        assemble(run)
    return deadline.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""Skill against the length of the record, from nothing and from a start, at equal steps.

    python -m benchmarks.skill.learning_curve --output DIR --start rain-radar [--data STORE]

Without ``--data`` this uses the radar that comes with xcvae. A record of your own is a Zarr store
or NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on, 2 to report. ``--start`` must not have seen it. The condition is its block
means.

For every length of the record (evenly spaced training samples, a number, a share such as 5%, or
all) and every seed, one model is trained from nothing and one from the start, the same steps each.
The rate is the default of each. With 0 samples the start draws as it is. Prior members of test
samples are scored by `xcvae.evaluate`. A share of the shorter records is held back to calibrate.

Each training writes one JSON file to the folder, so that a call that is interrupted is continued by
the next one. At its end a call prints a table, and writes curve.json and curve.png.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.record_splits import RecordSplits
from benchmarks.harness.results import claim_folder, write_json

SCORES = (
    "crps", "crps_skill", "spread_skill", "spectral_distance", "mass_bias", "rank_deviation",
    "wet_fraction", "wet_fraction_observed", "p99_ratio", "p999_ratio",
)  # fmt: skip
SHOWN = ("crps", "crps_skill", "spread_skill", "spectral_distance", "mass_bias")
#: The best value of a score, as a line in the picture.
BEST = {"spread_skill": 1.0, "spectral_distance": 0.0, "mass_bias": 0.0}
ORIGINS = ("nothing", "start")
FIT: dict[str, Any] = {"batch_size": 8, "crop": 72, "validations": 8}


def count_of(text: str, available: int) -> int:
    """Return a number of samples from a number, a share or ``all``."""
    if text == "all":
        return available
    count = available * float(text[:-1]) / 100 if text.endswith("%") else float(text)
    return min(available, round(count))


def score(splits: RecordSplits, model: Any, options: argparse.Namespace) -> dict[str, float]:
    """Draw prior members of the test samples, and score them."""
    test = splits.test.ds
    if model.spec.random_scale:
        # A model of any factor reads it from the two grids.
        test = test.assign({f"{splits.target}_coarse": means_of(test[splits.target], splits.side)})
    dry = [{"name": "threshold", "value": options.threshold}]
    ensemble = xcvae.sample(
        test, model, members=options.members, postprocess=dry, device=options.device
    )
    card = xcvae.evaluate(
        test, ensemble, metrics=list(SCORES), baselines=["bilinear"], progress=False
    )
    return {name: float(card[name].sel(source="xcvae")) for name in SCORES}


def means_of(fine: xr.DataArray, side: int) -> xr.DataArray:
    """Return the means over blocks, with the attributes of the rain."""
    y, x = (str(dim) for dim in fine.dims[1:])
    means = fine.coarsen({y: side, x: side}).mean()
    return means.rename({y: f"{y}_coarse", x: f"{x}_coarse"}).assign_attrs(fine.attrs)


def trained(
    splits: RecordSplits, count: int, origin: str, seed: int, options: argparse.Namespace
) -> Any:
    """Train a model on so many samples; with none, take the start as it is."""
    if count == 0:
        model = xcvae.load(options.start)
        return model if model.spec.random_scale else model.rename_for(splits.test.ds)
    record = splits.train.take(splits.train.spaced(count)).ds
    return xcvae.train(
        record,
        target=splits.target,
        coarsen=splits.side,
        start=options.start if origin == "start" else None,
        validation=options.validation,
        fit={**FIT, "max_steps": options.steps, **options.fit},
        seed=seed,
        device=options.device,
        progress=False,
    )


def measure(splits: RecordSplits, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is missing, and return all results."""
    found = []
    available = len(splits.train)
    for text, seed, origin in itertools.product(options.frames, options.seeds, ORIGINS):
        count = count_of(text, available)
        if count == 0 and (origin == "nothing" or seed != options.seeds[0]):
            continue
        file = options.output / f"{origin}-{count}-{seed}.json"
        if not file.exists():
            model = trained(splits, count, origin, seed, options)
            row = {"origin": origin, "samples": count, "seed": seed}
            row |= {"temperature": model.training["temperature"], "steps": model.training["steps"]}
            write_json(file, {**row, **score(splits, model, options)})
        found.append(json.loads(file.read_text(encoding="utf-8")))
        print(line(found[-1]), flush=True)
    return found


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the table."""
    numbers = " ".join(f"{row[name]:>9.4f}" for name in SCORES)
    return f"{row['origin']:<8} {row['samples']:>6} {row['seed']:>4} {numbers}"


def plot(found: Sequence[Mapping[str, Any]], place: Path, steps: int) -> None:
    """Draw the scores against the number of samples: one line per origin, one point per seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(SHOWN), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    counts = sorted({int(row["samples"]) for row in found})
    for axes, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        for origin, color in zip(ORIGINS, ("0.5", "tab:blue"), strict=True):
            rows = [row for row in found if row["origin"] == origin]
            places = [counts.index(int(row["samples"])) for row in rows]
            axes.plot(places, [row[name] for row in rows], "o", color=color, ms=3)
            means = [
                np.mean([row[name] for row in rows if row["samples"] == count] or [np.nan])
                for count in counts
            ]
            axes.plot(range(len(counts)), means, color=color, label=f"from {origin}")
        if name in BEST:
            axes.axhline(BEST[name], color="0.8", lw=0.8, zorder=0)
        axes.set(title=name, xticks=range(len(counts)), xticklabels=counts, xlabel="samples")
    figure.axes[0].legend(frameon=False)
    figure.suptitle(f"Prior members of test samples after {steps} steps")
    figure.savefig(place, dpi=120)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--start", required=True, help="name or path of the model to start from")
    parser.add_argument("--data", type=Path, help="record (default: the bundled radar)")
    parser.add_argument("--side", type=int, help="pixels along a block (12; 8 for --data)")
    parser.add_argument("--frames", type=comma_separated(), default="0,4,16,64,all")
    parser.add_argument("--seeds", type=comma_separated(int), default="0,1,2")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--tiles", type=int, default=96, help="test samples, evenly spaced")
    parser.add_argument("--threshold", default="0.06 mm h-1", help="less is dry in the members")
    parser.add_argument("--validation", type=float, default=0.15, help="share that is held back")
    parser.add_argument("--fit", type=json.loads, default={}, help="keys of fit, as JSON")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = _options(arguments)
    splits = RecordSplits.open(options.data, target=None, side=options.side, tiles=options.tiles)
    known = {k: str(v) for k, v in vars(options).items() if k not in ("frames", "seeds", "output")}
    claim_folder(options.output, {**splits.identity(), **known})
    print(f"{'from':<8} {'samples':>6} {'seed':>4} " + " ".join(f"{n[:9]:>9}" for n in SCORES))
    found = measure(splits, options)
    write_json(options.output / "curve.json", {"arena": splits.identity(), "rows": found})
    plot(found, options.output / "curve.png", options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Do synthetic storms help a network that is trained on them, at the extremes? Measured.

    python benchmarks/augmentation.py --output DIR [--data STORE] [--records 0.05,0.2,1]

Without ``--data`` this takes the radar that comes with xcvae. A record of your own is a Zarr store
or NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on, 2 to report.

For every share of the training samples (evenly spaced) a generator is trained on these samples
alone. It draws storms for them, from the posterior and the prior. A small super-resolution network
is then trained on the record, on the record with heavy samples duplicated, and on the record with
storms, the same steps each, and scored (`xcvae.verify.utility`). Which samples storms are drawn
for (heavy ones or all), which share of a batch they are, and how much of a storm is redrawn: that
is chosen on split 1, by the mean CSI of the quantile network trained on both kinds of storms. Split
2 is scored once, with what was chosen. Thresholds of events are quantiles of all training samples,
so that all records are asked for the same events.

The folder keeps the generators, the storms, and the counts of every network, so that a call that
is interrupted (``--stop-after``, or killed) goes on where it was; the exit code of the former is
75. At its end a call prints verdicts and writes augmentation.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from references.clock import Deadline, OutOfTime
from references.data import Arena, Split
from references.results import machine, write_json

import xcvae
from xcvae.verify import utility

STOPPED = 75
LEVELS = (0.95, 0.99, 0.999)
#: What is tried on split 1: samples that storms are drawn for, share of a batch, share redrawn.
GRID = tuple(itertools.product(("heavy", "all"), (0.25, 0.5), (0.3, 0.7)))
#: Most samples that storms are drawn for.
MOST_ROWS = 128
FIT: dict[str, Any] = {"batch_size": 8, "crop": 48, "validations": 4}


@dataclass(frozen=True)
class Cell:
    """One record: a share of the training samples, its generator and its storms."""

    record: Split
    folder: Path
    given: argparse.Namespace

    def model(self) -> Any:
        """Train the generator, or read it."""
        place = self.folder / "generator.xcvae"
        if place.exists():
            return xcvae.load(place)
        return xcvae.train(
            self.record.ds,
            target=self.record.target,
            coarsen=self.record.side,
            generator={"preset": "small", **self.given.generator},
            fit={**FIT, "max_steps": self.given.generator_steps, **self.given.fit},
            seed=self.given.seed,
            device=self.given.device,
            path=place,
        )

    def storms(self, model: Any, mode: str, samples: str, spread: float | None) -> xr.Dataset:
        """Draw storms for heavy samples or all, or read them."""
        record = self.record.ds
        rows = np.arange(len(self.record))
        if samples == "heavy":
            rows = np.flatnonzero(xcvae.heavy(record, target=self.record.target).values)
        rows = rows[np.unique(np.linspace(0, rows.size - 1, min(rows.size, MOST_ROWS)).astype(int))]
        sample = record[self.record.target].dims[0]
        redrawn = "" if spread is None else f"-{spread}"
        return xcvae.sample(
            record.isel({sample: rows}),
            model,
            mode=mode,
            members=max(2, -(-self.given.storms // rows.size)),
            spread=spread,
            seed=self.given.seed,
            store=self.folder / f"{mode}-{samples}{redrawn}.zarr",
            device=self.given.device,
        )

    def recipes(self, model: Any, samples: str, share: float, spread: float) -> utility.Recipes:
        """Make the recipes of a selection."""
        return utility.recipes(
            self.record.ds,
            posterior=self.storms(model, "posterior", samples, spread).load(),
            prior=self.storms(model, "prior", samples, None).load(),
            share=share,
            target=self.record.target,
        )

    def compare(self, test: Split, recipes: utility.Recipes, **options: Any) -> xr.Dataset:
        """Train and score networks, or read what they scored."""
        return utility.compare(
            self.record.ds,
            test.ds,
            recipes,
            coarsen=self.record.side,
            target=self.record.target,
            levels=LEVELS,
            network={"steps": self.given.steps, **self.given.network},
            device=self.given.device,
            keep=self.folder / "networks",
            **options,
        )


def chosen_on(validation: Split, cell: Cell, model: Any, thresholds: np.ndarray) -> dict[str, Any]:
    """Find the selection under which both kinds of storms help most."""
    tried = {"-".join(map(str, one)): one for one in GRID}
    recipes = {name: cell.recipes(model, *one)["both"] for name, one in tried.items()}
    found = cell.compare(
        validation, recipes, losses=["quantile"], seeds=cell.given.tune, thresholds=thresholds
    )
    csi = found["csi"].sel(loss="quantile").fillna(0.0).mean("level").to_series()
    best = str(csi.drop("record").idxmax())
    return {"selection": tried[best], "tried": {str(k): float(v) for k, v in csi.items()}}


def judged(arena: Arena, share: float, given: argparse.Namespace) -> dict[str, Any]:
    """Do all there is to do for one share of the training samples."""
    place = given.output / f"record-{share:g}" / "result.json"
    if place.exists():
        return dict(json.loads(place.read_text()))
    place.parent.mkdir(exist_ok=True)
    record = arena.train.take(arena.train.spaced(max(1, round(share * len(arena.train)))))
    cell = Cell(record, place.parent, given)
    thresholds = np.quantile(arena.train.fine.numpy(), LEVELS)
    tell(f"record of {len(record)} samples: generator")
    model = cell.model()
    tell("storms, and networks on validation")
    choice = chosen_on(arena.validation, cell, model, thresholds)
    tell(f"chosen: {choice['selection']}; networks on test")
    recipes = cell.recipes(model, *choice["selection"])
    found = cell.compare(arena.test, recipes, seeds=given.seeds, thresholds=thresholds)
    result = {
        "samples": len(record),
        **choice,
        "generator": {key: model.training[key] for key in ("steps", "minutes", "temperature")},
        "thresholds": thresholds.tolist(),
        "table": utility.table(found),
        "rows": rows_of(found),
    }
    write_json(place, result)
    return result


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def rows_of(found: xr.Dataset) -> list[dict[str, Any]]:
    """One row per loss, recipe, level and score: beside the record alone, and the ratio to it."""
    rows = []
    scores = [str(name) for name in found if "better" in found[name].attrs]
    for loss, level, recipe, score in itertools.product(
        found["loss"].values, found["level"].values, found["recipe"].values[1:], scores
    ):
        one = found.sel(loss=loss, level=level)
        value, base = (float(one[score].sel(recipe=r)) for r in (recipe, "record"))
        names = ("difference", "low", "high")
        figures = [float(one[f"{score}_{name}"].sel(recipe=recipe)) for name in names]
        figures = [value, base, value / base if base else np.nan, *figures]
        keys = ("value", "baseline", "ratio", *names)
        rows.append(
            {
                "loss": str(loss),
                "level": float(level),
                "recipe": str(recipe),
                "score": score,
                **{k: v if np.isfinite(v) else None for k, v in zip(keys, figures, strict=True)},
                "unit": found[score].attrs["units"],
                "verdict": str(one[f"{score}_verdict"].sel(recipe=recipe).item()),
            }
        )
    return rows


def summary(results: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Count verdicts by recipe, over records, losses, levels and scores."""
    counted: dict[str, Counter[str]] = {}
    for row in itertools.chain.from_iterable(result["rows"] for result in results.values()):
        counted.setdefault(row["recipe"], Counter())[row["verdict"]] += 1
    return {recipe: dict(counter) for recipe, counter in counted.items()}


def assemble(given: argparse.Namespace) -> None:
    """Print and write what is done."""
    identity = json.loads((given.output / "arena.json").read_text())
    results = {}
    for share in given.records:
        place = given.output / f"record-{share:g}" / "result.json"
        if place.exists():
            results[f"{share:g}"] = json.loads(place.read_text())
    for share, result in results.items():
        samples, part, spread = result["selection"]
        print(
            f"\n{identity['data']}, {share} of the training samples ({result['samples']}); storms "
            f"of {samples} samples, share {part}, spread {spread}"
        )
        print(result["table"])
    counted = summary(results)
    for recipe, verdicts in counted.items():
        said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        print(f"{recipe}: {said}")
    content = {"arena": identity, "device": machine("cpu"), "verdicts": counted, "records": results}
    write_json(given.output / "augmentation.json", content)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for results and what they are made of")
    add("--data", type=Path, help="the record; default: the radar that comes with xcvae")
    add("--target", help="name of the rain; default: pr_hr or pr")
    add("--coarsen", type=int, help="pixels along a side of a block; default 8, bundled radar 12")
    add("--tiles", type=int, help="samples of split 1 and 2 each, evenly spaced; default: all")
    add("--records", default="0.05,0.2,1", help="shares of the training samples")
    add("--seeds", type=int, default=5, help="networks of each recipe and loss")
    add("--tune", type=int, default=2, help="networks of each selection that is tried")
    add("--steps", type=int, default=300, help="of each network")
    add("--generator-steps", type=int, default=1000)
    add("--storms", type=int, default=256, help="of each kind")
    add("--generator", type=json.loads, default={}, help="JSON: more of xcvae's generator")
    add("--fit", type=json.loads, default={}, help="JSON: keys of xcvae's fit")
    add("--network", type=json.loads, default={}, help="JSON: keys of the networks")
    add("--device", default="cpu", choices=("auto", "cpu", "cuda"))
    add("--stop-after", type=float, help="seconds; the next call goes on")
    add("--seed", type=int, default=0, help="of generator and storms")
    given = parser.parse_args(argv)
    given.records = [float(share) for share in given.records.split(",")]
    if not all(0 < share <= 1 for share in given.records):
        parser.error("--records: shares above 0, up to 1")
    return given


def _arena(given: argparse.Namespace) -> Arena:
    """Open the data, and refuse a folder with results of other data or settings."""
    arena = Arena.open(given.data, target=given.target, side=given.coarsen, tiles=given.tiles)
    if given.tiles is not None:
        few = arena.validation.take(arena.validation.spaced(given.tiles))
        arena = Arena(arena.name, arena.target, arena.side, arena.train, few, arena.test)
    loose = ("output", "data", "records", "stop_after")
    settings = {key: value for key, value in vars(given).items() if key not in loose}
    identity = {**arena.identity(), "settings": settings, "fit": FIT}
    given.output.mkdir(parents=True, exist_ok=True)
    place = given.output / "arena.json"
    if place.exists() and json.loads(place.read_text()) != identity:
        raise SystemExit(f"{given.output} holds results of {place.read_text()}, not {identity}")
    write_json(place, identity)
    return arena


def main(argv: list[str] | None = None) -> int:
    given = _arguments(argv)
    deadline = Deadline(given.stop_after)
    code = 0
    try:
        arena = _arena(given)
        for share in given.records:
            judged(arena, share, given)
    except OutOfTime:
        code = STOPPED
        print("out of time: run the same command again to go on", flush=True)
    finally:
        deadline.close()
    assemble(given)
    return code


if __name__ == "__main__":
    sys.exit(main())

"""Effect of synthetic storms on a network that is trained on them, at the extremes.

    python -m benchmarks.skill.augmentation --output DIR [--data STORE] [--records 0.05,0.2,1]

Without ``--data`` this uses the radar that comes with xcvae. A record of your own is a Zarr store
or NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on, 2 to report.

For every share of the training samples (evenly spaced) a generator is trained on these samples
alone. It draws storms for them, from the posterior and the prior. A small super-resolution network
is then trained on the record, on the record with heavy samples duplicated, and on the record with
storms, the same steps each, and scored (`xcvae.verify.utility`). A selection is the samples that
storms are drawn for (heavy ones or all), their share of a batch, and the share of a storm that is
redrawn. It is chosen on split 1, by the mean CSI of the quantile network trained on both kinds of
storms. Split 2 is scored once, with this selection. Thresholds of events are quantiles of all
training samples, so that the events are the same for all records.

The folder keeps the generators, the storms, and the counts of every network, so that a call that
is interrupted (``--stop-after``, or killed) is continued by the next one; the exit code is then 75.
At its end a call prints verdicts and writes augmentation.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import RecordSplits, Split
from benchmarks.harness.results import claim_folder, machine, write_json
from xcvae.verify import utility

LEVELS = (0.95, 0.99, 0.999)
#: Samples that storms are drawn for, their share of a batch, share of a storm that is redrawn.
Selection = tuple[str, float, float]
#: Selections tried on split 1.
SELECTIONS: tuple[Selection, ...] = tuple(
    itertools.product(("heavy", "all"), (0.25, 0.5), (0.3, 0.7))
)
#: Most samples that storms are drawn for.
MOST_SAMPLES = 128
FIT: dict[str, Any] = {"batch_size": 8, "crop": 48, "validations": 4}


@dataclass(frozen=True)
class Experiment:
    """Generator, storms and networks of one share of the training samples.

    Attributes
    ----------
    record
        The share.
    folder
        Where all is kept.
    options
        Of the command line.
    """

    record: Split
    folder: Path
    options: argparse.Namespace

    def model(self) -> Any:
        """Train the generator, or read it."""
        place = self.folder / "generator.xcvae"
        if place.exists():
            return xcvae.load(place)
        return xcvae.train(
            self.record.ds,
            target=self.record.target,
            coarsen=self.record.side,
            generator={"preset": "small", **self.options.generator},
            fit={**FIT, "max_steps": self.options.generator_steps, **self.options.fit},
            seed=self.options.seed,
            device=self.options.device,
            path=place,
        )

    def storms(self, model: Any, mode: str, samples: str, spread: float | None) -> xr.Dataset:
        """Draw storms for heavy samples or all, or read them."""
        record = self.record.ds
        rows = np.arange(len(self.record))
        if samples == "heavy":
            rows = np.flatnonzero(xcvae.heavy(record, target=self.record.target).values)
        rows = rows[
            np.unique(np.linspace(0, rows.size - 1, min(rows.size, MOST_SAMPLES)).astype(int))
        ]
        sample = record[self.record.target].dims[0]
        suffix = "" if spread is None else f"-{spread}"
        return xcvae.sample(
            record.isel({sample: rows}),
            model,
            mode=mode,
            members=max(2, -(-self.options.storms // rows.size)),
            spread=spread,
            seed=self.options.seed,
            store=self.folder / f"{mode}-{samples}{suffix}.zarr",
            device=self.options.device,
        )

    def recipes(self, model: Any, samples: str, share: float, spread: float) -> utility.Recipes:
        """Return the recipes of a selection."""
        return utility.recipes(
            self.record.ds,
            posterior=self.storms(model, "posterior", samples, spread).load(),
            prior=self.storms(model, "prior", samples, None).load(),
            share=share,
            target=self.record.target,
        )

    def compare(self, test: Split, recipes: utility.Recipes, **options: Any) -> xr.Dataset:
        """Train and score networks, or read their scores."""
        return utility.compare(
            self.record.ds,
            test.ds,
            recipes,
            coarsen=self.record.side,
            target=self.record.target,
            levels=LEVELS,
            network={"steps": self.options.steps, **self.options.network},
            device=self.options.device,
            keep=self.folder / "networks",
            **options,
        )


def choose_selection(
    validation: Split,
    experiment: Experiment,
    model: Any,
    thresholds: np.ndarray,
    selections: Sequence[Selection],
) -> dict[str, Any]:
    """Find the selection with which both kinds of storms help most."""
    by_name = {"-".join(map(str, one)): one for one in selections}
    recipes = {name: experiment.recipes(model, *one)["both"] for name, one in by_name.items()}
    found = experiment.compare(
        validation,
        recipes,
        losses=["quantile"],
        seeds=experiment.options.tune,
        thresholds=thresholds,
    )
    csi = found["csi"].sel(loss="quantile").fillna(0.0).mean("level").to_series()
    best = str(csi.drop("record").idxmax())
    return {"selection": by_name[best], "tried": {str(k): float(v) for k, v in csi.items()}}


def result_of(
    splits: RecordSplits,
    share: float,
    options: argparse.Namespace,
    selections: Sequence[Selection],
) -> dict[str, Any]:
    """Train, choose and score for one share of the training samples, or read its result."""
    place = options.output / f"record-{share:g}" / "result.json"
    if place.exists():
        return dict(json.loads(place.read_text()))
    place.parent.mkdir(exist_ok=True)
    train = splits.train
    record = train.take(train.spaced(max(1, round(share * len(train)))))
    experiment = Experiment(record, place.parent, options)
    thresholds = np.quantile(train.fine.numpy(), LEVELS)
    log(f"record of {len(record)} samples: generator")
    model = experiment.model()
    log("storms, and networks on validation")
    choice = choose_selection(splits.validation, experiment, model, thresholds, selections)
    log(f"chosen: {choice['selection']}; networks on test")
    recipes = experiment.recipes(model, *choice["selection"])
    found = experiment.compare(
        splits.test,
        recipes,
        losses=["l1", "quantile"],
        seeds=options.seeds,
        thresholds=thresholds,
    )
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


def log(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {message}", flush=True)


def rows_of(found: xr.Dataset) -> list[dict[str, Any]]:
    """Return one row per loss, recipe, level and score, beside that of the record alone."""
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


def assemble(options: argparse.Namespace) -> None:
    """Print and write all results in the folder."""
    identity = json.loads((options.output / "arena.json").read_text())
    results = {}
    for share in options.records:
        place = options.output / f"record-{share:g}" / "result.json"
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
        listed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        print(f"{recipe}: {listed}")
    content = {"arena": identity, "device": machine("cpu"), "verdicts": counted, "records": results}
    write_json(options.output / "augmentation.json", content)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_experiment("cpu", network="keys of the networks")
    add = parser.add_argument
    add("--tiles", type=int, help="samples of split 1 and 2 each, evenly spaced; default: all")
    add(
        "--records",
        type=comma_separated(float),
        default=[0.05, 0.2, 1.0],
        help="shares of the training samples; default: 0.05,0.2,1",
    )
    add("--seeds", type=int, default=5, help="networks of each recipe and loss")
    add("--tune", type=int, default=2, help="networks of each selection that is tried")
    add("--steps", type=int, default=300, help="of each network")
    add("--generator-steps", type=int, default=1000)
    add("--storms", type=int, default=256, help="of each kind")
    add("--seed", type=int, default=0, help="of generator and storms")
    options = parser.parse_args(argv)
    if not all(0 < share <= 1 for share in options.records):
        parser.error("--records: shares above 0, up to 1")
    return options


def open_splits(options: argparse.Namespace) -> RecordSplits:
    """Open the record, and claim the folder for it and for these settings."""
    splits = RecordSplits.open(
        options.data, target=options.target, side=options.coarsen, tiles=options.tiles
    )
    if options.tiles is not None:
        few = splits.validation.take(splits.validation.spaced(options.tiles))
        splits = replace(splits, validation=few)
    elsewhere = ("output", "data", "records", "stop_after")
    settings = {key: value for key, value in vars(options).items() if key not in elsewhere}
    claim_folder(options.output, {**splits.identity(), "settings": settings, "fit": FIT})
    return splits


def main(argv: Sequence[str] | None = None, *, selections: Sequence[Selection] = SELECTIONS) -> int:
    options = parse_arguments(argv)
    with Deadline(options.stop_after) as deadline:
        splits = open_splits(options)
        for share in options.records:
            result_of(splits, share, options, selections)
    assemble(options)
    return deadline.exit_code


if __name__ == "__main__":
    sys.exit(main())

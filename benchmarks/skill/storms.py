"""Storms that a record does not have: effect on a network that is trained on a censored record.

    python -m benchmarks.skill.storms --output DIR [--data STORE] [--samples 128] [--model FILE]

From the training samples the heaviest tenth is removed (``--censor``; 0 for none, and then nothing
is borrowed), and of the rest so many are taken as ``--samples`` says, evenly spaced. A generator is
trained on these samples alone, or from the weights of another one (``--start``), or ``--model``
names one that is ready. A super-resolution network with quantile heads is trained on the record,
and on the record and storms: heavy samples again (``duplicated``), real pairs times factors
(``scaled``), members for the same conditions (``prior``), for conditions times the same factors
(``amplified``), for shifted ones (``moved``), and for the coarse fields of samples that were
removed, as another record or a model run has them (``borrowed``). All are tested on the heaviest
tenth of the test samples. Thresholds of events are quantiles of all training samples.

The folder keeps generator, storms and counts, so that an interrupted call is continued by the next.
At its end a call prints verdicts, against the record and ``scaled``, and writes storms.json.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import RecordSplits, Split
from benchmarks.harness.results import claim_folder, machine, write_json
from benchmarks.skill.augmentation import FIT, LEVELS, log, rows_of
from xcvae.verify import utility

SHIFT = {"name": "shift", "y": 2, "x": -2}


def plain(split: Split) -> xr.Dataset:
    """Return the samples under one name and without a place, as any model of rain takes them."""
    rain = split.ds[split.target].drop_vars(list(split.ds.coords))
    rain = rain.rename(dict(zip(rain.dims, ("sample", "y", "x"), strict=True)))
    return rain.assign_coords(sample=np.arange(len(split))).to_dataset(name="pr")


def censored(train: xr.Dataset, options: argparse.Namespace) -> tuple[xr.Dataset, xr.Dataset]:
    """Return the record, and the samples that were removed from it."""
    removed = np.zeros(train.sizes["sample"], bool)
    if options.censor:
        removed = utility.heaviest(train, options.censor, target="pr").values
    rest = np.flatnonzero(~removed)
    count = len(rest) if options.samples is None else min(options.samples, len(rest))
    rows = rest[np.unique(np.linspace(0, len(rest) - 1, count).astype(int))]
    return train.isel(sample=rows), train.isel(sample=np.flatnonzero(removed))


def generator(record: xr.Dataset, side: int, options: argparse.Namespace) -> Any:
    """Train the generator on the record, or read it."""
    place = options.model or options.output / "generator.xcvae"
    if place.exists():
        return xcvae.load(place)
    ladder = {} if options.start else {"preset": "small"}
    return xcvae.train(
        record,
        target="pr",
        coarsen=side,
        start=options.start,
        generator={**ladder, **options.generator} or None,
        fit={**FIT, "max_steps": options.generator_steps, **options.fit},
        device=options.device,
        path=place,
    )


def coarse(ds: xr.Dataset, side: int) -> xr.Dataset:
    """Return block means alone, as another record or a model run has them."""
    means = ds.pr.coarsen(y=side, x=side).mean().rename(y="y_coarse", x="x_coarse")
    return means.assign_attrs(ds.pr.attrs).to_dataset(name="pr_coarse")


def recipes(
    record: xr.Dataset, removed: xr.Dataset, model: Any, side: int, options: argparse.Namespace
) -> utility.Recipes:
    """Draw all storms for the heaviest samples of the record, and return the recipes."""
    heavy = record.isel(sample=utility.heaviest(record, options.source, target="pr").values)

    def drawn(name: str, ds: xr.Dataset, storms: object, parts: int = 1) -> xr.Dataset:
        return xcvae.sample(
            ds,
            model,
            members=max(1, round(options.storms / parts / ds.sizes["sample"])),
            storms=storms,
            store=options.output / f"{name}.zarr",
            device=options.device,
        ).load()

    stronger = [
        drawn(f"amplified-{f:g}", heavy, {"name": "amplify", "factor": f}, len(options.factors))
        for f in options.factors
    ]
    storms: dict[str, xr.Dataset | list[xr.Dataset]] = {
        "amplified": stronger,
        "moved": drawn("moved", heavy, SHIFT),
    }
    if removed.sizes["sample"]:
        elsewhere = coarse(removed, side).assign_coords(sample=10**6 + removed.sample)
        borrowed = {"name": "borrow", "source": "block means of samples that were removed"}
        storms["borrowed"] = drawn("borrowed", elsewhere, borrowed)
    return utility.recipes(
        record,
        prior=drawn("prior", heavy, None),
        storms=storms,
        share=options.share,
        target="pr",
    )


def run(options: argparse.Namespace) -> None:
    """Draw storms, train networks, and print the verdicts."""
    splits = RecordSplits.open(
        options.data, target=options.target, side=options.coarsen, tiles=None
    )
    left_out = ("output", "data", "stop_after", "model")
    settings = {key: value for key, value in vars(options).items() if key not in left_out}
    settings["model"] = None if options.model is None else xcvae.load(options.model).sha256
    claim_folder(options.output, {**splits.identity(), "settings": settings, "fit": FIT})
    side = splits.side
    train, test = (
        ds.isel({dim: slice(ds.sizes[dim] // side * side) for dim in ("y", "x")})
        for ds in (plain(splits.train), plain(splits.test))
    )
    record, removed = censored(train, options)
    test = test.isel(sample=utility.heaviest(test, options.tested, target="pr").values)
    limits = np.quantile(train.pr.values, LEVELS)
    log(f"record of {record.sizes['sample']} samples, heaviest pixel {float(record.pr.max()):.3g}")
    model = generator(record, side, options)
    log("storms")
    mixes = recipes(record, removed, model, side, options)
    log(f"networks, tested on {test.sizes['sample']} samples")
    found = {
        against: utility.compare(
            record,
            test,
            mixes,
            coarsen=side,
            target="pr",
            losses=options.losses,
            levels=LEVELS,
            thresholds=limits,
            seeds=options.seeds,
            network={"steps": options.steps, **options.network},
            device=options.device,
            keep=options.output / "networks",
            against=against,
        )
        for against in ("record", "scaled")
    }
    report(options, found, record, model)


def report(
    options: argparse.Namespace, found: dict[str, xr.Dataset], record: xr.Dataset, model: Any
) -> None:
    """Print and write tables and verdicts."""
    verdicts: dict[str, dict[str, dict[str, int]]] = {}
    for against, scores in found.items():
        print(f"\nagainst {against}\n{utility.table(scores)}")
        verdicts[against] = {}
        for name in scores["recipe"].values:
            if name == against:
                continue
            cells = [scores[f"{one}_verdict"].sel(recipe=name) for one in utility.SCORES]
            counted = Counter(np.concatenate([one.values.ravel() for one in cells]).tolist())
            verdicts[against][str(name)] = dict(counted)
            listed = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counted.items()))
            print(f"{name} against {against}: {listed}")
    content = {
        "samples": record.sizes["sample"],
        "heaviest": float(record.pr.max()),
        "generator": model.training.get("steps"),
        "device": machine("cpu"),
        "verdicts": verdicts,
        "rows": rows_of(found["record"]),
    }
    write_json(options.output / "storms.json", content)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_experiment("cpu", network="keys of the networks")
    add = parser.add_argument
    add("--model", type=Path, help="generator; default: one trained on the record alone")
    add("--start", help="model, or name of a bundled one, that the generator starts from")
    add("--samples", type=int, help="of the record; default: all that remain")
    add("--censor", type=float, default=0.1, help="share of the heaviest samples that is removed")
    add("--tested", type=float, default=0.1, help="share of the heaviest samples that is tested")
    add("--source", type=float, default=0.25, help="share of the record that storms are drawn for")
    add("--factors", type=comma_separated(float), default=[1.5, 2.5], help="of amplified storms")
    add("--storms", type=int, default=192, help="of each kind")
    add("--share", type=float, default=0.5, help="of storms in a batch")
    add("--losses", type=comma_separated(str), default=["heads"], help="of the networks")
    add("--seeds", type=int, default=5, help="networks of each recipe and loss")
    add("--steps", type=int, default=1000, help="of each network")
    add("--generator-steps", type=int, default=1000)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    with Deadline(options.stop_after) as deadline:
        run(options)
    return deadline.exit_code


if __name__ == "__main__":
    sys.exit(main())

"""Rain heavier than the record: train without the heaviest samples, then draw them.

    python -m benchmarks.skill.extrapolation --output DIR [--data STORE] [--share 0.1]

The training samples whose coarse rain has the heaviest cells (a tenth by default) are kept out. A
model is trained on the rest ("light"), and one on all of them ("whole", for which they are no
test). Samples are picked by what members are drawn from, not by the fine rain: a pick by the
outcome would call every right distribution too light. Both draw the samples that were kept out,
with the default cap of a pixel and with none.

Return levels are quantiles of the largest pixel of a sample: of N samples kept out one in T exceeds
the level of T, pooled over members, beside the observed one. The 95 % interval of their ratio draws
runs of neighbouring samples again. Other scores are over all pixels of the samples kept out. Each
training writes a model and a JSON file to the folder. A call that is interrupted (``--stop-after``,
or killed) is continued by the next one; the exit code is then 75.
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
from numpy.typing import NDArray

import xcvae
from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import RecordSplits, Split
from benchmarks.harness.results import claim_folder, write_json

SCORES = ("crps", "crps_skill", "spread_skill", "mass_bias", "p99_ratio", "p999_ratio")
#: One in so many of the samples that were kept out.
PERIODS = (2, 5, 10, 20, 50)
RECORDS, CAPS = ("light", "whole"), (None, "none")
BLOCKS, DRAWS = 16, 500
FIT: dict[str, Any] = {"batch_size": 8, "crop": 72, "validations": 8}


def heaviest(train: Split, share: float) -> NDArray[np.bool_]:
    """Mark the samples with the heaviest cells; as many as the share says, two at least."""
    largest = train.coarse.flatten(1).amax(1).numpy()
    count = max(2, round(share * largest.size))
    marks = np.zeros(largest.size, bool)
    marks[np.argsort(largest, kind="stable")[-count:]] = True
    return marks


def return_levels(maxima: NDArray[Any]) -> NDArray[np.float64]:
    """Return the amounts that one in `PERIODS` samples exceeds; maxima of any shape."""
    return np.quantile(maxima.astype(np.float64), 1 - 1 / np.array(PERIODS))


def level_rows(members: NDArray[Any], observed: NDArray[Any]) -> list[dict[str, float]]:
    """Compare the return levels of members with those observed.

    Parameters
    ----------
    members
        Largest pixel of every field, (member, sample).
    observed
        (sample,).

    Returns
    -------
    list
        Of every period: both levels, and their ratio with a 95 % interval.
    """
    rng = np.random.default_rng(0)
    blocks = np.array_split(np.arange(observed.size), min(BLOCKS, observed.size))
    ratios = []
    for _ in range(DRAWS):
        rows = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks))])
        ratios.append(return_levels(members[:, rows]) / return_levels(observed[rows]))
    low, high = np.quantile(ratios, [0.025, 0.975], axis=0)
    own, seen = return_levels(members), return_levels(observed)
    columns = zip(PERIODS, own, seen, own / seen, low, high, strict=True)
    names = ("period", "members", "observed", "ratio", "low", "high")
    return [dict(zip(names, map(float, column), strict=True)) for column in columns]


def trained(
    splits: RecordSplits, train: Split, options: argparse.Namespace, seed: int, place: Path
) -> Any:
    """Train by the public API, or read the model; the validation samples choose the weights."""
    if place.exists():
        return xcvae.load(place)
    return xcvae.train(
        train.ds,
        target=splits.target,
        coarsen=splits.side,
        start=options.start,
        validation=splits.validation.ds,
        generator=options.generator,
        fit={**FIT, "max_steps": options.steps, **options.fit},
        seed=seed,
        device=options.device,
        path=place,
        progress=False,
    )


def measure(model: Any, heavy: Split, cap: str | None, options: argparse.Namespace) -> Any:
    """Draw the samples that were kept out, and score them."""
    ds = heavy.ds
    dry = [{"name": "threshold", "value": options.threshold}]
    ensemble = xcvae.sample(
        ds, model, members=options.members, postprocess=dry, cap=cap, device=options.device
    ).load()
    card = xcvae.evaluate(
        ds, ensemble, metrics=list(SCORES), baselines=["bilinear"], progress=False
    )
    card = card.sel(source="xcvae")
    values = ensemble[heavy.target].transpose("realization", *ds[heavy.target].dims).values
    levels = level_rows(values.max((2, 3)), ds[heavy.target].values.max((1, 2)))
    return {"levels": levels, **{name: float(card[name]) for name in SCORES}}


def run(splits: RecordSplits, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what is missing, and return all rows."""
    marks = heaviest(splits.train, options.share)
    heavy = splits.train.take(np.flatnonzero(marks))
    trains = {"light": splits.train.take(np.flatnonzero(~marks)), "whole": splits.train}
    for name, part in (("kept out", heavy), ("light", trains["light"])):
        cell, pixel = float(part.coarse.max()), float(part.fine.max())
        print(f"{name}: {len(part)} samples, heaviest cell {cell:.1f}, pixel {pixel:.1f} mm/h")
    rows = []
    for seed, record in itertools.product(options.seeds, RECORDS):
        file = options.output / f"{record}-{seed}.json"
        if not file.exists():
            place = options.output / f"{record}-{seed}.xcvae"
            model = trained(splits, trains[record], options, seed, place)
            found = [
                {"record": record, "seed": seed, "cap": cap or "default"}
                | measure(model, heavy, cap, options)
                for cap in CAPS
            ]
            write_json(file, found)
        rows += json.loads(file.read_text(encoding="utf-8"))
        print("\n".join(line(row) for row in rows[-len(CAPS) :]), flush=True)
    return rows


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the table."""
    numbers = " ".join(f"{row[name]:>9.3f}" for name in SCORES)
    levels = " ".join(
        f"{one['ratio']:.2f} ({one['low']:.2f} {one['high']:.2f})" for one in row["levels"]
    )
    return f"{row['record']:<6} {row['seed']:>4} {row['cap']:>8} {numbers}  {levels}"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_experiment("auto")
    parser.add_argument("--share", type=float, default=0.1, help="of the samples, to keep out")
    parser.add_argument("--start", help="name or path of a model to start from")
    parser.add_argument("--seeds", type=comma_separated(int), default="0,1,2")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--threshold", default="0.1 mm h-1", help="less is dry in the members")
    options = parser.parse_args(arguments)
    if options.members < 1 or options.steps < 1 or not 0 <= options.share < 1:
        parser.error(
            "expected --members and --steps of at least 1, and a --share from 0 to below 1"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    options = _options(arguments)
    splits = RecordSplits.open(
        options.data, target=options.target, side=options.coarsen, tiles=None
    )
    if heaviest(splits.train, options.share).all():
        raise SystemExit(f"--share {options.share:g} of {len(splits.train)} samples leaves none")
    known = {
        key: getattr(options, key)
        for key in ("share", "start", "steps", "members", "threshold", "generator", "fit")
    }
    claim_folder(options.output, {**splits.identity(), **known})
    levels = " ".join(f"1 in {period:<10}" for period in PERIODS)
    print(f"{'train':<6} {'seed':>4} {'cap':>8} " + " ".join(f"{n[:9]:>9}" for n in SCORES), levels)
    with Deadline(options.stop_after) as deadline:
        write_json(options.output / "extrapolation.json", {"rows": run(splits, options)})
    return deadline.exit_code


if __name__ == "__main__":
    sys.exit(main())

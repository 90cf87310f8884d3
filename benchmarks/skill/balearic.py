"""Pressure fields over a continent to daily rain on islands: train, draw, score beside baselines.

    python -m benchmarks.skill.balearic --data STORE [--minutes 10] [--device cuda] [--output DIR]

The store is a Zarr record of daily rain ``pr`` (time, y, x) with NaN over sea, and weather maps on
a grid of their own that is coarser and wider (by default ``mslp``, ``z500``, ``t850``), on the same
days, with ``split`` along time: 0 to train on, 1 to tune on, 2 to report. The conditions are
neither rain nor a coarsening of it.

The baselines are random days of the training years ("climatology"), random days of the same season
(a window of 30 days), and the classical method, the rain of the 16 and 30 training days whose
weather is nearest on 12 principal components. All land cells and days count; CRPS is fair, so that
it does not depend on the number of members.

``--tune`` scores the years of split 1 instead of those of split 2, for choosing a recipe; the best
weights of a training are picked by its CRPS there in any case. ``--recipe``, ``--generator``,
``--fit`` and ``--stages`` (JSON) change the training. With ``--minutes 0`` only the baselines are
scored.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import write_json
from benchmarks.models.analogs import Analogs, principal_components

FIELDS = ("mslp", "z500", "t850")
#: Components and season stand for the fields in the recipe "components".
COMPONENTS = 12
DAYS_PER_YEAR = 365.25
#: What a trained model should reach: skill over climatology, and spread over skill.
LEAST_SKILL, SPREAD_SKILL = 0.18, (0.9, 1.1)
#: Names of the baselines in the table.
CLIMATOLOGY = "climatology"
NAMES = (CLIMATOLOGY, "30-day window", "16 analogs", "30 analogs")

RECIPE: dict[str, Any] = {
    "generator": {"preset": "small"},
    "fit": {"batch_size": 32, "learning_rate": 1e-3, "weight_decay": 0.05, "monitor": "crps"},
    "stages": [{"losses": ["crps"]}],
}


def splits_of(record: xr.Dataset) -> list[xr.Dataset]:
    """Cut a record into training, validation and test days, in memory."""
    number = record["split"].values
    parts = [record.isel(time=np.flatnonzero(number == split)) for split in (0, 1, 2)]
    for name, part in zip(("train", "validation", "test"), parts, strict=True):
        if part.sizes["time"] == 0:
            raise SystemExit(f"{name}: the record has no days with that split")
    return [part.load() for part in parts]


def with_components(parts: Sequence[xr.Dataset], fields: Sequence[str]) -> list[str]:
    """Add whitened components of the weather maps, and the season, to all parts; return names."""
    train = parts[0]
    for part in parts:
        known, queried = principal_components(train, part, fields, COMPONENTS)
        values = (queried / known.std(0)).astype(np.float32)
        angle = 2 * np.pi * part["time"].dt.dayofyear / DAYS_PER_YEAR
        for name, wave in (("season_cosine", np.cos(angle)), ("season_sine", np.sin(angle))):
            part[name] = wave.astype(np.float32).assign_attrs(units="1")
        for number in range(COMPONENTS):
            part[f"component_{number}"] = ("time", values[:, number], {"units": "1"})
    seasons = ["season_cosine", "season_sine"]
    return [*(f"component_{number}" for number in range(COMPONENTS)), *seasons]


def baselines_for(train: xr.Dataset, scored: xr.Dataset, fields: Sequence[str]) -> list[Any]:
    """Make the baselines, in the order of `NAMES`."""
    record = train[["pr"]]
    return [
        {"name": CLIMATOLOGY, "record": record},
        {"name": CLIMATOLOGY, "record": record, "window": 30},
        Analogs(train, scored, fields, members=16),
        Analogs(train, scored, fields, members=30),
    ]


def random_days(train: xr.Dataset, scored: xr.Dataset, members: int, seed: int) -> xr.Dataset:
    """Draw random training days as an ensemble, so that baselines can be scored without a model."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(train.sizes["time"])[:members] for _ in scored["time"]], 1)
    values = train["pr"].transpose("time", "y", "x").values[rows]
    ensemble = xr.DataArray(
        values,
        dims=("realization", "time", "y", "x"),
        coords=scored["pr"].coords,
        attrs=scored["pr"].attrs,
    )
    return ensemble.to_dataset(name="pr")


def scores_of(
    scored: xr.Dataset, ensemble: xr.Dataset, baselines: Sequence[Any], own: str
) -> dict[str, dict[str, float]]:
    """Score an ensemble and the baselines; skill is over the climatology of the same call."""
    card = xcvae.evaluate(
        scored,
        ensemble,
        metrics=[
            "crps",
            {"name": "crps_skill", "against": CLIMATOLOGY},
            "spread_skill",
            "rank_deviation",
            "wet_fraction",
            "wet_fraction_observed",
            "mass_bias",
            "p99_ratio",
        ],
        baselines=list(baselines),
    )
    rows = {}
    for number, name in enumerate((own, *NAMES)):
        one = card.isel(source=number)
        rows[name] = {str(key): float(one[key]) for key in card.data_vars}
    return rows


def trained(
    parts: Sequence[xr.Dataset], conditions: Sequence[str], options: argparse.Namespace
) -> Any:
    """Train a model by the public API."""
    fit = {**RECIPE["fit"], "max_minutes": options.minutes, **options.fit}
    fit["stages"] = options.stages or RECIPE["stages"]
    return xcvae.train(
        parts[0],
        target="pr",
        conditions=list(conditions),
        validation=parts[1],
        generator=options.generator or RECIPE["generator"],
        fit=fit,
        seed=options.seed,
        device=options.device,
        path=None if options.output is None else options.output / "model.xcvae",
    )


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """Print the scores; baselines and the model alike."""
    columns = ("crps", "crps_skill", "spread_skill", "wet_fraction", "mass_bias", "p99_ratio")
    print(f"{'':16}" + "".join(f"{name:>14}" for name in columns))
    for name, row in rows.items():
        print(f"{name:16}" + "".join(f"{row[column]:14.3f}" for column in columns))
    observed = next(iter(rows.values()))["wet_fraction_observed"]
    print(f"wet fraction observed: {observed:.3f}; CRPS in mm/day")


def verdict(row: dict[str, float], analogs: float) -> list[str]:
    """Compare the scores of a model with the goals."""
    low, high = SPREAD_SKILL
    checks = (
        (f"CRPS skill over climatology >= {LEAST_SKILL}", row["crps_skill"] >= LEAST_SKILL),
        (f"spread-skill {low} to {high}", low <= row["spread_skill"] <= high),
        ("CRPS below that of the 16 analogs", row["crps"] < analogs),
    )
    return [f"{'reached' if good else 'missed'}: {text}" for text, good in checks]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_output_folder(required=False)
    parser.add_device("auto")
    parser.add_argument("--data", required=True, help="Zarr store with pr, weather maps and split")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training; 0 for none")
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="score split 1 instead of split 2")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS))
    parser.add_argument("--recipe", choices=("fields", "components"), default="fields")
    parser.add_json(
        generator="instead of preset small",
        fit="more keys of xcvae's fit",
        stages="instead of the stages of the recipe",
    )
    return parser.parse_args(argv)


def draw_with_model(
    parts: Sequence[xr.Dataset],
    scored: xr.Dataset,
    conditions: Sequence[str],
    options: argparse.Namespace,
) -> tuple[xr.Dataset, dict[str, Any]]:
    """Train a model and draw its ensemble; return also the facts for the report."""
    model = trained(parts, conditions, options)
    start = time.monotonic()
    ensemble = xcvae.sample(
        scored, model, members=options.members, seed=options.seed, device=options.device
    ).load()
    print(f"trained {model.training['steps']} steps in {model.training['minutes']:.1f} min")
    return ensemble, {
        "device": str(model.device),
        "drawing_seconds": time.monotonic() - start,
        "training": {key: model.training[key] for key in ("fit", "losses", "steps", "minutes")},
        "architecture": model.architecture.to_json(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    record = xr.open_zarr(options.data, consolidated=False)[["pr", *options.fields]]
    parts = splits_of(record)
    conditions = list(options.fields)
    if options.recipe == "components":
        conditions = with_components(parts, options.fields)
    scored = parts[1] if options.tune else parts[2]
    report: dict[str, Any] = {
        "split": 1 if options.tune else 2,
        "days": scored.sizes["time"],
        "members": options.members,
        "recipe": options.recipe,
        "python": platform.python_version(),
        "xcvae": xcvae.__version__,
    }
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    if options.minutes > 0:
        name = "xcvae"
        ensemble, facts = draw_with_model(parts, scored, conditions, options)
        report |= facts
    else:
        name = "random days"
        ensemble = random_days(parts[0], scored, options.members, options.seed)
    rows = scores_of(scored, ensemble, baselines_for(parts[0], scored, options.fields), name)
    print_table(rows)
    if name == "xcvae":
        report["verdict"] = verdict(rows[name], rows["16 analogs"]["crps"])
        print("\n".join(report["verdict"]))
    report["scores"] = rows
    if options.output is not None:
        write_json(options.output / "balearic.json", report)


if __name__ == "__main__":
    main()

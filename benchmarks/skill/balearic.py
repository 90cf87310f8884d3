"""Pressure fields over a continent to daily rain on islands: train, draw, score beside baselines.

    python benchmarks/balearic.py --data STORE [--minutes 10] [--device cuda] [--output DIR]

The store is a Zarr record of daily rain ``pr`` (time, y, x) with NaN over sea, and weather maps on
a grid of their own that is coarser and wider (by default ``mslp``, ``z500``, ``t850``), on the same
days, with ``split`` along time: 0 to train on, 1 to tune on, 2 to report. The conditions are no
rain, and no coarsening of it.

What a trained model has to beat: random days of the training years ("climatology"), such days of
the same season (a window of 30 days), and the classical method, the rain of the 16 and 30 training
days whose weather is nearest on 12 principal components. All land cells and days count; CRPS is
fair, so that it does not depend on the number of members.

``--tune`` scores the years of split 1 instead of those of split 2, for choosing a recipe; the best
weights of a training are picked by its CRPS there in any case. ``--recipe``, ``--generator``,
``--fit`` and ``--stages`` (JSON) change the training. With ``--minutes 0`` only the baselines are
scored.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from references.analogs import Analogs, principal_components

import xcvae

FIELDS = ("mslp", "z500", "t850")
#: Components and season stand for the fields in the recipe "components".
COMPONENTS = 12
DAYS_PER_YEAR = 365.25
#: What a trained model should reach: skill over climatology, and spread over skill.
LEAST_SKILL, SPREAD_SKILL = 0.18, (0.9, 1.1)
#: Rows of the table that are baselines, by what they are called.
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
    """Add whitened components of the weather maps, and the season, to all parts; their names."""
    train = parts[0]
    for part in parts:
        known, asked = principal_components(train, part, fields, COMPONENTS)
        values = (asked / known.std(0)).astype(np.float32)
        angle = 2 * np.pi * part["time"].dt.dayofyear / DAYS_PER_YEAR
        for name, wave in (("season_cosine", np.cos(angle)), ("season_sine", np.sin(angle))):
            part[name] = wave.astype(np.float32).assign_attrs(units="1")
        for number in range(COMPONENTS):
            part[f"component_{number}"] = ("time", values[:, number], {"units": "1"})
    seasons = ["season_cosine", "season_sine"]
    return [*(f"component_{number}" for number in range(COMPONENTS)), *seasons]


def baselines_for(train: xr.Dataset, judged: xr.Dataset, fields: Sequence[str]) -> list[Any]:
    """Make the baselines, in the order of `NAMES`."""
    record = train[["pr"]]
    return [
        {"name": CLIMATOLOGY, "record": record},
        {"name": CLIMATOLOGY, "record": record, "window": 30},
        Analogs(train, judged, fields, members=16),
        Analogs(train, judged, fields, members=30),
    ]


def random_days(train: xr.Dataset, judged: xr.Dataset, members: int, seed: int) -> xr.Dataset:
    """Draw random training days as an ensemble, so that baselines can be scored without a model."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(train.sizes["time"])[:members] for _ in judged["time"]], 1)
    values = train["pr"].transpose("time", "y", "x").values[rows]
    ensemble = xr.DataArray(
        values,
        dims=("realization", "time", "y", "x"),
        coords=judged["pr"].coords,
        attrs=judged["pr"].attrs,
    )
    return ensemble.to_dataset(name="pr")


def scores_of(
    judged: xr.Dataset, ensemble: xr.Dataset, baselines: Sequence[Any], own: str
) -> dict[str, dict[str, float]]:
    """Score an ensemble and the baselines; skill is over the climatology of the same call."""
    card = xcvae.evaluate(
        judged,
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
    parts: Sequence[xr.Dataset], conditions: Sequence[str], arguments: argparse.Namespace
) -> Any:
    """Train a model by the public API."""
    fit = {**RECIPE["fit"], "max_minutes": arguments.minutes, **arguments.fit}
    fit["stages"] = arguments.stages or RECIPE["stages"]
    return xcvae.train(
        parts[0],
        target="pr",
        conditions=list(conditions),
        validation=parts[1],
        generator=arguments.generator or RECIPE["generator"],
        fit=fit,
        seed=arguments.seed,
        device=arguments.device,
        path=None if arguments.output is None else arguments.output / "model.xcvae",
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
    """Say what is reached."""
    low, high = SPREAD_SKILL
    checks = (
        (f"CRPS skill over climatology >= {LEAST_SKILL}", row["crps_skill"] >= LEAST_SKILL),
        (f"spread-skill {low} to {high}", low <= row["spread_skill"] <= high),
        ("CRPS below that of the 16 analogs", row["crps"] < analogs),
    )
    return [f"{'reached' if good else 'missed'}: {text}" for text, good in checks]


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="Zarr store with pr, weather maps and split")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training; 0 for none")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="folder for model.xcvae and balearic.json")
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tune", action="store_true", help="score split 1 instead of split 2")
    parser.add_argument("--fields", nargs="+", default=list(FIELDS))
    parser.add_argument("--recipe", choices=("fields", "components"), default="fields")
    for option in ("generator", "fit", "stages"):
        parser.add_argument(f"--{option}", type=json.loads, default={}, metavar="JSON")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    arguments = parsed(words)
    record = xr.open_zarr(arguments.data, consolidated=False)[["pr", *arguments.fields]]
    parts = splits_of(record)
    conditions = list(arguments.fields)
    if arguments.recipe == "components":
        conditions = with_components(parts, arguments.fields)
    judged = parts[1] if arguments.tune else parts[2]
    baselines = baselines_for(parts[0], judged, arguments.fields)
    report: dict[str, Any] = {
        "split": 1 if arguments.tune else 2,
        "days": judged.sizes["time"],
        "members": arguments.members,
        "recipe": arguments.recipe,
        "python": platform.python_version(),
        "xcvae": xcvae.__version__,
    }
    own = "random days"
    if arguments.minutes > 0:
        if arguments.output is not None:
            arguments.output.mkdir(parents=True, exist_ok=True)
        model = trained(parts, conditions, arguments)
        began = time.monotonic()
        ensemble = xcvae.sample(
            judged, model, members=arguments.members, seed=arguments.seed, device=arguments.device
        ).load()
        own = "xcvae"
        report |= {
            "device": str(model.device),
            "drawing_seconds": time.monotonic() - began,
            "training": {key: model.training[key] for key in ("fit", "losses", "steps", "minutes")},
            "architecture": model.architecture.to_json(),
        }
        print(f"trained {model.training['steps']} steps in {model.training['minutes']:.1f} min")
    else:
        ensemble = random_days(parts[0], judged, arguments.members, arguments.seed)
    rows = scores_of(judged, ensemble, baselines, own)
    print_table(rows)
    if own == "xcvae":
        report["verdict"] = verdict(rows[own], rows["16 analogs"]["crps"])
        print("\n".join(report["verdict"]))
    report["scores"] = rows
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "balearic.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

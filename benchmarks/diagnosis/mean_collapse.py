"""The faults of the scripts that xcvae replaces, one by one and together, and xcvae.

    python -m benchmarks.diagnosis.mean_collapse --output DIR [--data STORE] [--minutes 3]
                                                 [--only a,bc,xcvae]
    python -m benchmarks.diagnosis.mean_collapse --output DIR --steps 400

Trains `benchmarks.models.legacy_cvae` with its switches on, alone and together, and xcvae on the
same data for the same minutes, or with ``--steps`` for the same number of steps; draws prior and
posterior members of test samples, scores them with `xcvae.evaluate` in physical units, and prints
the diagnosis of each:

=========  ========================================================================
healthy    the legacy cVAE with every switch off
a          the threshold of 0.1 acts on z-scores (the weights are those of healthy)
b          half of the condition is dropped in training
c          absolute error with weights, w_min 1.0 and tail_boost 3.0
bc         both
d          one flat latent vector with the prior N(0, I)
abcd       all of it: the old scripts
xcvae      `xcvae.train`, its defaults
=========  ========================================================================

Without ``--data`` this uses the radar that comes with xcvae. Another record is a Zarr store or
NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on (xcvae alone does), 2 to test. The folder gets mean_collapse.json and
members.png.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import xcvae
from benchmarks.harness.arguments import BenchmarkParser, comma_separated
from benchmarks.harness.member_maps import plot_member_maps
from benchmarks.harness.record_splits import RecordSplits, Split
from benchmarks.harness.results import write_json
from benchmarks.models.legacy_cvae import VARIANTS, LegacyCVAE, load, train
from xcvae.verify.diagnosis import Diagnosis, judge

OURS = "xcvae"
NAMES = (*VARIANTS, OURS)
METRICS = (
    "spatial_correlation",
    "wet_fraction",
    "wet_fraction_observed",
    "mass_bias",
    "diversity",
    "ks",
    "p99_ratio",
)
#: Groups of findings for each disease: of each group at least one must be a fault or a warning.
EXPECTED: dict[str, tuple[tuple[str, ...], ...]] = {
    "a": (("units",), ("drizzle",)),
    "b": (("mean_collapse",),),
    "c": (("mean_collapse",),),
    "bc": (("mean_collapse",),),
    "d": (("posterior_collapse", "ignored_latent"), ("identical_members", "prior_posterior_gap")),
    "abcd": (
        ("units",),
        ("drizzle",),
        ("mean_collapse",),
        ("posterior_collapse", "ignored_latent"),
        ("identical_members", "prior_posterior_gap"),
    ),
}
HEAD = (
    f"{'model':8} {'mode':10}{'corr.':>7}{'wet':>7}{'obs.':>7}{'mass':>8}{'divers.':>9}{'mean':>8}"
    f"{'obs.':>7}{'KS':>7}{'P99':>8}{'obs.':>7}"
)


@dataclass
class Result:
    """One model: its training, its ensembles by mode, and its diagnosis."""

    about: dict[str, Any]
    ensembles: dict[str, xr.Dataset]
    diagnosis: Diagnosis


def trained(name: str, splits: RecordSplits, options: argparse.Namespace) -> LegacyCVAE:
    """Train a variant of the legacy cVAE, or read it from the folder."""
    # Training does not depend on where a threshold acts: these weights are the healthy ones.
    place = options.output / f"{'healthy' if name == 'a' else name}.safetensors"
    if place.exists():
        model = load(place, options.device)
        model.network.diseases = VARIANTS[name]
        return model
    model = train(
        splits.train.ds,
        VARIANTS["healthy" if name == "a" else name],
        target=splits.target,
        coarsen=splits.side,
        minutes=options.minutes if options.steps is None else math.inf,
        max_steps=options.steps,
        device=options.device,
    )
    model.save(place)
    model.network.diseases = VARIANTS[name]
    return model


def legacy_result(name: str, splits: RecordSplits, options: argparse.Namespace) -> Result:
    model = trained(name, splits, options)
    ensembles = {
        mode: model.ensemble(splits.test.ds, mode=mode, members=options.members)
        for mode in ("posterior", "prior")
    }
    diagnosis = judge(model.evidence(splits.test.ds, members=options.members))
    return Result({"steps": model.steps}, ensembles, diagnosis)


def xcvae_result(splits: RecordSplits, options: argparse.Namespace) -> Result:
    steps, minutes = options.steps, options.minutes
    limit = {"max_minutes": minutes} if steps is None else {"max_steps": steps}
    place = options.output / f"{OURS}.xcvae"
    model = (
        xcvae.load(place)
        if place.exists()
        else xcvae.train(
            splits.train.ds,
            target=splits.target,
            coarsen=splits.side,
            validation=splits.validation.ds,
            fit=limit,
            device=options.device,
            path=place,
            progress=False,
        )
    )
    ensembles = {}
    for mode, spread in (("posterior", {"spread": 0.5}), ("prior", {})):
        ensembles[mode] = xcvae.sample(
            splits.test.ds,
            model,
            mode=mode,
            members=options.members,
            device=options.device,
            progress=False,
            **spread,
        ).load()
    diagnosis = xcvae.diagnose(splits.test.ds, model, members=options.members)
    return Result({"steps": model.training["steps"], "posterior_spread": 0.5}, ensembles, diagnosis)


def scores(test: Split, ensemble: xr.Dataset) -> dict[str, float]:
    """Score an ensemble by the metrics of the legacy scripts, in physical units."""
    card = xcvae.evaluate(test.ds, ensemble, metrics=METRICS, baselines=[], progress=False)
    members, observed = ensemble[test.target].values, test.ds[test.target].values
    return {
        **{name: float(card[name].sel(source="xcvae")) for name in METRICS},
        "mean": float(members.mean(dtype="f8")),
        "mean_observed": float(observed.mean(dtype="f8")),
        "p99": float(np.quantile(members, 0.99)),
        "p99_observed": float(np.quantile(observed, 0.99)),
    }


def row(name: str, mode: str, s: dict[str, float]) -> str:
    return (
        f"{name:8} {mode:10}{s['spatial_correlation']:7.3f}{s['wet_fraction']:7.3f}"
        f"{s['wet_fraction_observed']:7.3f}{s['mass_bias']:+8.2f}{s['diversity']:9.4f}"
        f"{s['mean']:8.3f}{s['mean_observed']:7.3f}{s['ks']:7.3f}{s['p99']:8.2f}"
        f"{s['p99_observed']:7.2f}"
    )


def unnamed(name: str, diagnosis: Diagnosis) -> list[str]:
    """Return the findings of a disease that the diagnosis does not raise."""
    raised = {f.name for f in diagnosis.findings if f.severity in ("warning", "fault")}
    return [" or ".join(group) for group in EXPECTED.get(name, ()) if not raised & {*group}]


def save(folder: Path, results: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the results, and keep those of other models that are in the file."""
    place = folder / "mean_collapse.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    models = known.get("models", {}) if known.get("about") == about else {}
    write_json(place, {"about": about, "models": {**models, **results}})


def plot_members(folder: Path, test: Split, found: dict[str, Result]) -> None:
    """Plot two posterior and two prior members of the wettest sample, for every model."""
    sample = int(test.fine.mean((1, 2)).argmax())
    rows = {
        name: [
            one.ensembles[mode][test.target].values[member, sample]
            for mode in ("posterior", "prior")
            for member in range(2)
        ]
        for name, one in found.items()
    }
    top = [
        ("condition", np.kron(test.coarse[sample].numpy(), np.ones((test.side, test.side)))),
        ("observed", test.fine[sample].numpy()),
    ]
    title = "Two posterior members, two prior members"
    plot_member_maps(folder / "members.png", top, rows, title=title)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_output_folder()
    parser.add_record()
    parser.add_device("cuda" if torch.cuda.is_available() else "cpu")
    add = parser.add_argument
    add("--minutes", type=float, default=3.0, help="of training, per model")
    add("--steps", type=int, help="of training, per model, instead of minutes")
    add(
        "--only",
        type=comma_separated(),
        default=list(NAMES),
        help=f"some of {','.join(NAMES)}",
    )
    add("--samples", type=int, default=24, help="test samples, evenly spaced")
    add("--members", type=int, default=8)
    options = parser.parse_args(argv)
    for name in options.only:
        if name not in NAMES:
            parser.error(f"--only: unknown '{name}'; there are {', '.join(NAMES)}")
    return options


def about(splits: RecordSplits, options: argparse.Namespace) -> dict[str, Any]:
    """Return what results must share to stand in one file."""
    cuda = options.device.startswith("cuda")
    return {
        **splits.identity(),
        "minutes": options.minutes if options.steps is None else None,
        "max_steps": options.steps,
        "members": options.members,
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    options = parse_arguments(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    splits = RecordSplits.open(
        options.data, target=options.target, side=options.coarsen, tiles=options.samples
    )
    shared = about(splits, options)
    print(f"{splits.name}: {shared['samples']} samples to train, tune and test, mm h-1\n{HEAD}")
    found: dict[str, Result] = {}
    results: dict[str, Any] = {}
    for name in options.only:
        one = (
            xcvae_result(splits, options) if name == OURS else legacy_result(name, splits, options)
        )
        tables = {mode: scores(splits.test, drawn) for mode, drawn in one.ensembles.items()}
        for mode, values in tables.items():
            print(row(name, mode, values), flush=True)
        found[name] = one
        results[name] = {
            **one.about,
            "scores": tables,
            "diagnosis": one.diagnosis.to_json(),
            "unnamed": unnamed(name, one.diagnosis),
        }
        save(options.output, results, shared)
    for name, one in found.items():
        print(f"\n--- {name}, {one.about['steps']} steps\n{one.diagnosis}")
        if name in EXPECTED:
            missing = results[name]["unnamed"]
            print(f"Not named: {', '.join(missing)}." if missing else "The disease is named.")
    plot_members(options.output, splits.test, found)


if __name__ == "__main__":
    main()

"""The diseases of the old scripts, one by one and together, and the model without them.

    python benchmarks/mean_collapse.py --output DIR [--data STORE] [--minutes 3] [--only a,bc,xcvae]
    python benchmarks/mean_collapse.py --output DIR --steps 400

Trains the reference in `references/old_scripts.py` with its switches on, alone and together, and
xcvae on the same data for the same minutes, or for the same number of steps however long they
take; draws prior and posterior members of test samples, scores them with `xcvae.evaluate` in
physical units, and prints what a diagnosis says of each:

=========  ========================================================================
healthy    the reference with every switch off
a          the threshold of 0.1 acts on z-scores (the weights are those of healthy)
b          half of the condition is dropped in training
c          absolute error with weights, w_min 1.0 and tail_boost 3.0
bc         both
d          one flat latent vector with the prior N(0, I)
abcd       all of it: the old scripts
xcvae      `xcvae.train`, its defaults
=========  ========================================================================

Without ``--data`` this takes the radar that comes with xcvae. Another record is a Zarr store or
NetCDF file with rain in mm h-1, dims (sample, y, x), no gaps, and ``split`` along sample: 0 to
train on, 1 to tune on (xcvae alone does), 2 to test. The folder gets mean_collapse.json and
members.png.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from references.data import Arena, Split
from references.old_scripts import VARIANTS, OldScripts, load, train
from references.picture import draw_picture

import xcvae
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
#: What the diagnosis is to call each disease: at least one finding of each group is a fault or a
#: warning.
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
class Judged:
    """One model: how it was made, its ensembles by mode, and what the diagnosis says."""

    about: dict[str, Any]
    ensembles: dict[str, xr.Dataset]
    diagnosis: Diagnosis


def trained(name: str, arena: Arena, options: argparse.Namespace) -> OldScripts:
    """Train a variant of the reference, or read it if it is there."""
    # Where a threshold acts is no matter of training: these weights are the healthy ones.
    place = options.output / f"{'healthy' if name == 'a' else name}.safetensors"
    if place.exists():
        model = load(place, options.device)
        model.network.diseases = VARIANTS[name]
        return model
    model = train(
        arena.train.ds,
        VARIANTS["healthy" if name == "a" else name],
        target=arena.target,
        coarsen=arena.side,
        minutes=options.minutes if options.steps is None else math.inf,
        max_steps=options.steps,
        device=options.device,
    )
    model.save(place)
    model.network.diseases = VARIANTS[name]
    return model


def reference(name: str, arena: Arena, options: argparse.Namespace) -> Judged:
    model = trained(name, arena, options)
    ensembles = {
        mode: model.ensemble(arena.test.ds, mode=mode, members=options.members)
        for mode in ("posterior", "prior")
    }
    diagnosis = judge(model.evidence(arena.test.ds, members=options.members))
    return Judged({"steps": model.steps}, ensembles, diagnosis)


def ours(arena: Arena, options: argparse.Namespace) -> Judged:
    steps, minutes = options.steps, options.minutes
    limit = {"max_minutes": minutes} if steps is None else {"max_steps": steps}
    place = options.output / f"{OURS}.xcvae"
    model = (
        xcvae.load(place)
        if place.exists()
        else xcvae.train(
            arena.train.ds,
            target=arena.target,
            coarsen=arena.side,
            validation=arena.validation.ds,
            fit=limit,
            device=options.device,
            path=place,
            progress=False,
        )
    )
    ensembles = {}
    for mode, spread in (("posterior", {"spread": 0.5}), ("prior", {})):
        ensembles[mode] = xcvae.sample(
            arena.test.ds,
            model,
            mode=mode,
            members=options.members,
            device=options.device,
            progress=False,
            **spread,
        ).load()
    diagnosis = xcvae.diagnose(arena.test.ds, model, members=options.members)
    return Judged({"steps": model.training["steps"], "posterior_spread": 0.5}, ensembles, diagnosis)


def scores(test: Split, ensemble: xr.Dataset) -> dict[str, float]:
    """The old scripts' table, on rain in physical units."""
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
    """What the diagnosis should have said of a disease, and did not."""
    said = {f.name for f in diagnosis.findings if f.severity in ("warning", "fault")}
    return [" or ".join(group) for group in EXPECTED.get(name, ()) if not said & {*group}]


def save(folder: Path, results: dict[str, Any], about: dict[str, Any]) -> None:
    """Write the results; those of other models that are in the file stay there."""
    place = folder / "mean_collapse.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    models = known.get("models", {}) if known.get("about") == about else {}
    content = {"about": about, "models": {**models, **results}}
    place.write_text(json.dumps(content, indent=1) + "\n")


def picture(folder: Path, test: Split, judged: dict[str, Judged]) -> None:
    """Two posterior and two prior members of the wettest sample, for every model."""
    sample = int(test.fine.mean((1, 2)).argmax())
    rows = {
        name: [
            one.ensembles[mode][test.target].values[member, sample]
            for mode in ("posterior", "prior")
            for member in range(2)
        ]
        for name, one in judged.items()
    }
    top = [
        ("condition", np.kron(test.coarse[sample].numpy(), np.ones((test.side, test.side)))),
        ("observed", test.fine[sample].numpy()),
    ]
    title = "Two posterior members, two prior members"
    draw_picture(folder / "members.png", top, rows, title=title)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="STORE")
    parser.add_argument("--target", help="name of the rain (default: pr_hr or pr)")
    parser.add_argument("--coarsen", type=int, help="pixels per block of the condition")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, per model")
    parser.add_argument("--steps", type=int, help="of training, per model, instead of minutes")
    parser.add_argument("--only", default=",".join(NAMES), help=f"some of {','.join(NAMES)}")
    parser.add_argument("--samples", type=int, default=24, help="test samples, evenly spaced")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.only = options.only.split(",")
    for name in options.only:
        if name not in NAMES:
            parser.error(f"--only: '{name}' is none of {', '.join(NAMES)}")
    return options


def main() -> None:
    options = arguments()
    options.output.mkdir(parents=True, exist_ok=True)
    arena = Arena.open(
        options.data, target=options.target, side=options.coarsen, tiles=options.samples
    )
    about = {
        **arena.identity(),
        "minutes": options.minutes if options.steps is None else None,
        "max_steps": options.steps,
        "members": options.members,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    print(f"{arena.name}: {about['samples']} samples to train on, tune on and test, mm h-1\n{HEAD}")
    judged: dict[str, Judged] = {}
    results: dict[str, Any] = {}
    for name in options.only:
        one = ours(arena, options) if name == OURS else reference(name, arena, options)
        tables = {mode: scores(arena.test, drawn) for mode, drawn in one.ensembles.items()}
        for mode, values in tables.items():
            print(row(name, mode, values), flush=True)
        judged[name] = one
        results[name] = {
            **one.about,
            "scores": tables,
            "diagnosis": one.diagnosis.to_json(),
            "unnamed": unnamed(name, one.diagnosis),
        }
        save(options.output, results, about)
    for name, one in judged.items():
        print(f"\n--- {name}, {one.about['steps']} steps\n{one.diagnosis}")
        if name in EXPECTED:
            missing = results[name]["unnamed"]
            print(f"Not named: {', '.join(missing)}." if missing else "The disease is named.")
    picture(options.output, arena.test, judged)


if __name__ == "__main__":
    main()

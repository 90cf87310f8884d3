"""The methods of the comparison: each trains if needed, draws, scores, times, and writes files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import xcvae
from benchmarks.harness.record_splits import WET, from_log, stretch_bilinear, thresholded, to_log
from benchmarks.harness.results import write_json
from benchmarks.harness.timing import fields_per_second
from benchmarks.models import rainfarm
from benchmarks.models.diffusion import EDM, Settings, Tuned
from benchmarks.models.drawing import DrawBatch
from benchmarks.models.flat_cvae import FlatCVAE
from benchmarks.models.training import Trainable, TrainingLog, compiled, train
from benchmarks.models.xcvae_network import default_fit, network_drawer
from benchmarks.skill.comparison import Comparison
from benchmarks.skill.scores import keep_fields, scores

__all__ = ["METHODS"]

#: Rows of xcvae in the table: arguments of `xcvae.sample`.
XCVAE_ROWS: dict[str, dict[str, Any]] = {
    "prior": {"mode": "prior"},
    "posterior, spread 0": {"mode": "posterior", "spread": 0.0},
    "posterior, spread 0.5": {"mode": "posterior", "spread": 0.5},
    "posterior, diversity 0.18": {"mode": "posterior", "diversity": 0.18},
}


def bilinear(run: Comparison) -> None:
    """Interpolate the condition, as rain (the baseline of xcvae) and as its logarithm."""
    test = run.splits.test
    as_rain = stretch_bilinear(test.coarse, test.side)
    as_log = from_log(stretch_bilinear(to_log(test.coarse), test.side))
    _one_member(run, "bilinear", {"bilinear": as_rain, "bilinear of log rain": as_log})


def block(run: Comparison) -> None:
    """Repeat the condition over the pixels of its blocks."""
    test = run.splits.test
    fields = test.coarse.repeat_interleave(test.side, 1).repeat_interleave(test.side, 2)
    _one_member(run, "block", {"block": fields})


def _one_member(run: Comparison, method: str, fields: Mapping[str, Tensor]) -> None:
    ensembles = {
        name: run.splits.test.ensemble(thresholded(field.numpy().copy())[None])
        for name, field in fields.items()
    }
    keep_fields(run.place(f"{method}.npz"), run.splits, ensembles)
    run.write(method, {k: scores(run.splits.test, v) for k, v in ensembles.items()})


def rain_farm(run: Comparison) -> None:
    """Draw by RainFARM."""
    with rainfarm.workers(run.workers) as each:
        options = {"seed": run.seed, "each": each}
        how, tried = rainfarm.choose(run.splits.validation, **options)
        print(f"rainfarm: {how}")
        start = time.perf_counter()
        members = rainfarm.downscale_split(run.splits.test, run.members, how=how, **options)
        seconds = time.perf_counter() - start
    ensemble = run.splits.test.ensemble(thresholded(members))
    keep_fields(run.place("rainfarm.npz"), run.splits, {"rainfarm": ensemble})
    value = members.shape[0] * members.shape[1] / seconds
    run.write(
        "rainfarm",
        {"rainfarm": scores(run.splits.test, ensemble)},
        settings=how,
        tried=tried,
        fields_per_s={f"{max(1, run.workers)} processes": {"value": value}},
    )


def flat(run: Comparison) -> None:
    """Train and draw with the flat cVAE."""
    model = FlatCVAE(run.splits, run.device, small=run.small, seed=run.seed)
    log = _trained(run, model, "flat")
    model.network.eval()
    batch = 64 if run.small else 256
    members = run.draw_all(model.drawer(run.splits.test), batch=batch)
    ensemble = run.splits.test.ensemble(members)

    def drawing(fast: bool) -> Callable[[int], object]:
        decode = model.network.decode
        drawer = model.drawer(
            run.splits.test, decode=compiled(decode, run.device) if fast else decode
        )
        return _draw_count(drawer, len(run.splits.test), run.device)

    keep_fields(run.place("flat.npz"), run.splits, {"flat": ensemble})
    run.write(
        "flat",
        {"flat": scores(run.splits.test, ensemble)},
        parameters=_size(model.network.parameters()),
        training=_summary(log),
        settings=model.identity(),
        fields_per_s=_rates(run, drawing),
    )


def edm(run: Comparison) -> None:
    """Train and draw with the diffusion model."""
    settings = Settings.of(run.edm, small=run.small)
    model = EDM(run.splits, settings, run.device, seed=run.seed)
    log = _trained(run, model, "edm")
    model.network.eval()
    chosen = run.place("edm.tuned.json")
    if not chosen.exists():
        tuned, tried = model.tune(run.deadline, seconds=60.0, seed=run.seed)
        write_json(chosen, {"tuned": asdict(tuned), "tried": tried})
    choice = json.loads(chosen.read_text())
    tuned, tried = Tuned(**choice["tuned"]), choice["tried"]
    print(f"edm: draws with {tuned}", flush=True)
    test, place = run.splits.test, run.place("edm.members.npy")
    draw = model.drawer(test, tuned)
    ensemble = test.ensemble(run.draw_all(draw, batch=settings.draw_batch, place=place))

    def drawing(fast: bool) -> Callable[[int], object]:
        apply = model.apply if fast else model.network
        return _draw_count(model.drawer(test, tuned, apply=apply), len(test), run.device)

    keep_fields(run.place("edm.npz"), run.splits, {"edm": ensemble})
    run.write(
        "edm",
        {"edm": scores(test, ensemble)},
        parameters=_size(model.network.parameters()),
        training=_summary(log),
        settings={**asdict(settings), "tuned": asdict(tuned)},
        tried=tried,
        fields_per_s=_rates(run, drawing, slow=True),
    )
    for done in (place, place.with_suffix(".json"), run.place("edm.tuned.json")):
        done.unlink()


def xcvae_(run: Comparison) -> None:
    """Train and draw with xcvae, through its public functions."""
    model = _trained_xcvae(run)
    part = run.place("xcvae.part.json")
    rows = json.loads(part.read_text()) if part.exists() else {}
    shown: dict[str, xr.Dataset] = {}
    for name in XCVAE_ROWS:
        if name in rows and not run.place(f"xcvae {name}.zarr").exists():
            continue
        row, ensemble = _xcvae_row(run, model, name, rows.get(name))
        rows[name] = row
        if ensemble is not None:
            shown[name] = ensemble
        write_json(part, rows)
        print(f"xcvae {name}: {_short(row)}", flush=True)
    keep_fields(run.place("xcvae.npz"), run.splits, shown)
    test = run.splits.test
    run.write(
        "xcvae",
        {f"xcvae {name}": row for name, row in rows.items()},
        parameters=_size(model.networks.parameters()),
        training={k: model.training[k] for k in ("minutes", "steps", "history")},
        settings={k: model.training[k] for k in ("fit", "losses")},
        generator=dict(run.generator),
        fields_per_s=_rates(run, lambda fast: network_drawer(model, test, run.device, fast=fast)),
    )
    part.unlink()
    for store in run.folder.glob("xcvae *.zarr"):
        shutil.rmtree(store)


def _xcvae_row(
    run: Comparison, model: xcvae.Model, name: str, row: dict[str, Any] | None
) -> tuple[dict[str, Any], xr.Dataset | None]:
    """Draw the ensemble of a row, or continue its store; score it unless it has scores already."""
    start = time.perf_counter()
    try:
        ensemble = xcvae.sample(
            run.splits.test.ds,
            model,
            **XCVAE_ROWS[name],
            members=run.members,
            seed=run.seed,
            postprocess=[{"name": "threshold", "value": WET}],
            store=run.place(f"xcvae {name}.zarr"),
            device=str(run.device),
            progress=False,
        )
    except xcvae.errors.ConfigError as error:
        if "diversity" not in XCVAE_ROWS[name]:
            raise
        # A diversity that this model cannot reach is a result, too.
        return {"failed": str(error)}, None
    if row is None:
        row = scores(run.splits.test, ensemble)
        row["seconds"] = {"value": time.perf_counter() - start, "units": "s"}
    return row, ensemble


def _trained_xcvae(run: Comparison) -> xcvae.Model:
    """Train a model of xcvae, or read the one in the folder."""
    path = run.place("model.xcvae")
    if path.exists():
        return xcvae.load(path)
    splits = run.splits
    model = xcvae.train(
        splits.train.ds,
        target=splits.target,
        coarsen=splits.side,
        validation=splits.validation.ds,
        generator=dict(run.generator),
        fit=default_fit(run.device, minutes=run.minutes) | dict(run.fit),
        seed=run.seed,
        device=str(run.device),
        path=path,
        progress=True,
    )
    for row in model.training["history"]:
        print("xcvae: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    return model


METHODS: dict[str, Callable[[Comparison], None]] = {
    "bilinear": bilinear,
    "block": block,
    "rainfarm": rain_farm,
    "flat": flat,
    "xcvae": xcvae_,
    "edm": edm,
}


def _trained(run: Comparison, model: Trainable, name: str) -> TrainingLog:
    return train(
        model,
        minutes=run.minutes,
        place=run.place(f"{name}.checkpoint"),
        identity={"seed": run.seed, **model.identity()},
        deadline=run.deadline,
        label=name,
    )


def _draw_count(draw: DrawBatch, samples: int, device: torch.device) -> Callable[[int], object]:
    random = torch.Generator(device).manual_seed(0)
    return lambda count: draw(np.arange(count) % samples, random)


def _rates(
    run: Comparison, drawing: Callable[[bool], Callable[[int], object]], *, slow: bool = False
) -> dict[str, Any]:
    """Time bare drawing, eager and, on a GPU, compiled."""
    if not run.rates:
        return {}
    if run.device.type == "cpu":
        sizes = (8,) if slow else (8, 32)
        return {"eager": fields_per_second(drawing(False), sizes, run.device, seconds=2)}
    sizes = (128, 512) if slow else (128, 512, 2048)
    eager = fields_per_second(drawing(False), sizes, run.device)
    # torch.compile compiles every size again, which takes long.
    best = (eager["batch"],)
    return {"eager": eager, "compiled": fields_per_second(drawing(True), best, run.device)}


def _summary(log: TrainingLog) -> dict[str, Any]:
    averaged = "last" if log.which == 0 else f"average {log.which}"
    return {
        "minutes": log.seconds / 60,
        "steps": log.step,
        "weights": averaged,
        "validation": log.best,
        "history": log.history,
    }


def _size(weights: Iterable[torch.Tensor]) -> int:
    return sum(weight.numel() for weight in weights)


def _short(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return str(row["failed"])
    return ", ".join(f"{k} {v['value']:.4g}" for k, v in row.items())

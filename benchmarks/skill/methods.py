"""The methods of the bench: each trains if it must, draws, scores, times, and leaves its files."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import xcvae
from references import rainfarm
from references.bench import Bench
from references.data import WET, from_log, stretched, thresholded, to_log
from references.drawing import Draw
from references.edm import EDM, Settings, Tuned
from references.flat_cvae import FlatCVAE
from references.ladder import default_fit, network_drawer
from references.learning import Learner, Log, compiled, learn
from references.results import write_json
from references.scoring import keep_fields, scores
from references.timing import rate

__all__ = ["METHODS"]

#: How xcvae draws: the rows it has in the table.
LADDER: dict[str, dict[str, Any]] = {
    "prior": {"mode": "prior"},
    "posterior, spread 0": {"mode": "posterior", "spread": 0.0},
    "posterior, spread 0.5": {"mode": "posterior", "spread": 0.5},
    "posterior, diversity 0.18": {"mode": "posterior", "diversity": 0.18},
}


def bilinear(bench: Bench) -> None:
    """The condition stretched, as rain (the baseline of xcvae) and as its logarithm."""
    test = bench.arena.test
    as_rain = stretched(test.coarse, test.side)
    as_log = from_log(stretched(to_log(test.coarse), test.side))
    _one_member(bench, "bilinear", {"bilinear": as_rain, "bilinear of log rain": as_log})


def block(bench: Bench) -> None:
    """The condition as it is."""
    test = bench.arena.test
    fields = test.coarse.repeat_interleave(test.side, 1).repeat_interleave(test.side, 2)
    _one_member(bench, "block", {"block": fields})


def _one_member(bench: Bench, method: str, fields: Mapping[str, Tensor]) -> None:
    ensembles = {
        name: bench.arena.test.ensemble(thresholded(field.numpy().copy())[None])
        for name, field in fields.items()
    }
    keep_fields(bench.place(f"{method}.npz"), bench.arena, ensembles)
    bench.write(method, {k: scores(bench.arena.test, v) for k, v in ensembles.items()})


def noise(bench: Bench) -> None:
    """RainFARM."""
    with rainfarm.workers(bench.workers) as each:
        options = {"seed": bench.seed, "each": each}
        how, tried = rainfarm.choose(bench.arena.validation, **options)
        print(f"rainfarm: {how}")
        start = time.perf_counter()
        members = rainfarm.downscaled(bench.arena.test, bench.members, how=how, **options)
        seconds = time.perf_counter() - start
    ensemble = bench.arena.test.ensemble(thresholded(members))
    keep_fields(bench.place("rainfarm.npz"), bench.arena, {"rainfarm": ensemble})
    value = members.shape[0] * members.shape[1] / seconds
    bench.write(
        "rainfarm",
        {"rainfarm": scores(bench.arena.test, ensemble)},
        settings=how,
        tried=tried,
        fields_per_s={f"{max(1, bench.workers)} processes": {"value": value}},
    )


def flat(bench: Bench) -> None:
    """The flat cVAE of the old scripts."""
    learner = FlatCVAE(bench.arena, bench.device, small=bench.small, seed=bench.seed)
    log = _learned(bench, learner, "flat")
    learner.network.eval()
    batch = 64 if bench.small else 256
    members = bench.draw_all(learner.drawer(bench.arena.test), batch=batch)
    ensemble = bench.arena.test.ensemble(members)

    def drawing(fast: bool) -> Callable[[int], object]:
        decode = learner.network.decode
        drawer = learner.drawer(
            bench.arena.test, decode=compiled(decode, bench.device) if fast else decode
        )
        return _numbered(drawer, len(bench.arena.test), bench.device)

    keep_fields(bench.place("flat.npz"), bench.arena, {"flat": ensemble})
    bench.write(
        "flat",
        {"flat": scores(bench.arena.test, ensemble)},
        parameters=_size(learner.network),
        training=_told(log),
        settings=learner.identity(),
        fields_per_s=_rates(bench, drawing),
    )


def edm(bench: Bench) -> None:
    """The diffusion model."""
    settings = Settings.of(bench.edm, small=bench.small)
    learner = EDM(bench.arena, settings, bench.device, seed=bench.seed)
    log = _learned(bench, learner, "edm")
    learner.network.eval()
    chosen = bench.place("edm.tuned.json")
    if not chosen.exists():
        tuned, tried = learner.tune(bench.deadline, seconds=60.0, seed=bench.seed)
        write_json(chosen, {"tuned": asdict(tuned), "tried": tried})
    choice = json.loads(chosen.read_text())
    tuned, tried = Tuned(**choice["tuned"]), choice["tried"]
    print(f"edm: draws with {tuned}", flush=True)
    test, place = bench.arena.test, bench.place("edm.members.npy")
    draw = learner.drawer(test, tuned)
    ensemble = test.ensemble(bench.draw_all(draw, batch=settings.draw_batch, place=place))

    def drawing(fast: bool) -> Callable[[int], object]:
        apply = learner.apply if fast else learner.network
        return _numbered(learner.drawer(test, tuned, apply=apply), len(test), bench.device)

    keep_fields(bench.place("edm.npz"), bench.arena, {"edm": ensemble})
    bench.write(
        "edm",
        {"edm": scores(test, ensemble)},
        parameters=_size(learner.network),
        training=_told(log),
        settings={**asdict(settings), "tuned": asdict(tuned)},
        tried=tried,
        fields_per_s=_rates(bench, drawing, slow=True),
    )
    for done in (place, place.with_suffix(".json"), bench.place("edm.tuned.json")):
        done.unlink()


def ladder(bench: Bench) -> None:
    """xcvae, through its public functions."""
    model = _ladder(bench)
    part = bench.place("xcvae.part.json")
    rows = json.loads(part.read_text()) if part.exists() else {}
    shown: dict[str, xr.Dataset] = {}
    for name, how in LADDER.items():
        store = bench.place(f"xcvae {name}.zarr")
        if name in rows and not store.exists():
            continue
        try:
            start = time.perf_counter()
            ensemble = xcvae.sample(
                bench.arena.test.ds,
                model,
                **how,
                members=bench.members,
                seed=bench.seed,
                postprocess=[{"name": "threshold", "value": WET}],
                store=store,
                device=str(bench.device),
                progress=False,
            )
        except xcvae.errors.ConfigError as error:
            if "diversity" not in how:
                raise
            # It is out of this model's reach, which is a result, too.
            rows[name] = {"failed": str(error)}
        else:
            if name not in rows:
                rows[name] = scores(bench.arena.test, ensemble)
                rows[name]["seconds"] = {"value": time.perf_counter() - start, "units": "s"}
            shown[name] = ensemble
        write_json(part, rows)
        print(f"xcvae {name}: {_short(rows[name])}", flush=True)
    keep_fields(bench.place("xcvae.npz"), bench.arena, shown)
    rates = _rates(
        bench, lambda fast: network_drawer(model, bench.arena.test, bench.device, fast=fast)
    )
    bench.write(
        "xcvae",
        {f"xcvae {name}": row for name, row in rows.items()},
        parameters=_size(model.network),
        training={k: model.training[k] for k in ("minutes", "steps", "history")},
        settings={k: model.training[k] for k in ("fit", "losses")},
        generator=dict(bench.generator),
        fields_per_s=rates,
    )
    part.unlink()
    for store in bench.folder.glob("xcvae *.zarr"):
        shutil.rmtree(store)


def _ladder(bench: Bench) -> xcvae.Model:
    """Train the ladder, or read the one that is there."""
    path = bench.place("model.xcvae")
    if path.exists():
        return xcvae.load(path)
    arena = bench.arena
    model = xcvae.train(
        arena.train.ds,
        target=arena.target,
        coarsen=arena.side,
        validation=arena.validation.ds,
        generator=dict(bench.generator),
        fit=default_fit(bench.device, minutes=bench.minutes) | dict(bench.fit),
        seed=bench.seed,
        device=str(bench.device),
        path=path,
        progress=True,
    )
    for row in model.training["history"]:
        print("xcvae: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    return model


METHODS: dict[str, Callable[[Bench], None]] = {
    "bilinear": bilinear,
    "block": block,
    "rainfarm": noise,
    "flat": flat,
    "xcvae": ladder,
    "edm": edm,
}


def _learned(bench: Bench, learner: Learner, name: str) -> Log:
    return learn(
        learner,
        minutes=bench.minutes,
        place=bench.place(f"{name}.checkpoint"),
        identity={"seed": bench.seed, **learner.identity()},
        deadline=bench.deadline,
        tell=name,
    )


def _numbered(draw: Draw, samples: int, device: torch.device) -> Callable[[int], object]:
    random = torch.Generator(device).manual_seed(0)
    return lambda count: draw(np.arange(count) % samples, random)


def _rates(
    bench: Bench, drawing: Callable[[bool], Callable[[int], object]], *, slow: bool = False
) -> dict[str, Any]:
    """Fields per second of bare drawing, eager and, on a GPU, compiled."""
    if bench.device.type == "cpu":
        return {"eager": rate(drawing(False), (8,) if slow else (8, 32), bench.device, seconds=2)}
    eager = rate(drawing(False), (128, 512) if slow else (128, 512, 2048), bench.device)
    # Every size is compiled anew, which takes long.
    return {"eager": eager, "compiled": rate(drawing(True), (eager["batch"],), bench.device)}


def _told(log: Log) -> dict[str, Any]:
    averaged = "last" if log.which == 0 else f"average {log.which}"
    return {
        "minutes": log.seconds / 60,
        "steps": log.step,
        "weights": averaged,
        "validation": log.best,
        "history": log.history,
    }


def _size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _short(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return str(row["failed"])
    return ", ".join(f"{k} {v['value']:.4g}" for k, v in row.items())

"""Trainings that are driven by hand: what is timed needs no file, validation or calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

import xcvae
from xcvae.fields.batches import Batches
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import describe, prepare
from xcvae.generator.architecture import build_network, resolve
from xcvae.generator.fit import Fit, stages_of
from xcvae.generator.model import Model
from xcvae.generator.numerics import choose_device, placed
from xcvae.generator.trainer import Trainer

__all__ = ["make_model", "make_trainer", "radar"]


def radar(size: tuple[int, int], samples: int = 8) -> xr.Dataset:
    """Frames of the bundled radar, in memory, repeated or cut to a size and a number."""
    ds = xcvae.tutorial.open_dataset("radklim").drop_vars("split").load()
    count = ds.sizes["time"]
    rows, columns = (np.resize(np.arange(n), s) for n, s in zip((156, 132), size, strict=True))
    whole = ds.isel(time=np.resize(np.arange(count), samples), y=rows, x=columns)
    edges = {"y": np.arange(size[0]) * 1.0, "x": np.arange(size[1]) * 1.0}
    coarse = {f"{d}_coarse": np.linspace(0, n - 1, ds.sizes[f"{d}_coarse"]) for d, n in
              zip("yx", size, strict=True)}  # fmt: skip
    times = ds.time.values[0] + np.arange(samples) * np.timedelta64(5, "m")
    return whole.assign_coords(
        {d: (d, values, {"units": "km"}) for d, values in (edges | coarse).items()}
    ).assign_coords(time=times)


def make_trainer(
    ds: xr.Dataset,
    *,
    generator: Mapping[str, Any],
    fit: Mapping[str, Any],
    losses: Sequence[Any] | None = None,
    conditions: Sequence[str] = ("pr_coarse",),
    device: str = "cpu",
) -> Trainer:
    """Set up what `xcvae.train` runs, on rain ``pr`` given conditions; weights of seed 0."""
    spec = describe(ds, target="pr", conditions=list(conditions))
    prepared = prepare(ds, spec, need_target=True)
    scaling, record = Scaling.fit(prepared, spec)
    architecture = resolve(generator, spec)
    settings, chosen = Fit.of(fit), choose_device(device)
    torch.manual_seed(0)
    network = build_network(architecture, spec, scaling.target, masked=record.masked)
    batches = Batches(prepared, spec, scaling, masked=record.masked, blocks=architecture.constrain)
    batches.keep()
    return Trainer(
        network=placed(network, chosen),
        batches=batches,
        validation=None,
        scaling=scaling,
        record=record,
        architecture=architecture,
        settings=settings,
        stages=stages_of(losses, settings),
        device=chosen,
        rng=np.random.default_rng(0),
    )


def make_model(trainer: Trainer) -> Model:
    """Make a model of an untrained network whose layers all do something, as trained ones do."""
    for weight in trainer.network.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return Model(
        trainer.network, spec=trainer.batches.spec, scaling=trainer.scaling, record=trainer.record,
        architecture=trainer.architecture, training={}, sha256="0" * 64,
    )  # fmt: skip

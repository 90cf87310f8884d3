"""Trainings that are driven by hand: what is timed needs no file, validation or calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from xcvae.fields.batches import Batches
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import describe, prepare
from xcvae.generator.architecture import build_network, resolve
from xcvae.generator.fit import Fit, stages_of
from xcvae.generator.numerics import choose_device, placed
from xcvae.generator.trainer import Trainer

__all__ = ["make_trainer"]


def make_trainer(
    ds: xr.Dataset,
    *,
    generator: Mapping[str, Any],
    fit: Mapping[str, Any],
    losses: Sequence[Any] | None = None,
    device: str = "cpu",
) -> Trainer:
    """Set up what `xcvae.train` runs, on rain ``pr`` given ``pr_coarse``; weights of seed 0."""
    spec = describe(ds, target="pr", conditions=["pr_coarse"])
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

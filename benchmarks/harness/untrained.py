"""Untrained models and trainers of xcvae: speed needs no file, validation or calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from xcvae.fields.batches import Batches
from xcvae.fields.describe import describe, prepare
from xcvae.fields.scaling import Scaling
from xcvae.generator.device import choose_device, placed
from xcvae.generator.model import Model
from xcvae.generator.network.architecture import build_networks, resolve
from xcvae.generator.network.networks import Networks
from xcvae.generator.training.settings import Fit, stages_of
from xcvae.generator.training.trainer import Trainer

__all__ = ["make_model", "make_trainer"]


def make_trainer(
    ds: xr.Dataset,
    *,
    generator: Mapping[str, Any],
    fit: Mapping[str, Any],
    losses: Sequence[Any] | None = None,
    conditions: Sequence[str] = ("pr_coarse",),
    device: str = "cpu",
) -> Trainer:
    """Make the trainer of `xcvae.train`, for rain ``pr`` given conditions; weights of seed 0.

    Raises
    ------
    ValueError
        The Dataset has fewer samples than a batch: a step would take fewer, and rates would count
        more than it took.
    """
    spec = describe(ds, target="pr", conditions=list(conditions))
    prepared = prepare(ds, spec, need_target=True)
    scaling, record = Scaling.fit(prepared, spec)
    architecture = resolve(generator, spec)
    settings, chosen = Fit.of(fit), choose_device(device)
    torch.manual_seed(0)
    networks = build_networks(architecture, spec, scaling.target, masked=record.masked)
    batches = Batches(prepared, spec, scaling, masked=record.masked, blocks=architecture.constrain)
    if len(batches) < settings.batch_size:
        raise ValueError(f"batches of {settings.batch_size} need as many samples: {len(batches)}")
    batches.keep()
    return Trainer(
        networks=Networks(placed(one, chosen) for one in networks),
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
    """Make a model with random weights, without the layers of zeros of an untrained network."""
    for weight in trainer.networks.parameters():
        torch.nn.init.normal_(weight, std=0.02)
    return Model(
        trainer.networks, spec=trainer.batches.spec, scaling=trainer.scaling, record=trainer.record,
        architecture=trainer.architecture, training={}, sha256="0" * 64,
    )  # fmt: skip

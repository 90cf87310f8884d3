"""Validation scores of networks whose draws are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from xcvae.fields.describe import describe, prepare
from xcvae.fields.scaling import Scaling
from xcvae.generator.model import Model
from xcvae.generator.network.architecture import build_networks, resolve
from xcvae.generator.training.validation import Validation, pick_samples


@pytest.fixture(scope="module")
def untrained(train_radar):
    """A model whose output is the bias of its head, and its data."""
    ds = train_radar[["pr"]].isel(time=slice(0, 120, 10), y=slice(48, 96), x=slice(48, 96))
    # Not rain, which the network would add to its output.
    ds["warmth"] = "time", np.arange(12.0), {"units": "K"}
    spec = describe(ds, target="pr", conditions=["warmth"])
    prepared = prepare(ds, spec, need_target=True)
    scaling, record = Scaling.fit(prepared, spec)
    architecture = resolve({"channels": [16, 8], "latents": [2, 1]}, spec)
    networks = build_networks(architecture, spec, scaling.target, masked=False)
    torch.nn.init.zeros_(networks[0].head.weight)
    model = Model(
        networks,
        spec=spec,
        scaling=scaling,
        record=record,
        architecture=architecture,
        training={},
    )
    return model, prepared


@pytest.mark.parametrize("output", [-1.0, 1.0])
def test_validation_scores_of_constant_draws(untrained, output):
    model, prepared = untrained
    torch.nn.init.constant_(model.network.head.bias, output)
    validation = Validation(
        model.batches(prepared), model.scaling, model.record, torch.device("cpu")
    )
    found = validation(model.networks)
    drawn = float(model.scaling.physical(torch.tensor(output)))
    error = np.abs(prepared.pr.values - drawn)
    tail = prepared.pr.values > model.record.quantile(0.95, wet=True)
    # Equal members have no spread: the CRPS is the absolute error.
    assert found["val_crps"] == pytest.approx(error.mean(), rel=1e-5)
    assert found["val_mae_tail"] == pytest.approx(error[tail].mean(), rel=1e-5)
    assert found["val_wet_fraction"] == float(output > 0)


def test_small_maps_are_scored_on_more_samples(untrained):
    """So that a few heavy days decide less."""
    model, prepared = untrained
    many = model.batches(prepared.isel(time=np.tile(np.arange(12), 80)))
    island = dataclasses.replace(model.record, samples=960, pixels=960 * 200)
    assert len(pick_samples(many, island, 300_000, (16, 256))) == 2_000_000 // 48**2
    # Valid pixels limit the samples first, and large maps as before.
    assert len(pick_samples(many, model.record, 300_000, (16, 256))) == 300_000 // 48**2
    large = model.batches(prepared.isel(time=np.tile(np.arange(12), 80)).pad(x=(0, 400)))
    assert len(pick_samples(large, island, 300_000, (16, 256))) == 256

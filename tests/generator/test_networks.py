"""Models of several networks: their members, training, files, and trainings from them."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import ConfigError
from xcvae.fields.describe import prepare
from xcvae.generator.model import Model, from_bytes
from xcvae.generator.network.architecture import build_networks
from xcvae.generator.network.networks import Networks
from xcvae.generator.training.calibration import calibrate_spread, spread_skill_ratio
from xcvae.generator.training.checkpoint import checkpoint_path
from xcvae.generator.training.spikes import FIRST, PATIENCE
from xcvae.generator.training.validation import Validation
from xcvae.plugins import Component

LADDER = {"channels": [16, 8], "latents": [2, 1]}
FIT = {"max_steps": 6, "batch_size": 4, "crop": 24, "validations": 2}


@pytest.fixture(scope="module")
def corner(train_radar):
    few = train_radar.isel(time=slice(0, 40))
    return few.isel(y=slice(48, 96), x=slice(48, 96), y_coarse=slice(4, 8), x_coarse=slice(4, 8))


def quick(ds, networks, *, fit=None, **options):
    return xcvae.train(
        ds, target="pr", conditions=["pr_coarse"], generator={**LADDER, "networks": networks},
        fit={**FIT, **(fit or {})}, progress=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(corner, tmp_path_factory):
    """A model of two networks, in a file."""
    return quick(corner, 2, path=tmp_path_factory.mktemp("pair") / "pair.xcvae")


def alone(model: Model, number: int) -> Model:
    """A model of one of the networks, with the calibration of all."""
    architecture = dataclasses.replace(model.architecture, networks=1)
    parts = {k: vars(model)[k] for k in ("spec", "scaling", "record", "valid", "thumbnails")}
    training = model.training
    networks = Networks([model.networks[number]])
    return Model(networks, architecture=architecture, training=training, **parts)


def weights_of(model):
    return [torch.cat([w.flatten() for w in one.state_dict().values()]) for one in model.networks]


def test_number_of_a_member_decides_on_its_network():
    networks = Networks([None, None, None])
    assert dict(networks.deal([0, 1, 2, 3, 7])) == {0: [0, 3], 1: [1, 4], 2: [2]}
    assert dict(networks.deal([4, 1])) == {1: [0, 1]}


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_members_are_those_of_their_network(pair, corner, mode):
    some = corner.isel(time=[3, 30])
    options = {"mode": mode, "postprocess": [], "seed": 5}
    if mode == "posterior":
        options["spread"] = 0.5
    drawn = xcvae.sample(some, pair, members=5, **options).pr.load()
    apart = [xcvae.sample(some, alone(pair, n), members=5, **options).pr.load() for n in (0, 1)]
    for member in range(5):
        own, other = apart[member % 2][member], apart[1 - member % 2][member]
        np.testing.assert_array_equal(drawn[member], own)
        assert not np.array_equal(drawn[member], other)


def test_members_do_not_depend_on_chunks_tiles_or_processes(pair, corner, tmp_path):
    some = corner.isel(time=slice(0, 3))
    whole = xcvae.sample(some, pair, members=5, postprocess=[]).pr.load()
    store = xcvae.sample(
        some, xcvae.load(pair.path), members=5, postprocess=[], store=tmp_path / "members.zarr",
        chunks={"realization": 2, "time": 1},
    )  # fmt: skip
    np.testing.assert_array_equal(store.pr, whole)
    tiled = xcvae.sample(some, pair, members=5, postprocess=[], tile={"y": 24, "x": 24}).pr
    np.testing.assert_allclose(tiled, whole, atol=1e-3 * float(whole.max()))


def test_file_has_all_networks(pair, corner):
    again = xcvae.load(pair.path)
    assert again.architecture.networks == 2
    assert "2 networks of 2 levels" in repr(again)
    one, two = weights_of(pair)
    assert not torch.equal(one, two)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(again), (one, two), strict=True))
    halved = xcvae.load(pair.path).halved()
    assert all(
        torch.equal(a, b.half().float())
        for a, b in zip(weights_of(from_bytes(halved.to_bytes())), (one, two), strict=True)
    )


def test_networks_take_the_steps_in_turn(corner):
    model = quick(corner, 2, fit={"max_steps": 2, "validations": 1}, validation=0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        options = (model.architecture, model.spec, model.scaling.target)
        initial = build_networks(*options, masked=False)
    pairs = zip(model.networks, initial, strict=True)
    assert all(not torch.equal(a.head.weight, b.head.weight) for a, b in pairs)


@dataclasses.dataclass(frozen=True)
class SpikyInSecond(Component):
    """A loss with huge gradients for the second of two networks, from a step on."""

    first: int

    def __call__(self, state):
        spike = state.step % 2 == 1 and state.step > self.first
        return state.mean((state.x - state.output).square()) * (1e12 if spike else 1.0)


def test_lasting_spikes_of_one_network_return_to_the_averaged_weights(corner):
    fit = {"max_steps": 2 * (FIRST + 3 * PATIENCE), "validations": 1, "batch_size": 2, "crop": 12}
    model = quick(corner, 2, losses=["kl", SpikyInSecond(2 * FIRST + 1)], fit=fit, validation=0)
    assert PATIENCE <= model.history.skipped_steps.item() <= 2 * PATIENCE


def test_validation_scores_members_of_all_networks(pair, corner):
    held_back = prepare(corner.isel(time=slice(30, 40)), pair.spec, need_target=True)
    models = [pair, alone(pair, 0), alone(pair, 1)]
    scores = [
        Validation(one.batches(held_back), one.scaling, one.record, one.device)(one.networks)
        for one in models
    ]
    assert len({score["val_crps"] for score in scores}) == 3
    # Reconstructions are those of the first, and its deviates come before those of members.
    assert scores[0]["val_mae_tail"] == scores[1]["val_mae_tail"]


def test_calibration_draws_members_of_all_networks(pair, corner):
    ladders = [copy.deepcopy(pair.networks[n % 2]) for n in range(8)]
    parts = {k: vars(pair)[k] for k in ("spec", "scaling", "record", "architecture")}
    model = Model(Networks(ladders), training={}, **parts)
    batches = model.batches(prepare(corner.isel(time=[3, 30]), pair.spec, need_target=True))
    found = []
    for bias in (0.0, 1.0):
        with torch.no_grad():
            model.networks[7].head.bias += bias
        found.append([spread_skill_ratio(model, batches), *calibrate_spread(model, batches)])
    assert found[0][0] != found[1][0]
    assert found[0][1:] != found[1][1:]


def test_killed_training_resumes_all_networks(corner, tmp_path):
    data, path = tmp_path / "corner.zarr", tmp_path / "model.xcvae"
    corner.drop_encoding().to_zarr(data, consolidated=False)
    ds = xr.open_zarr(data, consolidated=False, chunks=None).load()
    fit = {**FIT, "max_steps": 60, "validations": 30}
    script = (
        "import torch, xarray as xr, xcvae; torch.set_num_threads(1)\n"
        f"ds = xr.open_zarr({str(data)!r}, consolidated=False, chunks=None).load()\n"
        "xcvae.train(ds, target='pr', conditions=['pr_coarse'], validation=0, progress=False,\n"
        f"            generator={ {**LADDER, 'networks': 2} }, fit={fit}, path={str(path)!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        log = path.with_name("model.xcvae.log.csv")
        while not (log.exists() and checkpoint_path(path).exists()):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert not path.exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = quick(ds, 2, fit=fit, validation=0, path=path)
        whole = quick(ds, 2, fit=fit, validation=0)
    finally:
        torch.set_num_threads(threads)
    assert all(
        torch.equal(a, b) for a, b in zip(weights_of(resumed), weights_of(whole), strict=True)
    )


def test_start_gives_its_networks_in_turn(pair, corner):
    untrained = {"max_steps": 3, "validations": 1, "learning_rate": 1e-9, "weight_decay": 0.0}
    three = quick(corner, 3, start=pair, fit=untrained)
    one, two = weights_of(pair)
    assert all(
        torch.allclose(a, b, atol=1e-6)
        for a, b in zip(weights_of(three), (one, two, one), strict=True)
    )
    inherited = xcvae.train(
        corner, target="pr", conditions=["pr_coarse"], start=pair, fit={**FIT, **untrained},
        progress=False,
    )  # fmt: skip
    assert len(inherited.networks) == 2
    # Numbers of NumPy are taken like those of Python.
    first = quick(corner, np.int64(1), start=pair, fit={**untrained, "max_steps": np.int64(3)})
    assert torch.allclose(weights_of(first)[0], one, atol=1e-6)
    report = first.training["start"]
    assert (report["share"], report["used"]) == (1.0, 0.5)
    assert report["unused"] == ["1 of its 2 networks"]


def test_model_of_any_factor_has_several_networks(train_radar):
    few = train_radar[["pr"]].isel(time=slice(0, 20), y=slice(0, 96), x=slice(0, 96))
    model = xcvae.train(
        few, target="pr", coarsen={"factor": [2, 4], "pixel": [1, 2]}, progress=False,
        generator={**LADDER, "networks": 2}, fit={**FIT, "max_steps": 2, "validations": 1},
    )  # fmt: skip
    coarse = few.coarsen(y=4, x=4).mean()
    coarse["pr"].attrs = few["pr"].attrs
    for dim in ("y", "x"):
        coarse[dim].attrs = few[dim].attrs
    members = xcvae.sample(coarse.isel(time=[0]), model, factor=4, members=3).pr.load()
    assert not np.array_equal(members[0], members[1])


@pytest.mark.parametrize("networks", [0, 9, 1.5, True])
def test_unusable_numbers_of_networks_are_refused(corner, networks):
    with pytest.raises(ConfigError, match=r"generator\.networks: expected 1 to 8"):
        quick(corner, networks)


def test_fewer_steps_than_networks_are_refused(corner):
    with pytest.raises(ConfigError, match=r"fit\.max_steps: .* each of the 4 networks, .* got 3"):
        quick(corner, 4, fit={"max_steps": 3})


def test_levels_are_those_of_the_first_network(pair, corner):
    ds = prepare(corner.isel(time=[0, 1]), pair.spec, need_target=True)
    batch = pair.batches(ds).load(slice(None))
    assert pair.levels(batch) == alone(pair, 0).levels(alone(pair, 0).batches(ds).load(slice(None)))

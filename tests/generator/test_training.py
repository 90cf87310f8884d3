"""Training: limits, the best weights, resuming, random state, and refused settings."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import (
    ComponentError,
    ConfigError,
    DataError,
    EmptySelectionError,
    MismatchError,
    OutOfMemoryError,
    OutputExistsError,
    XcvaeError,
)
from xcvae.fields.batches import Batch
from xcvae.fields.describe import describe, prepare
from xcvae.files import locked
from xcvae.generator.device import placed
from xcvae.generator.model import from_bytes
from xcvae.generator.network.architecture import build_network, resolve
from xcvae.generator.training import checkpoint
from xcvae.generator.training.checkpoint import checkpoint_path, last_weights_path
from xcvae.generator.training.settings import Fit
from xcvae.generator.training.spikes import FIRST, GROWTH, LIMIT, PATIENCE, SpikeGuard
from xcvae.generator.training.train import _seeded, split
from xcvae.generator.training.trainer import RandomCrop
from xcvae.generator.training.validation import Validation
from xcvae.plugins import Component

SMALL = {"channels": [16, 8], "latents": [2, 1]}
FEW = {"max_steps": 6, "batch_size": 4, "crop": 24, "validations": 2}


def quick(ds, *, fit=None, **options):
    options = {"target": "pr", "conditions": ["pr_coarse"], "generator": SMALL, **options}
    return xcvae.train(ds, fit={**FEW, **(fit or {})}, progress=False, **options)


@pytest.fixture(scope="module")
def few(train_radar):
    return train_radar.isel(time=slice(0, 40))


@pytest.fixture(scope="module")
def corner(few):
    """A corner of the maps, for tests of many trainings: calibration takes most of their time."""
    return few.isel(y=slice(48, 96), x=slice(48, 96), y_coarse=slice(4, 8), x_coarse=slice(4, 8))


def test_train_lowers_and_logs_the_loss(tiny_model):
    history = tiny_model.history
    assert list(history.step.values) == [80, 160]
    assert history.loss.values[-1] < history.loss.values[0]
    assert {"val_crps", "val_negative_elbo", "val_kl", "loss_laplace", "loss_kl"} <= set(history)
    assert np.isfinite(history.drop_vars("loss_crps").to_array()).all()
    log = pd.read_csv(tiny_model.path.with_name("tiny.xcvae.log.csv"))
    np.testing.assert_allclose(log["val_crps"], history.val_crps)
    last = xcvae.load(last_weights_path(tiny_model.path))
    assert last.training == {**tiny_model.training, "weights": "last"}  # the best ones, too
    assert not checkpoint_path(tiny_model.path).exists()


def test_samples_too_few_to_hold_some_back_are_warned_of(corner):
    frames = corner[["pr"]].isel(time=slice(2)).load()
    spec = describe(frames, target="pr", coarsen=12)
    with pytest.warns(UserWarning, match=r"0\.15 of 2 samples are none to hold back.*validation=0"):
        parts = split(frames, spec, 0.15)
    assert (parts[0].sizes["time"], parts[1]) == (2, None)
    assert split(frames, spec, 0)[1] is None  # requested


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generator": "small"}, "generator: expected a dict.*'preset': 'small'"),
        ({"target": ["pr"]}, "target: expected a variable"),
        ({"conditions": 3}, "conditions: expected names of variables.* got int"),
        ({"statics": [None]}, "statics: expected names of variables.* got NoneType"),
        ({"spatial_dims": 3}, "spatial_dims: expected two of the dims"),
    ],
)
def test_options_of_other_types_are_refused(few, options, message):
    with pytest.raises(XcvaeError, match=message):
        xcvae.train(few, **{"target": "pr", "conditions": ["pr_coarse"], **options}, progress=False)
    fields = {"target": "pr", "conditions": [few.pr_coarse]}
    with pytest.raises(ConfigError, match="got DataArray"):
        xcvae.train(few, **fields, progress=False)


def test_validation_with_samples_of_the_training_is_warned_of(corner):
    wettest = np.sort(corner.pr.mean(("y", "x")).values.argsort()[-6:])
    frames = corner[["pr"]].isel(time=wettest).load()
    spec = describe(frames, target="pr", coarsen=12)
    first = re.escape(str(frames.time[2].values)[:16])
    with pytest.warns(UserWarning, match=f"2 of 4 samples are those of the training.*{first}"):
        split(frames.isel(time=slice(4)), spec, frames.isel(time=slice(2, 6)))
    # Of the same times, in another area.
    elsewhere = frames.assign(pr=frames.pr.roll(x=5).assign_attrs(frames.pr.attrs))
    for other in (elsewhere, frames.isel(time=slice(4, 6))):
        parts = split(frames.isel(time=slice(4)), spec, other)
        assert parts[1].sizes["time"] == other.sizes["time"]


def test_train_warns_of_an_uneven_grid(corner):
    gap = corner[["pr"]].isel(x=[*range(24), *range(25, 49)][:36])
    with pytest.warns(UserWarning, match="x: the distance of neighbours varies"):
        xcvae.train(
            gap, target="pr", coarsen=12, generator=SMALL, fit={**FEW, "max_steps": 1},
            progress=False,
        )  # fmt: skip


def test_train_depends_on_the_seed_only(few):
    a, b, c = quick(few, seed=1), quick(few, seed=1), quick(few, seed=2)
    assert a.training["history"][-1]["loss"] == b.training["history"][-1]["loss"]
    assert a.training["history"][-1]["loss"] != c.training["history"][-1]["loss"]


def test_default_stages_end_with_crps(few):
    rows = quick(few, fit={"max_steps": 8, "validations": 8}).training["history"]
    assert "loss_crps" not in rows[0]
    assert "loss_crps" in rows[-1]


@pytest.mark.parametrize("name", ["intensity_weighted_mae", "gradient", "mass"])
def test_train_accepts_the_seed_losses(few, name):
    model = quick(few, losses=["laplace", "kl", {"name": name, "weight": 0.5}])
    assert f"loss_{name}" in model.training["history"][-1]
    assert [term["name"] for term in model.training["losses"][0]["losses"]][-1] == name


def test_max_minutes_ends_the_training(few):
    began = time.monotonic()
    model = quick(few, fit={"max_steps": 10**6, "max_minutes": 0.03})
    assert time.monotonic() - began < 60
    assert 0 < model.training["steps"] < 10**6


#: A learning rate that makes the score worse after the first steps.
DIVERGES = {"max_steps": 12, "validations": 12, "learning_rate": 0.05}


@pytest.mark.parametrize(
    ("patience", "rate"),
    [(1, 0.05), (3, 0.05), (2, 1e-9)],  # with the last one, scores are near the best one at most
)
def test_patience_stops_after_validations_without_improvement(corner, patience, rate):
    model = quick(corner, fit={**DIVERGES, "patience": patience, "learning_rate": rate})
    scores = model.history.val_crps.values
    best = np.minimum.accumulate(scores)
    waited = [int(n - np.flatnonzero(scores[: n + 1] == best[n])[0]) for n in range(len(scores))]
    assert waited[-1] == patience  # the last validation, and the first one that waited so long
    assert max(waited[:-1]) < patience
    assert model.training["steps"] < 12


def test_training_that_is_killed_after_an_early_stop_does_not_go_on(corner, tmp_path, monkeypatch):
    path, fit, real = tmp_path / "model.xcvae", {**DIVERGES, "patience": 1}, Path.replace

    def replace(self, target):
        if Path(target) == last_weights_path(path):
            raise StoppedError
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(StoppedError):
            quick(corner, fit=fit, path=path)
    resumed, whole = quick(corner, fit=fit, path=path), quick(corner, fit=fit)
    assert resumed.training["steps"] == whole.training["steps"] < 12
    assert torch.equal(weights_of(resumed), weights_of(whole))


@dataclass(frozen=True)
class Turning(Component):
    """Brings the output to the rain, and from a step on away from it."""

    at: int

    def __call__(self, state):
        distance = (state.output - state.x).abs().mean()
        return distance if state.step < self.at else -distance


@pytest.mark.parametrize("near", [0.0, 0.5])
def test_saved_weights_have_the_best_score_or_are_near_it(corner, tmp_path, monkeypatch, near):
    monkeypatch.setattr("xcvae.generator.training.trainer.NEAR", near)
    path = tmp_path / "model.xcvae"
    fit = {"max_steps": 12, "validations": 4}
    rows = quick(corner, fit=fit, path=path, losses=[Turning(6)]).history
    history = rows.val_crps.values
    assert history.min() < history[-1]  # the best weights are not the last ones
    kept = history[np.flatnonzero(history <= history.min() * (1 + near))[-1]]
    assert (kept == history.min()) == (near == 0)
    for file, expected in ((path, kept), (last_weights_path(path), history[-1])):
        model = from_bytes(file.read_bytes())  # the loss is of no package
        assert history[rows.step == model.training["selected"]] == [kept]
        model.networks.set_temperature(1.0)  # scores of a training are those before calibration
        held_back = split(corner, model.spec, 0.15)[1]
        validation = Validation(
            model.batches(held_back), model.scaling, model.record, torch.device("cpu")
        )
        assert validation(model.networks)["val_crps"] == pytest.approx(expected, rel=1e-5)


@dataclass(frozen=True)
class Failing(Component):
    """Draws random numbers as a third-party loss may, and fails at a step."""

    at: int

    def __call__(self, state):
        if state.step == self.at:
            raise ArithmeticError("failed on purpose")
        return 0.0 * (state.output.sum() + torch.randn(()))


def weights_of(model):
    return torch.cat([w.detach().flatten() for w in model.network.parameters()])


@pytest.mark.parametrize("fails_at", [None, 3])
def test_train_leaves_the_global_random_state_of_torch(corner, fails_at):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    losses = ["laplace", "kl", Failing(-1 if fails_at is None else fails_at)]
    try:
        quick(corner, losses=losses)
    except ComponentError:
        assert fails_at is not None
    assert torch.equal(torch.get_rng_state(), before)


@dataclass(frozen=True)
class Lacking(Component):
    """Takes more memory than there is, as a loss that draws members may on a GPU."""

    def __call__(self, state):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to get 2 GiB.\nMore")


def test_lack_of_memory_names_the_settings(corner):
    message = r"batches of 4 crops of 24 by 24 pixels.*Tried to get 2 GiB\..*fit\.batch_size"
    with pytest.raises(OutOfMemoryError, match=message):
        quick(corner, losses=["laplace", Lacking()])


def test_seeded_restores_the_random_states_of_gpus(monkeypatch):
    """With stand-ins for the generators of two GPUs."""
    states = {0: torch.tensor(10), 1: torch.tensor(11)}

    def seed_all(seed):
        states.update(dict.fromkeys(states, torch.tensor(seed)))

    def restore(state, device):
        states[device] = state

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", restore)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    for device, seed in (("cpu", 10), ("cuda", 5)):
        with _seeded(5, torch.device(device)):
            assert states[0] == seed
            assert torch.initial_seed() == 5
        assert [int(state) for state in states.values()] == [10, 11]


def test_train_does_not_depend_on_the_global_random_state_of_torch(corner):
    models = []
    for state in (1, 2):
        torch.manual_seed(state)
        models.append(quick(corner, losses=["laplace", "kl", Failing(-1)]))
    assert torch.equal(weights_of(models[0]), weights_of(models[1]))
    # The weights start as those of a network that is built after torch.manual_seed(seed).
    torch.manual_seed(0)
    model = models[0]
    build_network(model.architecture, model.spec, model.scaling.target, masked=False)
    first_noise = torch.randn(3)
    with _seeded(0, torch.device("cpu")):
        build_network(model.architecture, model.spec, model.scaling.target, masked=False)
        assert torch.equal(torch.randn(3), first_noise)


def test_killed_training_resumes_with_the_same_steps(few, tmp_path):
    """SIGKILL after the first checkpoint; the second call has the history of a single one."""
    data, model = tmp_path / "few.zarr", tmp_path / "model.xcvae"
    log = tmp_path / "model.xcvae.log.csv"
    few.drop_encoding().to_zarr(data, consolidated=False)
    fit = {**FEW, "max_steps": 120, "validations": 40}
    script = (
        "import torch, xarray as xr, xcvae; torch.set_num_threads(1)\n"
        f"ds = xr.open_zarr({str(data)!r}, consolidated=False, chunks=None).load()\n"
        f"m = xcvae.train(ds, target='pr', conditions=['pr_coarse'], generator={SMALL},\n"
        f"                validation=0, fit={fit}, path={str(model)!r}, progress=False)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        while not (log.exists() and checkpoint_path(model).exists()):  # the log comes last
            assert process.poll() is None, "the training ended before it could be killed"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert not model.exists()
    rows_before = len(pd.read_csv(log))
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    history = xcvae.load(model).history
    assert 1 <= rows_before < 40
    np.testing.assert_array_equal(history.step, np.arange(3, 121, 3))
    other = tmp_path / "other.xcvae"
    whole = script.replace(repr(str(model)), repr(str(other)))
    subprocess.run([sys.executable, "-c", whole], check=True, timeout=300)
    # The order of the samples, the crops and the noise are those of one call.
    xr.testing.assert_equal(
        history.drop_vars("minutes"), xcvae.load(other).history.drop_vars("minutes")
    )


def test_file_that_a_killed_training_wrote_in_part_is_removed_by_the_next_one(few, tmp_path):
    data, model = tmp_path / "few.zarr", tmp_path / "model.xcvae"
    few.drop_encoding().to_zarr(data, consolidated=False)
    users = tmp_path / f"notes.{'0' * 32}.tmp"
    users.write_text("mine")
    script = (
        "import os, sys, xarray as xr, xcvae\n"
        "def audit(event, arguments):\n"
        "    if event == 'os.rename' and str(arguments[1]).endswith('.checkpoint'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "sys.addaudithook(audit)\n"
        f"ds = xr.open_zarr({str(data)!r}, consolidated=False, chunks=None).load()\n"
        f"xcvae.train(ds, target='pr', conditions=['pr_coarse'], generator={SMALL},\n"
        f"            fit={FEW}, path={str(model)!r}, progress=False)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("model.xcvae.checkpoint.*.tmp"))) == 1
    quick(few, path=model)
    assert list(tmp_path.glob("*.tmp")) == [users]


def test_checkpoint_restores_the_optimiser(tmp_path):
    """Same weights and moments, in the same memory layout: the next step is the same."""

    def step(network, optimizer, number):
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        network(x).square().mean().backward()
        optimizer.step()

    def fresh():
        torch.manual_seed(0)
        network = placed(torch.nn.Conv2d(3, 4, 3), torch.device("cpu"))
        return network, torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)

    one, steps = fresh()
    for number in range(3):
        step(one, steps, number)
    common = {
        "path": tmp_path / "c",
        "identity": {"identity": "x"},
        "rng": np.random.default_rng(0),
    }
    checkpoint.write(
        progress=checkpoint.Progress(3), weights={"n": one.state_dict()}, optimizer=steps, **common
    )
    two, again = fresh()
    checkpoint.read(weights={"n": two.state_dict()}, optimizer=again, **common)
    for number in range(3, 6):
        step(one, steps, number)
        step(two, again, number)
    torch.testing.assert_close(two.weight, one.weight, rtol=0, atol=0)


@pytest.mark.parametrize("gpu", [torch.device("cuda", 1), None])
def test_checkpoint_restores_the_random_states_of_cpu_and_gpu(tmp_path, monkeypatch, gpu):
    """With stand-ins for the generators of two GPUs: that of the training counts, if any."""
    states = {0: [torch.ones(16, dtype=torch.uint8)], 1: [torch.arange(16, dtype=torch.uint8)]}
    state = states[1]

    def number(device):
        return 0 if device == "cuda" else device.index

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_rng_state", lambda device="cuda": states[number(device)][-1]
    )
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda new, device="cuda": states[number(device)].append(new)
    )
    if gpu is not None:
        monkeypatch.setattr(checkpoint, "_gpu_of", lambda _: gpu)
    network = torch.nn.Conv2d(3, 4, 3)
    rng = np.random.default_rng(0)
    common = {
        "path": tmp_path / "c",
        "identity": {"identity": "x"},
        "rng": rng,
        "weights": {"n": network.state_dict()},
        "optimizer": torch.optim.AdamW(network.parameters()),
    }
    with torch.random.fork_rng([]):
        checkpoint.write(progress=checkpoint.Progress(3), **common)
        expected = torch.rand(4), rng.random(4)
        state.append(torch.zeros(16, dtype=torch.uint8))
        assert checkpoint.read(**common).step == 3
        assert torch.equal(torch.rand(4), expected[0])
    np.testing.assert_array_equal(rng.random(4), expected[1])
    assert len(states[0]) == 1
    assert torch.equal(state[-1], state[0]) == (gpu is not None)


def test_generator_of_a_checkpoint_is_that_of_the_weights():
    class OnGpu:
        device = torch.device("cuda", 1)

    cpu = torch.zeros(1)
    assert checkpoint._gpu_of({"network": {"a": cpu}}) is None
    assert checkpoint._gpu_of({"network": {"a": cpu}, "average": {"b": OnGpu()}}) == OnGpu.device


def test_random_crop_avoids_masked_windows(few):
    """Only a tenth of the domain is valid: every step has valid pixels."""
    land = few.assign(pr=few.pr.where(few.x < few.x.values[14]))
    model = quick(land, fit={"max_steps": 12, "validations": 12}, validation=0)
    assert model.record.masked
    assert all(row["loss_laplace"] != 0 for row in model.training["history"])


@pytest.mark.parametrize(("unit", "corners"), [(1, range(5)), (2, (0, 2, 4))])
def test_random_crop_reaches_every_corner(unit, corners):
    """Rows and columns of the first pixel, up to the last place where a crop fits."""
    place = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(12), indexing="ij"))[None]
    batch = Batch(place, None, None, torch.ones(1, 1, 8, 12, dtype=torch.bool))
    rng, crop = np.random.default_rng(0), RandomCrop(side=4, unit=unit)
    found = {tuple(crop(batch, rng).c[0, :, 0, 0].tolist()) for _ in range(1000)}
    assert {row for row, _ in found} == set(corners)
    assert {column for _, column in found} == set(range(0, 9, unit))


def test_train_refuses_a_damaged_checkpoint(few, tmp_path):
    path = tmp_path / "model.xcvae"
    quick(few, path=path)
    checkpoint_path(path).write_bytes(b"not a checkpoint")
    path.unlink()
    with pytest.raises(xcvae.errors.ModelFileError, match="checkpoint"):
        quick(few, path=path)
    link = tmp_path / "link.xcvae"
    checkpoint_path(link).symlink_to(checkpoint_path(path))
    for start in (path, link):
        with pytest.raises(OutputExistsError, match="did not write"):
            quick(few, path=start, fit={"resume": False})
    assert checkpoint_path(path).read_bytes() == b"not a checkpoint"


def test_train_refuses_a_checkpoint_with_other_settings(few, tmp_path, monkeypatch):
    path = tmp_path / "model.xcvae"

    with _stopped(monkeypatch):
        quick(few, path=path, fit={"validations": 6})
    assert checkpoint_path(path).exists()
    with pytest.raises(MismatchError, match="settings"):
        quick(few, path=path, fit={"validations": 6, "learning_rate": 1e-4})


@pytest.mark.parametrize("changed", ["conditions", "a sample", "validation", "lazy conditions"])
def test_train_refuses_a_checkpoint_with_other_data(
    few, test_radar, tmp_path, monkeypatch, changed
):
    """The same target, so the same record: conditions and held-back samples count."""
    path = tmp_path / "model.xcvae"
    held = test_radar.isel(time=slice(6))
    train, lazy = few, few.chunk(time=5)
    other = {
        "conditions": (few.assign(pr_coarse=few.pr_coarse[::-1].variable), held),
        "a sample": (few.copy(deep=True), held),
        "validation": (few, held.assign(pr=held.pr.roll(x=1))),
        "lazy conditions": (lazy.assign(pr_coarse=lazy.pr_coarse[::-1].variable), held),
    }[changed]
    if changed == "a sample":
        other[0].pr_coarse[1] = other[0].pr_coarse[2]

    with _stopped(monkeypatch):
        quick(lazy if "lazy" in changed else train, path=path, validation=held)
    assert checkpoint_path(path).exists()
    with pytest.raises(MismatchError, match="data"):
        quick(other[0], path=path, validation=other[1])


def test_second_training_of_a_file_is_refused(corner, tmp_path):
    """The second one to end had trained in vain, and replaced the last weights of the first."""
    path = tmp_path / "new" / "model.xcvae"
    path.parent.mkdir()
    with locked(path, timeout=0, busy=OutputExistsError("busy")):
        with pytest.raises(OutputExistsError, match="no other training"):
            quick(corner, path=path)
        assert [file.name for file in path.parent.iterdir()] == [".model.xcvae.lock"]
    quick(corner, path=path)
    assert {file.name for file in path.parent.iterdir()} == {
        "model.xcvae", "model-last.xcvae", "model.xcvae.log.csv",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["model-last.xcvae", "model.xcvae.log.csv"])
def test_train_keeps_files_of_others_next_to_the_model(few, tmp_path, name):
    path = tmp_path / "model.xcvae"
    quick(few, path=path)
    checkpoint_path(path).write_bytes(b"")  # as of a training that was killed at its end
    path.unlink()
    (tmp_path / name).write_text("thirty years of work")
    with pytest.raises(OutputExistsError, match=name):
        quick(few, path=path)
    assert (tmp_path / name).read_text() == "thirty years of work"


class StoppedError(Exception):
    """Stands for a kill."""


@contextmanager
def _stopped(monkeypatch):
    """Stop a training as soon as it has a checkpoint."""

    def stop(*_):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _second_time(stop))
        with pytest.raises(StoppedError):
            yield


def _second_time(action):
    real, calls = Path.replace, []

    def replace(self, target):
        calls.append(target)
        return action() if len(calls) > 2 else real(self, target)

    return replace


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fit": "fast"}, "fit: expected settings by name"),
        ({"seed": "a"}, "seed: expected an integer >= 0, got 'a'"),
        ({"seed": -1}, "seed: expected an integer >= 0, got -1"),
    ],
)
def test_train_refuses_wrong_types(few, wrong, said):
    with pytest.raises(ConfigError, match=said):
        xcvae.train(few, target="pr", coarsen=12, **wrong)


def test_train_refuses_an_existing_path(tiny_model, few):
    before = tiny_model.path.read_bytes()
    with pytest.raises(OutputExistsError, match="remove"):
        quick(few, path=tiny_model.path)
    assert tiny_model.path.read_bytes() == before


def test_train_streams_dask_data(few):
    model = quick(few.chunk({"time": 8}))
    assert np.isfinite(model.training["history"][-1]["loss"])


def test_validation_accepts_a_dataset_or_zero(few, test_radar):
    assert "val_crps" in quick(few, validation=test_radar).training["history"][-1]
    assert "val_crps" not in quick(few, validation=0).training["history"][-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": {"max_step": 3}}, "max_steps"),
        ({"fit": {"batch_size": 0}}, "batch_size"),
        ({"fit": {"max_minutes": "long"}}, "max_minutes"),
        ({"fit": {"monitor": "elbow"}}, "negative_elbo"),
        ({"fit": {"stages": [{"losses": ["laplace"], "share": 0.4}]}}, "add up to 1"),
        ({"fit": {"stages": [{"loss": ["laplace"]}]}}, "losses"),
        ({"losses": ["laplace"], "fit": {"stages": [{}]}}, "both"),
        ({"fit": {"stages": [{"share": 1.5}, {"share": -0.5}]}}, r"stages\[0\].share.*0 to 1.*1.5"),
        ({"fit": {"stages": [{"share": "half"}]}}, r"stages\[0\].share.*'half'"),
        ({"fit": {"stages": [{"share": True}]}}, r"stages\[0\].share.*True"),
        ({"fit": {"stages": [{"share": math.nan}]}}, r"stages\[0\].share.*nan"),
        ({"fit": {"stages": [{"losses": "laplace"}]}}, "a list of losses.*'laplace'"),
        ({"fit": {"stages": [{"losses": None}]}}, "a list of losses.*None"),
        ({"fit": {"stages": {"losses": ["kl"]}}}, "a list of stages"),
        ({"fit": {"stages": ["laplace"]}}, r"stages\[0\].*'laplace'"),
        ({"losses": "laplace"}, "a list of losses.*'laplace'"),
        ({"losses": {"name": "laplace"}}, "a list of losses"),
        ({"generator": {"preset": "smal"}}, "small"),
        ({"generator": {"chanels": [8]}}, "channels"),
        ({"generator": {"channels": [8, 8], "latents": [1]}}, "latents"),
        ({"generator": {"channels": [8], "latents": [1, 2, 3]}}, "got 1 and 3"),
        ({"generator": {"latents": [4, 4, 4, 4, 4, 4, 4]}}, "got 6 and 7"),
        ({"generator": {"levels": 9}}, "at most 6"),
        ({"generator": {"channels": "8"}}, "list"),
        ({"generator": {"separable": -1}}, r"separable: expected an integer >= 0"),
        ({"losses": ["laplac"]}, "laplace"),
        ({"losses": []}, "at least one"),
        ({"losses": ["mass", "mass"]}, "each name once"),
        ({"fit": {"resume": "no"}}, "true or false"),
        ({"validation": 1.0}, "share"),
        ({"validation": "0.1"}, "share"),
        ({"validation": [0.1]}, "share"),
        ({"device": "gpu"}, "cuda"),
    ],
)
def test_train_names_wrong_settings(few, options, message):
    with pytest.raises(ConfigError, match=message):
        quick(few, **options)


def test_train_refuses_a_dry_record(few):
    dry = few.assign(pr=few.pr * 0)
    with pytest.raises(DataError, match="rain"):
        quick(dry)


def test_train_refuses_a_validation_share_without_training_samples(few):
    with pytest.raises(EmptySelectionError, match="samples"):
        quick(few.isel(time=slice(0, 1)), validation=0.9)


@pytest.mark.parametrize(
    ("size", "generator", "levels"),
    [
        ((156, 132), None, 6),
        ((35, 53), None, 5),
        ((9, 9), None, 3),
        ((9, 9), {"preset": "small", "patch": 1}, 4),
        ((156, 132), {"preset": "base", "levels": 3}, 3),
        ((156, 132), {"preset": "fast"}, 6),
    ],
)
def test_resolve_fits_levels_to_the_domain(few, size, generator, levels):
    spec = dataclasses.replace(describe(few, target="pr", conditions=["pr_coarse"]), shape=size)
    assert len(resolve(generator, spec).channels) == levels


def test_learning_rate_warms_up_and_decays_to_zero():
    fit = Fit()
    rates = [fit.rate(p / 100) for p in range(101)]
    assert np.argmax(rates) == 2
    assert rates[0] < 0.1 * fit.learning_rate
    assert rates[-1] < 1e-6


def test_progress_follows_the_nearer_limit():
    fit = Fit(max_steps=100, max_minutes=2.0)
    assert fit.progress(10, seconds=60.0) == pytest.approx(0.4 / 0.9)
    assert fit.progress(75, seconds=60.0) == 0.75
    assert fit.progress(10, seconds=120.0) == 1.0
    assert fit.progress(1, seconds=10.0) == 0.01, "a slow first step moved the schedule"
    assert Fit(max_minutes=2).progress(10**6, seconds=60.0) == 0.5
    assert Fit(max_steps=100).progress(10, seconds=1e6) == 0.1
    assert fit.is_late(10, seconds=60.0)
    assert not fit.is_late(75, seconds=60.0)
    assert not fit.is_late(1, seconds=10.0)
    bounded = Fit(max_steps=10**6, max_minutes=60)
    assert bounded.progress(100, seconds=90.0) == pytest.approx(70 / 3580)
    assert Fit(max_minutes=2).is_late(10**6, seconds=0.1)


def test_posterior_is_untrained_if_no_loss_needs_it(few):
    """Scores of prior draws alone leave the encoder of the target as it was initialised."""
    alone = quick(few, fit={"stages": [{"losses": ["crps"]}]}, validation=0)
    assert "loss_crps" in alone.history
    assert "kl" not in alone.history
    both = quick(few, fit={"stages": [{"losses": ["crps", "laplace", "kl"]}]}, validation=0)
    made = build_network(alone.architecture, alone.spec, alone.scaling.target, masked=False)
    initial, untrained, trained = (
        net.levels[-1].posterior.weight for net in (made, alone.network, both.network)
    )
    assert torch.equal(untrained, initial)
    assert not torch.equal(trained, initial)


def test_log_has_the_columns_of_all_stages(few, tmp_path):
    stages = [{"losses": ["laplace", "kl"], "share": 0.5}, {"losses": ["crps"], "share": 0.5}]
    model = quick(few, fit={"stages": stages}, path=tmp_path / "m.xcvae")
    log = pd.read_csv(tmp_path / "m.xcvae.log.csv")
    assert log.dtypes[["loss_kl", "loss_crps"]].eq(float).all()
    np.testing.assert_allclose(log["loss_crps"].values[-1], model.history.loss_crps.values[-1])
    assert np.isfinite(log["loss_kl"].values[0])


def test_learned_scales_are_trained_and_logged(few, tmp_path):
    losses = [{"name": "laplace", "scale": "learned"}, "kl"]
    model = quick(few, losses=losses, fit={"max_steps": 20, "learning_rate": 0.05})
    scales = model.history.learned_laplace_log_scale.values
    assert scales[-1] != scales[0]


@dataclass(frozen=True)
class Idle(Component):
    """A trainable value without a gradient: only weight decay can change it."""

    def learned(self):
        return {"idle_value": 1.0}

    def __call__(self, state):
        return 0.0 * state.parameter("idle_value")


def test_learned_values_have_no_weight_decay(corner):
    fit = {"weight_decay": 1.0, "learning_rate": 0.1, "max_steps": 4}
    model = quick(corner, losses=["laplace", "kl", Idle()], fit=fit, validation=0)
    assert (model.history.learned_idle_value == 1.0).all()


@dataclass(frozen=True)
class Spiky(Component):
    """An ordinary loss that is multiplied by a factor in some steps."""

    factor: float
    first: int
    count: int = 1

    def __call__(self, state):
        spike = self.first <= state.step < self.first + self.count
        return state.mean((state.x - state.output).square()) * (self.factor if spike else 1.0)


def test_spikes_of_the_gradient_are_skipped(corner):
    """Whatever the direction of a spike, and if it is infinite, the weights are the same."""
    fit = {"max_steps": FIRST + 6, "validations": 1}
    plain, up, down, infinite = (
        quick(corner, losses=["kl", Spiky(factor, FIRST + 4)], fit=fit, validation=0)
        for factor in (1.0, 1e12, -1e12, 1e300)
    )
    assert "skipped_steps" not in plain.history
    for spiky in (up, down, infinite):
        assert spiky.history.skipped_steps.item() == 1
        assert spiky.history.loss.item() == pytest.approx(plain.history.loss.item(), rel=0.05)
        assert torch.equal(weights_of(spiky), weights_of(up))
    assert torch.isfinite(weights_of(up)).all()
    assert not torch.equal(weights_of(up), weights_of(plain))


def test_lasting_spikes_return_to_the_averaged_weights(corner):
    fit = {"max_steps": FIRST + 3 * PATIENCE, "validations": 1}
    model = quick(corner, losses=["kl", Spiky(1e12, FIRST + 1, 1000)], fit=fit, validation=0)
    # From the average on, the first steps are all taken.
    assert PATIENCE <= model.history.skipped_steps.item() <= 2 * PATIENCE
    assert torch.isfinite(weights_of(model)).all()


def test_guard_learns_what_is_usual():
    guard = SpikeGuard(torch.device("cpu"))
    norms = [1.0] * FIRST + [0.99 * LIMIT, 100 * LIMIT, math.inf, 1.0]
    spikes = [guard.judge(torch.tensor(norm)).item() for norm in norms]
    assert spikes == [0.0] * (FIRST + 1) + [1.0, 1.0, 0.0]
    steady = SpikeGuard(torch.device("cpu"))
    for _ in range(FIRST):
        steady.judge(torch.tensor(1.0))
    before = steady.state["square"].item()
    steady.judge(torch.tensor(1e9))
    assert steady.state["square"].item() == pytest.approx(
        before + (GROWTH**2 * before - before) / (FIRST + 1)
    )


# torch's compiler reads .grad of tensors, and cannot hide a warning that is an error here.
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_compiled_training_has_the_weights_of_an_eager_one(corner, monkeypatch):
    """Traced by torch's compiler, and run by its eager backend."""
    eager = quick(corner, losses=["laplace", "kl", "crps"])
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    traced = quick(corner, losses=["laplace", "kl", "crps"], fit={"compile": True})
    assert torch.equal(weights_of(traced), weights_of(eager))


def test_sigma_factor_changes_draws_from_the_prior_only(tiny_model, few):
    batch = tiny_model.batches(prepare(few, tiny_model.spec, need_target=True)).load([0, 1])

    def drawn(factor, **options):
        network = tiny_model.network
        before = network.sigma_factors
        tiny_model.networks.set_temperature(factor)
        try:
            return tiny_model.draw(
                batch, seed=0, labels=["a", "b"], realizations=range(3), **options
            )
        finally:
            network.sigma_factors = before

    posterior = {"mode": "posterior", "spread": 0.0}
    np.testing.assert_array_equal(drawn(1.0, **posterior), drawn(1.3, **posterior))
    prior = {"mode": "prior"}
    assert drawn(1.5, **prior).std(axis=0).mean() > drawn(0.7, **prior).std(axis=0).mean()


def test_training_without_a_terminal_prints_validations_and_result(
    train_radar: xr.Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ds = train_radar.isel(time=slice(0, 60, 6))
    fit = {"max_steps": 4, "batch_size": 2, "crop": 24, "validations": 2}
    options = {"conditions": ["pr_coarse"], "generator": {"levels": 1}, "fit": fit}
    file = tmp_path / "m.xcvae"
    xcvae.train(ds, target="pr", **options, path=file)
    captured = capfd.readouterr()
    assert captured.out == ""  # reports and doctests go there
    first, second, closing = captured.err.splitlines()
    assert re.fullmatch(r"train: 50 %, step 2, [\d.]+ min, loss [-\d.e+]+, val_crps [\d.]+ "
                        r"\(best so far\)", first)  # fmt: skip
    assert second.startswith("train: 100 %, step 4")
    kept = r"(, kept step 4 \(0\.5 % worse at most\))?"
    assert re.fullmatch(rf"trained 4 steps in [\d.]+ min; best val_crps [\d.]+ at step [24]{kept}; "
                        rf"max_steps 4 reached; saved as {file}", closing)  # fmt: skip
    xcvae.train(ds, target="pr", **options, progress=False)
    assert capfd.readouterr().err == ""


def test_closing_line_names_patience_as_the_reason(
    train_radar: xr.Dataset, capfd: pytest.CaptureFixture[str]
) -> None:
    ds = train_radar.isel(time=slice(0, 60, 6))
    fit = {"max_steps": 20, "batch_size": 2, "crop": 24, "validations": 10, "patience": 1}
    fit["learning_rate"] = 0.02  # too large to improve for long
    xcvae.train(ds, conditions=["pr_coarse"], generator={"levels": 1}, fit=fit)
    last = capfd.readouterr().err.splitlines()[-1]
    assert "without improvement (patience); not saved: no path" in last


def test_bars_are_those_of_notebooks_where_there_is_one() -> None:
    for path in (Path(xcvae.__file__).parent).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "from tqdm import" not in text, f"{path} needs tqdm.auto"

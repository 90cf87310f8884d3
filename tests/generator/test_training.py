"""Training: it learns, it stops when told, it goes on after a kill, and it says what is wrong."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    MismatchError,
    OutputExistsError,
)
from xcvae.fields.describe import describe, prepare
from xcvae.generator.device import placed
from xcvae.generator.network.architecture import build_network, resolve
from xcvae.generator.training import checkpoint
from xcvae.generator.training.checkpoint import checkpoint_path
from xcvae.generator.training.settings import Fit

SMALL = {"channels": [16, 8], "latents": [2, 1]}
FEW = {"max_steps": 6, "batch_size": 4, "crop": 24, "validations": 2}


def quick(ds, *, fit=None, **options):
    options = {"target": "pr", "conditions": ["pr_coarse"], "generator": SMALL, **options}
    return xcvae.train(ds, fit={**FEW, **(fit or {})}, progress=False, **options)


@pytest.fixture(scope="module")
def few(train_radar):
    return train_radar.isel(time=slice(0, 40))


def test_training_lowers_the_score_and_logs_it(tiny_model):
    history = tiny_model.history
    assert list(history.step.values) == [80, 160]
    assert history.loss.values[-1] < history.loss.values[0]
    assert {"val_crps", "val_negative_elbo", "val_kl", "loss_laplace", "loss_kl"} <= set(history)
    assert np.isfinite(history.drop_vars("loss_crps").to_array()).all()
    log = pd.read_csv(tiny_model.path.with_name("tiny.xcvae.log.csv"))
    np.testing.assert_allclose(log["val_crps"], history.val_crps)
    assert (tiny_model.path.parent / "tiny-last.xcvae").exists()
    assert not checkpoint_path(tiny_model.path).exists()


def test_same_seed_same_model_other_seed_other_model(few):
    a, b, c = quick(few, seed=1), quick(few, seed=1), quick(few, seed=2)
    assert a.training["history"][-1]["loss"] == b.training["history"][-1]["loss"]
    assert a.training["history"][-1]["loss"] != c.training["history"][-1]["loss"]


def test_the_default_ends_with_the_score_of_the_prior(few):
    rows = quick(few, fit={"max_steps": 8, "validations": 8}).training["history"]
    assert "loss_crps" not in rows[0]
    assert "loss_crps" in rows[-1]


@pytest.mark.parametrize("name", ["intensity_weighted_mae", "gradient", "mass"])
def test_losses_of_the_scripts_train(few, name):
    model = quick(few, losses=["laplace", "kl", {"name": name, "weight": 0.5}])
    assert f"loss_{name}" in model.training["history"][-1]
    assert [term["name"] for term in model.training["losses"][0]["losses"]][-1] == name


def test_time_limit_ends_the_training(few):
    began = time.monotonic()
    model = quick(few, fit={"max_steps": 10**6, "max_minutes": 0.03})
    assert time.monotonic() - began < 60
    assert 0 < model.training["steps"] < 10**6


def test_patience_stops_early_and_keeps_the_best(few):
    # A learning rate of nothing cannot improve: the second validation is the last straw.
    fit = {"max_steps": 60, "validations": 20, "patience": 1, "learning_rate": 1e-9}
    model = quick(few, fit=fit)
    assert model.training["steps"] < 60


def test_a_killed_training_goes_on(few, tmp_path):
    """kill -9 after the first checkpoint; the second call ends where one call would have."""
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
            assert process.poll() is None, "it ended before it could be killed"
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
    # Neither the order of the samples nor windows or noise tell that it was ever stopped.
    xr.testing.assert_equal(
        history.drop_vars("minutes"), xcvae.load(other).history.drop_vars("minutes")
    )


def test_a_resumed_optimiser_steps_as_if_it_had_not_stopped(tmp_path):
    """Same weights and moments, in the same order of memory: the next step is the same."""

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
    kept = {"path": tmp_path / "c", "identity": "x", "rng": np.random.default_rng(0)}
    checkpoint.write(
        progress=checkpoint.Progress(3), weights={"n": one.state_dict()}, optimizer=steps, **kept
    )
    two, again = fresh()
    checkpoint.read(weights={"n": two.state_dict()}, optimizer=again, **kept)
    for number in range(3, 6):
        step(one, steps, number)
        step(two, again, number)
    torch.testing.assert_close(two.weight, one.weight, rtol=0, atol=0)


def test_windows_without_a_valid_pixel_are_not_trained_on(few):
    """Rain on a tenth of the domain: every step has some of it."""
    land = few.assign(pr=few.pr.where(few.x < few.x.values[14]))
    model = quick(land, fit={"max_steps": 12, "validations": 12}, validation=0)
    assert model.record.masked
    assert all(row["loss_laplace"] != 0 for row in model.training["history"])


def test_a_checkpoint_of_another_training_is_refused(few, tmp_path):
    path = tmp_path / "model.xcvae"
    quick(few, path=path)
    checkpoint_path(path).write_bytes(b"not a checkpoint")
    path.unlink()
    with pytest.raises(xcvae.errors.ModelFileError, match="checkpoint"):
        quick(few, path=path)
    assert quick(few, path=path, fit={"resume": False}).path == path


def test_a_checkpoint_with_other_settings_is_refused(few, tmp_path, monkeypatch):
    path = tmp_path / "model.xcvae"

    class StoppedError(Exception):
        pass

    def stop(*_):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", _second_time(stop))
        with pytest.raises(StoppedError):
            quick(few, path=path, fit={"validations": 6})
    assert checkpoint_path(path).exists()
    with pytest.raises(MismatchError, match="settings"):
        quick(few, path=path, fit={"validations": 6, "learning_rate": 1e-4})


def _second_time(action):
    real, calls = Path.replace, []

    def replace(self, target):
        calls.append(target)
        return action() if len(calls) > 2 else real(self, target)

    return replace


def test_an_existing_model_is_not_overwritten(tiny_model, few):
    before = tiny_model.path.read_bytes()
    with pytest.raises(OutputExistsError, match="remove"):
        quick(few, path=tiny_model.path)
    assert tiny_model.path.read_bytes() == before


def test_streamed_data_trains(few):
    model = quick(few.chunk({"time": 8}))
    assert np.isfinite(model.training["history"][-1]["loss"])


def test_validation_may_be_a_dataset_or_nothing(few, test_radar):
    assert "val_crps" in quick(few, validation=test_radar).training["history"][-1]
    assert "val_crps" not in quick(few, validation=0).training["history"][-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fit": {"max_step": 3}}, "max_steps"),
        ({"fit": {"batch_size": 0}}, "batch_size"),
        ({"fit": {"max_minutes": "long"}}, "max_minutes"),
        ({"fit": {"monitor": "elbow"}}, "negative_elbo"),
        ({"fit": {"stages": [{"losses": ["laplace"], "share": 0.4}]}}, "add up to 1"),
        ({"fit": {"stages": [{"loss": ["laplace"]}]}}, "losses"),
        ({"losses": ["laplace"], "fit": {"stages": [{}]}}, "both"),
        ({"generator": {"preset": "smal"}}, "small"),
        ({"generator": {"chanels": [8]}}, "channels"),
        ({"generator": {"channels": [8, 8], "latents": [1]}}, "latents"),
        ({"generator": {"levels": 9}}, "at most 6"),
        ({"generator": {"channels": "8"}}, "list"),
        ({"generator": {"separable": -1}}, r"separable: expected an integer >= 0"),
        ({"losses": ["laplac"]}, "laplace"),
        ({"losses": []}, "at least one"),
        ({"losses": ["mass", "mass"]}, "each name once"),
        ({"fit": {"resume": "no"}}, "true or false"),
        ({"validation": 1.0}, "share"),
        ({"device": "gpu"}, "cuda"),
    ],
)
def test_wrong_settings_are_named_before_anything_is_computed(few, options, said):
    with pytest.raises(ConfigError, match=said):
        quick(few, **options)


def test_a_dry_record_is_refused(few):
    dry = few.assign(pr=few.pr * 0)
    with pytest.raises(DataError, match="rain"):
        quick(dry)


def test_too_few_samples_to_hold_any_back(few):
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
def test_levels_fit_the_domain(few, size, generator, levels):
    spec = dataclasses.replace(describe(few, target="pr", conditions=["pr_coarse"]), shape=size)
    assert len(resolve(generator, spec).channels) == levels


def test_learning_rate_rises_then_falls_to_nothing():
    fit = Fit()
    rates = [fit.rate(p / 100) for p in range(101)]
    assert np.argmax(rates) == 2
    assert rates[0] < 0.1 * fit.learning_rate
    assert rates[-1] < 1e-6


def test_nothing_is_reconstructed_that_no_term_needs(few):
    """Scores of prior draws alone leave the encoder of the target as it was made."""
    alone = quick(few, fit={"stages": [{"losses": ["crps"]}]}, validation=0)
    assert "loss_crps" in alone.history
    assert "kl" not in alone.history
    both = quick(few, fit={"stages": [{"losses": ["crps", "laplace", "kl"]}]}, validation=0)
    made = build_network(alone.architecture, alone.spec, alone.scaling.target, masked=False)
    begun, left, moved = (
        net.levels[-1].posterior.weight for net in (made, alone.network, both.network)
    )
    assert torch.equal(left, begun)
    assert not torch.equal(moved, begun)


def test_the_log_keeps_columns_of_all_stages(few, tmp_path):
    stages = [{"losses": ["laplace", "kl"], "share": 0.5}, {"losses": ["crps"], "share": 0.5}]
    model = quick(few, fit={"stages": stages}, path=tmp_path / "m.xcvae")
    log = pd.read_csv(tmp_path / "m.xcvae.log.csv")
    assert log.dtypes[["loss_kl", "loss_crps"]].eq(float).all()
    np.testing.assert_allclose(log["loss_crps"].values[-1], model.history.loss_crps.values[-1])
    assert np.isfinite(log["loss_kl"].values[0])


def test_learned_scales_are_trained_logged_and_resumed(few, tmp_path):
    losses = [{"name": "laplace", "scale": "learned"}, "kl"]
    model = quick(few, losses=losses, fit={"max_steps": 20, "learning_rate": 0.05})
    scales = model.history.learned_laplace_log_scale.values
    assert scales[-1] != scales[0]


def test_temperature_widens_what_follows_the_prior_only(tiny_model, few):
    batch = tiny_model.batches(prepare(few, tiny_model.spec, need_target=True)).load([0, 1])

    def drawn(factor, **options):
        network = tiny_model.network
        before, network.sigma_factor = network.sigma_factor, factor
        try:
            return tiny_model.draw(
                batch, seed=0, labels=["a", "b"], realizations=range(3), **options
            )
        finally:
            network.sigma_factor = before

    kept = {"mode": "posterior", "spread": 0.0}
    np.testing.assert_array_equal(drawn(1.0, **kept), drawn(1.3, **kept))
    free = {"mode": "prior"}
    assert drawn(1.5, **free).std(axis=0).mean() > drawn(0.7, **free).std(axis=0).mean()

"""The trained model: draws, calibration, its file, and refused files and devices."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import ConfigError, ModelFileError
from xcvae.fields.describe import prepare
from xcvae.generator.device import choose_device, precision
from xcvae.generator.dial import equal_diversity_steps
from xcvae.generator.model import FINEST, Model
from xcvae.generator.training import calibration
from xcvae.generator.training.calibration import (
    TEMPERATURE_MEMBERS,
    _diversity,
    measure_temperatures,
    spread_skill_ratio,
)
from xcvae.metrics import spread_skill


@pytest.fixture(scope="module")
def batch(tiny_model, test_radar):
    prepared = prepare(test_radar, tiny_model.spec, need_target=True)
    return tiny_model.batches(prepared).load(range(3))


def draw(model: Model, batch, mode="prior", members=range(3), **options):
    labels = ["a", "b", "c"][: len(batch)]
    return model.draw(
        batch, seed=0, labels=labels, realizations=list(members), mode=mode, **options
    )


def test_draw_returns_physical_rain(tiny_model, batch):
    fields = draw(tiny_model, batch)
    assert fields.shape == (3, 3, 156, 132)
    assert fields.dtype == np.float32
    assert np.isfinite(fields).all()
    assert fields.min() == 0
    assert 0.01 < (fields > 0.1).mean() < 0.9
    assert not np.array_equal(fields[0], fields[1])


def test_to_bytes_is_reproducible(tiny_model):
    assert {tiny_model.to_bytes() for _ in range(8)} == {tiny_model.path.read_bytes()}


def test_draw_of_one_member_equals_that_of_a_batch(tiny_model, batch):
    """Bitwise: other members, other samples and another order change nothing."""
    fields = draw(tiny_model, batch)
    one = tiny_model.draw(batch.take([2]), seed=0, labels=["c"], realizations=[1], mode="prior")
    np.testing.assert_array_equal(one[0, 0], fields[1, 2])


def test_posterior_draws_correlate_with_the_storm(tiny_model, batch, test_radar):
    observed = test_radar.pr.values[:3]

    def correlation(fields):
        return np.mean(
            [np.corrcoef(f[i].ravel(), observed[i].ravel())[0, 1] for f in fields for i in range(3)]
        )

    near, far = (draw(tiny_model, batch, "posterior", spread=s) for s in (0.0, 1.0))
    assert correlation(near) > correlation(far) + 0.05


def test_dial_makes_diversity_rise_with_spread(tiny_model, test_radar):
    """On samples that it was not calibrated on: every quarter of the dial adds diversity."""
    prepared = prepare(test_radar, tiny_model.spec, need_target=True)
    some = tiny_model.batches(prepared).load(range(6))
    labels = [str(i) for i in range(6)]
    steps = [
        _diversity(
            tiny_model.draw(
                some, seed=1, labels=labels, realizations=range(4), mode="posterior", spread=s
            )
        ).mean()
        for s in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert min(np.diff(steps)) > 0.1 * (steps[-1] - steps[0]) > 0


def test_equal_diversity_steps_without_effect_are_linear():
    assert equal_diversity_steps([0, 0.5, 1], [0.2, 0.2, 0.2]) == [[0, 0], [1, 1]]
    assert equal_diversity_steps([0, 0.5, 1], [0.3, 0.1, 0.2]) == [[0, 0], [1, 1]]


def test_equal_diversity_steps_ignore_a_fall_of_diversity():
    """Past the most diverse position, spread follows the largest diversity so far."""
    steps = equal_diversity_steps([0, 0.25, 0.5, 0.75, 1], [0.0, 0.2, 0.1, 0.5, 0.4])
    assert steps == [[0.0, 0.0], [0.4, 0.25], [1.0, 1.0]]


def test_draw_temperature_scales_the_variance(tiny_model, batch):
    calm, wild = (draw(tiny_model, batch, temperature=t) for t in (0.2, 1.0))
    assert calm.var(axis=0).mean() < 0.5 * wild.var(axis=0).mean()


def test_draw_is_nan_where_masked(tiny_model, batch):
    mask = batch.mask.clone()
    mask[:, :, :20] = False
    fields = draw(tiny_model, type(batch)(batch.c, batch.pooled, batch.x, mask))
    assert np.isnan(fields[:, :, :20]).all()
    assert np.isfinite(fields[:, :, 20:]).all()


def test_reconstruct_uses_the_given_latents(tiny_model, batch, test_radar):
    observed = test_radar.pr.values[:3]
    own, swapped = tiny_model.reconstruct(batch), tiny_model.reconstruct(batch, [1, 2, 0])
    errors = [np.abs(fields - observed).mean() for fields in (own, swapped)]
    assert errors[0] < errors[1]


def test_levels_report_kl_in_nats(tiny_model, batch):
    levels = tiny_model.levels(batch)
    assert [level.size for level in levels][-1] == (78, 66)  # patches of 2 x 2 pixels
    assert all(level.kl >= 0 for level in levels)
    assert sum(level.kl for level in levels) > 10
    assert all(0 <= level.active <= 1 for level in levels)
    alone = [tiny_model.levels(batch.take([row])) for row in range(len(batch))]
    for number, level in enumerate(levels):
        kl = np.mean([one[number].kl for one in alone])
        assert level.kl == pytest.approx(kl, rel=1e-4)
        # A channel with a hundredth of a nat per cell at least; all others have less.
        channels, cells = tiny_model.architecture.latents[number], level.size[0] * level.size[1]
        used = round(level.active * channels)
        assert level.active == pytest.approx(used / channels)
        assert level.kl >= 0.01 * used * cells
        assert used or level.kl <= 0.01 * channels * cells


def test_load_restores_the_model(tiny_model, batch):
    again = xcvae.load(tiny_model.path)
    assert again.sha256 == tiny_model.sha256
    assert again.spec == tiny_model.spec
    assert again.record == tiny_model.record
    assert again.training == json.loads(json.dumps(tiny_model.training))
    np.testing.assert_array_equal(draw(again, batch), draw(tiny_model, batch))
    assert again.sha256[:12] in repr(again)


@pytest.mark.parametrize("with_path", [True, False])
def test_pickled_model_draws_the_same_fields(tiny_model, batch, with_path):
    model = xcvae.load(tiny_model.path)
    if not with_path:
        model.path = None
    content = pickle.dumps(model)
    assert len(content) < 1000 or not with_path  # by path, not by value
    again = pickle.loads(content)
    np.testing.assert_array_equal(draw(again, batch), draw(model, batch))


def test_load_refuses_damaged_files(tiny_model, tmp_path):
    content = bytearray(tiny_model.path.read_bytes())
    content[-1000] ^= 1  # one bit of one weight
    cases = {
        "bit": bytes(content),
        "cut": bytes(content[:-500]),
        "empty": b"",
        "text": b"this is not a model, it is a text file of some length",
    }
    for name, damaged in cases.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=name):
            xcvae.load(path)


def test_load_refuses_a_changed_header(tiny_model, tmp_path):
    """Another scaling would give other rain, silently."""
    content = tiny_model.path.read_bytes()
    changed = content.replace(b'\\"eps\\": 0.1', b'\\"eps\\": 0.9')
    assert changed != content
    (tmp_path / "eps").write_bytes(changed)
    with pytest.raises(ModelFileError, match="checksum"):
        xcvae.load(tmp_path / "eps")


def test_pickled_model_without_its_file_carries_the_weights(tiny_model, batch, tmp_path):
    copy = tmp_path / "copy.xcvae"
    copy.write_bytes(tiny_model.path.read_bytes())
    model = xcvae.load(copy)
    copy.unlink()
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(draw(again, batch), draw(tiny_model, batch))


def test_load_refuses_other_and_missing_files(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="format"):
        xcvae.load(tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match="nothing at"):
        xcvae.load(tmp_path / "missing.xcvae")


def test_precision_is_that_of_the_environment(monkeypatch):
    for wanted in ("float32", "bfloat16"):
        monkeypatch.setenv("XCVAE_PRECISION", wanted)
        assert precision(torch.device("cpu")) == wanted
    monkeypatch.setenv("XCVAE_PRECISION", "half")
    with pytest.raises(xcvae.errors.ConfigError, match=r"XCVAE_PRECISION.*'half'"):
        precision(torch.device("cpu"))


def test_choose_device_refuses_unknown_devices():
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="device"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="GPU"):
            choose_device("cuda")


def test_choose_device_refuses_gpus_that_are_not_there(monkeypatch):
    """Torch would refuse them when weights move there, in words of CUDA; 128 is -128 to it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cuda").index is None
    for absent in ("cuda:2", "cuda:128"):
        with pytest.raises(ConfigError, match=rf"below 2.*'{absent}', and torch finds 2 GPUs"):
            choose_device(absent)


def test_draw_is_limited_to_twice_the_record_maximum(tiny_model, batch):
    bias = tiny_model.network.head.bias
    before = bias.detach().clone()
    with torch.no_grad():
        bias += 10  # as a latent far in its tail may
    try:
        fields = draw(tiny_model, batch)
    finally:
        with torch.no_grad():
            bias.copy_(before)
    assert fields.max() == pytest.approx(2 * tiny_model.record.maximum)


@pytest.fixture
def calibrating(tiny_model):
    """The model, whose temperatures a test may change."""
    before = [one.sigma_factors for one in tiny_model.networks]
    yield tiny_model
    for one, factors in zip(tiny_model.networks, before, strict=True):
        one.sigma_factors = factors


def test_measured_temperatures_correct_prior_and_finest_level(calibrating, test_radar, monkeypatch):
    """Both spread-skill ratios, of prior draws and of a released finest level, approach 1.

    The model is made wrong on purpose, in the direction in which it is wrong already: after so few
    steps on another processor it may be right by chance.
    """
    batches = calibrating.batches(prepare(test_radar, calibrating.spec, need_target=True))
    # Not shrunk. Its limits remain: the finest level of a model of so few steps is far off.
    monkeypatch.setattr(calibration, "TEMPERATURE_PRIOR", 10.0)
    monkeypatch.setitem(calibrating.training, "dial", [[0.0, 0.0], [1.0, 1.0]])
    finest = 1 / len(calibrating.architecture.latents)

    def errors():
        ratios = [spread_skill_ratio(calibrating, batches, spread) for spread in (None, finest)]
        return np.abs(np.log(ratios))

    calibrating.networks.set_temperature(1.0)
    spread = spread_skill_ratio(calibrating, batches)
    wrong = 1.15 if spread > 1 else 1 / 1.15
    set_temperature = type(calibrating.networks).set_temperature
    monkeypatch.setattr(
        type(calibrating.networks),
        "set_temperature",
        lambda self, all_levels, finest=1.0: set_temperature(self, wrong * all_levels, finest),
    )
    calibrating.networks.set_temperature(1.0)
    before = errors()
    found = measure_temperatures(calibrating, batches)
    assert list(found) == ["temperature", FINEST]
    calibrating.networks.set_temperature(*found.values())
    after = errors()
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.95 * before[1]


def test_spread_skill_ratio_equals_the_metric(tiny_model, test_radar):
    """Pooled over pixels and samples, with the factor (M + 1) / M for a mean of M members."""
    batches = tiny_model.batches(prepare(test_radar, tiny_model.spec, need_target=True))
    samples = range(len(batches))
    batch = batches.load(list(samples))
    members = tiny_model.draw(
        batch,
        seed=0,
        labels=[f"dial {sample}" for sample in samples],
        realizations=range(TEMPERATURE_MEMBERS),
        mode="prior",
    )
    dims = ("realization", "time", "y", "x")
    expected = spread_skill(
        xr.DataArray(members, dims=dims, attrs={"units": "mm h-1"}),
        xr.DataArray(tiny_model.observed(batch), dims=dims[1:], attrs={"units": "mm h-1"}),
    )
    ratio = spread_skill_ratio(tiny_model, batches)
    assert ratio == pytest.approx(float(expected), rel=1e-4)

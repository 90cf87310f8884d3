"""One model for any factor and pixel size: ranges, random scales, resuming, and the model file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import ConfigError, XcvaeError
from xcvae.fields.dataspec import DataSpec, Scales
from xcvae.fields.describe import describe, prepare
from xcvae.generator.dial import dial_at
from xcvae.generator.model import _at_once
from xcvae.generator.training.trainer import Trainer
from xcvae.metrics.spatial import diversity

RANGES = {"factor": [2, 4], "pixel": [1, 3]}
TINY = {"channels": [8, 8], "latents": [2, 2], "constrain": True}
QUICK = {"max_steps": 6, "batch_size": 2, "crop": 16, "validations": 2}


@pytest.fixture(scope="module")
def rain(train_radar: xr.Dataset) -> xr.Dataset:
    wet = train_radar.pr.mean(("y", "x")).argsort().values[-8:]
    return train_radar[["pr"]].isel(time=np.sort(wet), y=slice(36), x=slice(48))


def quick(ds: xr.Dataset, **options) -> xcvae.Model:
    options = {"coarsen": RANGES, "generator": TINY, "fit": QUICK, **options}
    return xcvae.train(ds, target="pr", validation=0.25, progress=False, **options)


@pytest.fixture(scope="module")
def model(rain, tmp_path_factory):
    return quick(rain, path=tmp_path_factory.mktemp("any") / "any.xcvae")


def weights(model: xcvae.Model) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in model.network.state_dict().items()}


def test_ranges_and_spacing_are_in_the_model_file(model):
    scales = xcvae.load(model.path).spec.scales
    assert scales == Scales((2, 4), (1.0, 3.0), 1.0)
    assert scales.open


def test_weights_in_half_precision_take_half_the_space(model, tmp_path):
    small = model.halved().save(tmp_path / "small.xcvae")
    loaded = xcvae.load(small.path)
    assert weights(loaded) == weights(small)
    assert loaded.sha256 == small.sha256 == xcvae.files.sha256(loaded.to_bytes())
    saved = model.path.stat().st_size - small.path.stat().st_size
    assert saved > 1.9 * sum(p.numel() for p in model.network.parameters())
    for name, value in loaded.network.state_dict().items():
        torch.testing.assert_close(
            value, model.network.state_dict()[name], rtol=1e-3, atol=1e-6, check_dtype=True
        )


def test_models_of_all_names_and_scales_are_where_their_weights_are(model, rain):
    """One of them is moved, and all say so; making another one moves nothing."""
    own = xcvae.load(model.path)
    renamed = own.rename(pr="precip")
    _, scaled = own.for_data(rain, 4, observed=True)
    own._placement.move(own.networks, torch.device("meta"))  # a device of every computer
    models = own, renamed, scaled, own.for_data(rain, 2, observed=True)[1]
    for one in models:
        assert one.device.type == "meta"
        assert {weight.device.type for weight in one.network.parameters()} == {"meta"}
    assert own._placement.moves == 1
    assert xcvae.load(model.path).device.type == "cpu"


def test_models_of_two_factors_are_made_at_a_time(model):
    """Another task puts its own in the place of the first, between making and returning it."""

    class Origin:
        @property
        def _at(self):
            return {}

        @_at.setter
        def _at(self, made):
            assert len(made) == 1

        def at(self, spec):
            return "model", spec

    assert _at_once(Origin(), model.spec) == ("model", model.spec)


def test_temperature_depends_on_the_scale(model, rain):
    assert len(model.training["temperature_by_scale"]["slope"]) == 2
    steep = xcvae.load(model.path)
    steep.training["temperature_by_scale"] = {"at": [0.0, 0.0], "slope": [0.1, 0.0]}
    temperatures = [
        steep.for_data(rain, factor, observed=True)[1].network.sigma_factors[0] for factor in (2, 4)
    ]
    assert temperatures[1] / temperatures[0] == pytest.approx(np.exp(0.1 / 1.5), abs=1e-3)
    assert steep.network.sigma_factors[0] == model.training["temperature"]
    # A slope that leads far away is not followed.
    steep.training["temperature_by_scale"]["slope"] = [9.0, 0.0]
    extreme = steep.for_data(rain, 2, observed=True)[1].network.sigma_factors[0]
    assert extreme == pytest.approx(model.training["temperature"] / 1.25, abs=1e-3)


def test_dial_depends_on_the_factor(model, rain):
    """Each factor of the validation has one, and one between them lies between theirs."""
    known = dict(model.training["dial_by_factor"])
    assert set(known) == {view.factor for view in scaled_views(model, rain)}
    other = xcvae.load(model.path)
    early, late = [[0.0, 0.0], [0.5, 0.1], [1.0, 1.0]], [[0.0, 0.0], [0.5, 0.5], [1.0, 1.0]]
    other.training["dial_by_factor"] = [[2, early], [4, late]]
    found = {
        factor: dict(other.for_data(rain, factor, observed=True)[1].training["dial"])[0.5]
        for factor in (2, 3, 4)
    }
    assert (found[2], found[4]) == (0.1, 0.5)
    assert dict(dial_at(other.training, 6))[0.5] == 0.5
    assert found[3] == pytest.approx(0.1 + 0.4 * np.log2(1.5))
    # Files of before have one dial.
    del other.training["dial_by_factor"]
    assert other.for_data(rain, 3, observed=True)[1].training["dial"] == other.training["dial"]


def scaled_views(model, rain):
    return model.batches(prepare(rain, model.spec, need_target=True)).views()


@pytest.mark.parametrize("factor", [4, 12])
def test_diversity_of_the_bundled_model_grows_in_proportion_to_spread(test_radar, factor):
    """On another radar than the one that its dial was measured on."""
    rain = test_radar[["pr"]].isel(time=slice(0, 10, 3))
    found = []
    for spread in (0.0, 0.25, 0.5, 1.0):
        ens = xcvae.sample(
            rain, "rain-radar", factor=factor, mode="posterior", spread=spread, members=3,
            progress=False,
        )  # fmt: skip
        found.append(float(diversity(ens.pr.load(), rain.pr)))
    shares = (np.array(found) - found[0]) / (found[-1] - found[0])
    np.testing.assert_allclose(shares[1:3], [0.25, 0.5], atol=0.2)


def test_numbers_are_logarithms_and_end_with_the_ranges():
    scales = Scales((2, 16), (1.0, 8.0), 1.0)
    two, four, eight = (np.array(scales.numbers(n, n)) for n in (2, 4, 8))
    np.testing.assert_allclose(four - two, eight - four)
    assert scales.numbers(64, 100) == scales.numbers(16, 8)


def test_pairs_leave_two_blocks_along_each_side():
    pairs = Scales((2, 16), (1.0, 8.0), 1.0).pairs((64, 128))
    assert max(factor for factor, multiple in pairs if multiple == 1) == 16
    assert max(factor for factor, multiple in pairs if multiple == 8) == 4


def test_specs_of_other_models_have_no_new_key(rain):
    plain = describe(rain, target="pr", coarsen=4)
    assert "scales" not in plain.to_json()
    assert DataSpec.from_json(plain.to_json()) == plain


def test_batches_are_block_means_at_many_scales(rain, monkeypatch):
    seen = []
    original = Trainer._step

    def spy(self, batch, done):
        seen.append(batch)
        return original(self, batch, done)

    monkeypatch.setattr(Trainer, "_step", spy)
    model = quick(rain, fit={**QUICK, "max_steps": 12, "validations": 1})
    assert len({(batch.side, float(batch.pooled[0, 1])) for batch in seen}) > 3
    for batch in seen:
        physical = model.scaling.physical
        mean = torch.nn.functional.avg_pool2d(physical(batch.x), batch.side)
        blocks = physical(batch.c[:, -1:])[..., :: batch.side, :: batch.side]
        torch.testing.assert_close(mean, blocks, rtol=1e-4, atol=1e-5)
        # Maps of coarse pixels come in larger batches.
        assert batch.x.numel() >= 16 * 16


def test_interrupted_training_resumes_with_the_same_steps(model, rain, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    original = Trainer._step

    def dies(self, batch, done):
        if self.state.step == 4:  # after the checkpoint of step 3
            raise Killed
        return original(self, batch, done)

    path = tmp_path / "m.xcvae"
    monkeypatch.setattr(Trainer, "_step", dies)
    with pytest.raises(Killed):
        quick(rain, path=path)
    monkeypatch.setattr(Trainer, "_step", original)
    assert weights(quick(rain, path=path)) == weights(model)


def test_lazy_data_and_no_constraint(rain):
    free = {**TINY, "constrain": False}
    model = quick(rain.chunk(time=2), coarsen={"factor": [2, 3]}, generator=free)
    assert model.spec.scales.pixel == (1.0, 1.0)
    # Without the constraint, members differ from the block means.
    fine = rain.isel(time=[0])
    coarse = fine.coarsen(y=3, x=3).mean()
    coarse.pr.attrs = fine.pr.attrs
    for dim in ("y", "x"):
        coarse[dim].attrs = fine[dim].attrs
    members = xcvae.sample(coarse, model, factor=3, members=2).load()
    assert members.pr.shape == (2, 1, 36, 48)
    assert not np.allclose(members.pr.coarsen(y=3, x=3).mean()[0], coarse.pr, atol=1e-2)


@pytest.mark.parametrize(
    ("coarsen", "text"),
    [
        ({"factors": [2, 4]}, "unknown key 'factors'"),
        ({"factor": [4, 2]}, "smallest and the largest"),
        ({"factor": 4}, "smallest and the largest"),
        ({"factor": [2, 40]}, None),
        ({"factor": [30, 40]}, "two blocks"),
        ({"factor": [2.5, 4]}, "whole factors"),
    ],
)
def test_ranges_are_checked(rain, coarsen, text):
    if text is None:  # factors that the grid is too small for are not drawn
        assert describe(rain, target="pr", coarsen=coarsen).scales.factor == (2, 40)
        return
    with pytest.raises(ConfigError, match=text):
        describe(rain, target="pr", coarsen=coarsen)


def test_the_size_of_a_pixel_must_be_known(rain):
    with pytest.raises(ConfigError, match="size of a pixel"):
        describe(rain.drop_vars(["y", "x"]), target="pr", coarsen=RANGES)


def test_degrees_are_converted_at_the_latitude(rain):
    degrees = rain.rename(y="lat", x="lon").assign_coords(
        lat=("lat", 60 - 0.01 * np.arange(36)), lon=("lon", 0.02 * np.arange(48))
    )
    scales = describe(degrees, target="pr", coarsen=RANGES).scales
    assert scales.spacing == pytest.approx(1.112, abs=0.01)


def test_other_conditions_and_gaps_are_refused(rain, train_radar):
    both = train_radar.isel(time=slice(4)).rename(pr_coarse="other")
    both = both.rename(y_coarse="row", x_coarse="column")
    with pytest.raises(ConfigError, match="no other conditions"):
        describe(both, target="pr", conditions=["other"], coarsen=RANGES)
    with pytest.raises(XcvaeError, match="missing pixels"):
        quick(rain.where(rain.x > rain.x[3]), generator={**TINY, "constrain": False})

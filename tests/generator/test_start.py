"""Training from another model: weights by role, scaling, calibration, provenance, bad starts."""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import xcvae
from xcvae.errors import ComponentError, ConfigError, MismatchError, ModelFileError
from xcvae.fields.describe import prepare
from xcvae.fields.scaling import StandardScaling
from xcvae.generator.network.networks import Networks
from xcvae.generator.training.calibration import (
    calibrate_spread,
    jackknife_error,
    shrunk_shares,
    shrunk_temperature,
)
from xcvae.generator.training.checkpoint import checkpoint_path
from xcvae.generator.training.settings import STARTED, Fit
from xcvae.generator.training.start import Start, converting
from xcvae.plugins import Component

SMALL = {"channels": [8, 8], "latents": [2, 2]}
FEW = {"max_steps": 2, "batch_size": 2, "crop": 24, "validations": 1}
#: A training that leaves the weights as they are, up to rounding.
STILL = {**FEW, "max_steps": 1, "learning_rate": 1e-9}


def quick(ds, *, fit=None, **options):
    options = {"target": "pr", "conditions": ["pr_coarse"], **options}
    if options.get("start") is None:
        options.setdefault("generator", SMALL)
    return xcvae.train(ds, fit={**FEW, **(fit or {})}, progress=False, **options)


@pytest.fixture(scope="module")
def corner(train_radar):
    """Twelve frames of 48 x 48 pixels."""
    few = train_radar.isel(time=slice(0, 24, 2)).drop_vars("split")
    return few.isel(y=slice(48, 96), x=slice(48, 96), y_coarse=slice(4, 8), x_coarse=slice(4, 8))


@pytest.fixture(scope="module")
def start(corner, tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "known.xcvae"
    return quick(corner, path=path, fit={"max_steps": 6, "learning_rate": 1e-2})


def members(model, ds, **options):
    return xcvae.sample(ds, model, members=1, postprocess=[], progress=False, **options)


def uncalibrated(model):
    """The same draws whatever was measured after the training."""
    model.networks.set_temperature(1.0)
    return model


def test_start_gives_weights_architecture_and_scaling(corner, start):
    model = quick(corner, start=start, fit=STILL)
    assert model.architecture == start.architecture
    assert model.scaling == start.scaling
    known = start.network.state_dict()
    for name, weight in model.network.state_dict().items():
        torch.testing.assert_close(weight, known[name], atol=1e-6, rtol=0)
    report = model.training["start"]
    assert (report["name"], report["sha256"]) == ("known.xcvae", start.sha256)
    assert report["share"] == 1
    assert report["new"] == report["unused"] == []
    assert "100% of them from known.xcvae" in repr(model)


@pytest.mark.parametrize("kind", ["model", "path", "text"])
def test_start_is_a_model_or_a_path(corner, start, kind):
    given = {"model": start, "path": start.path, "text": str(start.path)}[kind]
    assert quick(corner, start=given, fit=STILL).training["start"]["sha256"] == start.sha256


def test_defaults_of_a_start_are_those_of_fine_tuning():
    assert Fit.of(None, started=True).max_steps == STARTED["max_steps"]
    assert Fit.of(None, started=True).learning_rate == STARTED["learning_rate"]
    own = Fit.of({"max_minutes": 2, "learning_rate": 1e-4}, started=True)
    assert (own.max_steps, own.learning_rate) == (None, 1e-4)
    assert Fit.of({}) == Fit()


def test_generator_changes_single_keys_of_the_start(corner, start):
    model = quick(corner, start=start, generator={"constrain": True}, fit=STILL)
    assert model.architecture.channels == start.architecture.channels
    assert model.architecture.constrain == 12
    assert model.training["start"]["new"] == ["block means"]


def with_more(ds):
    """A second rain condition, a static, a scalar and a mask: nothing that the start had."""
    hill = xr.DataArray(np.hypot(*np.meshgrid(np.arange(48.0), np.arange(48.0))), dims=("y", "x"))
    index = xr.DataArray(np.linspace(-1, 1, ds.sizes["time"]), dims="time", attrs={"units": "1"})
    return ds.assign(
        hill=hill.assign_attrs(units="m"), index=index,
        wind=ds.pr_coarse.copy(data=ds.pr_coarse.values + 1).assign_attrs(
            units="m s-1", standard_name="wind_speed", long_name="wind"),
        pr=ds.pr.where((hill > 20).drop_vars(list(hill.coords))),
    )  # fmt: skip


def test_new_inputs_begin_silent(corner, start):
    more = with_more(corner)
    model = quick(
        more, start=start, conditions=["wind", "index", "pr_coarse"], statics=["hill"], fit=STILL
    )
    report = model.training["start"]
    assert set(report["new"]) == {
        "context encoder", "condition 'wind'", "condition 'index'", "static 'hill'", "mask",
    }  # fmt: skip
    assert report["share"] < 1
    assert report["used"] == 1
    complete = corner.isel(time=[0, 5])
    wanted = members(uncalibrated(start), complete).pr.values
    # The mask is that of the target: without the target, that of training.
    found = members(uncalibrated(model), with_more(complete)).pr.values
    valid = np.isfinite(found)
    # One step of 1e-9 moves a weight by no more than that.
    np.testing.assert_allclose(found[valid], wanted[valid], atol=1e-3)


def test_inputs_of_the_start_that_are_missing_are_reported(corner, start, tmp_path):
    more = with_more(corner)
    own = quick(more, conditions=["pr_coarse", "wind"], statics=["hill"], generator=SMALL)
    model = quick(corner, start=own, fit=STILL)
    assert set(model.training["start"]["unused"]) == {"condition 'wind'", "static 'hill'", "mask"}
    # Without gaps a mask is a map of ones, whose weights take over its effect.
    p2 = own.architecture.patch**2
    old, new = (m.network.encode_condition.stem.weight.detach() for m in (own, model))
    mask, ones = (old[:, p2 * place : p2 * (place + 1)] for place in (3, 4))
    torch.testing.assert_close(new[:, p2:], mask + ones, atol=1e-6, rtol=0)


def test_start_may_be_on_another_device(corner, start):
    """A model that was trained on a GPU stays there, and new networks begin on the CPU."""
    more = with_more(corner)
    own = quick(more, conditions=["pr_coarse", "wind"], statics=["hill"], generator=SMALL)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in own.network.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(torch.empty(weight.shape, device="cuda")))
        fresh = Networks(copy.deepcopy(one) for one in start.networks)
        taken = Start.of(own).initialize(fresh, start.spec, masked=False)
    assert taken.share > 0.9
    assert "mask" in taken.unused


def test_levels_count_from_the_finest(corner, start):
    with pytest.warns(UserWarning, match="of its weights fit"):
        model = quick(corner, start=start, generator={"levels": 1}, fit=STILL)
    own, known = model.network.levels[0], start.network.levels[1]
    torch.testing.assert_close(own.prior.weight, known.prior.weight, atol=1e-6, rtol=0)
    deeper = {"channels": [8, 8, 8], "latents": [2, 2, 2]}
    model = quick(corner, start=start, generator=deeper, fit=STILL)
    assert model.training["start"]["new"] == ["level 1"]
    own, known = model.network.levels[2], start.network.levels[1]
    torch.testing.assert_close(own.prior.weight, known.prior.weight, atol=1e-6, rtol=0)


def test_rain_condition_goes_by_its_role(corner, start):
    renamed = corner.rename(pr="precip", pr_coarse="gcm", time="hour")
    model = quick(renamed, start=start, target="precip", conditions=["gcm"], fit=STILL)
    assert model.training["start"]["share"] == 1
    assert model.scaling.variables["gcm"] == start.scaling.variables["pr_coarse"]


def test_start_of_any_factor_is_given_the_scale_of_the_data(corner):
    bare = corner[["pr"]]
    scales = {"factor": [2, 12]}
    own = xcvae.train(
        bare, target="pr", coarsen=scales, generator={**SMALL, "constrain": True}, fit=FEW,
        progress=False,
    )  # fmt: skip
    model = quick(corner, start=own, fit=STILL)
    assert (model.spec.scales.fixed, model.architecture.constrain) == (12, 12)
    assert model.training["start"]["share"] == model.training["start"]["used"] == 1
    pair = (uncalibrated(own), uncalibrated(model))
    few = corner.isel(time=[0, 5])
    wanted = members(pair[0], few).pr.values
    np.testing.assert_allclose(members(pair[1], few).pr.values, wanted, atol=1e-3)
    gaps = corner.assign(pr=corner.pr.where(corner.x > corner.x.values[20]))
    masked = quick(gaps, start=own, fit=STILL)
    assert masked.architecture.constrain == 0  # members with gaps have no block means to keep
    assert masked.training["start"]["unused"] == ["block means"]
    assert quick(bare, start=own, conditions=None, coarsen=scales, fit=STILL).spec.scales.open


def test_start_of_any_factor_is_given_the_pixels_of_a_curvilinear_grid(corner):
    """Its network was given the smallest pixels of the start, and nothing warned of others."""
    rows, columns = np.indices((48, 48)) * 1.5 / 111.195
    places = {
        "lat": (("y", "x"), 50 + rows, {"units": "degrees_north"}),
        "lon": (("y", "x"), 8 + columns / np.cos(np.deg2rad(50.3)), {"units": "degrees_east"}),
    }
    bare = corner[["pr"]].drop_vars(["y", "x"]).assign_coords(places)
    options = {"start": "rain-radar", "conditions": None, "fit": STILL}
    model = quick(bare, coarsen=12, **options)
    assert model.spec.scales.spacing == pytest.approx(1.5, rel=0.01)
    wide = bare.assign_coords(lat=50 + (bare.lat - 50) * 9, lon=8 + (bare.lon - 8) * 9)
    with pytest.warns(UserWarning, match="these data have 1[0-9]"):
        quick(wide, coarsen=12, **options)


@pytest.mark.parametrize(
    ("units", "scale"), [("mm/day", 24.0), ("kg m-2 s-1", 1 / 3600), ("mm", 5 / 60)]
)
def test_start_with_other_units_of_rain_keeps_its_scaling(corner, start, units, scale):
    """A depth is the rate times the step of five minutes."""
    stepped = corner.isel(time=slice(0, 12)).assign_coords(
        time=np.datetime64("2018-05-10", "ns") + np.arange(12) * np.timedelta64(5, "m")
    )
    own = Start(start, "known")
    start.spec.__dict__["step_seconds"] = 300.0
    other = stepped.copy()
    for name in ("pr", "pr_coarse"):
        other[name] = (stepped[name] * scale).assign_attrs(stepped[name].attrs, units=units)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = quick(other, start=own.model, fit=STILL)
    assert model.scaling.target.eps == pytest.approx(start.scaling.target.eps * scale)
    assert model.scaling.target.units == units
    fine = model.scaling.normalise(prepare(other, model.spec, need_target=True).pr)
    plain = start.scaling.normalise(stepped.pr)
    np.testing.assert_allclose(fine, plain, atol=1e-5)


def test_rain_without_a_common_unit_is_scaled_anew_with_a_warning(corner, start):
    index = {"time": np.arange(corner.sizes["time"])}
    depth = corner.assign_coords(index)
    for name in ("pr", "pr_coarse"):
        depth[name] = depth[name].assign_attrs(units="mm")
    with pytest.warns(UserWarning, match="'mm h-1' does not convert into 'mm'"):
        model = quick(depth, start=start, fit=STILL)
    assert model.scaling.target.eps == model.spec.wet_threshold
    assert converting("mm", "mm h-1", (None, 60.0)) is None


def test_start_keeps_the_scaling_of_temperatures_in_other_units(start):
    kelvin, celsius = StandardScaling("K", 280.0, 5.0), StandardScaling("degC", 3.0, 4.0)
    found = Start(start, "start")._one(kelvin, celsius, start.spec)
    assert found.units == "degC"
    assert (found.mean, found.std) == pytest.approx((6.85, 5.0))


def test_daily_thresholds_do_not_change_the_scaling(corner, start):
    days = np.datetime64("2018-01-01", "ns") + np.arange(12) * np.timedelta64(1, "D")
    daily = corner.assign_coords(time=days)
    model = quick(daily, start=start, fit=STILL)
    assert model.spec.daily
    assert model.spec.wet_threshold != start.spec.wet_threshold
    assert model.scaling == start.scaling
    assert model.record.wet_threshold == model.spec.wet_threshold


def test_temperature_shrinks_by_its_error():
    assert jackknife_error([0.1, 0.2, 0.3]) == np.inf
    assert shrunk_temperature(1.23, np.inf) == 1.0
    assert shrunk_temperature(1.23, 0.0) == 1.23
    assert 1.0 < shrunk_temperature(1.23, 0.1) < 1.23
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(400):  # the mean of 8 normal numbers has the error 1 / sqrt(8)
        numbers = rng.normal(size=8)
        left_out = [np.delete(numbers, n).mean() for n in range(8)]
        errors.append(jackknife_error(left_out) ** 2)
    assert np.mean(errors) == pytest.approx(7 / 5 / 8, rel=0.1)  # of Student's distribution


def test_three_held_back_frames_leave_the_temperature_at_one(corner):
    model = quick(corner, validation=corner.isel(time=slice(3)))
    assert model.training["temperature"] == 1.0


def test_dial_shrinks_towards_that_of_the_start(corner, start):
    dial = [[0.0, 0.0], [0.9, 0.5], [1.0, 1.0]]
    few = start.batches(prepare(corner.isel(time=[9, 10, 11]), start.spec, need_target=True))
    known = start.training.pop("dial")
    try:
        alone, shrunk = calibrate_spread(start, few), calibrate_spread(start, few, dial)
    finally:
        start.training["dial"] = known
    spreads = [np.interp(0.5, *np.array(d).T[::-1]) for d in (dial, shrunk, alone)]
    assert spreads[0] == pytest.approx(spreads[1], abs=0.01)  # three frames decide nothing
    assert spreads[1] != pytest.approx(spreads[2], abs=0.01)
    positions = np.linspace(0, 1, 3)
    noisy = np.array([np.zeros(6), np.linspace(0.1, 0.3, 6), np.full(6, 0.4)])
    found = shrunk_shares(positions, noisy, dial)
    assert 0.5 < found[1] < 0.9


def test_provenance_is_in_ensemble_and_scorecard(corner, start):
    model = quick(corner, start=start, fit=STILL)
    second = quick(corner, start=model, fit=STILL)
    assert second.training["start"]["start"]["sha256"] == start.sha256
    ensemble = members(model, corner.isel(time=[0, 5]), store=None)
    wanted = {"name": "known.xcvae", "sha256": start.sha256}
    assert json.loads(ensemble.attrs["xcvae"])["start"] == wanted
    card = xcvae.evaluate(
        corner, xcvae.sample(corner.isel(time=[0, 5]), model, members=2), metrics=["crps"],
        progress=False,
    )  # fmt: skip
    assert json.loads(card.attrs["xcvae"])["ensemble"]["start"] == wanted
    assert "start" not in json.loads(members(start, corner).attrs["xcvae"])


@dataclass(frozen=True)
class Stopping(Component):
    """Stops the training at its third step while the file exists."""

    file: str = ""

    def __call__(self, state):
        if state.step == 2 and Path(self.file).exists():
            raise ArithmeticError("stopped on purpose")
        return 0.0 * state.output.sum()


def test_interrupted_training_from_a_start_resumes_with_the_same_steps(corner, start, tmp_path):
    stop, path = tmp_path / "stop", tmp_path / "model.xcvae"
    stop.touch()
    options = {
        "losses": ["laplace", "kl", Stopping(str(stop))],
        "fit": {"max_steps": 4, "validations": 4},
    }
    with pytest.raises(ComponentError, match="stopped on purpose"):
        quick(corner, start=start, path=path, **options)
    assert checkpoint_path(path).exists()
    stop.unlink()
    own = quick(corner, start=start, fit=STILL)
    for other in (own, None):  # a checkpoint belongs to its start
        with pytest.raises(MismatchError, match="checkpoint of another training"):
            quick(corner, start=other, path=path, **options)
    resumed = quick(corner, start=start, path=path, **options)
    whole = quick(corner, start=start, **options)
    assert resumed.training["start"] == whole.training["start"]
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name])


# Starts that do not fit.


def test_start_of_another_kind_is_refused(corner, tmp_path):
    corner.drop_encoding().to_netcdf(tmp_path / "rain.nc")
    for given in (tmp_path / "rain.nc", str(tmp_path / "rain.nc")):
        with pytest.raises(ModelFileError, match="expected an undamaged xcvae model file"):
            quick(corner, start=given)
    with pytest.raises(ModelFileError, match="nothing at"):
        quick(corner, start=tmp_path / "missing.xcvae")
    with pytest.raises(ModelFileError, match="name of a model or the path"):
        quick(corner, start="rain-rader")
    with pytest.raises(ConfigError, match="start: expected a Model, the path"):
        quick(corner, start=corner)


def test_damaged_start_is_refused_before_anything_is_written(corner, start, tmp_path):
    content = bytearray(start.path.read_bytes())
    content[-1000] ^= 1
    (tmp_path / "damaged.xcvae").write_bytes(content)
    with pytest.raises(ModelFileError, match="do not match their checksum"):
        quick(corner, start=tmp_path / "damaged.xcvae", path=tmp_path / "new.xcvae")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.xcvae"]


def test_other_architecture_is_warned_of_or_refused(corner, start):
    wide = {"channels": [16, 8], "latents": [2, 2], "preset": "small"}
    with pytest.warns(UserWarning, match=r"only \d+% of its weights fit.*Leave `generator`"):
        quick(corner, start=start, generator=wide, fit=STILL)
    other = {"channels": [12, 12], "latents": [3, 3], "patch": 1, "preset": "small"}
    with pytest.raises(ConfigError, match=r"start: .*layers all have other shapes"):
        quick(corner, start=start, generator=other, fit=STILL)


def test_another_factor_or_pixel_size_is_warned_of(corner, start):
    fine = corner[["pr"]]
    with pytest.warns(UserWarning, match=r"6 to 24 pixels per cell.* have 4: its patterns"):
        quick(fine, start=start, conditions=None, coarsen=4, fit=STILL)
    wide = corner.assign_coords(
        {d: (d, corner[d].values * 5, corner[d].attrs) for d in ("y", "x", "y_coarse", "x_coarse")}
    )
    with pytest.warns(UserWarning, match=r"pixels of 0.5 to 2 km, these data have 5"):
        quick(wide, start=start, fit=STILL)


def test_start_without_rain_among_its_conditions_is_warned_of(corner, start):
    index = xr.DataArray(np.linspace(-1, 1, 12), dims="time", attrs={"units": "1"})
    with pytest.warns(UserWarning, match="rain condition that members are added to"):
        model = quick(corner.assign(index=index), start=start, conditions=["index"], fit=STILL)
    assert "head" in model.training["start"]["new"]
    assert "rain" in model.training["start"]["unused"]

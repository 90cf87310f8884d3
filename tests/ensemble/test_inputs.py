"""Checks of the data that ``sample`` draws for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.ensemble.sample import sample
from xcvae.errors import DataError, MismatchError, MissingVariableError
from xcvae.fields.describe import prepare
from xcvae.fields.grids import reference_fields
from xcvae.generator.training.train import train as train_model

STEP = {"generator": {"channels": [8], "latents": [2]}, "fit": {"max_steps": 1, "crop": 24}}
lazy_or_not = pytest.mark.parametrize("lazy", [False, True])


@pytest.fixture
def coarse(few) -> xr.Dataset:
    """The condition that the model derives, by itself."""
    means = few.pr.coarsen(y=12, x=12).mean().rename(y="y_coarse", x="x_coarse")
    return means.to_dataset(name="pr_coarse")


def drawn(ds, model, *, lazy, **options) -> np.ndarray:
    """Values of an ensemble; lazy data is only read when it is drawn."""
    ensemble = sample(ds.chunk(time=1) if lazy else ds, model, members=2, **options)
    return ensemble.pr.values


@lazy_or_not
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.nan, r"pr_coarse: .*missing or infinite"),
        (-999.0, r"pr_coarse: expected rain of zero"),
    ],
)
def test_one_bad_cell_of_a_condition_is_refused(coarse, model, lazy, value, said):
    coarse["pr_coarse"][3, 1, 2] = value
    with pytest.raises(DataError, match=said):
        drawn(coarse, model, lazy=lazy)


@lazy_or_not
@pytest.mark.parametrize("mode", ["prior", "posterior"])
@pytest.mark.parametrize(("value", "said"), [(-999.0, "negative"), (np.inf, "infinite")])
def test_fill_value_in_the_target_is_refused(few, model, *, lazy, mode, value, said):
    bad = few.copy(deep=True)
    bad["pr"][4, 0, 0] = value
    with pytest.raises(DataError, match=rf"pr: .*{said}"):
        drawn(bad, model, lazy=lazy, mode=mode)


@lazy_or_not
@pytest.mark.parametrize("masked", [False, True])
def test_prior_of_an_unobserved_sample_has_the_mask_of_the_training(
    train_radar, test_radar, lazy, masked
):
    """Members of a sample are the same with and without a target, whatever the others are."""
    train = train_radar.isel(time=slice(12))
    if masked:
        train = train.assign(pr=train.pr.where(train.x > train.x[3]))
    model = train_model(train, conditions=["pr_coarse"], progress=False, validation=0, **STEP)
    ds = test_radar[["pr", "pr_coarse"]].isel(time=slice(3)).copy(deep=True)
    ds["pr"][1] = np.nan
    found = drawn(ds, model, lazy=lazy, mode="prior")
    without = drawn(ds.drop_vars("pr"), model, lazy=lazy, mode="prior")
    np.testing.assert_array_equal(found[:, 1], without[:, 1])
    assert np.isnan(without[:, 1]).any() == masked
    assert not np.isnan(without[:, 1]).all()


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside an observed one"])
@lazy_or_not
def test_min_mass_of_an_unobserved_sample_is_a_share_of_its_coarse_rain(
    train_radar, test_radar, lazy, beside
):
    """Observations of other samples do not make it a dry day."""
    train = train_radar.isel(time=slice(12))
    model = train_model(train, conditions=["pr_coarse"], progress=False, validation=0, **STEP)
    wettest = int(test_radar.pr_coarse.mean(("y_coarse", "x_coarse")).argmax("time"))
    ds = test_radar[["pr", "pr_coarse"]].isel(time=slice(wettest, wettest + 1 + beside))
    ds = ds.copy(deep=True)
    ds["pr"][0], ds["pr"][1:] = np.nan, 0.0
    label = str(ds.time.values[0])[:19]
    with pytest.raises(DataError, match=f"min_mass, sample {label}"):
        drawn(ds, model, lazy=lazy, mode="prior", min_mass=50.0)


def test_min_mass_of_depths_is_a_share_of_coarse_rates(few):
    """Samples of five minutes: 2 mm h-1 are a sixth of a mm."""
    depths = few.pr.coarsen(y=12, x=12).mean().rename(y="y_coarse", x="x_coarse") * 12
    ds = few.assign(pr=few.pr.assign_attrs(units="mm"))
    ds["rain"] = depths.assign_attrs(units="mm h-1", standard_name="rainfall_rate")
    minutes = np.timedelta64(5, "m") * np.arange(ds.sizes["time"])
    ds = ds.assign_coords(time=np.datetime64("2020-01-01", "ns") + minutes)
    model = train_model(ds, target="pr", conditions=["rain"], progress=False, validation=0, **STEP)
    prepared = prepare(ds.drop_vars("pr"), model.spec, need_target=False)
    reference = reference_fields(prepared, model.spec, model.spec.shape)
    mean = float(ds.pr.mean())
    assert float(reference.mean()) == pytest.approx(mean, rel=0.2)
    assert sample(ds.drop_vars("pr"), model, members=2, min_mass=1e-6).pr.notnull().any()


@lazy_or_not
def test_min_mass_without_rain_condition_refuses_samples_without_observation(train_radar, lazy):
    hour = train_radar.time.dt.hour.astype("float32").assign_attrs(units="1")
    ds = train_radar[["pr"]].assign(hour=hour).isel(time=slice(6)).copy(deep=True)
    model = train_model(ds, conditions=["hour"], progress=False, validation=0, **STEP)
    ds["pr"][4] = np.nan
    assert drawn(ds, model, lazy=lazy, mode="prior").shape[1] == 6
    label = str(ds.time.values[4])[:19]
    with pytest.raises(MissingVariableError, match=f"min_mass: .*1 samples without any, .*{label}"):
        drawn(ds, model, lazy=lazy, mode="prior", min_mass=0.1)


def test_times_that_would_share_their_noise_are_refused(few, model):
    """The address of noise is the time to the second."""
    start = np.datetime64("2020-01-01T00:00:00", "ms")
    times = start + np.array([200, 700, 1000, 2000, 3000, 4000], "timedelta64[ms]")
    close = few.assign_coords(time=times.astype("M8[ns]"))
    with pytest.raises(DataError, match=r"time: .*address.* got 2 samples 2020-01-01T00:00:00\."):
        drawn(close, model, lazy=False)
    assert drawn(close.isel(time=slice(1, None)), model, lazy=False).shape[1] == 5


def test_prior_warns_of_samples_without_their_derived_condition(few, model):
    bad = few.copy(deep=True)
    bad["pr"][2] = np.nan
    with pytest.warns(UserWarning, match="no observation in 1 samples.*'pr_coarse'") as caught:
        members = [drawn(bad, model, lazy=False, mode="prior"), bad.cvae.sample(model).pr]
    assert all(np.isnan(one[:, 2]).all() for one in members)
    assert [one.filename for one in caught] == [__file__] * 2  # the lines of the program


@lazy_or_not
def test_posterior_of_an_unobserved_sample_is_refused(few, model, lazy):
    bad = few.copy(deep=True)
    bad["pr"][2] = np.nan
    label = str(few.time.values[2])[:19]
    with pytest.raises(DataError, match=rf"pr, time {label}.*mode='prior'"):
        drawn(bad, model, lazy=lazy, mode="posterior")


def test_lazy_values_are_checked_on_drawing_and_others_at_once(few, model):
    bad = few.copy(deep=True)
    bad["pr"][2] = np.nan
    with pytest.raises(DataError):
        sample(bad, model, mode="posterior")
    ensemble = sample(bad.chunk(time=1), model, members=2, mode="posterior")
    assert np.isfinite(ensemble.pr.isel(time=slice(2)).values).all()


@lazy_or_not
def test_all_nan_target_is_neither_mask_nor_source_of_conditions(few, coarse, model, lazy):
    wanted = drawn(coarse, model, lazy=False)
    assert np.isfinite(wanted).all()
    empty = few.where(np.zeros(few.sizes["time"], bool)[:, None, None])
    both = coarse.assign(pr=empty.pr.assign_attrs(few.pr.attrs))
    np.testing.assert_array_equal(drawn(both, model, lazy=lazy), wanted)
    with pytest.raises(MismatchError, match="pr_coarse"):
        drawn(both.drop_vars("pr_coarse"), model, lazy=lazy)


def test_part_of_the_domain_keeps_its_coordinates(few, coarse, model):
    ensemble = sample(coarse.isel(x_coarse=slice(1, 3)), model, members=1)
    np.testing.assert_allclose(ensemble.x, few.x[12:36])
    np.testing.assert_allclose(ensemble.y, few.y)
    nowhere = coarse.isel(x_coarse=slice(1, 3)).drop_vars(["x_coarse", "y_coarse"])
    members = sample(nowhere, model, members=1).pr
    assert members.shape[2:] == (48, 24)
    assert not {"x", "y"} & set(members.coords)
    assert np.isfinite(members.values).all()


def test_depths_of_another_duration_than_in_the_training_are_warned_of(few):
    depths = (few[["pr"]] / 12).assign_coords(time=few.time)
    depths["pr"].attrs["units"] = "mm"
    minutes = np.arange(few.sizes["time"]) * np.timedelta64(5, "m")
    depths = depths.assign_coords(time=np.datetime64("2020-01-01", "ns") + minutes)
    options = {"target": "pr", "coarsen": 12, "validation": 0, "progress": False, **STEP}
    model = train_model(depths, **options)
    hourly = depths.assign_coords(time=depths.time.values[0] + 12 * minutes)
    sample(hourly, model, members=1)  # may be a selection
    hourly["time"].attrs["bounds"] = "edges"
    end = hourly.time.values + np.timedelta64(1, "h")
    hourly["edges"] = (("time", "nv"), np.stack([hourly.time.values, end], axis=-1))
    with pytest.warns(UserWarning, match="depths of 60 minutes, but .* those of 5 minutes"):
        sample(hourly, model, members=1)
    closer = depths.assign_coords(time=depths.time.values[0] + minutes // 5)
    with pytest.warns(UserWarning, match="depths of 1 minutes"):
        sample(closer, model, members=1)


def test_maps_of_yearly_rain_have_no_duration_of_samples(few):
    """A static in millimetres has no samples whose sums could grow."""
    yearly = few.pr.mean("time").assign_attrs(units="mm", long_name="yearly rain")
    ds = few.assign(yearly=yearly)
    options = {"target": "pr", "coarsen": 12, "statics": ["yearly"], "validation": 0, **STEP}
    model = train_model(ds, progress=False, **options)
    assert model.spec.variables[-1].precipitation
    assert sample(ds, model, members=1, progress=False).pr.notnull().any()

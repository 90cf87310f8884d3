"""Members for coarse rain on any grid, by a model of any factor that was not trained on it."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.cli import main
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import (
    ConfigError,
    DataError,
    MismatchError,
    MissingVariableError,
    OutputExistsError,
    UnitsError,
)

FACTOR = 4


@pytest.fixture
def model(any_factor_model):
    return any_factor_model


@pytest.fixture
def coarse():
    """Three hours of rain on 0.05 degrees, north first."""
    rng = np.random.default_rng(0)
    attrs = {"units": "mm h-1", "standard_name": "lwe_precipitation_rate", "long_name": "rain"}
    rain = rng.gamma(0.5, 2.0, (3, 5, 6)).astype(np.float32)
    rain[0, 0] = 0.0
    return xr.Dataset(
        {"tp": (("time", "lat", "lon"), rain, attrs)},
        coords={
            "time": np.array(["2020-01-01T00", "2020-01-01T01", "2020-01-01T02"], "M8[ns]"),
            "lat": ("lat", 50.0 - 0.05 * np.arange(5), {"units": "degrees_north"}),
            "lon": ("lon", 10.0 + 0.05 * np.arange(6), {"units": "degrees_east"}),
        },
        attrs={"source": "a reanalysis"},
    )


def drawn(ds, model, **options):
    return xcvae.sample(ds, model, **{"factor": FACTOR, "members": 2, **options})


def cell_means(ensemble, y="lat", x="lon"):
    return ensemble.coarsen({y: FACTOR, x: FACTOR}).mean()


def test_cells_are_divided_and_keep_their_rain(coarse, model):
    ensemble = drawn(coarse, model).load()
    assert ensemble.tp.dims == ("realization", "time", "lat", "lon")
    assert ensemble.tp.shape == (2, 3, 20, 24)
    assert ensemble.tp.attrs == coarse.tp.attrs
    assert ensemble.attrs["source"] == "a reanalysis"
    means = cell_means(ensemble)
    np.testing.assert_allclose(means.tp.values, [coarse.tp.values] * 2, atol=1e-4)
    # The edges of the cells stay where they are, in the order of the coarse grid.
    np.testing.assert_allclose(means.lat, coarse.lat)
    np.testing.assert_allclose(means.lon, coarse.lon)
    assert ensemble.lat.attrs == coarse.lat.attrs
    assert float(ensemble.lat[0]) == pytest.approx(50.0 + 0.025 - 0.00625)
    assert (ensemble.tp[:, 0, :FACTOR] == 0).all()
    assert not np.array_equal(ensemble.tp[0], ensemble.tp[1])


def test_cell_methods_of_time_stay_and_those_of_cells_go(coarse, model):
    coarse.tp.attrs["cell_methods"] = "area: mean (of 5 km) time: sum (interval: 1 hour)"
    assert drawn(coarse, model).tp.attrs["cell_methods"] == "time: sum (interval: 1 hour)"


def test_depths_have_the_duration_of_their_bounds_not_the_distance_of_times(coarse, model):
    depths = coarse.assign(tp=(coarse.tp.dims, coarse.tp.data, {"units": "mm"}))
    depths["time"].attrs["bounds"] = "time_bnds"
    end = depths.time.values + np.timedelta64(1, "h")
    depths["time_bnds"] = (("time", "bnds"), np.stack([depths.time.values, end], axis=-1))
    rates = drawn(coarse, model).tp.values
    for few in (slice(None), slice(0, None, 2), slice(1)):
        found = drawn(depths.isel(time=few), model)
        np.testing.assert_allclose(found.tp.values, rates[:, few], rtol=1e-4, atol=1e-5)
        assert "step_seconds" not in found.tp.attrs


@pytest.mark.parametrize(
    ("units", "standard_name", "ratio"),
    [
        ("kg m-2 s-1", "precipitation_flux", 1 / 3600),
        ("mm", "lwe_thickness_of_precipitation_amount", 1.0),
        ("m", "lwe_thickness_of_precipitation_amount", 1e-3),
        ("mm/day", "lwe_precipitation_rate", 24.0),
    ],
)
def test_units_are_those_of_the_coarse_rain(coarse, model, units, standard_name, ratio):
    other = coarse.assign(tp=coarse.tp * ratio)
    other.tp.attrs = {"units": units, "standard_name": standard_name}
    ensemble = drawn(other, model)
    assert ensemble.tp.units == units
    expected = drawn(coarse, model).tp * ratio
    np.testing.assert_allclose(ensemble.tp, expected, rtol=1e-4, atol=1e-6 * ratio)


def test_members_are_not_named_coarse(coarse, model):
    named = coarse.assign(tp=coarse.tp.assign_attrs(long_name="rain, means over blocks"))
    ensemble = xcvae.sample(named, model, factor=FACTOR, members=1)
    assert ensemble.tp.long_name == f"rain at {FACTOR} times the resolution"
    plain = coarse.assign(tp=coarse.tp.assign_attrs(long_name="total precipitation"))
    assert drawn(plain, model).tp.long_name == "total precipitation"


def test_depths_since_the_start_of_a_run_are_warned_of(coarse, model):
    total = xr.concat([coarse] * 20, "time").tp.cumsum("time").assign_attrs(units="mm")
    hours = np.timedelta64(1, "h") * np.arange(total.sizes["time"])
    ds = total.assign_coords(time=np.datetime64("2020-01-01", "ns") + hours).to_dataset(name="tp")
    with pytest.warns(UserWarning, match=r"^tp: values rise from sample to sample .*ds\['tp'\]"):
        drawn(ds, model)


def test_a_depth_without_a_step_is_refused(coarse, model):
    one = coarse.isel(time=[0])
    one.tp.attrs = {"units": "mm", "standard_name": "lwe_thickness_of_precipitation_amount"}
    with pytest.raises(UnitsError, match="no step"):
        drawn(one, model)


def test_members_do_not_depend_on_how_they_are_drawn(coarse, model):
    whole = drawn(coarse, model).load()
    tiles = drawn(coarse, model, tile={"lat": 8, "lon": 12})
    np.testing.assert_allclose(tiles.tp, whole.tp, rtol=1e-3, atol=1e-4)
    alone = drawn(coarse.isel(time=[1]), pickle.loads(pickle.dumps(model)))
    np.testing.assert_array_equal(alone.tp[:, 0], whole.tp[:, 1])
    turned = coarse.transpose("lon", "time", "lat").chunk(time=1)
    np.testing.assert_array_equal(drawn(turned, model).tp, whole.tp)
    np.testing.assert_array_equal(coarse.cvae.sample(model, factor=FACTOR, members=2).tp, whole.tp)


def test_members_are_drawn_beside_the_cells_that_were_divided(coarse, model):
    ensemble = drawn(coarse.isel(time=[1, 2]), model)
    figure = ensemble.cvae.plot.members(coarse, sample="2020-01-01T01")
    maps = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in maps] == ["Condition (5 x 6)", "Member 0", "Member 1"]
    cells = maps[0].collections[0].get_array()
    np.testing.assert_allclose(np.sort(cells.ravel()), np.sort(coarse.tp[1].values.ravel()))
    with pytest.raises(MismatchError, match="time"):
        ensemble.cvae.plot.members(coarse.isel(time=[0]))


def test_a_store_resumes_verifies_and_knows_its_factor(coarse, model, tmp_path):
    options = {"store": tmp_path / "e.zarr", "catalog": tmp_path / "c.yaml"}
    stored = drawn(coarse, model, **options)
    np.testing.assert_array_equal(stored.tp, drawn(coarse, model).tp)
    assert json.loads(stored.attrs["xcvae"])["factor"] == FACTOR
    drawn(coarse, str(model.path), **options)
    with pytest.raises(OutputExistsError, match="factor"):
        drawn(coarse, model, factor=3, **options)
    found = verify_store(options["store"], ds=coarse, model=model.path)
    assert found.ok
    assert found.redrawn


def in_units(ds, units):
    """The same numbers in other units."""
    return ds.assign(tp=ds.tp.assign_attrs(units=units))


def on_pixels_in(ds, units):
    ds = ds.rename(lat="y", lon="x")
    lengths = {dim: (dim, 5.0 * np.arange(ds.sizes[dim]), {"units": units}) for dim in "yx"}
    return ds.assign_coords(lengths)


@pytest.mark.parametrize("resume", [True, "append", "repair"])
def test_equal_numbers_in_other_units_are_another_ensemble(coarse, model, tmp_path, resume):
    for name, first, same, other, named in (
        ("rain", coarse, in_units(coarse, "mm/h"), in_units(coarse, "mm/day"), "mm/day|24"),
        ("grid", on_pixels_in(coarse, "km"), None, on_pixels_in(coarse, "m"), "pixel in km"),
    ):
        options = {"store": tmp_path / f"{name}.zarr", "resume": resume}
        stored = drawn(first, model, **{**options, "resume": True})
        if same is not None:
            xr.testing.assert_identical(drawn(same, model, **options).tp, stored.tp)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of daily rain, and of pixels of metres
            with pytest.raises((OutputExistsError, MismatchError), match=named):
                drawn(other, model, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda new: in_units(new, "mm/day"), r"units of 'tp'.* 'mm h-1', got 'mm/day'.*0.0416667"),
        (lambda new: in_units(new, "mm"), "'mm h-1', got 'mm'"),
        (lambda new: new.rename(tp="pr"), r"name of the store, 'tp', got 'pr'.*rename"),
    ],
    ids=["rate", "depth", "name"],
)
def test_appended_samples_have_name_and_units_of_the_store(
    coarse, model, tmp_path, change, message
):
    store = tmp_path / "e.zarr"
    stored = drawn(coarse.isel(time=[0]), model, store=store).load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of daily rain
        with pytest.raises((MismatchError, UnitsError), match=message):
            drawn(change(coarse.isel(time=[1, 2])), model, store=store, resume="append")
    xr.testing.assert_identical(xcvae.open_store(store).load().tp, stored.tp)


def test_appended_depths_are_of_the_same_duration(coarse, model, tmp_path):
    hourly = in_units(coarse.isel(time=[0, 1, 2, 2]), "mm")
    hours = coarse.time.values[0] + np.arange(4) * np.timedelta64(1, "h")
    hourly = hourly.assign_coords(time=hours)
    later = hourly.assign_coords(time=hourly.time + np.timedelta64(1, "D"))
    store = tmp_path / "e.zarr"
    drawn(hourly, model, store=store)
    with pytest.raises(OutputExistsError, match=r"stored: 1.0, requested: 3.0"):
        drawn(later.isel(time=[0, 3]), model, store=store, resume="append")
    assert drawn(later, model, store=store, resume="append").sizes["time"] == 8


@pytest.mark.parametrize(
    ("dims", "attrs"),
    [({"lat": "y", "lon": "x"}, {"units": "km"}), ({"lat": "y", "lon": "x"}, None)],
    ids=["projected", "no coordinates"],
)
def test_grids_of_every_kind(coarse, model, dims, attrs):
    grid = coarse.drop_vars(["lat", "lon"]).rename(dims)
    if attrs is None:
        with pytest.warns(UserWarning, match="size of the pixels is unknown"):
            ensemble = drawn(grid, model)
        assert not {"y", "x"} & set(ensemble.coords)
    else:
        grid = grid.assign_coords(
            y=("y", 6.0 * np.arange(5), attrs), x=("x", 6.0 * np.arange(6), attrs)
        )
        ensemble = drawn(grid, model)
        np.testing.assert_allclose(np.diff(ensemble.x), 1.5)
    means = cell_means(ensemble.load(), "y", "x").tp
    np.testing.assert_allclose(means, [grid.tp.values] * 2, atol=1e-4)


def test_longitudes_may_pass_from_360_to_0_degrees(coarse, model):
    lon = coarse.lon.copy(data=(coarse.lon.values + 349.9) % 360)
    assert lon.values[2] < 1.0 < lon.values[1]
    drawn_there, here = (drawn(ds, model) for ds in (coarse.assign_coords(lon=lon), coarse))
    np.testing.assert_allclose(drawn_there.lon.values, here.lon.values + 349.9)
    np.testing.assert_allclose(drawn_there.tp.values, here.tp.values, atol=1e-3)


def test_maps_of_latitude_and_longitude_are_interpolated(coarse, model):
    rows, columns = np.mgrid[:5, :6]
    grid = coarse.drop_vars(["lat", "lon"]).rename(lat="y", lon="x")
    grid = grid.assign_coords(
        lat=(("y", "x"), 50 + 0.05 * rows + 0.01 * columns, {"units": "degrees_north"}),
        lon=(("y", "x"), (179.9 + 0.05 * columns + 180) % 360 - 180, {"units": "degrees_east"}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pixels of 1.14 km, by the distances of neighbours
        ensemble = drawn(grid, model)
    by_time = grid.assign_coords(  # as WRF writes them
        {name: grid[name].expand_dims(time=grid.time) for name in ("lat", "lon")}
    )
    scales = [model.for_data(ds, FACTOR, observed=False)[1].spec.scales for ds in (grid, by_time)]
    assert [one.spacing for one in scales] == pytest.approx([1.14, 1.14], abs=0.01)
    assert ensemble.lat.dims == ("y", "x")
    np.testing.assert_allclose(ensemble.lat.coarsen(y=4, x=4).mean(), grid.lat)
    assert np.abs(np.diff(ensemble.lon, axis=1)).max() < 0.02


def test_what_training_did_not_see_is_said(coarse, model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(coarse, model)
    with pytest.warns(UserWarning, match=r"factor 9|pixels of") as found:
        drawn(coarse, model, factor=9)
    texts = [str(one.message) for one in found]
    assert texts[0].startswith("factor 9: the model was trained with 2 to 8.")
    assert texts[1].startswith("pixels of 0.496 km: the model was trained with 1 to 2 km.")
    wide = coarse.assign_coords(lat=("lat", 40 - 2.0 * np.arange(5), coarse.lat.attrs))
    with pytest.warns(UserWarning, match="pixels of .* km: the model was trained with 1 to 2 km"):
        drawn(wide, model)
    days = coarse.assign_coords(time=np.array(["2020-01-01", "2020-01-02", "2020-01-03"], "M8[ns]"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(days, model)  # frames in mm h-1, one of each day
    sums = days.assign(tp=(24 * days.tp).assign_attrs(days.tp.attrs, units="mm d-1"))
    with pytest.warns(UserWarning, match="samples are days"):
        drawn(sums, model)


def test_wrong_calls_are_refused(coarse, model, tiny_model):
    with pytest.raises(ConfigError, match="at least 2, got None"):
        xcvae.sample(coarse, model)
    with pytest.raises(ConfigError, match="an integer >= 2"):
        drawn(coarse, model, factor=1)
    with pytest.raises(ConfigError, match="a model of any factor"):
        drawn(coarse, tiny_model)
    with pytest.raises(MissingVariableError, match="Select the rain"):
        drawn(coarse.assign(cp=coarse.tp), model)
    with pytest.raises(DataError, match="got DataArray"):
        drawn(coarse.tp, model)
    with pytest.raises(DataError, match=r"^tp: .* lat=0, lon=0\. .*ds\['tp'\]\.fillna\(0\)"):
        drawn(coarse.where(coarse.tp > 0), model)


def test_observed_rain_gives_posterior_members_and_scores(test_radar, model):
    both = test_radar.isel(
        time=[3, 7], y=slice(48), x=slice(48), y_coarse=slice(4), x_coarse=slice(4)
    )
    with pytest.warns(UserWarning, match="factor 12"):
        members = xcvae.sample(both, model, mode="posterior", spread=0.0, members=2).load()
    assert members.pr.shape == (2, 2, 48, 48)
    fine = both[["pr"]]
    again = xcvae.sample(fine, model, factor=FACTOR, mode="posterior", spread=0.0, members=2).load()
    blocks = fine.pr.coarsen(y=FACTOR, x=FACTOR).mean()
    means = again.pr.coarsen(y=FACTOR, x=FACTOR).mean()
    np.testing.assert_allclose(means, [blocks.values] * 2, atol=2e-4)
    card = xcvae.evaluate(fine, again, metrics=["crps", "mass_bias"], baselines=["bilinear"])
    assert abs(float(card.mass_bias.sel(source="xcvae"))) < 1e-3
    with pytest.raises(ConfigError, match="12 pixels of 'pr'"):
        xcvae.sample(both, model, factor=8)


@pytest.mark.filterwarnings("ignore:factor 12")
@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_rain_on_both_grids_may_have_two_units(test_radar, model, mode):
    both = test_radar.isel(
        time=[3, 7], y=slice(48), x=slice(48), y_coarse=slice(4), x_coarse=slice(4)
    )
    wanted = xcvae.sample(both, model, mode=mode, members=2).load()
    for name, ratio in (("pr", 24.0), ("pr_coarse", 1.0)):
        converted = (24 * both[name]).assign_attrs(units="mm/day")
        members = xcvae.sample(both.assign({name: converted}), model, mode=mode, members=2)
        assert members.pr.units == ("mm/day" if name == "pr" else "mm h-1")
        np.testing.assert_allclose(members.pr / ratio, wanted.pr, rtol=1e-3, atol=1e-3)


def test_pixels_above_the_limit_give_their_rain_to_the_block(coarse, model):
    heavy = coarse.assign(tp=coarse.tp * 200)
    heavy.tp.attrs = coarse.tp.attrs
    ensemble = drawn(heavy, model, temperature=2.0).load()
    means = cell_means(ensemble).tp.values
    np.testing.assert_allclose(means, [heavy.tp.values] * 2, rtol=1e-4)
    # Twice the record's maximum, and more where the coarse rain is heavier than any of the record.
    limit = 2 * max(model.record.maximum, float(heavy.tp.max()))
    assert float(ensemble.tp.max()) <= 1.0001 * limit


def test_command_line_and_configuration(coarse, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coarse.to_netcdf("coarse.nc")
    options = ["--model", str(model.path), "--factor", str(FACTOR), "--members", "2"]
    assert main(["sample", "coarse.nc", *options, "--store", "fine.zarr"]) == 0
    assert "fine.zarr: tp (" in capsys.readouterr().out
    expected = drawn(coarse, model).tp
    np.testing.assert_array_equal(xr.open_zarr("fine.zarr", consolidated=False).tp, expected)
    assert main(["verify", "fine.zarr", "--data", "coarse.nc", "--model", str(model.path)]) == 0
    coarse.isel(time=slice(2)).to_netcdf("early.nc")
    for data, more in (("early.nc", []), ("coarse.nc", ["--append"])):
        assert main(["sample", data, *options, "--store", "grown.zarr", *more]) == 0
    both = ["--store", "grown.zarr", "--append", "--overwrite"]
    assert main(["sample", "early.nc", *options, *both]) == 1
    assert "got both" in capsys.readouterr().err
    np.testing.assert_array_equal(xr.open_zarr("grown.zarr", consolidated=False).tp, expected)
    assert main(["sample", "coarse.nc", *options]) == 1
    assert "no --store" in capsys.readouterr().err
    text = f"""
data: {{path: coarse.nc, test: {{}}}}
output: out
sample:
- {{name: fine, model: {model.path}, factor: {FACTOR}, members: 2}}
"""
    (tmp_path / "run.yaml").write_text(text)
    assert main(["sample", "run.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "xcvae verify out" in printed
    assert "evaluate" not in printed  # there is nothing to compare with
    for command in (["run"], ["run", "--check"], ["evaluate"]):
        assert main([command[0], "run.yaml", *command[1:]]) == 1
        assert "`xcvae sample` draws them" in capsys.readouterr().err
    np.testing.assert_array_equal(xr.open_zarr("out/fine.zarr", consolidated=False).tp, expected)


def test_command_line_shows_warnings_of_xcvae_only(coarse, model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stretched = coarse.assign_coords(lat=50.0 - 0.05 * np.array([0, 1, 2.4, 3.4, 4.8]))
    stretched.to_netcdf("uneven.nc")
    options = ["--model", str(model.path), "--factor", str(FACTOR), "--members", "1"]
    assert main(["sample", "uneven.nc", *options, "--store", "fine.zarr"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "warning: lat: the distance of neighbours varies" in line]
    assert all(line.startswith("xcvae: warning: ") for line in lines if "arning" in line)


def test_uneven_cells_are_warned_of_and_missing_rows_refused(coarse, model):
    stretched = coarse.assign_coords(lat=50.0 - 0.05 * np.array([0, 1, 2.4, 3.4, 4.8]))
    with pytest.warns(UserWarning, match=r"lat: the distance of neighbours varies, 0\.05 to 0\.07"):
        drawn(stretched, model)
    with pytest.raises(DataError, match=r"lat: .*0\.05 to 0\.1 \(between 49\.95 and 49\.85\)"):
        drawn(coarse.isel(lat=[0, 1, 3, 4]), model)
    rounded = np.round(50.0 - np.arange(5) / 21, 3)
    fine = drawn(coarse.assign_coords(lat=rounded), model)
    np.testing.assert_allclose(cell_means(fine).lat, rounded, atol=5e-4)


def test_refusal_of_other_units_names_variable_and_units(coarse, model):
    coarse.tp.attrs = {"units": "bananas"}
    with pytest.raises(MissingVariableError, match=r"tp \(time, lat, lon\) \[bananas\]"):
        drawn(coarse, model)

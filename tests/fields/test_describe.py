from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    MissingVariableError,
    UnitsError,
)
from xcvae.fields.describe import DataSpec, VariableSpec, describe, prepare

Maker = Callable[..., xr.Dataset]


def only(spec: DataSpec) -> VariableSpec:
    (variable,) = spec.variables
    return variable


def test_describe_aligns_block_means(make_radar: Maker) -> None:
    spec = describe(make_radar())
    assert (spec.target, spec.units, spec.shape) == ("pr", "mm h-1", (24, 36))
    assert (spec.sample, spec.y, spec.x) == ("time", "y", "x")
    assert only(spec) == VariableSpec(
        name="pr_coarse",
        units="mm h-1",
        dims=("y_coarse", "x_coarse"),
        shape=(2, 3),
        role="condition",
        aligned=True,
        pooled=False,
        precipitation=True,
        sampled=True,
    )
    assert not spec.located
    assert not spec.daily
    assert (spec.wet_threshold, spec.drizzle_threshold) == (0.1, 0.1)
    assert spec.attrs["standard_name"] == "lwe_precipitation_rate"
    assert spec.coordinates["y_coarse"] == [18, 6]
    np.testing.assert_array_equal(spec.grid_coords["y"], make_radar().y)
    assert spec.grid_coords["y"].attrs == {"units": "km", "axis": "Y"}


def test_coarse_rain_is_the_finest_that_converts_and_covers_the_target(make_radar: Maker) -> None:
    ds = make_radar()
    fine = ds.pr.coarsen(y=2, x=2).mean().rename(y="y_fine", x="x_fine").assign_attrs(units="mm")
    away = (fine.y_fine + 900).assign_attrs(ds.y.attrs)
    far = fine.assign_coords(y_fine=away).assign_attrs(units="mm h-1")
    far = far.rename(y_fine="y_far", x_fine="x_far")
    with pytest.warns(UserWarning, match="far: it does not cover the target"):
        spec = describe(ds.assign(depth=fine, far=far), target="pr")
    assert {v.name: v.aligned for v in spec.variables} == {
        "pr_coarse": True,
        "depth": True,
        "far": False,
    }
    # A depth converts to a rate by the step of the samples.
    for step, name in ((spec.step_seconds, "depth"), (None, "pr_coarse")):
        found = replace(spec, step_seconds=step).coarse_rain
        assert found is not None
        assert found.name == name
    assert replace(spec, variables=spec.variables[2:]).coarse_rain is None


def test_describe_derives_a_condition_from_the_target_alone(make_radar: Maker) -> None:
    spec = describe(make_radar(35, 53)[["pr"]], target="pr", coarsen=12)
    assert spec.coarsen == 12
    assert only(spec).name == spec.derived == "pr_coarse"
    assert only(spec).shape == (3, 5)
    assert only(spec).dims == ("y_coarse", "x_coarse")
    assert only(spec).aligned


def test_describe_prefers_coarsen_to_an_unnamed_variable(
    make_radar: Maker,
) -> None:
    assert only(describe(make_radar(), coarsen=6)).shape == (4, 6)


def test_describe_pools_conditions_of_a_wider_area(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp", "z500"])
    assert [v.name for v in spec.variables] == ["mslp", "z500"]
    assert all(v.pooled and not v.aligned and v.shape == (11, 13) for v in spec.variables)
    assert not any(v.precipitation for v in spec.variables)
    assert spec.variables[1].units == "m**2 s**-2"
    assert spec.located
    assert spec.daily
    assert (spec.wet_threshold, spec.drizzle_threshold) == (1.0, 0.1)


def test_describe_pools_scalars_without_locating_the_model(make_radar: Maker) -> None:
    ds = make_radar()
    ds["season"] = ("time", np.arange(5.0), {"units": "1"})
    spec = describe(ds, conditions=["pr_coarse", "season"])
    season = spec.variables[1]
    assert (season.dims, season.shape, season.pooled, season.aligned) == ((), (), True, False)
    assert not spec.located


def test_describe_statics_with_and_without_samples(make_radar: Maker) -> None:
    ds = make_radar()
    ds["elevation"] = (("x", "y"), np.zeros((36, 24)), {"units": "m"})
    ds["snow"] = (("time", "y", "x"), np.zeros((5, 24, 36)), {"units": "m"})
    ds["land"] = (("y", "x"), np.zeros((24, 36), bool), {"units": "1"})
    spec = describe(ds, conditions=["pr_coarse"], statics=["elevation", "snow", "land"])
    statics = spec.variables[1:]
    assert [v.sampled for v in statics] == [False, True, False]
    assert all(v.role == "static" and v.aligned and not v.pooled for v in statics)
    assert all(v.shape == (24, 36) and v.dims == ("y", "x") for v in statics)
    assert not any(v.precipitation for v in statics)


def test_describe_takes_all_variables_with_samples_and_units(make_radar: Maker) -> None:
    ds = make_radar()
    ds["quality"] = ("time", np.ones(5))
    ds["elevation"] = (("y", "x"), np.zeros((24, 36)), {"units": "m"})
    ds["snow"] = (("time", "y", "x"), np.zeros((5, 24, 36)), {"units": "m"})
    spec = describe(ds, statics="snow")
    assert [v.name for v in spec.variables] == ["pr_coarse", "snow"]


def test_describe_accepts_one_condition_as_text(make_radar: Maker) -> None:
    assert only(describe(make_radar(), conditions="pr_coarse")).name == "pr_coarse"


def test_describe_accepts_any_samples_and_order_of_dims(make_radar: Maker) -> None:
    ds = make_radar().rename(time="storm").assign_coords(storm=list("edcba")).transpose("x", ...)
    spec = describe(ds)
    assert spec.sample == "storm"
    assert spec.shape == (24, 36)


def test_describe_lays_curvilinear_targets_edge_to_edge(
    make_radar: Maker,
) -> None:
    ds = make_radar().drop_vars(["y", "x", "y_coarse", "x_coarse"])
    ds = ds.assign_coords(lat=(("y", "x"), np.zeros((24, 36)), {"units": "degrees_north"}))
    spec = describe(ds)
    assert only(spec).aligned
    assert spec.coordinates == dict.fromkeys(("y", "x", "y_coarse", "x_coarse"))
    assert spec.grid_coords == {}


def test_describe_treats_counted_coordinates_as_none(make_radar: Maker) -> None:
    ds = make_radar().assign_coords(
        {d: np.arange(n) for d, n in make_radar().sizes.items() if d != "time"}
    )
    assert only(describe(ds)).aligned
    assert not only(describe(ds)).pooled


def test_describe_pools_located_conditions_of_a_target_without_coordinates(
    make_radar: Maker,
) -> None:
    ds = make_radar().drop_vars(["y", "x"])
    with pytest.warns(UserWarning, match="'y_coarse' .length. is not comparable with 'y'"):
        spec = describe(ds)
    assert only(spec).pooled
    assert spec.located


@pytest.mark.parametrize("ny", [24, 35])
def test_describe_aligns_block_means_of_an_indexed_target(make_radar: Maker, ny: int) -> None:
    bare = make_radar(ny, 36).drop_vars(["y", "x", "y_coarse", "x_coarse"])
    pr = bare.pr.assign_coords(y=np.arange(ny), x=np.arange(36))
    coarse = pr.coarsen(y=12, x=12, boundary="pad").mean().rename(y="y_c", x="x_c")
    ds = xr.Dataset({"pr": pr, "pr_coarse": coarse})
    spec = describe(ds)
    assert only(spec).aligned
    assert not only(spec).pooled
    prepared = prepare(ds, spec, need_target=True)
    np.testing.assert_array_equal(prepared.y_c, coarse.y_c)
    part = ds.isel(y=slice(12, ny), y_c=slice(1, None))
    np.testing.assert_array_equal(prepare(part, spec, need_target=True).y_c, coarse.y_c[1:])


def test_describe_scales_conditions_named_after_the_target_as_rain(make_radar: Maker) -> None:
    ds = make_radar().rename(pr="field", pr_coarse="field_coarse")
    for name in ds:
        ds[name].attrs = {"units": "mm h-1"}
    ds["evap"] = -ds.field_coarse
    ds.evap.attrs = {"units": "mm h-1"}
    rain = {v.name: v.precipitation for v in describe(ds, target="field").variables}
    assert rain == {"field_coarse": True, "evap": False}


@pytest.mark.parametrize(
    ("edges", "aligned", "pooled"),
    [
        ((-1.25, 1.25), True, False),  # 2 x 2 cells around the target
        ((-6.25, -3.75, -1.25, 1.25, 3.75, 6.25), True, True),  # most cells are elsewhere
        ((3.75, 6.25), False, True),  # beside it
    ],
)
def test_describe_aligns_and_pools_a_wide_condition(
    edges: tuple[float, ...], aligned: bool, pooled: bool
) -> None:
    rng = np.random.default_rng(2)
    fine = np.linspace(-2.4, 2.4, 20)
    grid = np.array(edges)
    ds = xr.Dataset(
        {
            "pr": (("time", "lat", "lon"), rng.random((3, 20, 20)), {"units": "mm/day"}),
            "t": (
                ("time", "lat_gcm", "lon_gcm"),
                rng.random((3, len(grid), len(grid))),
                {"units": "K"},
            ),
        },
        coords={
            "lat": fine,
            "lon": fine,
            "lat_gcm": grid,
            # A model that counts longitudes from 0 to 360 degrees.
            "lon_gcm": ("lon_gcm", grid + 360),
        },
    )
    variable = only(describe(ds, target="pr", conditions=["t"]))
    assert (variable.aligned, variable.pooled) == (aligned, pooled)


def test_describe_aligns_conditions_on_the_target_grid(make_radar: Maker) -> None:
    ds = make_radar()
    ds["forecast"] = ds.pr * 2
    ds.forecast.attrs = {"units": "kg m-2 s-1"}
    assert describe(ds, conditions=["forecast"]).variables[0].dims == ("y", "x")
    assert not describe(ds, conditions=["forecast"]).located


def test_spec_round_trips_through_json(islands: xr.Dataset) -> None:
    islands.pr.attrs |= {"valid_min": np.float32(0), "flags": np.array([1, 2]), "gap": np.nan}
    islands["land"] = (("y", "x"), np.ones((35, 53)), {"units": "1"})
    spec = describe(islands, target="pr", conditions=["mslp"], statics=["land"])
    text = json.dumps(spec.to_json(), allow_nan=False)
    assert DataSpec.from_json(json.loads(text)) == spec
    assert spec.attrs["flags"] == [1, 2]


def test_describe_reads_no_values(islands: xr.Dataset) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise AssertionError("values were read")

    lazy = islands.chunk().map(lambda da: da.copy(data=da.data.map_blocks(fail, dtype=da.dtype)))
    for name in lazy:
        lazy[name].attrs = islands[name].attrs
    assert describe(lazy, conditions=["mslp"]).target == "pr"


@pytest.mark.parametrize("role", ["target", "conditions", "statics"])
def test_describe_suggests_the_nearest_variable(islands: xr.Dataset, role: str) -> None:
    arguments = {"target": "pr", "conditions": ["mslp"], "statics": []}
    arguments[role] = "mslq" if role == "target" else ["mslq"]
    with pytest.raises(MissingVariableError, match=rf"{role}: .*'mslq'.*Did you mean 'mslp'"):
        describe(islands, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["pr", "mslp", "land"])
@pytest.mark.parametrize("units", [None, "foo"])
def test_describe_names_variables_with_missing_or_unknown_units(
    islands: xr.Dataset, name: str, units: str | None
) -> None:
    islands["land"] = (("y", "x"), np.ones((35, 53)), {"units": "1"})
    islands[name].attrs = {} if units is None else {"units": units}
    with pytest.raises(UnitsError, match=rf"^{name}: .*ds\['{name}'\]\.attrs\['units'\]"):
        describe(islands, target="pr", conditions=["mslp"], statics=["land"])


def test_describe_refuses_a_target_other_than_rain(islands: xr.Dataset) -> None:
    with pytest.raises(UnitsError, match=r"mslp: expected units of precipitation.*'Pa'"):
        describe(islands, target="mslp", conditions=["z500"])


def test_describe_names_the_first_differing_sample(islands: xr.Dataset) -> None:
    shifted = islands.mslp.rename(time="day").assign_coords(
        day=islands.time.values + np.timedelta64(1, "D")
    )
    ds = islands.drop_vars("mslp").assign(mslp=shifted)
    with pytest.raises(DataError, match=r"mslp: .*'time'.*'day'.*2000-01-02.* instead of 2000-"):
        describe(ds, target="pr", conditions=["mslp"])


def test_describe_suggests_statics_for_conditions_without_samples(islands: xr.Dataset) -> None:
    islands["mean"] = islands.mslp.mean("time").assign_attrs(units="Pa")
    with pytest.raises(DataError, match=r"statics=\['mean'\]"):
        describe(islands, target="pr", conditions=["mean"])


def test_describe_refuses_conditions_with_levels(islands: xr.Dataset) -> None:
    islands["t"] = islands.mslp.expand_dims(level=[500, 850]).assign_attrs(units="K")
    with pytest.raises(DataError, match=r"t: .*\(level, time, lat, lon\).*variable of its own"):
        describe(islands, target="pr", conditions=["t"])


def test_describe_refuses_statics_on_another_grid(islands: xr.Dataset) -> None:
    islands["relief"] = islands.mslp[0].assign_attrs(units="m")
    with pytest.raises(DataError, match=r"relief: expected a static on the target's grid"):
        describe(islands, target="pr", conditions=["mslp"], statics=["relief"])


@pytest.mark.parametrize("conditions", [[], None])
def test_describe_refuses_no_condition(make_radar: Maker, conditions: list[str] | None) -> None:
    with pytest.raises(ConfigError, match=r"at least one variable, got none.*coarsen=12"):
        describe(make_radar()[["pr"]], conditions=conditions)


@pytest.mark.parametrize(
    "arguments",
    [
        {"conditions": ["pr"]},
        {"conditions": ["pr_coarse", "pr_coarse"]},
        {"conditions": ["pr_coarse"], "statics": ["pr_coarse"]},
        {"conditions": ["pr_coarse"], "coarsen": 12},
    ],
)
def test_describe_refuses_repeated_variables(
    make_radar: Maker, arguments: dict[str, object]
) -> None:
    with pytest.raises(ConfigError, match="more than once"):
        describe(make_radar(), target="pr", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("coarsen", [0, 1, -2, 37, 2.5, True, "12"])
def test_describe_refuses_impossible_block_sizes(make_radar: Maker, coarsen: object) -> None:
    with pytest.raises(ConfigError, match="coarsen: expected a whole number"):
        describe(make_radar(), coarsen=coarsen)  # type: ignore[arg-type]


def test_describe_refuses_taken_dims_of_the_derived_condition(make_radar: Maker) -> None:
    ds = make_radar().rename(pr_coarse="other")
    with pytest.raises(ConfigError, match=r"y_coarse and x_coarse to be free.*other"):
        describe(ds, conditions=["other"], coarsen=12)


def test_describe_refuses_texts(make_radar: Maker) -> None:
    ds = make_radar()
    ds["name"] = ("time", list("abcde"), {"units": "1"})
    with pytest.raises(DataError, match="name: expected real numbers, got type"):
        describe(ds, conditions=["name"])


def test_describe_refuses_an_empty_selection(make_radar: Maker) -> None:
    with pytest.raises(EmptySelectionError, match="none along 'time'"):
        describe(make_radar().isel(time=slice(0, 0)))


def test_describe_refuses_an_array_and_names_to_dataset(make_radar: Maker) -> None:
    with pytest.raises(DataError, match=r"got DataArray.*to_dataset"):
        describe(make_radar().pr)  # type: ignore[arg-type]


@pytest.fixture
def daily_rain_and_6_hourly_pressure(tmp_path: Path) -> tuple[xr.Dataset, xr.Dataset]:
    rng = np.random.default_rng(0)
    hours = np.datetime64("2000-01-01", "ns") + np.arange(40) * np.timedelta64(6, "h")
    rain = rng.gamma(0.5, 5.0, (10, 12, 12)).astype("float32")
    xr.Dataset(
        {"pr": (("time", "y", "x"), rain, {"units": "mm/day"})}, {"time": hours[::4]}
    ).to_netcdf(tmp_path / "rain.nc", engine="netcdf4")
    psl = rng.normal(1e5, 500.0, (40, 3, 3)).astype("float32")
    xr.Dataset({"psl": (("time", "lat", "lon"), psl, {"units": "Pa"})}, {"time": hours}).to_netcdf(
        tmp_path / "era.nc", engine="netcdf4"
    )
    return (xr.open_dataset(tmp_path / "rain.nc"), xr.open_dataset(tmp_path / "era.nc"))


def test_describe_warns_of_predictors_at_one_hour_of_daily_rain(
    daily_rain_and_6_hourly_pressure: tuple[xr.Dataset, xr.Dataset],
) -> None:
    rain, era = daily_rain_and_6_hourly_pressure
    for ds in (rain.assign(psl=era.psl), xr.merge([rain, era.chunk(time=7)], join="inner")):
        with pytest.warns(UserWarning, match=r"psl \(every 6 h in its file\).*resample\(time='1D'"):
            describe(ds, target="pr", conditions=["psl"])
    # The two remedies, as they stand.
    describe(rain.assign(psl=era.resample(time="1D").mean().psl.assign_attrs(units="Pa")))
    ds = rain.assign(psl=era.psl)
    ds["psl"].attrs["cell_methods"] = "time: mean"
    describe(ds)
    # A longer file of daily fields is not the same.
    describe(rain.isel(time=slice(3)).assign(psl=rain.pr.mean(("y", "x")).assign_attrs(units="Pa")))


def test_describe_advises_sums_of_depths_for_daily_rain(
    daily_rain_and_6_hourly_pressure: tuple[xr.Dataset, xr.Dataset],
) -> None:
    rain, era = daily_rain_and_6_hourly_pressure
    era["tp"] = era.psl.assign_attrs(units="m", long_name="Total precipitation")
    ds = rain.assign(tp=era.tp, psl=era.psl)
    with pytest.warns(UserWarning, match="one moment for the rain of a whole day") as found:
        describe(ds, target="pr", conditions=["psl", "tp"])
    means, sums = (str(one.message) for one in found)
    assert means.startswith("psl (every 6 h in its file): one moment")
    assert "resample(time='1D').mean()" in means
    assert sums.startswith("tp (every 6 h in its file): one moment")
    assert "resample(time='1D').sum(skipna=False)" in sums
    ds["tp"] = era.tp.resample(time="1D").sum(skipna=False).assign_attrs(era.tp.attrs)
    describe(ds, target="pr", conditions=["tp"])  # the remedy, as it stands


@pytest.mark.parametrize("attrs", [{"cell_methods": "time: point"}, {"GRIB_stepType": "instant"}])
def test_describe_warns_of_instantaneous_predictors_of_daily_rain(
    daily_rain_and_6_hourly_pressure: tuple[xr.Dataset, xr.Dataset], attrs: dict[str, str]
) -> None:
    rain, era = (ds.drop_encoding() for ds in daily_rain_and_6_hourly_pressure)
    ds = rain.assign(psl=era.psl.assign_attrs(attrs))
    with pytest.warns(UserWarning, match=r"psl \(instantaneous\): one moment"):
        describe(ds, target="pr", conditions=["psl"])
    hourly = rain.assign(pr=rain.pr.assign_attrs(units="mm h-1"))
    hourly = hourly.assign_coords(time=era.time[:10])
    describe(hourly.assign(psl=era.psl.assign_attrs(attrs)))

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError, EmptySelectionError, MismatchError, UnitsError
from xcvae.fields.axes import stretch_weights
from xcvae.fields.describe import describe, prepare
from xcvae.fields.grids import grid_size

Maker = Callable[..., xr.Dataset]


def test_prepare_orders_dims_and_preserves_values(make_radar: Maker) -> None:
    ds = make_radar()
    ds["elevation"] = (("x", "y"), np.arange(36.0 * 24).reshape(36, 24), {"units": "m"})
    ds["season"] = ("time", np.arange(5.0), {"units": "1"})
    spec = describe(ds, conditions=["pr_coarse", "season"], statics=["elevation"])
    prepared = prepare(ds.transpose("x", "x_coarse", ...), spec, need_target=True)
    assert prepared.pr.dims == ("time", "y", "x")
    assert prepared.pr_coarse.dims == ("time", "y_coarse", "x_coarse")
    assert prepared.season.dims == ("time",)
    assert prepared.elevation.dims == ("y", "x")
    assert set(prepared.data_vars) == {"pr", "pr_coarse", "season", "elevation"}
    for name in prepared.data_vars:
        np.testing.assert_array_equal(
            prepared[name], ds[name].transpose(*prepared[name].dims), err_msg=str(name)
        )


def test_prepare_converts_units(make_radar: Maker) -> None:
    ds = make_radar()
    spec = describe(ds)
    other = ds.copy()
    other["pr"] = (ds.pr * 24).assign_attrs(units="mm/day")
    other["pr_coarse"] = (ds.pr_coarse / 3600).assign_attrs(units="kg m-2 s-1")
    prepared = prepare(other, spec, need_target=True)
    np.testing.assert_allclose(prepared.pr, ds.pr, rtol=1e-5)
    np.testing.assert_allclose(prepared.pr_coarse, ds.pr_coarse, rtol=1e-5)
    assert prepared.pr.attrs["units"] == prepared.pr_coarse.attrs["units"] == "mm h-1"
    assert other.pr.attrs["units"] == "mm/day"


def test_prepare_stays_lazy(islands: xr.Dataset) -> None:
    lazy = islands.chunk(time=2)
    spec = describe(lazy, target="pr", conditions=["mslp"], coarsen=12)
    prepared = prepare(lazy, spec, need_target=True)
    assert all(da.chunks is not None for da in prepared.data_vars.values())
    xr.testing.assert_allclose(prepared, prepare(islands, spec, need_target=True))


@pytest.mark.parametrize(("ny", "nx"), [(24, 36), (35, 53), (61, 47)])
def test_prepare_derives_block_means_as_a_loop_does(make_radar: Maker, ny: int, nx: int) -> None:
    ds = make_radar(ny, nx)[["pr"]]
    ds["pr"][:, 5:9, 10:30] = np.nan
    prepared = prepare(ds, describe(ds, coarsen=12), need_target=True)
    rain = ds.pr.values
    for i in range(-(-ny // 12)):
        for j in range(-(-nx // 12)):
            block = rain[:, 12 * i : 12 * i + 12, 12 * j : 12 * j + 12]
            expected = np.nanmean(block, axis=(1, 2))
            np.testing.assert_allclose(prepared.pr_coarse[:, i, j], expected, rtol=1e-5)
    last = ds.y.values[12 * (-(-ny // 12) - 1) :]
    assert prepared.y_coarse[-1] == pytest.approx(last.mean())
    assert prepared.pr_coarse.attrs["units"] == "mm h-1"
    assert prepared.pr_coarse.dtype == np.float32


def test_prepare_fills_masked_blocks_with_the_mean_of_others(
    islands: xr.Dataset,
) -> None:
    islands["pr"][3] = np.nan
    with pytest.warns(UserWarning, match="pr: 1 of 6 samples"):
        spec = describe(islands, target="pr", coarsen=12)
    coarse = prepare(islands, spec, need_target=True).pr_coarse
    assert bool(coarse.notnull().all())
    others = np.delete(coarse.values[0].ravel(), [0, 1])
    np.testing.assert_allclose(coarse[0, 0, :2], others.mean(), rtol=1e-5)
    np.testing.assert_array_equal(coarse[3], 0)


@pytest.mark.parametrize("labelled", [True, False])
def test_prepare_places_derived_blocks_over_their_pixels(make_radar: Maker, labelled: bool) -> None:
    ds = make_radar(24, 53)[["pr"]]
    ds["pr"] = (ds.pr * 0 + np.arange(53.0)).assign_attrs(ds.pr.attrs)
    if not labelled:
        ds = ds.drop_vars(["x", "y"])
    prepared = prepare(ds, describe(ds, coarsen=12), need_target=True)
    weights = stretch_weights(prepared.x_coarse.values, 5, prepared.x.values, 53)
    stretched = weights @ prepared.pr_coarse.values[0, 0]
    np.testing.assert_allclose(stretched[6:50], np.arange(53.0)[6:50], atol=1e-4)


def test_prepare_coarsens_a_curvilinear_grid(make_radar: Maker) -> None:
    ds = make_radar()[["pr"]].assign_coords(
        lat=(("y", "x"), np.zeros((24, 36)), {"standard_name": "latitude"})
    )
    prepared = prepare(ds, describe(ds, coarsen=12), need_target=True)
    assert prepared.lat.dims == ("y", "x")
    np.testing.assert_allclose(prepared.pr_coarse, make_radar().pr_coarse, rtol=1e-5)


def test_prepare_without_target_takes_the_given_derived_condition(make_radar: Maker) -> None:
    ds = make_radar()
    spec = describe(ds, coarsen=12)
    given = ds[["pr_coarse"]].drop_vars(["y_coarse", "x_coarse"]) * 2
    given.pr_coarse.attrs["units"] = "mm h-1"
    prepared = prepare(given, spec, need_target=False)
    assert "pr" not in prepared
    np.testing.assert_array_equal(prepared.pr_coarse, given.pr_coarse)


def test_prepare_without_target_has_the_training_grid(make_radar: Maker) -> None:
    ds = make_radar()
    prepared = prepare(ds[["pr_coarse"]], describe(ds), need_target=False)
    assert "pr" not in prepared
    xr.testing.assert_identical(prepared.y.reset_coords(drop=True), ds.y.reset_coords(drop=True))
    np.testing.assert_array_equal(prepared.x, ds.x)


def test_prepare_without_target_infers_the_grid_from_the_condition(make_radar: Maker) -> None:
    spec = describe(make_radar())
    wide = make_radar(48, 60)[["pr_coarse"]]
    assert grid_size(wide, spec) == (48, 60)
    prepared = prepare(wide, spec, need_target=False)
    np.testing.assert_allclose(prepared.y, make_radar(48, 60).y)
    np.testing.assert_allclose(prepared.x, make_radar(48, 60).x)
    assert prepared.y.attrs == make_radar().y.attrs


@pytest.fixture
def degrees(make_radar: Maker) -> xr.Dataset:
    ds = make_radar(24, 48).rename(y="lat", x="lon", y_coarse="lat_c", x_coarse="lon_c")
    return ds.assign_coords({dim: 40 + ds[dim].values / 10 for dim in ds.dims if dim != "time"})


@pytest.mark.parametrize("coarsen", [None, 12])
def test_prepare_without_target_locates_a_part_of_the_domain(
    make_radar: Maker, degrees: xr.Dataset, coarsen: int | None
) -> None:
    if coarsen is not None:
        degrees = degrees.rename(lat_c="lat_coarse", lon_c="lon_coarse")
    own = degrees.pr_coarse.dims[-1]
    spec = describe(degrees, target="pr", coarsen=coarsen)
    part = degrees[["pr_coarse"]].isel({own: slice(1, 3)})
    prepared = prepare(part, spec, need_target=False)
    np.testing.assert_allclose(prepared.lat, degrees.lat)
    np.testing.assert_allclose(prepared.lon, degrees.lon[12:36])
    one = prepare(degrees[["pr_coarse"]].isel({own: [2]}), spec, need_target=False)
    np.testing.assert_allclose(one.lon, degrees.lon[24:36])


def test_prepare_without_target_locates_another_domain(degrees: xr.Dataset) -> None:
    spec = describe(degrees)
    there = degrees[["pr_coarse"]].assign_coords(lat_c=degrees.lat_c + 20)
    prepared = prepare(there, spec, need_target=False)
    np.testing.assert_allclose(prepared.lat, degrees.lat + 20)
    weights = stretch_weights(prepared.lat_c.values, 2, prepared.lat.values, 24)
    assert len(np.unique(weights, axis=0)) > 2


def test_prepare_without_target_and_coordinates_has_none(degrees: xr.Dataset) -> None:
    bare = degrees[["pr_coarse"]].isel(lon_c=slice(1, 3)).drop_vars(["lat_c", "lon_c"])
    prepared = prepare(bare, describe(degrees), need_target=False)
    assert not {"lat", "lon", "lat_c", "lon_c"} & set(prepared.coords)
    assert grid_size(prepared, describe(degrees)) == (24, 24)


def test_prepare_without_target_invents_no_pixels_of_another_size(make_radar: Maker) -> None:
    # Three cells of 100 pixels over 252: the grids do not end together.
    ds = make_radar(252, 252, factor=84)
    ds = ds.assign_coords(
        {f"{d}_coarse": (f"{d}_coarse", [26.0, 126, 226], {"units": "km"}) for d in "yx"}
    )
    spec = describe(ds)
    same = prepare(ds[["pr_coarse"]], spec, need_target=False)
    np.testing.assert_array_equal(same.x, ds.x)
    moved = ds[["pr_coarse"]].assign_coords(
        x_coarse=("x_coarse", [526.0, 626, 726], {"units": "km"})
    )
    assert "x" not in prepare(moved, spec, need_target=False).coords


def test_prepare_accepts_conditions_stored_as_coordinates(make_radar: Maker) -> None:
    ds = make_radar()
    ds = ds.assign_coords(nao=("time", np.arange(5.0), {"units": "1"}))
    spec = describe(ds, conditions=["pr_coarse", "nao"])
    prepared = prepare(ds, spec, need_target=True)
    assert "nao" in prepared.data_vars
    np.testing.assert_array_equal(prepared.nao, np.arange(5.0))


def test_prepare_without_target_of_a_pooled_model_has_the_training_grid(
    islands: xr.Dataset,
) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    prepared = prepare(islands[["mslp"]], spec, need_target=False)
    np.testing.assert_array_equal(prepared.y, islands.y)
    assert prepared.y.attrs == {"units": "m"}


def test_prepare_converts_coordinates_of_conditions(make_radar: Maker) -> None:
    ds = make_radar()
    metres = ds.assign_coords(
        {d: (d, ds[d].values * 1000, {"units": "m"}) for d in ("y_coarse", "x_coarse")}
    )
    prepared = prepare(metres, describe(metres), need_target=True)
    np.testing.assert_allclose(prepared.y_coarse, ds.y_coarse)
    assert prepared.y_coarse.attrs["units"] == "km"


def test_prepare_drops_counted_coordinates_of_conditions(make_radar: Maker) -> None:
    ds = make_radar().assign_coords(y_coarse=[0, 1], x_coarse=[0, 1, 2])
    prepared = prepare(ds, describe(ds), need_target=True)
    assert not {"y_coarse", "x_coarse"} & set(prepared.coords)
    assert {"y", "x"} <= set(prepared.coords)


@pytest.mark.parametrize(("ny", "nx"), [(48, 36), (35, 53), (61, 47), (12, 12)])
def test_prepare_accepts_another_grid_of_the_same_kind(make_radar: Maker, ny: int, nx: int) -> None:
    spec = describe(make_radar(36, 48))
    prepared = prepare(make_radar(ny, nx), spec, need_target=True)
    assert prepared.pr.shape == (5, ny, nx)


def test_prepare_accepts_even_sizes_after_odd_training_sizes(make_radar: Maker) -> None:
    prepare(make_radar(36, 48), describe(make_radar(35, 53)), need_target=True)


def test_prepare_refuses_another_ratio_of_target_to_condition(make_radar: Maker) -> None:
    spec = describe(make_radar())
    with pytest.raises(MismatchError, match=r"12 target pixels .* got .* 6") as caught:
        prepare(
            make_radar(24, 36, factor=6).drop_vars(["y_coarse", "x_coarse"]), spec, need_target=True
        )
    assert "pr_coarse" in str(caught.value)


def test_prepare_refuses_a_crop_of_the_target_alone(make_radar: Maker) -> None:
    with pytest.raises(MismatchError, match="Cut target and condition to the same area"):
        prepare(make_radar().isel(x=slice(0, 12)), describe(make_radar()), need_target=True)


def test_prepare_refuses_conditions_of_another_spacing(make_radar: Maker) -> None:
    with pytest.raises(MismatchError, match="y_coarse: expected a grid spacing of 12000 m"):
        prepare(make_radar(48, 48, factor=6), describe(make_radar(48, 48)), need_target=True)


def test_prepare_refuses_another_spacing_of_the_target(make_radar: Maker) -> None:
    ds = make_radar()
    wide = ds.assign_coords({d: (d, ds[d].values * 2, ds[d].attrs) for d in ("y", "x")})
    with pytest.raises(MismatchError, match=r"y: expected a grid spacing of 1000 m.*got 2000 m"):
        prepare(wide, describe(ds), need_target=True)


def test_prepare_refuses_degrees_for_kilometres(make_radar: Maker) -> None:
    ds = make_radar()
    degrees = ds.assign_coords(y=("y", ds.y.values, {"units": "degrees_north"}))
    with pytest.raises(MismatchError, match=r"y: .*1000 m.*degrees \(latitude\)"):
        prepare(degrees, describe(ds), need_target=True)


def in_degrees(ds: xr.Dataset, middle: float, step: float) -> xr.Dataset:
    """The same fields on latitudes and longitudes with a step per kilometre."""
    for dim in ("y", "y_coarse"):
        values = middle + step * ds[dim].values
        ds = ds.assign_coords({dim: (dim, values, {"units": "degrees_north"})})
    for dim in ("x", "x_coarse"):
        ds = ds.assign_coords({dim: (dim, step * ds[dim].values, {"units": "degrees_east"})})
    return ds


@pytest.mark.parametrize("middle", [0.0, 40.0, -50.0])
def test_prepare_compares_degrees_and_metres_in_kilometres(
    make_radar: Maker, middle: float
) -> None:
    """0.01 degrees are 1.1 km along a meridian, and 0.7 to 1.1 km along a parallel."""
    ds = make_radar(24, 36)
    degrees = in_degrees(ds, middle, 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepare(degrees, describe(ds), need_target=True)
        prepare(ds, describe(degrees), need_target=True)


def test_prepare_warns_of_cells_outside_the_tolerance(make_radar: Maker) -> None:
    ds = make_radar(24, 36)
    with pytest.warns(UserWarning, match=r"cells of 1.78 km, .* trained with 1 km"):
        prepare(in_degrees(ds, 0.0, 0.016), describe(ds), need_target=True)
    with pytest.raises(MismatchError, match=r"expected .* 1000 m.*got 0.05 degrees .*5.56 km"):
        prepare(in_degrees(ds, 0.0, 0.05), describe(ds), need_target=True)


def test_prepare_refuses_another_domain_for_a_located_model(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    with pytest.raises(MismatchError, match=r"the 35 cells of the training grid.*got 20 cells"):
        prepare(islands.isel(y=slice(0, 20)), spec, need_target=True)
    moved = islands.assign_coords(lat=islands.lat + 10)
    with pytest.raises(MismatchError, match=r"lat: .*ties it to its domain, got other coordinates"):
        prepare(moved, spec, need_target=True)
    fewer = islands[["mslp"]].isel(lon=slice(1, None))
    with pytest.raises(MismatchError, match="lon: expected the 13 cells"):
        prepare(fewer, spec, need_target=False)


@pytest.mark.parametrize("missing", ["pr", "mslp", "land"])
def test_prepare_suggests_the_nearest_variable(islands: xr.Dataset, missing: str) -> None:
    islands["land"] = (("y", "x"), np.ones((35, 53)), {"units": "1"})
    spec = describe(islands, target="pr", conditions=["mslp"], statics=["land"])
    other = islands.rename({missing: f"{missing}_x"})
    with pytest.raises(MismatchError, match=rf"'{missing}'.*Did you mean '{missing}_x'"):
        prepare(other, spec, need_target=True)


def test_prepare_needs_no_target_for_the_prior(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    assert "pr" not in prepare(islands.drop_vars("pr"), spec, need_target=False)
    assert "pr" in prepare(islands, spec, need_target=False)


def test_prepare_refuses_neither_target_nor_derived_condition(make_radar: Maker) -> None:
    spec = describe(make_radar(), coarsen=12)
    with pytest.raises(MismatchError, match="variable 'pr_coarse'"):
        prepare(make_radar()[["pr"]].rename(pr="tp"), spec, need_target=False)


def test_prepare_refuses_other_dims(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    with pytest.raises(MismatchError, match=r"mslp: expected dims \(time, lat, lon\)"):
        prepare(islands.rename(lat="plat"), spec, need_target=True)


def test_prepare_names_units_that_do_not_convert(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    islands.pr.attrs["units"] = "mm"
    with pytest.raises(MismatchError, match="'mm d-1', got 'mm'"):
        prepare(islands, spec, need_target=True)


def test_prepare_refuses_missing_units(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    del islands.mslp.attrs["units"]
    with pytest.raises(UnitsError, match=r"ds\['mslp'\]\.attrs\['units'\]"):
        prepare(islands, spec, need_target=True)


def test_prepare_checks_labels(islands: xr.Dataset) -> None:
    spec = describe(islands, target="pr", conditions=["mslp"])
    with pytest.raises(DataError, match="time"):
        prepare(islands.isel(time=[0, 0, 1]), spec, need_target=True)
    with pytest.raises(EmptySelectionError):
        prepare(islands.isel(time=[]), spec, need_target=True)

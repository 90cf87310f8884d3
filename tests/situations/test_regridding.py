"""Conditions on grids that differ from the target's: regridded by their places, or refused."""

# ruff: noqa: E501  a row is a line

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.config.load import parse
from xcvae.errors import DataError, MismatchError
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import describe, prepare
from xcvae.fields.regridding.projections import from_rotated, grid_mapping, same_projection
from xcvae.pipeline import check
from xcvae.pipeline.check import reason_of

from . import makers
from .conftest import trained

POLE = {
    "grid_mapping_name": "rotated_latitude_longitude",
    "grid_north_pole_latitude": 39.25,
    "grid_north_pole_longitude": -162.0,
}
LAMBERT = {
    "grid_mapping_name": "lambert_conformal_conic",
    "standard_parallel": [40.0, 55.0],
    "longitude_of_central_meridian": 8.0,
    "latitude_of_projection_origin": 47.0,
}
OSGB = {
    "grid_mapping_name": "transverse_mercator",
    "longitude_of_central_meridian": -2.0,
    "latitude_of_projection_origin": 49.0,
    "scale_factor_at_central_meridian": 0.9996012717,
    "false_easting": 400000.0,
    "false_northing": -100000.0,
    "semi_major_axis": 6377563.396,
    "inverse_flattening": 299.3249646,
}
LAT, LON = makers.axis("lat", 46.05, 0.1, 12), makers.axis("lon", 7.05, 0.1, 14)
DEG = (makers.DEGREES["lat"], makers.DEGREES["lon"])


def truth(lat, lon):
    """A field that is smooth on the sphere, whatever the grid."""
    return 250.0 + 3.0 * (np.asarray(lat) - 45.0) + 2.0 * np.sin(np.deg2rad(10 * np.asarray(lon)))


def of_places(dims, lat, lon, *, name="t", units="K", **attrs):
    """Six samples of `truth` at places, with their 2-D coordinates."""
    coords = {f"lat_{name}": (dims, lat, DEG[0]), f"lon_{name}": (dims, lon, DEG[1])}
    values = np.broadcast_to(truth(lat, lon), (6, *np.shape(lat)))
    field = xr.DataArray(values, {"time": makers.times()}, ("time", *dims), name, attrs)
    return field.assign_coords(coords).assign_attrs(units=units)


def regular() -> xr.DataArray:
    """Rain on a regular grid of a tenth of a degree around 46.6 N, 7.7 E."""
    return makers.rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})


def rotated_axes(step=0.11, start=(-4.6, -8.3), n=(16, 18), tag=""):
    return tuple(
        makers.axis(f"{d}{tag}", first, step, count, kind=d)
        for d, first, count in zip(("rlat", "rlon"), start, n, strict=True)
    )


def cordex(*, curved=False, rain=False, **grid) -> xr.Dataset:
    """A CORDEX field, with or without its 2-D latitudes; covers the regular target."""
    y, x = rotated_axes(**grid)
    lat, lon = from_rotated(*np.meshgrid(y, x, indexing="ij"), POLE)
    field = of_places((y.name, x.name), lat, lon, grid_mapping="rotated_pole")
    if rain:
        values = np.random.default_rng(1).gamma(0.5, 5, field.shape).astype(np.float32)
        field = field.copy(data=values).assign_attrs(units="mm/day", long_name="precipitation")
    if not curved:
        field = field.drop_vars(["lat_t", "lon_t"])
    pole = ((), 0, POLE)
    return xr.Dataset({"t": field.assign_coords({y.name: y, x.name: x}), "rotated_pole": pole})


def wrf(*, step=0.04, n=(50, 60)) -> xr.DataArray:
    """A WRF field: no axes, latitudes and longitudes per Time, a turned grid."""
    j, i = np.meshgrid(np.arange(n[0]) * step, np.arange(n[1]) * step, indexing="ij")
    lat, lon = 45.6 + j + 0.1 * i, 6.6 + 1.4 * i - 0.12 * j
    field = of_places(("south_north", "west_east"), lat, lon, name="T2")
    maps = {
        "XLAT": (field.dims, np.broadcast_to(lat, field.shape), {"units": "degree_north"}),
        "XLONG": (field.dims, np.broadcast_to(lon, field.shape), {"units": "degree_east"}),
    }
    return field.drop_vars(["lat_T2", "lon_T2"]).assign_coords(maps)


def osgb(*, metres=True, curved=True) -> xr.DataArray:
    """Rain of UKCP on the British National Grid, 5 km, around 52.5 N, 1.5 W."""
    y = makers.axis("projection_y_coordinate", 2.5e5, 5e3, 12, kind="y")
    x = makers.axis("projection_x_coordinate", 4.0e5, 5e3, 12, kind="x")
    field = makers.rain(
        dims=("time", y.name, x.name),
        coords={y.name: y, x.name: x},
        grid_mapping="transverse_mercator",
    )
    # The inverse projection to about 100 m, far below the 5 km of a pixel.
    north, east = np.meshgrid((y - 2.5e5) / 111_240.0, x - 4.0e5, indexing="ij")
    lat = 52.148 + north
    lon = -2.0 + east / (111_320.0 * np.cos(np.deg2rad(lat)))
    if curved:
        places = {"lat2": (field.dims[1:], lat, DEG[0]), "lon2": (field.dims[1:], lon, DEG[1])}
        field = field.assign_coords(places)
    return field if metres else field.drop_vars([y.name, x.name])


def era5(lat=(44.0, 0.25, 40), lon=(5.0, 0.25, 50), **attrs) -> xr.DataArray:
    y, x = makers.axis("lat_e", *lat), makers.axis("lon_e", *lon)
    places = np.meshgrid(y, x, indexing="ij")
    field = of_places(("lat_e", "lon_e"), *places, **attrs).drop_vars(["lat_t", "lon_t"])
    return field.assign_coords(lat_e=y, lon_e=x)


def with_mapping(ds: xr.Dataset, **mappings) -> xr.Dataset:
    return ds.assign({name: ((), 0, attrs) for name, attrs in mappings.items()})


def near_truth(ds: xr.Dataset, name: str, lat, lon, *, error=0.02) -> dict:
    facts = makers.admit(ds, target="pr", conditions=[name])
    assert facts["roles"] == {name: "regridded"}
    wanted = np.broadcast_to(truth(lat, lon), facts["ready"].pr.shape)
    np.testing.assert_allclose(makers.seen(facts, name), wanted, atol=error)
    return facts


# --- each kind of grid has the value of its place ----------------------------------------------


@pytest.mark.parametrize("curved", [False, True], ids=["rotated pole", "2-D latitudes"])
def test_rotated_cordex_on_a_regular_target(curved):
    ds = makers.together(regular()).drop_vars("t").merge(cordex(curved=curved))
    places = np.meshgrid(LAT, LON, indexing="ij")
    facts = near_truth(ds, "t", *places)
    (variable,) = facts["spec"].variables
    assert variable.regrid == "bilinear"
    assert "regridded (bilinear" in reason_of(variable, facts["spec"])


def test_era5_on_a_rotated_target():
    y, x = rotated_axes(0.05, (-4.0, -7.5), (12, 12), "_f")
    lat, lon = from_rotated(*np.meshgrid(y, x, indexing="ij"), POLE)
    pr = makers.rain(
        dims=("time", y.name, x.name), coords={y.name: y, x.name: x}, grid_mapping="pole"
    )
    ds = with_mapping(makers.together(pr, era5()), pole=POLE)
    near_truth(ds, "t", lat, lon)


def test_two_rotated_poles():
    y, x = rotated_axes(0.05, (-4.0, -7.5), (12, 12), "_f")
    lat, lon = from_rotated(*np.meshgrid(y, x, indexing="ij"), POLE)
    pr = makers.rain(
        dims=("time", y.name, x.name), coords={y.name: y, x.name: x}, grid_mapping="pole"
    )
    other = {**POLE, "grid_north_pole_latitude": 40.0, "grid_north_pole_longitude": -170.0}
    own_y, own_x = (
        makers.axis(f"{d}_g", s, 0.2, 40, kind=d) for d, s in (("rlat", -7.0), ("rlon", -5.0))
    )
    own = from_rotated(*np.meshgrid(own_y, own_x, indexing="ij"), other)
    t = of_places(("rlat_g", "rlon_g"), *own, grid_mapping="pole2").drop_vars(["lat_t", "lon_t"])
    t = t.assign_coords(rlat_g=own_y, rlon_g=own_x)
    ds = with_mapping(makers.together(pr, t), pole=POLE, pole2=other)
    near_truth(ds, "t", lat, lon)


def test_wrf_with_latitudes_per_time_on_a_regular_target():
    ds = makers.together(regular(), wrf())
    facts = near_truth(ds, "T2", *np.meshgrid(LAT, LON, indexing="ij"))
    assert facts["spec"].variables[0].regrid == "conservative"  # finer than the target


def test_era5_on_a_target_of_wrf():
    own = wrf(n=(12, 12))
    pr = makers.rain(dims=own.dims).assign_coords(own.coords)
    ds = makers.together(pr, era5())
    near_truth(ds, "t", own.XLAT[0], own.XLONG[0])


def test_latitudes_that_move_with_time_are_no_places():
    ds = makers.together(regular(), wrf())
    moved = ds.XLAT.copy(data=ds.XLAT.values + np.arange(6)[:, None, None])
    with pytest.raises(DataError, match=r"XLAT.*same for all samples"):
        makers.admit(ds.assign_coords(XLAT=moved), target="pr", conditions=["T2"])


@pytest.mark.parametrize("metres", [True, False], ids=["with axes in metres", "2-D only"])
def test_era5_on_the_british_grid_by_its_latitudes(metres):
    pr = osgb(metres=metres)
    ds = with_mapping(
        makers.together(pr, era5((50, 0.25, 20), (-4, 0.25, 20))), transverse_mercator=OSGB
    )
    near_truth(ds, "t", pr.lat2, pr.lon2)


def test_era5_on_the_british_grid_by_its_projection():
    pyproj = pytest.importorskip("pyproj")
    pr = osgb(curved=False)
    ds = with_mapping(
        makers.together(pr, era5((50, 0.25, 20), (-4, 0.25, 20))), transverse_mercator=OSGB
    )
    to = pyproj.Transformer.from_crs(
        27700, pyproj.CRS.from_epsg(27700).geodetic_crs, always_xy=True
    )
    lon, lat = to.transform(*np.meshgrid(pr[pr.dims[2]], pr[pr.dims[1]]))
    near_truth(ds, "t", lat, lon)


def test_lambert_target_by_wkt_alone():
    pyproj = pytest.importorskip("pyproj")
    crs = pyproj.CRS.from_cf(LAMBERT)
    y, x = makers.axis("y", -3e4, 5e3, 12), makers.axis("x", -2e4, 5e3, 12)
    pr = makers.rain(coords={"y": y, "x": x}, grid_mapping="spatial_ref")
    ds = with_mapping(makers.together(pr, era5()), spatial_ref={"spatial_ref": crs.to_wkt()})
    lon, lat = pyproj.Proj(crs)(*np.meshgrid(x, y), inverse=True)
    near_truth(ds, "t", lat, lon)


def test_a_projection_without_pyproj_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyproj", None)
    ds = with_mapping(makers.together(osgb(curved=False), era5()), transverse_mercator=OSGB)
    makers.refused("t|pr", r"pip install 'xcvae\[grids\]'", "lat").check(lambda: makers.admit(ds))


def test_a_mapping_without_parameters_is_not_placed():
    mapping = {"grid_mapping_name": "transverse_mercator"}
    ds = with_mapping(makers.together(osgb(curved=False), era5()), transverse_mercator=mapping)
    facts = makers.admit(ds, target="pr", conditions=["t"])
    assert facts["roles"] == {"t": "pooled"}


def test_axes_that_look_alike_with_places_that_differ():
    y, x = makers.axis("y", 0, 1e4, 12), makers.axis("x", 0, 1e4, 12)
    lat, lon = np.meshgrid(46 + y / 1.1e5, 7 + x / 7.7e4, indexing="ij")
    places = {"lat": (("y", "x"), lat, DEG[0]), "lon": (("y", "x"), lon, DEG[1])}
    pr = makers.rain(coords={"y": y, "x": x}).assign_coords(places)
    own_y, own_x = makers.axis("y_g", -4e4, 2e4, 16), makers.axis("x_g", -4e4, 2e4, 16)
    own = np.meshgrid(45.5 + own_y / 1.1e5, 6.5 + own_x / 7.7e4, indexing="ij")
    t = of_places(("y_g", "x_g"), *own).assign_coords(y_g=own_y, x_g=own_x)
    near_truth(makers.together(pr, t), "t", lat, lon)


def test_a_global_curvilinear_grid_closes_at_its_seam():
    lat, lon = np.meshgrid(np.arange(-79.0, 90, 2), np.arange(8.0, 368, 2), indexing="ij")
    ds = makers.together(regular(), of_places(("j", "i"), lat, lon))
    assert 6 < LON.min() < 8 < LON.max()  # the seam is within the target
    near_truth(ds, "t", *np.meshgrid(LAT, LON, indexing="ij"), error=0.06)


# --- rain ---------------------------------------------------------------------------------------


def test_rain_is_conserved():
    ds = makers.together(regular()).drop_vars("t").merge(cordex(rain=True))
    facts = makers.admit(ds, target="pr", conditions=["t"])
    assert facts["spec"].variables[0].regrid == "conservative"
    # Fine pixels that tile the cells of a wider grid exactly: the rain of all is the same.
    cells = cordex(rain=True, step=0.1, start=(-3.0, -7.0), n=(6, 6))
    fine_y, fine_x = (
        makers.axis(f"{d}_f", s, 0.02, 30, kind=d) for d, s in (("rlat", -3.04), ("rlon", -7.04))
    )
    lat, lon = from_rotated(*np.meshgrid(fine_y, fine_x, indexing="ij"), POLE)
    places = {"lat": (("b", "a"), lat, DEG[0]), "lon": (("b", "a"), lon, DEG[1])}
    pr = makers.rain(dims=("time", "b", "a"), shape=(6, 30, 30)).assign_coords(places)
    both = makers.together(pr).drop_vars("t").merge(cells)
    found = makers.admit(both, target="pr", conditions=["t"])
    blocks = makers.seen(found, "t").reshape(6, 6, 5, 6, 5).mean((2, 4))
    np.testing.assert_allclose(blocks, cells.t.values, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("value", [-9999.0, 1e20])
def test_a_single_fill_value_is_not_averaged_away(value):
    ds = makers.together(regular()).drop_vars("t").merge(cordex())
    bad = ds.t.values.copy()
    bad[2, 7, 8] = value
    ds["t"] = ds.t.copy(data=bad)
    makers.refused("t", "fill value").check(lambda: makers.admit(ds, target="pr", conditions=["t"]))


# --- refused ------------------------------------------------------------------------------------

REFUSED = [
    makers.case("a part of the target", lambda: makers.together(regular()).drop_vars("t").merge(cordex(n=(8, 18))),
         makers.refused("t", "% of its pixels", "cut the target")),
    makers.case("rotated without its pole", lambda: makers.together(regular()).drop_vars("t").merge(cordex().drop_vars("rotated_pole")),
         makers.right(roles={"t": "pooled"})),
    makers.case("rain on a rotated grid without its pole", lambda: makers.together(regular()).drop_vars("t").merge(cordex(rain=True).drop_vars("rotated_pole")),
         makers.warned("t", "rotated", "pooled")),
    makers.case("curvilinear, target without places", lambda: makers.together(makers.rain(), wrf()), makers.refused("T2", "lat", "xESMF|regrid")),
    makers.case("a single row", lambda: makers.together(regular(), wrf(n=(1, 60))), makers.refused("T2", "single row")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), REFUSED)
def test_grids_without_a_place_are_refused_or_warned_of(make, answer, options):
    answer.check(lambda: makers.admit(make(), target="pr", **options))


# --- grid mappings as text ----------------------------------------------------------------------

LAEA = (
    'PROJCRS["ETRS89 / LAEA Europe",BASEGEOGCRS["ETRS89",DATUM["D",ELLIPSOID["GRS 1980",6378137,'
    '298.257222101]]],CONVERSION["LAEA",METHOD["Lambert Azimuthal Equal Area",ID["EPSG",9820]],'
    'PARAMETER["Latitude of natural origin",52,ANGLEUNIT["degree",0.017]],'
    'PARAMETER["Longitude of natural origin",{lon},ANGLEUNIT["degree",0.017]],'
    'PARAMETER["False easting",4321000,LENGTHUNIT["metre",1]],'
    'PARAMETER["False northing",3210000,LENGTHUNIT["metre",1]]],CS[Cartesian,2]]'
)
LAEA_GDAL = (
    'PROJCS["ETRS89 / ETRS-LAEA",GEOGCS["ETRS89",DATUM["D",SPHEROID["GRS 1980",6378137,298.25]]],'
    'PROJECTION["Lambert_Azimuthal_Equal_Area"],PARAMETER["latitude_of_center",52],'
    'PARAMETER["longitude_of_center",10],PARAMETER["false_easting",4321000],'
    'PARAMETER["false_northing",3210000],UNIT["metre",1]]'
)
MAPPINGS = {
    "WKT 2": {"crs_wkt": LAEA.format(lon=10)},
    "GDAL": {"spatial_ref": LAEA_GDAL},
    "CF": {"grid_mapping_name": "lambert_azimuthal_equal_area", "longitude_of_projection_origin": 10.0,
           "latitude_of_projection_origin": 52.0, "false_easting": 4321000.0, "false_northing": 3210000.0},
    "elsewhere": {"crs_wkt": LAEA.format(lon=0)},
    "degrees": {"spatial_ref": 'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.25]]]'},
}  # fmt: skip


@pytest.mark.parametrize("one", MAPPINGS)
@pytest.mark.parametrize("other", MAPPINGS)
def test_projections_as_text_are_compared(one, other):
    ds = xr.Dataset({"a": ((), 0, MAPPINGS[one]), "b": ((), 0, MAPPINGS[other])})
    fields = [xr.DataArray(0, attrs={"grid_mapping": name}) for name in "ab"]
    same = one == other or {one, other} <= {"WKT 2", "GDAL", "CF"}
    assert same_projection(*(grid_mapping(ds, each) for each in fields)) is same


# --- the same in use as in training -------------------------------------------------------------


@pytest.fixture(scope="module")
def projected():
    """A Dataset with rotated rain as a condition, and a model of it."""
    wide = cordex(rain=True, start=(-4.8, -8.5), n=(20, 22))
    ds = makers.together(regular()).drop_vars("t").merge(wide).rename(t="pr_rcm")
    return ds, trained(ds, target="pr", conditions=["pr_rcm"])


def drawn(ds: xr.Dataset, model, **options) -> np.ndarray:
    return xcvae.sample(ds, model, members=2, device="cpu", progress=False, **options).pr.values


def test_the_model_file_says_how_and_why(projected):
    _, model = projected
    (stored,) = json.loads(json.dumps(model.spec.to_json()))["variables"]
    assert stored["regrid"] == "conservative"
    assert "rlat" in stored["reason"]
    assert DataSpec.from_json(model.spec.to_json()) == model.spec


@pytest.mark.parametrize("chunks", [{"time": 1}, {"time": 4, "rlat": 3, "lat": 5}, {"rlon": 7}])
@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_members_do_not_depend_on_chunks(projected, chunks, mode):
    ds, model = projected
    lazy = ds.chunk(chunks)
    ready = prepare(lazy, model.spec, need_target=True)
    assert ready.pr_rcm.chunks is not None
    np.testing.assert_array_equal(drawn(lazy, model, mode=mode), drawn(ds, model, mode=mode))


def test_members_do_not_depend_on_the_other_samples(projected):
    ds, model = projected
    some = drawn(ds.isel(time=[1, 4]), model)
    np.testing.assert_array_equal(some, drawn(ds, model)[:, [1, 4]])


def test_a_wider_grid_of_the_same_kind_gives_the_same_members(projected):
    ds, model = projected
    cut = ds.isel(rlat=slice(1, -1))
    np.testing.assert_allclose(drawn(cut, model), drawn(ds, model), rtol=1e-5, atol=1e-5)


def test_without_the_target_the_training_grid_is_drawn(projected):
    ds, model = projected
    np.testing.assert_array_equal(drawn(ds.drop_vars("pr"), model), drawn(ds, model))
    alone = ds[["pr_rcm", "rotated_pole"]].drop_vars(["lat", "lon"], errors="ignore")
    np.testing.assert_array_equal(drawn(alone, model), drawn(ds, model))


def test_another_resolution_or_no_place_is_refused(projected):
    ds, model = projected
    coarse = ds.drop_vars("pr").coarsen(rlat=3, rlon=3, boundary="trim").mean()
    with pytest.raises(MismatchError, match=r"rlat|pr_rcm"):
        drawn(coarse, model)
    with pytest.raises(MismatchError, match=r"pr_rcm.*latitudes and longitudes"):
        drawn(ds.drop_vars("rotated_pole"), model)


def test_scores_and_min_mass_use_the_regridded_rain(projected):
    ds, model = projected
    ens = xcvae.sample(ds, model, members=2, min_mass=1e-6, device="cpu", progress=False)
    card = xcvae.evaluate(ds, ens, metrics=["mae"], baselines=["bilinear"], progress=False)
    assert list(card.source.values) == ["xcvae", "bilinear"]
    assert np.isfinite(card.mae).all()


def test_a_curvilinear_model_asks_for_the_places_of_its_target():
    own = wrf(n=(12, 12))
    pr = makers.rain(dims=own.dims).assign_coords(own.coords)
    ds = makers.together(pr, era5())
    spec = describe(ds, target="pr", conditions=["t"])
    with pytest.raises(MismatchError, match=r"assign_coords\(lat"):
        prepare(ds[["t"]].drop_vars(["XLAT", "XLONG"], errors="ignore"), spec, need_target=False)
    ready = prepare(ds.drop_vars("pr"), spec, need_target=False)
    assert ready.t.dims == ("time", "south_north", "west_east")


def test_a_configuration_keeps_the_grid_mapping_and_prints_the_regridding(tmp_path, projected):
    ds, _ = projected
    ds.to_netcdf(tmp_path / "data.nc")
    content = {
        "data": {"path": "data.nc", "train": {"time": {"stop": "2001-01-04"}}, "test": {"time": {"start": "2001-01-05"}}},
        "output": "run",
        "train": {"target": "pr", "generator": makers.SMALLEST},
        "sample": [{"name": "prior", "members": 2}],
    }  # fmt: skip
    text = check(parse(content, folder=tmp_path))
    assert (
        "pr_rcm [mm/day], 20 x 22, regridded (conservative means over pixels), as its 'rlat'"
        in text
    )


def test_storms_of_regridded_rain_are_amplified_but_not_moved(projected):
    ds, model = projected
    heavier = drawn(ds, model, storms={"name": "amplify", "factor": 2.0})
    assert heavier.mean() > drawn(ds, model).mean()
    with pytest.raises(MismatchError, match="'pr_rcm' lies on another grid"):
        drawn(ds, model, storms={"name": "turn"})

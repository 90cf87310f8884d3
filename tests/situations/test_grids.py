"""Names and order of dimensions, and where a condition lies under the target."""

# ruff: noqa: E501, PLR0917  a row is a line; refused or right: both may serve

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xarray as xr

from .makers import (
    DEGREES,
    admit,
    axis,
    case,
    either,
    predictor,
    rain,
    refused,
    right,
    seen,
    times,
    together,
    warned,
)

NAMES = [
    ("y", "x"),
    ("Y", "X"),
    ("lat", "lon"),
    ("latitude", "longitude"),
    ("Latitude", "Longitude"),
    ("rlat", "rlon"),
    ("grid_latitude", "grid_longitude"),
    ("projection_y_coordinate", "projection_x_coordinate"),
    ("yc", "xc"),
    ("j", "i"),
    ("nj", "ni"),
    ("row", "col"),
    ("rows", "columns"),
    ("south_north", "west_east"),
    ("northing", "easting"),
    ("lat_0", "lon_0"),
    ("lat_2", "lon_2"),
    ("y_coarse", "x_coarse"),
    ("ny", "nx"),
    ("nlat", "nlon"),
    ("grid_yt", "grid_xt"),
    ("YDim", "XDim"),
    ("nav_lat", "nav_lon"),
    ("ygrid_0", "xgrid_0"),
    ("g0_lat_1", "g0_lon_2"),
    ("north_south", "east_west"),
]


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_dims_are_found_by_their_usual_names(names: tuple[str, str]) -> None:
    field = rain(dims=("time", *names), shape=(6, 10, 14))
    right(dims=("time", *names), shape=(10, 14)).check(lambda: admit(together(field)))


@pytest.mark.parametrize("order", list(permutations(("time", "lat", "lon"))), ids="-".join)
def test_dims_are_found_in_any_order(order: tuple[str, ...]) -> None:
    field = rain(dims=("time", "lat", "lon"), shape=(6, 10, 14))
    facts = admit(together(field).transpose(*order))
    assert facts["dims"] == facts["order"] == ("time", "lat", "lon")
    np.testing.assert_array_equal(facts["ready"].pr.values, field.values)


def _named(y: dict[str, str], x: dict[str, str]) -> xr.Dataset:
    coords = {"a": ("a", 50.0 + np.arange(12), y), "b": ("b", 5.0 + np.arange(12), x)}
    field = rain(dims=("time", "a", "b")).assign_coords(coords)
    return together(field)


ATTRIBUTES = [
    case("axis", lambda: _named({"axis": "Y"}, {"axis": "X"}), right(dims=("time", "a", "b"))),
    case(
        "axis swapped", lambda: _named({"axis": "X"}, {"axis": "Y"}), right(dims=("time", "b", "a"))
    ),
    case(
        "standard_name",
        lambda: _named({"standard_name": "latitude"}, {"standard_name": "longitude"}),
        right(dims=("time", "a", "b")),
    ),
    case(
        "units",
        lambda: _named({"units": "degrees_north"}, {"units": "degrees_east"}),
        right(dims=("time", "a", "b")),
    ),
    case(
        "units degreesN",
        lambda: _named({"units": "degreesN"}, {"units": "degreesE"}),
        either(right(dims=("time", "a", "b")), refused("pr", "spatial_dims")),
        target="pr",
    ),
    case("nothing", lambda: _named({}, {}), refused("pr", "axis", "spatial_dims"), target="pr"),
    case(
        "nothing, target not named",
        lambda: _named({}, {}),
        refused("pr", "axis", "spatial_dims"),
    ),
    case(
        "spatial_dims",
        lambda: _named({}, {}),
        right(dims=("time", "b", "a")),
        spatial_dims=("b", "a"),
    ),
    case(
        "spatial_dims that are not there",
        lambda: _named({}, {}),
        refused("spatial_dims", "a, b"),
        spatial_dims=("lat", "b"),
        target="pr",
    ),
    case(
        "HDF5 without scales",
        lambda: together(rain(dims=("phony_dim_0", "phony_dim_1", "phony_dim_2"))),
        refused("pr", "spatial_dims"),
        target="pr",
    ),
    case(
        "levels",
        lambda: together(rain().expand_dims(level=[500, 850], axis=1)),
        refused("pr", "level", "isel"),
        target="pr",
    ),
    case(
        "levels, target not named",
        lambda: together(rain().expand_dims(level=[500, 850], axis=1)),
        refused("pr", "level", "isel"),
    ),
    case(
        "no samples dim",
        lambda: xr.Dataset({"pr": rain().isel(time=0)}),
        refused("pr", "expand_dims"),
        target="pr",
    ),
    case("odd sizes", lambda: together(rain(shape=(6, 35, 53))), right(shape=(35, 53))),
    case("one row", lambda: together(rain(shape=(6, 1, 20))), right(shape=(1, 20))),
]


@pytest.mark.parametrize(("make", "answer", "options"), ATTRIBUTES)
def test_dims_are_found_by_attributes_or_asked_for(make, answer, options):
    answer.check(lambda: admit(make(), **options))


# --- alignment ---------------------------------------------------------------------------------

LAT, LON = axis("lat", 45.1, 0.2, 20), axis("lon", 5.1, 0.2, 20)


def target(lat: xr.DataArray = LAT, lon: xr.DataArray = LON) -> xr.DataArray:
    return rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon})


def gcm(lat: tuple[float, float, int], lon: tuple[float, float, int], **attrs: str) -> xr.DataArray:
    return predictor(axis("lat_g", *lat), axis("lon_g", *lon), **attrs)


PLACES = [
    case("coarse and wider", lambda: together(target(), gcm((44, 1, 7), (4, 1, 7))), right(roles={"t": "aligned"})),
    case("latitudes falling", lambda: together(target(), gcm((50, -1, 7), (4, 1, 7))), right(roles={"t": "aligned"})),
    case("target falling", lambda: together(target(LAT[::-1]), gcm((44, 1, 7), (4, 1, 7))), right(roles={"t": "aligned"})),
    case("longitudes by a turn", lambda: together(target(), gcm((44, 1, 7), (364, 1, 7))), right(roles={"t": "aligned"})),
    case(
        "target west of Greenwich, GCM 0..360, not across",
        lambda: together(target(lon=axis("lon", -8.9, 0.2, 20)), gcm((44, 1, 7), (350, 1, 7))),
        right(roles={"t": "aligned"}),
    ),
    case("global 0..360", lambda: together(target(), gcm((30, 1, 30), (0, 2, 180))), right(roles={"t": "aligned, pooled"})),
    case(
        "global 0..360 across Greenwich",
        lambda: together(target(lon=axis("lon", -2.1, 0.2, 20)), gcm((30, 1, 30), (0, 2, 180))),
        right(roles={"t": "aligned, pooled"}),
    ),
    case(
        "global -180..180 across the date line",
        lambda: together(target(lon=axis("lon", 178.1, 0.2, 20)), gcm((30, 1, 30), (-180, 2, 180))),
        right(roles={"t": "aligned, pooled"}),
    ),
    case(
        "global -179..179 and target 0..360",
        lambda: together(target(lon=axis("lon", 200.1, 0.2, 20)), gcm((30, 1, 30), (-179, 2, 180))),
        right(roles={"t": "aligned, pooled"}),
    ),
    case(
        "half a globe does not cover Greenwich",
        lambda: together(target(lon=axis("lon", -2.1, 0.2, 20)), gcm((30, 1, 30), (0, 2, 90), name="pr_gcm", units="mm/day")),
        either(refused("pr_gcm", "cover"), warned("pr_gcm", "cover")),
    ),
    case(
        "rain that misses a row",
        lambda: together(target(), gcm((46.5, 1, 5), (4, 1, 7), name="pr_gcm", units="mm/day")),
        either(refused("pr_gcm", "lat"), warned("pr_gcm", "lat")),
    ),
    case(
        "pressure elsewhere",
        lambda: together(target(), gcm((30, 2, 8), (-30, 2, 8), name="psl", units="Pa")),
        right(roles={"psl": "pooled"}),
    ),
    case("equal grid", lambda: together(target(), predictor(LAT, LON)), right(roles={"t": "aligned"})),
    case("a number", lambda: together(target()), right(roles={"t": "pooled"})),
    case(
        "target in km, condition in m",
        lambda: together(
            rain(coords={"y": axis("y", 500, 1, 12).assign_attrs(units="km"), "x": axis("x", 300, 1, 12).assign_attrs(units="km")}),
            predictor(axis("y_c", 5.0e5, 4000, 4), axis("x_c", 3.0e5, 4000, 4)),
        ),
        right(roles={"t": "aligned"}),
    ),
    case(
        "no coordinates: edge to edge",
        lambda: together(rain(), predictor(axis("y_c", 0, 1, 4), axis("x_c", 0, 1, 4)).drop_vars(["y_c", "x_c"])),
        right(roles={"t": "aligned"}),
    ),
    case(
        "unsorted latitudes",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)).isel(lat_g=[0, 2, 1, 3, 4, 5, 6])),
        refused("lat_g", "sortby"),
    ),
    case(
        "latitudes with NaN",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)).assign_coords(lat_g=[44, np.nan, 46, 47, 48, 49, 50])),
        refused("lat_g", "sort"),
    ),
    case("no rows", lambda: together(rain(shape=(6, 0, 12))), refused("pr"), coarsen=4),
    case("no rows, in chunks", lambda: together(rain(shape=(6, 0, 4)).chunk(time=1, x=1)), refused("pr"), coarsen=3),
    case(
        "latitudes that are text",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)).assign_coords(lat_g=list("abcdefg"))),
        refused("lat_g", "number|text"),
    ),
    case(
        "own latitudes that are text",
        lambda: together(target().assign_coords(lat=[f"{i}N" for i in range(20)])),
        refused("lat", "number|text"), coarsen=4,
    ),
    case(
        "own latitudes that are objects",
        lambda: together(target().assign_coords(lat=np.array([object() for _ in range(20)]))),
        refused("lat", "number|object"), coarsen=4,
    ),
    case(
        "target in degrees, condition in metres",
        lambda: together(target(), rain(dims=("time", "y_c", "x_c"), name="pr_nwp",
                coords={"y_c": axis("y_c", 5.0e5, 4000, 4), "x_c": axis("x_c", 3.0e5, 4000, 4)})),
        either(refused("pr_nwp"), warned("pr_nwp")),
    ),
    case(
        "condition on the target's rows only",
        lambda: together(target(), predictor(LAT, axis("lon_g", 5.0, 0.8, 6))),
        right(roles={"t": "aligned"}),
    ),
    case(
        "coarse static",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)), gcm((44, 1, 7), (4, 1, 7), name="z", units="m").isel(time=0, drop=True)),
        refused("z", r"interp"),
        conditions=["t"], statics=["z"],
    ),
    case(
        "condition of other samples",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)).rename(time="valid")),
        refused("t", "valid", "rename"),
        conditions=["t"],
    ),
    case(
        "condition with levels",
        lambda: together(target(), gcm((44, 1, 7), (4, 1, 7)).expand_dims(level=[500, 850])),
        refused("t", "level", "variable of its own"),
        conditions=["t"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), PLACES)
def test_conditions_are_placed_by_their_coordinates(make, answer, options):
    answer.check(lambda: admit(make(), **options))


STRETCHED = [
    ("rising", (44, 1, 7), (4, 1, 7), LON),
    ("falling", (50, -1, 7), (4, 1, 7), LON),
    ("longitudes falling", (44, 1, 7), (10, -1, 7), LON),
    ("half a degree", (44, 0.5, 14), (4, 0.5, 14), LON),
    ("one turn", (44, 1, 7), (364, 1, 7), LON),
]


@pytest.mark.parametrize(
    ("lat", "lon", "own"), [row[1:] for row in STRETCHED], ids=[row[0] for row in STRETCHED]
)
def test_stretched_conditions_have_the_value_of_their_place(lat, lon, own):
    facts = admit(together(target(lon=own), gcm(lat, lon)))
    turn = 360.0 if lon[0] > 180 else 0.0
    truth = 250.0 + 0.5 * LAT.values[:, None] + 0.25 * (own.values + turn)
    np.testing.assert_allclose(seen(facts, "t"), np.broadcast_to(truth, (6, 20, 20)), rtol=1e-6)


@pytest.mark.parametrize(
    ("lon_g", "start"),
    [
        ((0, 2, 180), -3.9),
        ((358, -2, 180), -3.9),
        ((0, 2, 181), -3.9),
        ((-180, 2, 180), 176.1),
        ((1, 2, 180), 356.1),
        ((0, 2, 180), 5.1),
    ],
    ids=["rising", "falling", "cyclic point", "date line", "0..360 both", "not across"],
)
def test_a_global_field_has_the_value_of_its_place_on_both_sides_of_greenwich(lon_g, start):
    lon = axis("lon", start, 0.2, 40)
    globe = gcm((30, 1, 30), lon_g)
    globe = globe.copy(data=np.broadcast_to(np.cos(np.deg2rad(globe.lon_g.values)), globe.shape))
    facts = admit(together(target(lon=lon), globe))
    truth = np.broadcast_to(np.cos(np.deg2rad(lon.values)), (6, 20, 40))
    np.testing.assert_allclose(seen(facts, "t"), truth, atol=1e-3)


# --- curvilinear -------------------------------------------------------------------------------


def curvilinear(
    y: str, x: str, ny: int, nx: int, step: float, start: tuple[float, float], tag: str = ""
):
    """Coordinates of a grid that is turned by 20 degrees against the meridians."""
    j, i = np.meshgrid(np.arange(ny) * step, np.arange(nx) * step, indexing="ij")
    turn = np.deg2rad(20)
    lat = start[0] + np.cos(turn) * j + np.sin(turn) * i
    lon = start[1] - np.sin(turn) * j + np.cos(turn) * i
    return {f"lat{tag}": ((y, x), lat, DEGREES["lat"]), f"lon{tag}": ((y, x), lon, DEGREES["lon"])}


def curved_pair(start: tuple[float, float]) -> xr.Dataset:
    pr = rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))
    lat = curvilinear("y_c", "x_c", 8, 8, 0.4, start, "_c")
    t = xr.DataArray(
        np.ones((6, 8, 8)), {"time": times(6)}, ("time", "y_c", "x_c"), "t", {"units": "K"}
    )
    return together(pr, t.assign_coords(lat))


def block_means(n: int, block: int) -> xr.Dataset:
    pr = rain(shape=(6, n, n)).assign_coords(curvilinear("y", "x", n, n, 0.1, (46, 8)))
    coarse = pr.coarsen(y=block, x=block, boundary="pad").mean().rename(y="y_c", x="x_c")
    coarse = coarse.rename(lat="lat_c", lon="lon_c").assign_attrs(units="K")
    return together(pr, coarse.rename("t"))


CURVED = [
    case("2-D latitudes on y and x", lambda: together(rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))),
         right(dims=("time", "y", "x"))),
    case("2-D latitudes on a and b", lambda: together(rain(dims=("time", "a", "b")).assign_coords(curvilinear("a", "b", 12, 12, 0.1, (46, 8)))),
         right(dims=("time", "a", "b"))),
    case(
        "coarse 2-D latitudes that cover more",
        lambda: curved_pair((45.2, 7.6)),
        refused("t", "lat|regrid|coordinates"),
    ),
    case(
        "coarse 2-D latitudes 20 degrees away",
        lambda: curved_pair((20.0, 30.0)),
        either(refused("t", "lat|regrid|coordinates"), warned("t", "lat|area|cover"), right(roles={"t": "pooled"})),
    ),
    case("block means with their 2-D latitudes", lambda: block_means(12, 4), right(roles={"t": "aligned"})),
    case("block means with a partial block", lambda: block_means(14, 4), right(roles={"t": "aligned"})),
    case("coarse 2-D latitudes under 1-D ones", lambda: together(target(), curved_pair((45.2, 7.6)).t), refused("t", "drop_vars", "lat_c")),
    case("coarse 2-D latitudes under none", lambda: together(rain(), curved_pair((45.2, 7.6)).t), refused("t", "drop_vars", "lat_c")),
    case("coarse 2-D latitudes, dropped", lambda: curved_pair((45.2, 7.6)).drop_vars(["lat_c", "lon_c"]), right(roles={"t": "aligned"})),
    case("coarsen on a curvilinear grid", lambda: together(rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))),
         right(roles={"pr_coarse": "aligned"}), coarsen=4),
    case("coarsen on any grid", lambda: together(target()), right(roles={"pr_coarse": "aligned"}), coarsen=5),
    case("coarsen more than the grid", lambda: together(target()), refused("coarsen", "2 to 20"), coarsen=21),
    case("coarsen by one", lambda: together(target()), refused("coarsen", "2 to 20"), coarsen=1),
    case("no condition", lambda: xr.Dataset({"pr": target()}), refused("conditions", "coarsen")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), CURVED)
def test_curvilinear_grids_are_placed_by_their_coordinates(make, answer, options):
    answer.check(lambda: admit(make(), **options))

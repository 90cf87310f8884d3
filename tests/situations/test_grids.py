"""Names and order of dimensions, and where a condition lies under the target."""

# ruff: noqa: E501, PLR0917  a row is a line; refused or right: both may serve

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import xarray as xr

from . import makers

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
    field = makers.rain(dims=("time", *names), shape=(6, 10, 14))
    makers.right(dims=("time", *names), shape=(10, 14)).check(
        lambda: makers.admit(makers.together(field))
    )


@pytest.mark.parametrize("order", list(permutations(("time", "lat", "lon"))), ids="-".join)
def test_dims_are_found_in_any_order(order: tuple[str, ...]) -> None:
    field = makers.rain(dims=("time", "lat", "lon"), shape=(6, 10, 14))
    facts = makers.admit(makers.together(field).transpose(*order))
    assert facts["dims"] == facts["order"] == ("time", "lat", "lon")
    np.testing.assert_array_equal(facts["ready"].pr.values, field.values)


def _named(y: dict[str, str], x: dict[str, str]) -> xr.Dataset:
    coords = {"a": ("a", 50.0 + np.arange(12), y), "b": ("b", 5.0 + np.arange(12), x)}
    field = makers.rain(dims=("time", "a", "b")).assign_coords(coords)
    return makers.together(field)


ATTRIBUTES = [
    makers.case(
        "axis", lambda: _named({"axis": "Y"}, {"axis": "X"}), makers.right(dims=("time", "a", "b"))
    ),
    makers.case(
        "axis swapped",
        lambda: _named({"axis": "X"}, {"axis": "Y"}),
        makers.right(dims=("time", "b", "a")),
    ),
    makers.case(
        "standard_name",
        lambda: _named({"standard_name": "latitude"}, {"standard_name": "longitude"}),
        makers.right(dims=("time", "a", "b")),
    ),
    makers.case(
        "units",
        lambda: _named({"units": "degrees_north"}, {"units": "degrees_east"}),
        makers.right(dims=("time", "a", "b")),
    ),
    makers.case(
        "units degreesN",
        lambda: _named({"units": "degreesN"}, {"units": "degreesE"}),
        makers.right(dims=("time", "a", "b")),
    ),
    makers.case(
        "units with signs",
        lambda: _named({"units": "°N"}, {"units": "degree_E"}),
        makers.right(dims=("time", "a", "b")),
    ),
    makers.case(
        "nothing", lambda: _named({}, {}), makers.refused("pr", "axis", "spatial_dims"), target="pr"
    ),
    makers.case(
        "nothing, target not named",
        lambda: _named({}, {}),
        makers.refused("pr", "axis", "spatial_dims"),
    ),
    makers.case(
        "spatial_dims",
        lambda: _named({}, {}),
        makers.right(dims=("time", "b", "a")),
        spatial_dims=("b", "a"),
    ),
    makers.case(
        "spatial_dims that are not there",
        lambda: _named({}, {}),
        makers.refused("spatial_dims", "a, b"),
        spatial_dims=("lat", "b"),
        target="pr",
    ),
    makers.case(
        "HDF5 without scales",
        lambda: makers.together(makers.rain(dims=("phony_dim_0", "phony_dim_1", "phony_dim_2"))),
        makers.refused("pr", "spatial_dims"),
        target="pr",
    ),
    makers.case(
        "levels",
        lambda: makers.together(makers.rain().expand_dims(level=[500, 850], axis=1)),
        makers.refused("pr", "level", "isel"),
        target="pr",
    ),
    makers.case(
        "levels, target not named",
        lambda: makers.together(makers.rain().expand_dims(level=[500, 850], axis=1)),
        makers.refused("pr", "level", "isel"),
    ),
    makers.case(
        "no samples dim",
        lambda: xr.Dataset({"pr": makers.rain().isel(time=0)}),
        makers.refused("pr", "expand_dims"),
        target="pr",
    ),
    makers.case(
        "odd sizes",
        lambda: makers.together(makers.rain(shape=(6, 35, 53))),
        makers.right(shape=(35, 53)),
    ),
    makers.case(
        "one row",
        lambda: makers.together(makers.rain(shape=(6, 1, 20))),
        makers.right(shape=(1, 20)),
    ),
]


@pytest.mark.parametrize(("make", "answer", "options"), ATTRIBUTES)
def test_dims_are_found_by_attributes_or_asked_for(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


# --- alignment ---------------------------------------------------------------------------------

LAT, LON = makers.axis("lat", 45.1, 0.2, 20), makers.axis("lon", 5.1, 0.2, 20)


def target(lat: xr.DataArray = LAT, lon: xr.DataArray = LON) -> xr.DataArray:
    return makers.rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon})


def gcm(lat: tuple[float, float, int], lon: tuple[float, float, int], **attrs: str) -> xr.DataArray:
    return makers.predictor(makers.axis("lat_g", *lat), makers.axis("lon_g", *lon), **attrs)


PLACES = [
    makers.case("coarse and wider", lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7))), makers.right(roles={"t": "aligned"})),
    makers.case("latitudes falling", lambda: makers.together(target(), gcm((50, -1, 7), (4, 1, 7))), makers.right(roles={"t": "aligned"})),
    makers.case("target falling", lambda: makers.together(target(LAT[::-1]), gcm((44, 1, 7), (4, 1, 7))), makers.right(roles={"t": "aligned"})),
    makers.case("longitudes by a turn", lambda: makers.together(target(), gcm((44, 1, 7), (364, 1, 7))), makers.right(roles={"t": "aligned"})),
    makers.case(
        "target west of Greenwich, GCM 0..360, not across",
        lambda: makers.together(target(lon=makers.axis("lon", -8.9, 0.2, 20)), gcm((44, 1, 7), (350, 1, 7))),
        makers.right(roles={"t": "aligned"}),
    ),
    makers.case("global 0..360", lambda: makers.together(target(), gcm((30, 1, 30), (0, 2, 180))), makers.right(roles={"t": "aligned, pooled"})),
    makers.case(
        "global 0..360 across Greenwich",
        lambda: makers.together(target(lon=makers.axis("lon", -2.1, 0.2, 20)), gcm((30, 1, 30), (0, 2, 180))),
        makers.right(roles={"t": "aligned, pooled"}),
    ),
    makers.case(
        "global -180..180 across the date line",
        lambda: makers.together(target(lon=makers.axis("lon", 178.1, 0.2, 20)), gcm((30, 1, 30), (-180, 2, 180))),
        makers.right(roles={"t": "aligned, pooled"}),
    ),
    makers.case(
        "global -179..179 and target 0..360",
        lambda: makers.together(target(lon=makers.axis("lon", 200.1, 0.2, 20)), gcm((30, 1, 30), (-179, 2, 180))),
        makers.right(roles={"t": "aligned, pooled"}),
    ),
    makers.case(
        "half a globe does not cover Greenwich",
        lambda: makers.together(target(lon=makers.axis("lon", -2.1, 0.2, 20)), gcm((30, 1, 30), (0, 2, 90), name="pr_gcm", units="mm/day")),
        makers.either(makers.refused("pr_gcm", "cover"), makers.warned("pr_gcm", "cover")),
    ),
    makers.case(
        "rain that misses a row",
        lambda: makers.together(target(), gcm((46.5, 1, 5), (4, 1, 7), name="pr_gcm", units="mm/day")),
        makers.either(makers.refused("pr_gcm", "lat"), makers.warned("pr_gcm", "lat")),
    ),
    makers.case(
        "pressure elsewhere",
        lambda: makers.together(target(), gcm((30, 2, 8), (-30, 2, 8), name="psl", units="Pa")),
        makers.right(roles={"psl": "pooled"}),
    ),
    makers.case("equal grid", lambda: makers.together(target(), makers.predictor(LAT, LON)), makers.right(roles={"t": "aligned"})),
    makers.case("a number", lambda: makers.together(target()), makers.right(roles={"t": "pooled"})),
    makers.case(
        "target in km, condition in m",
        lambda: makers.together(
            makers.rain(coords={"y": makers.axis("y", 500, 1, 12).assign_attrs(units="km"), "x": makers.axis("x", 300, 1, 12).assign_attrs(units="km")}),
            makers.predictor(makers.axis("y_c", 5.0e5, 4000, 4), makers.axis("x_c", 3.0e5, 4000, 4)),
        ),
        makers.right(roles={"t": "aligned"}),
    ),
    makers.case(
        "no coordinates: edge to edge",
        lambda: makers.together(makers.rain(), makers.predictor(makers.axis("y_c", 0, 1, 4), makers.axis("x_c", 0, 1, 4)).drop_vars(["y_c", "x_c"])),
        makers.right(roles={"t": "aligned"}),
    ),
    makers.case(
        "unsorted latitudes",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)).isel(lat_g=[0, 2, 1, 3, 4, 5, 6])),
        makers.refused("lat_g", "sortby"),
    ),
    makers.case(
        "latitudes with NaN",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)).assign_coords(lat_g=[44, np.nan, 46, 47, 48, 49, 50])),
        makers.refused("lat_g", "sort"),
    ),
    makers.case("no rows", lambda: makers.together(makers.rain(shape=(6, 0, 12))), makers.refused("pr"), coarsen=4),
    makers.case("no rows, in chunks", lambda: makers.together(makers.rain(shape=(6, 0, 4)).chunk(time=1, x=1)), makers.refused("pr"), coarsen=3),
    makers.case(
        "latitudes that are text",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)).assign_coords(lat_g=list("abcdefg"))),
        makers.refused("lat_g", "number|text"),
    ),
    makers.case(
        "own latitudes that are text",
        lambda: makers.together(target().assign_coords(lat=[f"{i}N" for i in range(20)])),
        makers.refused("lat", "number|text"), coarsen=4,
    ),
    makers.case(
        "own longitudes with units in the text",
        lambda: makers.together(target().assign_coords(lon=[f"{i - 120} °E" for i in range(target().sizes["lon"])])),
        makers.refused("lon", "numbers", "'-120 °E'", r"str\.extract", "minus"),
    ),
    makers.case(
        "own longitudes that are numbers as text",
        lambda: makers.together(target().assign_coords(lon=[f"{i}" for i in range(target().sizes["lon"])])),
        makers.refused("lon", "numbers", r"\]\.astype\(float\)"), coarsen=4,
    ),
    makers.case(
        "own latitudes that are objects",
        lambda: makers.together(target().assign_coords(lat=np.array([object() for _ in range(20)]))),
        makers.refused("lat", "number|object"), coarsen=4,
    ),
    makers.case(
        "target in degrees, condition in metres",
        lambda: makers.together(target(), makers.rain(dims=("time", "y_c", "x_c"), name="pr_nwp",
                coords={"y_c": makers.axis("y_c", 5.0e5, 4000, 4), "x_c": makers.axis("x_c", 3.0e5, 4000, 4)})),
        makers.either(makers.refused("pr_nwp"), makers.warned("pr_nwp")),
    ),
    makers.case(
        "condition on the target's rows only",
        lambda: makers.together(target(), makers.predictor(LAT, makers.axis("lon_g", 5.0, 0.8, 6))),
        makers.right(roles={"t": "aligned"}),
    ),
    makers.case(
        "coarse static",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)), gcm((44, 1, 7), (4, 1, 7), name="z", units="m").isel(time=0, drop=True)),
        makers.refused("z", r"interp"),
        conditions=["t"], statics=["z"],
    ),
    makers.case(
        "condition of other samples",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)).rename(time="valid")),
        makers.refused("t", "valid", "rename"),
        conditions=["t"],
    ),
    makers.case(
        "condition with levels",
        lambda: makers.together(target(), gcm((44, 1, 7), (4, 1, 7)).expand_dims(level=[500, 850])),
        makers.refused("t", "level", "variable of its own"),
        conditions=["t"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), PLACES)
def test_conditions_are_placed_by_their_coordinates(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


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
    facts = makers.admit(makers.together(target(lon=own), gcm(lat, lon)))
    turn = 360.0 if lon[0] > 180 else 0.0
    truth = 250.0 + 0.5 * LAT.values[:, None] + 0.25 * (own.values + turn)
    np.testing.assert_allclose(
        makers.seen(facts, "t"), np.broadcast_to(truth, (6, 20, 20)), rtol=1e-6
    )


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
    lon = makers.axis("lon", start, 0.2, 40)
    globe = gcm((30, 1, 30), lon_g)
    globe = globe.copy(data=np.broadcast_to(np.cos(np.deg2rad(globe.lon_g.values)), globe.shape))
    facts = makers.admit(makers.together(target(lon=lon), globe))
    truth = np.broadcast_to(np.cos(np.deg2rad(lon.values)), (6, 20, 40))
    np.testing.assert_allclose(makers.seen(facts, "t"), truth, atol=1e-3)


# --- curvilinear -------------------------------------------------------------------------------


def curvilinear(
    y: str, x: str, ny: int, nx: int, step: float, start: tuple[float, float], tag: str = ""
):
    """Coordinates of a grid that is turned by 20 degrees against the meridians."""
    j, i = np.meshgrid(np.arange(ny) * step, np.arange(nx) * step, indexing="ij")
    turn = np.deg2rad(20)
    lat = start[0] + np.cos(turn) * j + np.sin(turn) * i
    lon = start[1] - np.sin(turn) * j + np.cos(turn) * i
    return {
        f"lat{tag}": ((y, x), lat, makers.DEGREES["lat"]),
        f"lon{tag}": ((y, x), lon, makers.DEGREES["lon"]),
    }


def curved_pair(start: tuple[float, float]) -> xr.Dataset:
    pr = makers.rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))
    lat = curvilinear("y_c", "x_c", 8, 8, 0.4, start, "_c")
    t = xr.DataArray(
        np.ones((6, 8, 8)), {"time": makers.times(6)}, ("time", "y_c", "x_c"), "t", {"units": "K"}
    )
    return makers.together(pr, t.assign_coords(lat))


def block_means(n: int, block: int) -> xr.Dataset:
    pr = makers.rain(shape=(6, n, n)).assign_coords(curvilinear("y", "x", n, n, 0.1, (46, 8)))
    coarse = pr.coarsen(y=block, x=block, boundary="pad").mean().rename(y="y_c", x="x_c")
    coarse = coarse.rename(lat="lat_c", lon="lon_c").assign_attrs(units="K")
    return makers.together(pr, coarse.rename("t"))


CURVED = [
    makers.case("2-D latitudes on y and x", lambda: makers.together(makers.rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))),
         makers.right(dims=("time", "y", "x"))),
    makers.case("2-D latitudes on a and b", lambda: makers.together(makers.rain(dims=("time", "a", "b")).assign_coords(curvilinear("a", "b", 12, 12, 0.1, (46, 8)))),
         makers.right(dims=("time", "a", "b"))),
    makers.case(
        "coarse 2-D latitudes that cover more",
        lambda: curved_pair((45.2, 7.9)),
        makers.right(roles={"t": "regridded"}),
    ),
    makers.case(
        "coarse 2-D latitudes 20 degrees away",
        lambda: curved_pair((20.0, 30.0)),
        makers.either(makers.refused("t", "lat|regrid|coordinates"), makers.warned("t", "lat|area|cover"), makers.right(roles={"t": "pooled"})),
    ),
    makers.case("block means with their 2-D latitudes", lambda: block_means(12, 4), makers.right(roles={"t": "aligned"})),
    makers.case("block means with a partial block", lambda: block_means(14, 4), makers.right(roles={"t": "aligned"})),
    makers.case("coarse 2-D latitudes under 1-D ones", lambda: makers.together(target(), curved_pair((45.2, 7.6)).t), makers.refused("t", "52.8% of its pixels", "cut")),
    makers.case("coarse 2-D latitudes under none", lambda: makers.together(makers.rain(), curved_pair((45.2, 7.6)).t), makers.refused("t", "drop_vars", "lat_c")),
    makers.case("coarse 2-D latitudes, dropped", lambda: curved_pair((45.2, 7.6)).drop_vars(["lat_c", "lon_c"]), makers.right(roles={"t": "aligned"})),
    makers.case("coarsen on a curvilinear grid", lambda: makers.together(makers.rain().assign_coords(curvilinear("y", "x", 12, 12, 0.1, (46, 8)))),
         makers.right(roles={"pr_coarse": "aligned"}), coarsen=4),
    makers.case("coarsen on any grid", lambda: makers.together(target()), makers.right(roles={"pr_coarse": "aligned"}), coarsen=5),
    makers.case("coarsen more than the grid", lambda: makers.together(target()), makers.refused("coarsen", "2 to 20"), coarsen=21),
    makers.case("coarsen by one", lambda: makers.together(target()), makers.refused("coarsen", "2 to 20"), coarsen=1),
    makers.case("no condition", lambda: xr.Dataset({"pr": target()}), makers.refused("conditions", "coarsen")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), CURVED)
def test_curvilinear_grids_are_placed_by_their_coordinates(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError, MissingVariableError
from xcvae.fields.axes import KM_PER_DEGREE
from xcvae.fields.cf import (
    Layout,
    check_values,
    curvilinear_km,
    find_axes,
    find_layout,
    find_target,
    is_rain,
    positions,
)


def field(*dims: str, **coords: tuple[str, dict[str, str]]) -> xr.DataArray:
    """A field whose coordinates are (dim, attributes)."""
    sizes = dict(zip(dims, (4, 5, 6, 7), strict=False))
    return xr.DataArray(
        np.zeros(list(sizes.values())),
        dims=dims,
        coords={n: (d, np.arange(sizes[d]) + 0.5, a) for n, (d, a) in coords.items()},
        name="pr",
        attrs={"units": "mm h-1"},
    )


@pytest.mark.parametrize(
    "dims",
    [
        ("time", "y", "x"),
        ("time", "lat", "lon"),
        ("time", "latitude", "longitude"),
        ("time", "rlat", "rlon"),
        ("time", "projection_y_coordinate", "projection_x_coordinate"),
        ("time", "south_north", "west_east"),
        ("time", "y_coarse", "x_coarse"),
        ("storm", "Y", "X"),
        ("event", "lat_2", "lon_2"),
        ("valid_time", "nj", "ni"),
    ],
)
def test_find_layout_by_conventional_names(dims: tuple[str, str, str]) -> None:
    assert find_layout(field(*dims)) == Layout(*dims)


def test_find_layout_does_not_depend_on_the_order_of_dims() -> None:
    assert find_layout(field("lon", "day", "lat")) == Layout("day", "lat", "lon")


@pytest.mark.parametrize(
    "attrs",
    [
        ({"axis": "Y"}, {"axis": "X"}),
        ({"standard_name": "latitude"}, {"standard_name": "longitude"}),
        ({"standard_name": "grid_latitude"}, {"standard_name": "grid_longitude"}),
        ({"units": "degrees_north"}, {"units": "degrees_east"}),
        (
            {"standard_name": "projection_y_coordinate"},
            {"standard_name": "projection_x_coordinate"},
        ),
    ],
)
def test_find_layout_by_attributes(attrs: tuple[dict[str, str], dict[str, str]]) -> None:
    da = field("a", "b", "c", b=("b", attrs[1]), c=("c", attrs[0]))
    assert find_layout(da) == Layout("a", "c", "b")


def test_find_layout_prefers_attributes_to_names() -> None:
    da = field("time", "x", "y", x=("x", {"axis": "Y"}), y=("y", {"axis": "X"}))
    assert find_layout(da) == Layout("time", "x", "y")


def test_find_layout_ignores_longer_words() -> None:
    assert find_layout(field("year", "lat", "lon")).sample == "year"


def test_find_layout_of_a_curvilinear_grid_by_latitude() -> None:
    da = field("time", "a", "b").assign_coords(
        lat=(("a", "b"), np.zeros((5, 6)), {"standard_name": "latitude"}),
        lon=(("a", "b"), np.zeros((5, 6)), {"standard_name": "longitude"}),
    )
    assert find_layout(da) == Layout("time", "a", "b")


def test_find_layout_uses_given_spatial_dims() -> None:
    da = field("time", "a", "b")
    assert find_layout(da, spatial_dims=("b", "a")) == Layout("time", "b", "a")


@pytest.mark.parametrize("given", [("a",), ("a", "a"), ("a", "zz"), ("a", "b", "time")])
def test_find_layout_refuses_wrong_spatial_dims(given: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="spatial_dims: expected two of the dims"):
        find_layout(field("time", "a", "b"), spatial_dims=given)


@pytest.mark.parametrize("dims", [("time", "a", "b"), ("time", "y", "b"), ("time", "y")])
def test_find_layout_names_unknown_dims(dims: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="axis Y") as caught:
        find_layout(field(*dims))
    assert f"({', '.join(dims)})" in str(caught.value)
    assert "spatial_dims=" in str(caught.value)


@pytest.mark.parametrize("dims", [("y", "x"), ("time", "member", "y", "x")])
def test_find_layout_needs_exactly_one_sample_dim(dims: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="one sample dimension besides y and x"):
        find_layout(field(*dims))


@pytest.mark.parametrize(
    ("name", "attrs", "expected"),
    [
        ("pr", {"units": "mm h-1"}, True),
        ("tp", {"units": "m"}, True),
        ("a", {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}, True),
        ("a", {"units": "m", "long_name": "Total precipitation"}, True),
        ("field", {"units": "mm/day"}, False),
        ("evap", {"units": "mm/day", "long_name": "Evaporation"}, False),
        ("elevation", {"units": "m"}, False),
        ("u10", {"units": "m s-1"}, False),
        ("tcwv", {"units": "kg m-2"}, False),
        ("pr", {"units": "kg m-2 s-1", "standard_name": "water_evaporation_flux"}, False),
        ("pr", {"units": "K"}, False),
        ("pr", {}, False),
    ],
)
def test_is_rain_by_units_and_names(name: str, attrs: dict[str, str], expected: bool) -> None:
    assert is_rain(xr.DataArray([0.0], name=name, attrs=attrs)) is expected


def test_find_target_accepts_units_of_a_rate_alone(make_radar: Callable[..., xr.Dataset]) -> None:
    field = make_radar().rename(pr="field").field.assign_attrs(standard_name="")
    assert is_rain(field, by_rate=True)
    assert not is_rain(field.assign_attrs(standard_name="water_evaporation_flux"), by_rate=True)
    assert find_target(field.to_dataset(), None) == "field"


def test_find_target_takes_the_finest_grid(
    make_radar: Callable[..., xr.Dataset], islands: xr.Dataset
) -> None:
    assert find_target(make_radar(), None) == "pr"
    assert find_target(islands, None) == "pr"
    assert find_target(make_radar(), "pr_coarse") == "pr_coarse"


def _rain(
    name: str, y: tuple[str, float, int, str], x: tuple[str, float, int, str]
) -> xr.DataArray:
    axes = {
        dim: (dim, step * np.arange(count), {"units": units}) for dim, step, count, units in (y, x)
    }
    values = np.zeros((2, y[2], x[2]))
    return xr.DataArray(values, axes, ("time", y[0], x[0]), name, {"units": "mm h-1"})


GLOBE = (("lat_g", 2.0, 90, "degrees_north"), ("lon_g", 2.0, 180, "degrees_east"))


@pytest.mark.parametrize(
    "fine",
    [
        (("lat", 0.01, 20, "degrees_north"), ("lon", 0.01, 20, "degrees_east")),
        (("y", 1000.0, 20, "m"), ("x", 1000.0, 20, "m")),
        (("y", 1.0, 20, "km"), ("x", 1.0, 20, "km")),
    ],
)
def test_find_target_prefers_small_cells_to_many(fine: Any) -> None:
    ds = xr.merge([_rain("radar", *fine), _rain("gcm", *GLOBE)])
    assert find_target(ds, None) == "radar"


def test_find_target_prefers_small_cells_of_a_curvilinear_grid() -> None:
    lat, lon = np.meshgrid(50 + 0.01 * np.arange(20), 8 + 0.02 * np.arange(20), indexing="ij")
    places = {
        "lat": (("j", "i"), lat, {"units": "degrees_north"}),
        "lon": (("j", "i"), lon, {"units": "degrees_east"}),
    }
    radar = xr.DataArray(np.zeros((2, 20, 20)), dims=("time", "j", "i"), name="radar")
    radar = radar.assign_coords(places).assign_attrs(units="mm h-1")
    assert find_target(xr.merge([radar, _rain("gcm", *GLOBE)]), None) == "radar"


def test_find_target_counts_cells_of_unknown_size() -> None:
    fine = xr.DataArray(np.zeros((2, 30, 30)), dims=("time", "y", "x"), attrs={"units": "mm h-1"})
    coarse = _rain("gcm", ("lat", 2.0, 9, "degrees_north"), ("lon", 2.0, 9, "degrees_east"))
    assert find_target(xr.Dataset({"pr": fine, "gcm": coarse}), None) == "pr"


def test_find_target_suggests_the_nearest_name(islands: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match=r"'mslpp'.*Did you mean 'mslp'"):
        find_target(islands, "mslpp")


def test_find_target_refuses_two_candidates(make_radar: Callable[..., xr.Dataset]) -> None:
    ds = make_radar()
    ds["rain"] = ds.pr
    with pytest.raises(MissingVariableError, match=r"pr, rain, on equal grids.*target='\.\.\.'"):
        find_target(ds, None)


def test_find_target_lists_variables_without_rain(islands: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match=r"got none.*mslp, z500"):
        find_target(islands.drop_vars("pr"), None)


def test_find_target_ignores_rain_without_known_dims(islands: xr.Dataset) -> None:
    islands["other"] = (("time", "a", "b"), np.zeros((6, 99, 99)), {"units": "mm d-1"})
    assert find_target(islands, None) == "pr"
    assert find_target(islands, None, spatial_dims=("a", "b")) == "other"


def places(latitude: np.ndarray, longitude: np.ndarray) -> xr.DataArray:
    """Rain on a curvilinear grid, dims (y, x)."""
    coords = {"lat": (("y", "x"), latitude), "lon": (("y", "x"), longitude)}
    return xr.DataArray(np.ones(latitude.shape), coords, ("y", "x"), "pr", {"units": "mm h-1"})


@pytest.mark.parametrize("start", [10.0, 179.3])
def test_pixels_of_a_curvilinear_grid_are_measured_at_their_latitude(start: float) -> None:
    """A tenth and two tenths of a degree at 60 degrees north: 11 km both."""
    latitude, longitude = np.meshgrid(
        59.5 + 0.1 * np.arange(11), start + 0.2 * np.arange(9), indexing="ij"
    )
    da = places(latitude, (longitude + 180) % 360 - 180)
    assert curvilinear_km(da, "y", "x") == pytest.approx(0.1 * KM_PER_DEGREE, rel=1e-3)
    assert curvilinear_km(da.isel(x=[3, 4]), "y", "x") == pytest.approx(
        0.1 * KM_PER_DEGREE, rel=1e-3
    )
    assert curvilinear_km(da.isel(x=slice(1)), "y", "x") is None


def test_positions_have_the_dims_of_the_field() -> None:
    latitude, longitude = np.meshgrid(np.arange(3.0), 10 + np.arange(4.0), indexing="ij")
    turned = places(latitude, longitude).transpose("x", "y")
    turned = turned.assign_coords(lat=turned.lat.transpose("x", "y"))
    found = positions(turned, ("y", "x"))
    assert found is not None
    for one, expected in zip(found, (latitude, longitude), strict=True):
        assert one.dims == ("y", "x")
        np.testing.assert_array_equal(one, expected)


def test_two_dims_of_rows_are_ambiguous() -> None:
    da = xr.DataArray(np.ones((2, 3, 4)), dims=("row", "y", "x"), name="pr")
    with pytest.raises(DataError, match="one dimension with axis Y and one with axis X"):
        find_axes(da)
    assert find_axes(da, sample="row") == ("y", "x")


def test_finest_grid_has_the_smallest_cells_not_the_most() -> None:
    def field(size: int, side: float, dims: tuple[str, str]) -> xr.DataArray:
        attrs = {"units": "km"}
        coords = {dim: (dim, side * np.arange(size), attrs) for dim in dims}
        values = np.ones((2, size, size))
        return xr.DataArray(values, coords, ("time", *dims), attrs={"units": "mm h-1"})

    ds = xr.Dataset({"a": field(20, 1.3, ("y", "x")), "b": field(10, 1.0, ("y_2", "x_2"))})
    assert find_target(ds, None) == "b"


@pytest.mark.parametrize(
    "modifier", ["standard_error", "status_flag", "number_of_observations", "detection_minimum"]
)
def test_modifiers_of_a_standard_name_are_no_rain(modifier: str) -> None:
    da = xr.DataArray(0.0, name="pr", attrs={"units": "mm h-1"})
    assert is_rain(da.assign_attrs(standard_name="lwe_precipitation_rate"))
    assert not is_rain(da.assign_attrs(standard_name=f"lwe_precipitation_rate {modifier}"))


def test_rain_of_grib_without_a_name_is_found_by_its_parameter() -> None:
    da = xr.DataArray(0.0, name="unknown", attrs={"units": "m", "GRIB_paramId": 228})
    assert is_rain(da)
    assert not is_rain(da.assign_attrs(GRIB_paramId=129))


def test_numbers_as_objects_are_written_if_they_have_one_type() -> None:
    check_values(xr.Variable("x", np.array([1, 2], object)), "x")
    for mixed in ([1, 2.5], [1, "a"], [1.5, b"a"]):
        with pytest.raises(DataError, match="coordinate 'x': expected values that can be written"):
            check_values(xr.Variable("x", np.array(mixed, object)), "x")

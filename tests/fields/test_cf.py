from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError, MissingVariableError
from xcvae.fields.cf import Layout, find_layout, find_target, is_rain


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
def test_dims_are_found_by_conventional_names(dims: tuple[str, str, str]) -> None:
    assert find_layout(field(*dims)) == Layout(*dims)


def test_order_of_dims_does_not_matter() -> None:
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
def test_dims_are_found_by_attributes(attrs: tuple[dict[str, str], dict[str, str]]) -> None:
    da = field("a", "b", "c", b=("b", attrs[1]), c=("c", attrs[0]))
    assert find_layout(da) == Layout("a", "c", "b")


def test_attributes_win_over_names() -> None:
    da = field("time", "x", "y", x=("x", {"axis": "Y"}), y=("y", {"axis": "X"}))
    assert find_layout(da) == Layout("time", "x", "y")


def test_a_word_that_only_begins_like_an_axis_is_none() -> None:
    assert find_layout(field("year", "lat", "lon")).sample == "year"


def test_a_curvilinear_grid_is_found_by_its_latitude() -> None:
    da = field("time", "a", "b").assign_coords(
        lat=(("a", "b"), np.zeros((5, 6)), {"standard_name": "latitude"}),
        lon=(("a", "b"), np.zeros((5, 6)), {"standard_name": "longitude"}),
    )
    assert find_layout(da) == Layout("time", "a", "b")


def test_spatial_dims_are_believed() -> None:
    da = field("time", "a", "b")
    assert find_layout(da, spatial_dims=("b", "a")) == Layout("time", "b", "a")


@pytest.mark.parametrize("given", [("a",), ("a", "a"), ("a", "zz"), ("a", "b", "time")])
def test_spatial_dims_that_do_not_fit_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="spatial_dims: expected two of the dims"):
        find_layout(field("time", "a", "b"), spatial_dims=given)


@pytest.mark.parametrize("dims", [("time", "a", "b"), ("time", "y", "b"), ("time", "y")])
def test_unknown_dims_are_named(dims: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match="axis Y") as caught:
        find_layout(field(*dims))
    assert f"({', '.join(dims)})" in str(caught.value)
    assert "spatial_dims=" in str(caught.value)


@pytest.mark.parametrize("dims", [("y", "x"), ("time", "member", "y", "x")])
def test_exactly_one_sample_dim_is_needed(dims: tuple[str, ...]) -> None:
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
def test_rain_is_known_by_units_and_names(name: str, attrs: dict[str, str], expected: bool) -> None:
    assert is_rain(xr.DataArray([0.0], name=name, attrs=attrs)) is expected


def test_a_target_may_be_known_by_its_rate_alone(make_radar: Callable[..., xr.Dataset]) -> None:
    field = make_radar().rename(pr="field").field.assign_attrs(standard_name="")
    assert is_rain(field, by_rate=True)
    assert not is_rain(field.assign_attrs(standard_name="water_evaporation_flux"), by_rate=True)
    assert find_target(field.to_dataset(), None) == "field"


def test_the_target_is_the_rain_on_the_finest_grid(
    make_radar: Callable[..., xr.Dataset], islands: xr.Dataset
) -> None:
    assert find_target(make_radar(), None) == "pr"
    assert find_target(islands, None) == "pr"
    assert find_target(make_radar(), "pr_coarse") == "pr_coarse"


def test_a_missing_target_names_the_nearest(islands: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match=r"'mslpp'.*Did you mean 'mslp'"):
        find_target(islands, "mslpp")


def test_two_targets_on_one_grid_are_a_question(make_radar: Callable[..., xr.Dataset]) -> None:
    ds = make_radar()
    ds["rain"] = ds.pr
    with pytest.raises(MissingVariableError, match=r"pr, rain, on equal grids.*target='\.\.\.'"):
        find_target(ds, None)


def test_no_rain_at_all_says_what_there_is(islands: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match=r"got none.*mslp, z500"):
        find_target(islands.drop_vars("pr"), None)


def test_rain_without_known_dims_is_passed_over(islands: xr.Dataset) -> None:
    islands["other"] = (("time", "a", "b"), np.zeros((6, 99, 99)), {"units": "mm d-1"})
    assert find_target(islands, None) == "pr"
    assert find_target(islands, None, spatial_dims=("a", "b")) == "other"

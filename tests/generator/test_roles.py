"""Roles of variables and dims: renamed descriptions, and names found in a Dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import ConfigError
from xcvae.fields.describe import describe, prepare
from xcvae.generator.roles import names_in, renamed


@pytest.fixture
def make_radar() -> Callable[[], xr.Dataset]:
    """Rain on a 1 km grid, and its means over 12 x 12 pixels."""

    def make() -> xr.Dataset:
        rain = np.random.default_rng(0).gamma(0.3, 4.0, (3, 24, 36)).astype("float32")
        pr = xr.DataArray(
            rain,
            dims=("time", "y", "x"),
            coords={
                "time": np.datetime64("2018-05-10", "ns") + np.arange(3) * np.timedelta64(1, "h"),
                "y": ("y", np.arange(24) + 0.5, {"units": "km", "axis": "Y"}),
                "x": ("x", np.arange(36) + 0.5, {"units": "km", "axis": "X"}),
            },
            attrs={"units": "mm h-1", "standard_name": "lwe_precipitation_rate"},
        )
        coarse = pr.coarsen(y=12, x=12).mean().rename(y="y_coarse", x="x_coarse")
        return xr.Dataset({"pr": pr, "pr_coarse": coarse})

    return make


@pytest.fixture
def islands(make_radar) -> xr.Dataset:
    """Rain, and pressure over a continent in degrees."""
    mslp = xr.DataArray(
        np.random.default_rng(1).normal(1e5, 800, (3, 4, 5)),
        dims=("time", "lat", "lon"),
        coords={"lat": np.linspace(55, 30, 4), "lon": np.linspace(-15, 15, 5)},
        attrs={"units": "Pa"},
    )
    return make_radar()[["pr"]].assign(mslp=mslp)


def test_derived_condition_is_named_after_the_target(make_radar):
    spec = describe(make_radar(), target="pr", coarsen=12)
    other = renamed(spec, {"pr": "precip", "y": "lat", "x": "lon"})
    assert (other.derived, other.variables[0].name) == ("precip_coarse", "precip_coarse")
    assert other.variables[0].dims == ("lat_coarse", "lon_coarse")
    ds = make_radar().drop_vars("pr_coarse").rename(pr="precip", y="lat", x="lon")
    ds = ds.assign_coords(lat=ds.lat.assign_attrs(units="km"), lon=ds.lon.assign_attrs(units="km"))
    assert "precip_coarse" in prepare(ds, other, need_target=True)


def test_derived_condition_with_a_name_of_its_own_is_a_variable(make_radar):
    spec = describe(make_radar(), target="pr", coarsen=12)
    other = renamed(spec, {"pr_coarse": "gcm"})
    assert other.coarsen is None
    given = make_radar().rename(pr_coarse="gcm")
    assert "gcm" in prepare(given, other, need_target=True)


@pytest.mark.parametrize(
    ("names", "match"),
    [
        ({"prr": "rain"}, "rename: unknown name 'prr'. Did you mean 'pr'"),
        ({"pr": "pr_coarse"}, "rename: expected a different name for each, got pr_coarse"),
        ({"y": "x"}, "rename: expected a different name for each, got x more than once"),
    ],
)
def test_wrong_names_are_refused(make_radar, names, match):
    with pytest.raises(ConfigError, match=match):
        renamed(describe(make_radar()), names)


def test_names_are_found_by_roles(make_radar):
    spec = describe(make_radar())
    assert names_in(make_radar(), spec) == {}
    ds = make_radar().rename(pr="rr", pr_coarse="era", time="t", y="row", x="col")
    assert names_in(ds, spec) == {
        "pr": "rr", "time": "t", "y": "row", "x": "col", "pr_coarse": "era",
    }  # fmt: skip
    # Cells of 12 km are those of the condition, pixels of 1 km those of the target.
    assert names_in(ds[["era"]], spec) == {"pr_coarse": "era", "time": "t"}
    assert names_in(ds[["rr"]], spec) == {"pr": "rr", "time": "t", "y": "row", "x": "col"}


def test_other_variables_keep_their_names(islands):
    spec = describe(islands, target="pr", conditions=["mslp"])
    ds = islands.rename(pr="rain")
    assert names_in(ds, spec) == {"pr": "rain"}
    assert names_in(islands[["mslp"]], spec) == {}


def test_two_rains_on_one_grid_are_left_to_the_caller(make_radar):
    spec = describe(make_radar())
    ds = make_radar().rename(pr="a")
    ds["b"] = ds.a
    assert "pr" not in names_in(ds, spec)
    assert isinstance(ds, xr.Dataset)
    assert np.isfinite(ds.a).all()

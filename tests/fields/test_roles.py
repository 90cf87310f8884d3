"""Roles of variables and dims: renamed descriptions, and names found in a Dataset."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import ConfigError
from xcvae.fields.describe import describe, prepare
from xcvae.fields.roles import names_in, renamed


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

"""Variables that are conditions by default, and those that are none: errors, counts, copies."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from .makers import (
    admit,
    axis,
    case,
    either,
    fails_today,
    predictor,
    rain,
    refused,
    right,
    times,
    together,
    warned,
)

LAT, LON = axis("lat", 45.1, 0.2, 12), axis("lon", 5.1, 0.2, 12)


def beside(**others: xr.DataArray) -> xr.Dataset:
    pr = rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})
    coarse = predictor(
        axis("lat_c", 45.0, 0.8, 4), axis("lon_c", 5.0, 0.8, 4), name="psl", units="Pa"
    )
    return together(pr, coarse).assign(others)


def alike(factor: float = 1.0, **attrs: str) -> xr.DataArray:
    """A field on the target's grid that is made of it."""
    pr = rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})
    made = factor * pr
    made.attrs = dict(attrs)
    return made


def noise(**attrs: str) -> xr.DataArray:
    pr = rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON}, seed=5)
    pr.attrs = dict(attrs)
    return pr


def _leak(name: str, make) -> object:
    answer = either(right(roles={"psl": "aligned"}), warned(name), refused(name))
    return case(name, lambda: beside(**{name: make()}), answer, target="pr")


LEAKS = [
    _leak("randomError", lambda: noise(units="mm/hr", long_name="Root-mean-square error estimate for precipitation")),
    _leak("pr_error", lambda: noise(units="mm/day", standard_name="precipitation_flux standard_error")),
    _leak("precipitationQualityIndex", lambda: noise(units="1", long_name="Quality Index for precipitation field")),
    _leak("gauge_count", lambda: noise(units="1", long_name="number of gauges", standard_name="number_of_observations")),
    _leak("pr_status", lambda: noise(units="1", standard_name="precipitation_flux status_flag")),
    _leak("pr_mm_h", lambda: alike(1 / 24, units="mm h-1")),
    _leak("precipitation_flux", lambda: alike(1 / 86400, units="kg m-2 s-1", standard_name="precipitation_flux")),
    _leak("pr_m", lambda: alike(1e-3, units="m/day")),
    _leak("MWprecipitation", lambda: alike(0.9, units="mm/hr", long_name="gridded microwave precipitation")),
    _leak("pr_raw", lambda: alike(1.1, units="mm/day", long_name="uncalibrated precipitation")),
    _leak("qi", lambda: noise(units="1", long_name="Quality Index for precipitation field")),
    _leak("pr_cm", lambda: alike(0.1, units="cm").chunk(time=1)),
    _leak("reflectivity", lambda: (10 * np.log10(200 * alike() ** 1.6)).assign_attrs(units="dBZ")),
    _leak("pr_model", lambda: noise(units="mm/day", long_name="model rain on the grid of the radar")),
    _leak("dbz", lambda: alike(3.0, units="1", long_name="radar reflectivity from the same sweep as pr")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), LEAKS)
def test_what_is_made_of_the_target_is_no_condition_by_default(make, answer, options):
    answer.check(lambda: admit(make(), **options))


ROLES = [
    case("temperature on the target's grid", lambda: beside(tas=noise(units="K") + 280).assign(tas=lambda d: d.tas.assign_attrs(units="K")),
         right(roles={"psl": "aligned", "tas": "aligned"})),
    case("named, a copy is taken", lambda: beside(pr_raw=alike(1.1, units="mm/day")),
         right(roles={"pr_raw": "aligned"}, rain={"pr_raw"}), target="pr", conditions=["pr_raw"]),
    case("one name", beside, right(roles={"psl": "aligned"}), conditions="psl"),
    case("without units it is none", lambda: beside(mask=noise()), right(roles={"psl": "aligned"})),
    case("named, but without units", lambda: beside(soil=noise()), refused("soil", "units", "attrs"), conditions=["soil"]),
    case("bounds", lambda: beside(time_bnds=xr.DataArray(np.zeros((6, 2)), dims=("time", "bnds"))), right(roles={"psl": "aligned"})),
    case("bounds with units",
         lambda: beside(time_bnds=xr.DataArray(np.zeros((6, 2)), dims=("time", "bnds"), attrs={"units": "days since 2000-01-01"})),
         either(right(roles={"psl": "aligned"}), refused("time_bnds")),
         ),
    case("statics", lambda: beside(z=noise(units="m").isel(time=0, drop=True)), right(roles={"psl": "aligned", "z": "static"}), statics=["z"]),
    case("static per sample", lambda: beside(z=noise(units="m")), right(roles={"psl": "aligned", "z": "static"}), statics=["z"]),
    case("static that is a number", lambda: beside(z=xr.DataArray(1.0, attrs={"units": "m"})), refused("z", "grid"), statics=["z"]),
    case("static on no grid of ours", lambda: beside(z=xr.DataArray(np.ones((3, 3)), dims=("y", "x"), attrs={"units": "m"})),
         refused("z", "lat, lon"), statics=["z"]),
    case("map given as a condition", lambda: beside(z=noise(units="m").isel(time=0, drop=True)), refused("z", "statics"), conditions=["z"]),
    case("the target as a condition", beside, refused("pr", "more than once"), conditions=["pr"]),
    case("given twice", beside, refused("psl", "more than once"), conditions=["psl", "psl"]),
    case("both condition and static", beside, refused("psl", "more than once"), conditions=["psl"], statics=["psl"]),
    case("misspelt", beside, refused("prsl", "Did you mean 'psl'"), conditions=["prsl"]),
    case("misspelt target", beside, refused("prr", "Did you mean 'pr'"), target="prr"),
    case("coarse rain is rain by its name", lambda: beside().rename(psl="pr_era5").map(lambda v: v, keep_attrs=True).assign(
        pr_era5=lambda d: d.pr_era5.assign_attrs(units="mm")), right(rain={"pr_era5"}), target="pr"),
    case("pr_coarse with coarsen", lambda: beside(pr_coarse=noise(units="mm")), refused("pr_coarse"), coarsen=4, conditions=["pr_coarse"]),
    case("pr_coarse on a grid of its own with coarsen", lambda: beside(pr_coarse=predictor(axis("lat_c", 45.0, 0.8, 4), axis("lon_c", 5.0, 0.8, 4), units="mm")),
         either(right(roles={"pr_coarse": "aligned"}), refused("pr_coarse")), coarsen=4, target="pr"),
    case("negative rain in a condition", lambda: beside().assign(psl=lambda d: d.psl.assign_attrs(
        units="mm", long_name="precipitation") - 300).assign(psl=lambda d: d.psl.assign_attrs(units="mm", long_name="precipitation")),
         refused("psl", "negative"), target="pr", conditions=["psl"]),
    case("expver", lambda: beside(tp=noise(units="m").expand_dims(expver=[1, 5])), refused("tp", "expver", "combine|fillna|max"),
         fails_today(16, "the remedy for expver does not name a combination"), conditions=["tp"]),
    case("expver on the target", lambda: together(rain().expand_dims(expver=[1, 5], axis=1)), refused("pr", "expver", "combine|fillna|max"),
         fails_today(16, "the remedy for expver is isel, which loses half of the samples"), target="pr"),
    case("members called number", lambda: together(rain().expand_dims(number=[0, 1], axis=1)), refused("pr", "number", "isel|stack"), target="pr"),
    case("condition with members", lambda: beside(t=noise(units="K").expand_dims(number=[0, 1])), refused("t", "number", "variable of its own"),
         conditions=["t"]),
    case("dates as a condition", lambda: beside(d=xr.DataArray(times(), dims="time", attrs={"units": "1"})), refused("d", "datetime64", "leave it out"),
         conditions=["d"]),
    case("texts as a condition", lambda: beside(d=xr.DataArray(list("abcdef"), dims="time", attrs={"units": "1"})), refused("d", "leave it out"),
         conditions=["d"]),
    case("not a Dataset", rain, refused("ds", "DataArray", "to_dataset")),
    case("no rain", lambda: beside().drop_vars("pr"), refused("target", "psl")),
    case("two kinds of rain", lambda: beside(rr=noise(units="mm/day")), refused("target", "pr, rr", "target=")),
    case("an index of climate as coordinate", lambda: beside().assign_coords(nao=("time", np.arange(6.0), {"units": "1"})),
         right(roles={"nao": "pooled"}), conditions=["nao"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), ROLES)
def test_roles_of_variables(make, answer, options):
    answer.check(lambda: admit(make(), **options))

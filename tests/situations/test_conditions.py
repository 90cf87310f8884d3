"""Variables that are conditions by default, and those that are none: errors, counts, copies."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from . import makers

LAT, LON = makers.axis("lat", 45.1, 0.2, 12), makers.axis("lon", 5.1, 0.2, 12)


def beside(**others: xr.DataArray) -> xr.Dataset:
    pr = makers.rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})
    coarse = makers.predictor(
        makers.axis("lat_c", 45.0, 0.8, 4),
        makers.axis("lon_c", 5.0, 0.8, 4),
        name="psl",
        units="Pa",
    )
    return makers.together(pr, coarse).assign(others)


def alike(factor: float = 1.0, **attrs: str) -> xr.DataArray:
    """A field on the target's grid that is made of it."""
    pr = makers.rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON})
    made = factor * pr
    made.attrs = dict(attrs)
    return made


def noise(**attrs: str) -> xr.DataArray:
    pr = makers.rain(dims=("time", "lat", "lon"), coords={"lat": LAT, "lon": LON}, seed=5)
    pr.attrs = dict(attrs)
    return pr


def _leak(name: str, make) -> object:
    answer = makers.either(
        makers.right(roles={"psl": "aligned"}), makers.warned(name), makers.refused(name)
    )
    return makers.case(name, lambda: beside(**{name: make()}), answer, target="pr")


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
    answer.check(lambda: makers.admit(make(), **options))


ROLES = [
    makers.case("temperature on the target's grid", lambda: beside(tas=noise(units="K") + 280).assign(tas=lambda d: d.tas.assign_attrs(units="K")),
         makers.right(roles={"psl": "aligned", "tas": "aligned"})),
    makers.case("named, a copy is taken", lambda: beside(pr_raw=alike(1.1, units="mm/day")),
         makers.right(roles={"pr_raw": "aligned"}, rain={"pr_raw"}), target="pr", conditions=["pr_raw"]),
    makers.case("one name", beside, makers.right(roles={"psl": "aligned"}), conditions="psl"),
    makers.case("without units it is none", lambda: beside(mask=noise()), makers.right(roles={"psl": "aligned"})),
    makers.case("named, but without units", lambda: beside(soil=noise()), makers.refused("soil", "units", "attrs"), conditions=["soil"]),
    makers.case("bounds", lambda: beside(time_bnds=xr.DataArray(np.zeros((6, 2)), dims=("time", "bnds"))), makers.right(roles={"psl": "aligned"})),
    makers.case("bounds with units",
         lambda: beside(time_bnds=xr.DataArray(np.zeros((6, 2)), dims=("time", "bnds"), attrs={"units": "days since 2000-01-01"})),
         makers.either(makers.right(roles={"psl": "aligned"}), makers.refused("time_bnds")),
         ),
    makers.case("statics", lambda: beside(z=noise(units="m").isel(time=0, drop=True)), makers.right(roles={"psl": "aligned", "z": "static"}), statics=["z"]),
    makers.case("static per sample", lambda: beside(z=noise(units="m")), makers.right(roles={"psl": "aligned", "z": "static"}), statics=["z"]),
    makers.case("static that is a number", lambda: beside(z=xr.DataArray(1.0, attrs={"units": "m"})), makers.refused("z", "grid"), statics=["z"]),
    makers.case("static on no grid of ours", lambda: beside(z=xr.DataArray(np.ones((3, 3)), dims=("y", "x"), attrs={"units": "m"})),
         makers.refused("z", "lat, lon"), statics=["z"]),
    makers.case("map given as a condition", lambda: beside(z=noise(units="m").isel(time=0, drop=True)), makers.refused("z", "statics"), conditions=["z"]),
    makers.case("the target as a condition", beside, makers.refused("pr", "more than once"), conditions=["pr"]),
    makers.case("given twice", beside, makers.refused("psl", "more than once"), conditions=["psl", "psl"]),
    makers.case("both condition and static", beside, makers.refused("psl", "more than once"), conditions=["psl"], statics=["psl"]),
    makers.case("misspelt", beside, makers.refused("prsl", "Did you mean 'psl'"), conditions=["prsl"]),
    makers.case("misspelt target", beside, makers.refused("prr", "Did you mean 'pr'"), target="prr"),
    makers.case("coarse rain is rain by its name", lambda: beside().rename(psl="pr_era5").map(lambda v: v, keep_attrs=True).assign(
        pr_era5=lambda d: d.pr_era5.assign_attrs(units="mm")), makers.right(rain={"pr_era5"}), target="pr"),
    makers.case("pr_coarse with coarsen", lambda: beside(pr_coarse=noise(units="mm")), makers.refused("pr_coarse"), coarsen=4, conditions=["pr_coarse"]),
    makers.case("pr_coarse on a grid of its own with coarsen", lambda: beside(pr_coarse=makers.predictor(makers.axis("lat_c", 45.0, 0.8, 4), makers.axis("lon_c", 5.0, 0.8, 4), units="mm")),
         makers.either(makers.right(roles={"pr_coarse": "aligned"}), makers.refused("pr_coarse")), coarsen=4, target="pr"),
    makers.case("negative rain in a condition", lambda: beside().assign(psl=lambda d: d.psl.assign_attrs(
        units="mm", long_name="precipitation") - 300).assign(psl=lambda d: d.psl.assign_attrs(units="mm", long_name="precipitation")),
         makers.refused("psl", "negative"), target="pr", conditions=["psl"]),
    makers.case("expver", lambda: beside(tp=noise(units="m").expand_dims(expver=[1, 5])), makers.refused("tp", "expver", "combine|fillna|max"), conditions=["tp"]),
    makers.case("expver on the target", lambda: makers.together(makers.rain().expand_dims(expver=[1, 5], axis=1)), makers.refused("pr", "expver", "combine|fillna|max"), target="pr"),
    makers.case("members called number", lambda: makers.together(makers.rain().expand_dims(number=[0, 1], axis=1)), makers.refused("pr", "number", "isel|stack"), target="pr"),
    makers.case("condition with members", lambda: beside(t=noise(units="K").expand_dims(number=[0, 1])), makers.refused("t", "number", "variable of its own"),
         conditions=["t"]),
    makers.case("dates as a condition", lambda: beside(d=xr.DataArray(makers.times(), dims="time", attrs={"units": "1"})), makers.refused("d", "datetime64", "leave it out"),
         conditions=["d"]),
    makers.case("texts as a condition", lambda: beside(d=xr.DataArray(list("abcdef"), dims="time", attrs={"units": "1"})), makers.refused("d", "leave it out"),
         conditions=["d"]),
    makers.case("not a Dataset", makers.rain, makers.refused("ds", "DataArray", "to_dataset")),
    makers.case("no rain", lambda: beside().drop_vars("pr"), makers.refused("target", "psl")),
    makers.case("two kinds of rain", lambda: beside(rr=noise(units="mm/day")), makers.refused("target", "pr, rr", "target=")),
    makers.case("an index of climate as coordinate", lambda: beside().assign_coords(nao=("time", np.arange(6.0), {"units": "1"})),
         makers.right(roles={"nao": "pooled"}), conditions=["nao"]),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), ROLES)
def test_roles_of_variables(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))

"""Grid mappings: conditions in another projection, and the reference system of an ensemble."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.errors import DataError
from xcvae.fields.describe import prepare

from . import makers

CRS: dict[str, dict[str, Any]] = {
    "laea": {"grid_mapping_name": "lambert_azimuthal_equal_area", "longitude_of_projection_origin": 10.0,
             "latitude_of_projection_origin": 52.0, "false_easting": 4321000.0, "false_northing": 3210000.0},
    "lcc": {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [46.5, 46.5],
            "longitude_of_central_meridian": 2.0, "latitude_of_projection_origin": 46.5},
    "lcc2": {"grid_mapping_name": "lambert_conformal_conic", "standard_parallel": [25.0, 60.0],
             "longitude_of_central_meridian": -100.0, "latitude_of_projection_origin": 42.5},
    "osgb": {"grid_mapping_name": "transverse_mercator", "longitude_of_central_meridian": -2.0,
             "latitude_of_projection_origin": 49.0, "scale_factor_at_central_meridian": 0.9996},
    "stereo": {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 10.0,
               "latitude_of_projection_origin": 90.0, "standard_parallel": 60.0},
    "pole": {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0},
    "pole2": {"grid_mapping_name": "rotated_latitude_longitude", "grid_north_pole_latitude": 37.5, "grid_north_pole_longitude": 177.5},
    "latlon": {"grid_mapping_name": "latitude_longitude", "semi_major_axis": 6378137.0, "inverse_flattening": 298.257223563},
    "latlon2": {"grid_mapping_name": "latitude_longitude", "earth_radius": 6371229.0},
    "wkt": {"crs_wkt": 'PROJCRS["ETRS89-extended / LAEA Europe"]', "grid_mapping_name": "lambert_azimuthal_equal_area",
            "longitude_of_projection_origin": 10.0, "latitude_of_projection_origin": 52.0, "false_easting": 4321000.0, "false_northing": 3210000.0},
}  # fmt: skip
FINE = {
    "m": (makers.axis("y", 2.60e6, 1e3, 12), makers.axis("x", 4.30e6, 1e3, 12)),
    "rotated": (makers.axis("rlat", 1.0, 0.11, 12), makers.axis("rlon", 3.0, 0.11, 12)),
    "degrees": (makers.axis("lat", 46.0, 0.1, 12), makers.axis("lon", 8.0, 0.1, 12)),
}
COARSE = {
    "m": (makers.axis("y_c", 2.601e6, 3e3, 4), makers.axis("x_c", 4.301e6, 3e3, 4)),
    "rotated": (makers.axis("rlat_c", 1.1, 0.33, 4), makers.axis("rlon_c", 3.1, 0.33, 4)),
    "degrees": (makers.axis("lat_c", 46.1, 0.3, 4), makers.axis("lon_c", 8.1, 0.3, 4)),
}


def mapped(fine: str, own: str | None, coarse: str, other: str | None) -> xr.Dataset:
    """Rain on a fine grid and temperature on a coarse one, each with its grid mapping or none."""
    y, x = FINE[fine]
    pr = makers.rain(dims=("time", y.name, x.name), coords={y.name: y, x.name: x})
    ds = makers.together(pr, makers.predictor(*COARSE[coarse]))
    for name, mapping in (("pr", own), ("t", other)):
        if mapping is not None:
            ds[name].attrs["grid_mapping"] = mapping
            ds[mapping] = ((), 0, CRS[mapping])
    return ds


PAIRS = [
    makers.case("the same", lambda: mapped("m", "laea", "m", "laea"), makers.right(roles={"t": "aligned"})),
    makers.case("the same under two names", lambda: mapped("m", "laea", "m", "wkt"), makers.right(roles={"t": "aligned"})),
    makers.case("none on both", lambda: mapped("m", None, "m", None), makers.right(roles={"t": "aligned"})),
    makers.case("none on one", lambda: mapped("m", "laea", "m", None), makers.either(makers.right(roles={"t": "aligned"}), makers.warned("t", "grid_mapping"))),
    makers.case("two sizes of the earth", lambda: mapped("degrees", "latlon", "degrees", "latlon2"), makers.right(roles={"t": "aligned"})),
    makers.case("the same pole", lambda: mapped("rotated", "pole", "rotated", "pole"), makers.right(roles={"t": "aligned"})),
    *(
        makers.case(f"{own} and {other}", lambda own=own, other=other, kind=kind: mapped(kind, own, kind, other),
             makers.either(makers.refused("t", "grid_mapping|projection", "regrid|interpolat|pyproj|reproject"), makers.warned("t", "projection", "elsewhere")))
        for kind, own, other in (
            ("m", "laea", "lcc"), ("m", "laea", "osgb"), ("m", "lcc", "lcc2"), ("m", "stereo", "laea"), ("rotated", "pole", "pole2"),
        )
    ),
    *(
        makers.case(f"{own} and {other}", lambda own=own, other=other, a=a, b=b: mapped(a, own, b, other),
             makers.either(makers.refused("t", "grid_mapping|projection|rotated|degrees", "regrid|interpolat|pyproj|reproject"), makers.warned("t", "pooled|cover|projection|degrees")))
        for a, own, b, other in (("rotated", "pole", "degrees", "latlon"), ("degrees", "latlon", "rotated", "pole"), ("m", "laea", "degrees", "latlon"))
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), PAIRS)
def test_conditions_in_another_projection_are_not_stretched_by_bare_numbers(make, answer, options):
    answer.check(lambda: makers.admit(make(), **options))


def test_a_condition_in_another_projection_is_refused_by_a_trained_model():
    spec = makers.admit(mapped("m", "laea", "m", "laea"))["spec"]
    with pytest.raises(DataError, match=r"t: expected the projection of 'pr'.*Regrid"):
        prepare(mapped("m", "laea", "m", "lcc"), spec, need_target=True)


# --- what an ensemble keeps --------------------------------------------------------------------


def _trained(ds: xr.Dataset):
    return xcvae.train(
        ds,
        target="pr",
        coarsen=4,
        generator=makers.SMALLEST,
        fit=makers.STEP,
        device="cpu",
        progress=False,
    )


@pytest.fixture(scope="module", params=[False, True], ids=["data variable", "decode_coords=all"])
def projected(request):
    """Rain with a grid mapping, as both modes of decode_coords read it, and a model of it."""
    y, x = FINE["m"]
    pr = makers.rain(dims=("time", "y", "x"), coords={"y": y, "x": x})
    ds = xr.Dataset({"pr": pr, "crs": ((), 0, CRS["laea"])})
    if request.param:
        ds = ds.set_coords("crs")
        ds.pr.encoding["grid_mapping"] = "crs"
    else:
        ds.pr.attrs["grid_mapping"] = "crs"
    return ds, _trained(ds)


@pytest.mark.parametrize("stored", [False, True], ids=["lazy", "stored"])
def test_the_reference_system_travels(projected, tmp_path, stored):
    ds, own = projected
    store = tmp_path / "e.zarr" if stored else None
    ens = xcvae.sample(ds, own, members=1, store=store, progress=False)
    if stored:
        ens = xr.open_zarr(store, consolidated=False)
    named = ens.pr.attrs.get("grid_mapping", ens.pr.encoding.get("grid_mapping"))
    assert named == "crs"
    assert ens.crs.attrs["grid_mapping_name"] == "lambert_azimuthal_equal_area"


BOUNDS = {
    "valid_max": 300.0, "valid_min": 0.0, "valid_range": [0.0, 300.0], "actual_range": [0.0, 300.0],
    "missing_value": -9999.0, "cell_methods": "time: sum", "ancillary_variables": "pr_error", "coordinates": "lat lon",
    "coverage_content_type": "physicalMeasurement", "flag_values": [0, 1], "Maximum": 300.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def attributed(daily, model):
    ds = daily.assign(pr=daily.pr.assign_attrs(BOUNDS))
    other = _trained(ds)
    return xcvae.sample(ds, other, members=1, progress=False)


@pytest.mark.parametrize(
    "name",
    [
        "valid_max",
        "valid_min",
        "valid_range",
        "actual_range",
        "missing_value",
        "ancillary_variables",
    ],
)
def test_attributes_of_observed_values_do_not_travel(attributed, name):
    if name not in attributed.pr.attrs:
        return
    pytest.fail(f"{name} = {attributed.pr.attrs[name]}")


def test_attributes_of_the_quantity_travel(attributed):
    assert attributed.pr.attrs["units"] == "mm/day"
    assert attributed.pr.attrs["cell_methods"] == "time: sum"


def test_two_dimensional_coordinates_travel(daily, model):
    lat = (
        ("y", "x"),
        45 + np.add.outer(np.arange(12.0), np.arange(12) / 10),
        {"units": "degrees_north"},
    )
    ens = xcvae.sample(daily.assign_coords(lat=lat), model, members=1, progress=False)
    np.testing.assert_array_equal(ens.lat, lat[1])
    assert ens.lat.attrs["units"] == "degrees_north"
    assert (ens.time.values == makers.times().values).all()

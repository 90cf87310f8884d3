"""Values that cannot be rain, or what they seem to be: packed counts, fills, accumulations."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from .makers import admit, axis, case, either, fails_today, predictor, rain, refused, right, times, together, warned

PACKED = fails_today(3, "packed counts are taken for values")
FILL = fails_today(4, "a fill value is taken for rain")
FILL_IN_CONDITION = fails_today(4, "a fill value in a condition is taken for a value")

# --- packing -----------------------------------------------------------------------------------

ATTRS = {
    "scale_factor": {"scale_factor": 0.01},
    "add_offset": {"add_offset": 3.0},
    "both": {"scale_factor": 0.01, "add_offset": 3.0},
    "_FillValue": {"_FillValue": -32768},
    "missing_value": {"missing_value": -9999.0},
    "_Unsigned": {"_Unsigned": "true"},
}


def packed(attrs: dict[str, object], where: str) -> xr.Dataset:
    """A file that was read with mask_and_scale=False: int16, with its attributes."""
    lat, lon = axis("lat", 45, 0.1, 12), axis("lon", 5, 0.1, 12)
    ds = together(rain(dims=("time", "lat", "lon"), coords={"lat": lat, "lon": lon}), predictor(lat, lon))
    if where in ("pr", "t"):
        ds[where] = ds[where].round().astype("int16")
    ds[where].attrs |= attrs
    return ds


def _packing(name: str, where: str):
    if name == "_Unsigned":
        answer = either(refused(where, "mask_and_scale|decode"), right(target="pr"))
    elif name in ("_FillValue", "missing_value"):
        answer = either(refused(where, name, "mask_and_scale|decode|where"), right(valid=1.0))
    else:
        answer = either(refused(where, name, "mask_and_scale|decode"), warned(where, name))
    marks = [] if name in ("_Unsigned", "_FillValue", "missing_value") else [PACKED]
    return case(f"{name} on {where}", lambda: packed(ATTRS[name], where), answer, *marks)


@pytest.mark.parametrize(
    ("make", "answer", "options"),
    [_packing(name, where) for name in ATTRS for where in ("pr", "t")]
    + [_packing(name, where) for name in ("scale_factor", "add_offset") for where in ("lat", "lon")],
)
def test_packed_counts_are_decoded_or_refused(make, answer, options):
    answer.check(lambda: admit(make(), **options))


def _decoded(dtype: str, fill: int) -> xr.Dataset:
    packing = {"dtype": dtype, "scale_factor": 0.01, "_FillValue": fill}
    field = rain().round(2)
    field[:, 0, :3] = np.nan
    encoded = field.to_dataset().map(lambda da: da)
    encoded.pr.encoding = packing
    return xr.decode_cf(xr.conventions.encode_dataset_coordinates(encoded)[0] and _encode(encoded))


def _encode(ds: xr.Dataset) -> xr.Dataset:
    variables = {name: xr.conventions.encode_cf_variable(v.variable) for name, v in ds.variables.items()} if False else {
        str(name): xr.conventions.encode_cf_variable(ds[name].variable) for name in ds.variables
    }
    return xr.Dataset(variables)

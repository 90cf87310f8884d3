"""Grid mappings: their CF parameters, also from WKT, and the places of their coordinates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import DataError

Array = NDArray[np.float64]

# Parameters of CF grid mappings that move pixels, with their defaults. The figure of the earth
# moves them by less than a pixel of weather.
_PROJECTION: dict[str, float | None] = {
    "grid_mapping_name": None,
    "standard_parallel": None,
    "longitude_of_central_meridian": None,
    "latitude_of_projection_origin": None,
    "longitude_of_projection_origin": None,
    "straight_vertical_longitude_from_pole": None,
    "azimuth_of_central_line": None,
    "grid_north_pole_latitude": None,
    "grid_north_pole_longitude": None,
    "north_pole_grid_longitude": 0.0,
    "perspective_point_height": None,
    "false_easting": 0.0,
    "false_northing": 0.0,
    "scale_factor_at_central_meridian": 1.0,
    "scale_factor_at_projection_origin": 1.0,
}
#: Attributes that hold a projection as text.
WKT = ("crs_wkt", "spatial_ref", "esri_pe_string")
# Beginnings of the names of projections in WKT 1 and 2, to names of CF.
_METHODS = {
    "lambert_azimuthal_equal_area": "lambert_azimuthal_equal_area",
    "lambert_conformal_conic": "lambert_conformal_conic",
    "lambert_conic_conformal": "lambert_conformal_conic",
    "albers": "albers_conical_equal_area",
    "transverse_mercator": "transverse_mercator",
    "polar_stereographic": "polar_stereographic",
    "stereographic_north_pole": "polar_stereographic",
    "stereographic_south_pole": "polar_stereographic",
    "mercator": "mercator",
    "oblique_stereographic": "stereographic",
    "stereographic": "stereographic",
    "azimuthal_equidistant": "azimuthal_equidistant",
    "sinusoidal": "sinusoidal",
    "pole_rotation": "rotated_latitude_longitude",
}
_LONGITUDE = {
    "lambert_conformal_conic": "longitude_of_central_meridian",
    "albers_conical_equal_area": "longitude_of_central_meridian",
    "transverse_mercator": "longitude_of_central_meridian",
    "polar_stereographic": "straight_vertical_longitude_from_pole",
}
_PARALLELS = re.compile(r"(standard_parallel_\d|latitude_of_(1st|2nd)_standard_parallel)")
_ORIGIN = re.compile(r"(latitude|longitude)_of_(origin|center|natural_origin|false_origin)")
_OFFSET = re.compile(r"(false_(?:easting|northing)|(?:easting|northing)_at_false_origin)")


def grid_mapping(ds: xr.Dataset, da: xr.DataArray) -> dict[str, Any]:
    """Return the attributes of the grid mapping that a field names; empty without.

    A mapping that is only given as WKT has the CF parameters that can be read from it as well.
    """
    name = mapping_name(da)
    return with_parameters(ds[name].attrs) if name in ds.variables else {}


def mapping_name(da: xr.DataArray) -> str:
    """Return the name of the grid mapping of a field; xarray may move it to the encoding."""
    named = da.attrs.get("grid_mapping", da.encoding.get("grid_mapping", ""))
    return str(named).split(":", maxsplit=1)[0].strip()


def with_parameters(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Add CF parameters to the attributes of a grid mapping that only has WKT."""
    text = next((str(attrs[key]) for key in WKT if attrs.get(key)), "")
    if attrs.get("grid_mapping_name") or not text:
        return dict(attrs)
    return {**_read_wkt(text), **attrs}


def _read_wkt(text: str) -> dict[str, Any]:
    """Return CF parameters of a projection in WKT; those whose meaning varies are left out."""
    method = re.search(r'(?:PROJECTION|METHOD)\["([^"]+)"', text, re.IGNORECASE)
    if method is None:
        geographic = re.match(r"\s*(GEOG|GEODCRS)", text, re.IGNORECASE)
        return {"grid_mapping_name": "latitude_longitude"} if geographic else {}
    called = _plain(method[1])
    name = next((cf for key, cf in _METHODS.items() if called.startswith(key)), called)
    found: dict[str, Any] = {"grid_mapping_name": name}
    parallels = []
    for label, number in re.findall(r'PARAMETER\["([^"]+)",\s*([-+\d.eE]+)', text, re.IGNORECASE):
        key, value = _plain(label), float(number)
        if _PARALLELS.fullmatch(key):
            parallels.append(value)
        elif key == "central_meridian" or (_ORIGIN.fullmatch(key) and key[:3] == "lon"):
            found[_LONGITUDE.get(name, "longitude_of_projection_origin")] = value
        elif _ORIGIN.fullmatch(key) and name != "polar_stereographic":
            # GDAL writes the standard parallel of a polar projection as its origin.
            found["latitude_of_projection_origin"] = value
        elif _OFFSET.fullmatch(key):
            found["false_easting" if "easting" in key else "false_northing"] = value
        elif key.startswith("scale_factor") and name == "transverse_mercator":
            found["scale_factor_at_central_meridian"] = value
    return found | ({"standard_parallel": parallels} if parallels else {})


def _plain(name: str) -> str:
    return re.sub(r"[^a-z\d]+", "_", name.lower()).strip("_")


def same_projection(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return False for grid mappings that differ in a parameter that both have."""
    if not (one and other):
        return True
    for key, default in _PROJECTION.items():
        values = [mapping.get(key, default) for mapping in (one, other)]
        if any(value is None for value in values):
            continue
        if key == "grid_mapping_name":
            same = values[0] == values[1]
        else:
            first, second = (np.sort(np.ravel(np.asarray(v, float))) for v in values)
            if key == "standard_parallel":
                # One parallel is the same as two equal ones.
                first, second = np.unique(first), np.unique(second)
            same = first.shape == second.shape and np.allclose(first, second, rtol=1e-6, atol=1e-6)
        if not same:
            return False
    return True


def is_rotated(mapping: Mapping[str, Any]) -> bool:
    """Return True for a grid mapping with the position of a rotated pole."""
    keys = ("grid_north_pole_latitude", "grid_north_pole_longitude")
    return all(mapping.get(key) is not None for key in keys)


def is_complete(mapping: Mapping[str, Any]) -> bool:
    """Return True for a grid mapping with WKT or an origin: others would lie at 0 N, 0 E."""
    if any(mapping.get(key) for key in WKT):
        return True
    given = [key for key in _PROJECTION if mapping.get(key) is not None and "pole_" not in key]
    east = any("longitude_" in key for key in given)
    return east and any("latitude_" in key or key == "standard_parallel" for key in given)


def from_rotated(y: Array, x: Array, mapping: Mapping[str, Any]) -> tuple[Array, Array]:
    """Return latitudes and longitudes of points of a rotated grid, all in degrees.

    Examples
    --------
    >>> pole = {"grid_north_pole_latitude": 39.25, "grid_north_pole_longitude": -162.0}
    >>> latitude, longitude = from_rotated(np.array([0.0]), np.array([0.0]), pole)
    >>> float(latitude[0]), float(longitude[0])
    (50.75, 18.0)
    """
    pole = np.deg2rad(float(mapping["grid_north_pole_latitude"]))
    north = float(mapping.get("north_pole_grid_longitude") or 0.0)
    row, column = np.deg2rad(y), np.deg2rad(x - north)
    height = np.sin(row) * np.sin(pole) + np.cos(row) * np.cos(pole) * np.cos(column)
    ahead = np.sin(row) * np.cos(pole) - np.cos(row) * np.sin(pole) * np.cos(column)
    angle = np.arctan2(-np.cos(row) * np.sin(column), ahead)
    longitude = float(mapping["grid_north_pole_longitude"]) + np.rad2deg(angle)
    latitude = np.rad2deg(np.arcsin(np.clip(height, -1.0, 1.0)))
    return np.round(latitude, 12), np.round((longitude + 180.0) % 360.0 - 180.0, 12)


def from_projected(
    y: Array, x: Array, mapping: Mapping[str, Any], *, what: str
) -> tuple[Array, Array]:
    """Return latitudes and longitudes in degrees of points of a projection, in metres.

    Raises
    ------
    DataError
        pyproj is not installed, or the grid mapping cannot be read.
    """
    try:
        import pyproj
    except ImportError as error:
        raise DataError.of(
            what,
            expected="pyproj, to find the places of a grid in a projection",
            got="no such package",
            remedy="Install it, pip install 'xcvae[grids]'; or give the field 2-D coordinates "
            "'lat' and 'lon'; or regrid it to the target's grid.",
        ) from error
    without = {key: value for key, value in mapping.items() if key not in WKT}
    for attrs in (mapping, without):
        try:
            projection = pyproj.Proj(pyproj.CRS.from_cf(dict(attrs)), preserve_units=False)
        except (pyproj.exceptions.ProjError, KeyError, ValueError, TypeError):
            continue
        longitude, latitude = projection(x, y, inverse=True)
        return np.asarray(latitude, np.float64), np.asarray(longitude, np.float64)
    raise DataError.of(
        what,
        expected="a grid mapping with CF parameters or WKT",
        got=", ".join(f"{key}={value}" for key, value in without.items()) or "WKT that is broken",
        remedy="Correct the attributes of the grid mapping, or give the field 2-D coordinates "
        "'lat' and 'lon'.",
    )

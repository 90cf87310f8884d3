"""Find dimensions and variables by CF attributes and conventional names."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, DataError, MissingVariableError, nearest
from xcvae.fields.axes import KM_PER_DEGREE, axis_of, kind_of_degrees, same_axis, sides_km
from xcvae.fields.units import is_precipitation

LONGEST_FLOAT = 8
"""Bytes of the longest numbers that files hold."""

_STANDARD_NAMES: dict[str, Literal["Y", "X"]] = {
    "latitude": "Y",
    "grid_latitude": "Y",
    "projection_y_coordinate": "Y",
    "projection_y_angular_coordinate": "Y",
    "longitude": "X",
    "grid_longitude": "X",
    "projection_x_coordinate": "X",
    "projection_x_angular_coordinate": "X",
}
_DEGREES: dict[str, Literal["Y", "X", ""]] = {"latitude": "Y", "longitude": "X", "": ""}
# A suffix is allowed (y_coarse, lat_gcm, x2), a longer word is not (year).
_NAMES: tuple[tuple[re.Pattern[str], Literal["Y", "X"]], ...] = (
    (
        re.compile(
            r"(y|yc|ny|ydim|ygrid|grid_yt|lat|latitude|rlat|nlat|nav_lat|g\d+_lat|gridlat|nj|j|"
            r"row|rows|south_north|north_south|northing|projection_y_coordinate|grid_latitude)"
            r"([_\d].*)?",
            re.IGNORECASE,
        ),
        "Y",
    ),
    (
        re.compile(
            r"(x|xc|nx|xdim|xgrid|grid_xt|lon|longitude|rlon|nlon|nav_lon|g\d+_lon|gridlon|ni|i|"
            r"col|cols|column|columns|west_east|east_west|easting|projection_x_coordinate|"
            r"grid_longitude)([_\d].*)?",
            re.IGNORECASE,
        ),
        "X",
    ),
)
# The table of what is rain, by words of standard names and long names, by short names, and by
# parameters of GRIB; each with units of a depth or a rate. Words are whole: terrain is no rain.
_RAIN_WORDS = re.compile(
    r"precip|rainfall|snowfall|"
    r"^(daily|hourly|tot|total|mean|surf|surface|acc|accum|max|obs|radar|gauge|conv)?rain|"
    r"^drizzle|^(prec[tcl]?|prcp|apcp|qpe)$"
)
# Other quantities in units of rain, with words of rain in their names.
_OTHER_WORDS = re.compile(
    r"^(precipitable|columns?|content|path|vertical(ly)?|rainwater|distance|height|altitude|"
    r"elevation|visibility|speed|velocity|diameter|radius|roughness|intercept(ed|ion)|runoff|"
    r"errors?|uncertainty|deviation|std(dev)?|variance|anomal(y|ies)|tendency|deficit|storage)$|"
    r"^(pot)?evap"
)
_RAIN_NAMES = re.compile(
    r"(pr|prc|prl|prsn|tp|pre|prec|tot_prec|ppt|prcp|rr|rx|rfe|qpe|pcp|cp|lsp|crr|lsrr|mtpr|"
    r"mxtpr|prate|tprate|avg_tprate|apcp|acpcp|ncpcp)([_\d].*)?",
    re.IGNORECASE,
)
_RAIN_PARAMETERS = {142, 143, 144, 228, 3059, 228218, 228219, 228228, 235055, 260048}
# Written by cfgrib, and so by the Climate Data Store, where GRIB has no CF name.
_NO_STANDARD_NAME = {"", "unknown", "undefined", "none", "missing", "~", "-"}
_MODIFIERS = {"detection_minimum", "number_of_observations", "standard_error", "status_flag"}
_OF_DATA = re.compile(
    r"\b(errors?|stderr|uncertainty|quality|flags?|status|counts?|nobs|number of (?!drop|aero))\b"
)
_RAIN_RATES = re.compile(r"mm\s*(/|per)?\s*(h|d)", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Names of the dimensions of a field: samples (often ``time``), rows and columns."""

    sample: str
    y: str
    x: str


def _axis(da: xr.DataArray, dim: Hashable) -> Literal["Y", "X", ""]:
    """Return the horizontal axis of a dimension, "" if it cannot be inferred."""
    if dim in da.coords:
        attrs = da[dim].attrs
        declared = str(attrs.get("axis", "")).upper()
        if declared:
            return "Y" if declared == "Y" else "X" if declared == "X" else ""
        named = _STANDARD_NAMES.get(str(attrs.get("standard_name", "")))
        found = named or _DEGREES[kind_of_degrees(attrs.get("units"))]
        if found:
            return found
    for pattern, axis in _NAMES:
        if pattern.fullmatch(str(dim)):
            return axis
    return ""


def _geographic(da: xr.DataArray | xr.Dataset, axis: Literal["Y", "X"]) -> xr.DataArray | None:
    """Return the 2-D latitude (Y) or longitude (X) of a field, None without."""
    names = ("lat", "latitude", "xlat") if axis == "Y" else ("lon", "longitude", "xlong")
    for name, coordinate in da.coords.items():
        attrs = coordinate.attrs
        known = attrs.get("standard_name") == names[1] or str(name).lower() in names
        if known or _DEGREES[kind_of_degrees(attrs.get("units"))] == axis:
            fixed = _at_all_times(coordinate)
            if fixed.ndim == 2:
                return fixed
    return None


def _at_all_times(coordinate: xr.DataArray) -> xr.DataArray:
    """Return one map of a coordinate that has a map per sample, as WRF writes it."""
    if coordinate.ndim != 3 or not coordinate.size:
        return coordinate
    first, last = (coordinate.isel({coordinate.dims[0]: place}) for place in (0, -1))
    if bool((first == last).all()):
        return first
    raise DataError.of(
        str(coordinate.name),
        expected="a grid that is the same for all samples",
        got=f"values that change along {coordinate.dims[0]!r}, as of a nest that moves",
        remedy="Regrid the samples to one grid, or drop the coordinates: "
        f"ds.drop_vars([{str(coordinate.name)!r}]).",
    )


def _curvilinear(da: xr.DataArray) -> tuple[str, str] | None:
    """Return the dims of a 2-D latitude: rows and columns of a curvilinear grid."""
    latitude = _geographic(da, "Y")
    return None if latitude is None else (str(latitude.dims[0]), str(latitude.dims[1]))


def positions(da: xr.DataArray, dims: tuple[str, str]) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Return latitude and longitude of each pixel of a field, dims (y, x); None without."""
    found: list[xr.DataArray] = []
    axes: tuple[Literal["Y", "X"], ...] = ("Y", "X")
    for dim, axis in zip(dims, axes, strict=True):
        coordinate = _geographic(da, axis)
        if coordinate is None and dim in da.coords and _is_geographic(da[dim]):
            coordinate = da[dim]
        if coordinate is None:
            return None
        found.append(coordinate.drop_vars(coordinate.coords))
    latitude, longitude = xr.broadcast(*found)
    if set(latitude.dims) != set(dims):
        return None
    return latitude.transpose(*dims), longitude.transpose(*dims)


def _is_geographic(coordinate: xr.DataArray) -> bool:
    attrs = coordinate.attrs
    named = attrs.get("standard_name") in ("latitude", "longitude")
    return named or bool(kind_of_degrees(attrs.get("units")))


def find_axes(
    da: xr.DataArray, *, sample: str | None = None, spatial_dims: Sequence[str] | None = None
) -> tuple[str, str]:
    """Find the (y, x) dims of a field, other than ``sample``.

    Raises
    ------
    DataError
        Not exactly one dim is a row and one a column dimension. Names the dims found.
    """
    dims = [str(dim) for dim in da.dims if dim != sample]
    if spatial_dims is not None:
        several = isinstance(spatial_dims, Iterable)
        given = tuple(spatial_dims) if several else (spatial_dims,)
        if len(given) == 2 and given[0] != given[1] and set(given) <= set(dims):
            return given[0], given[1]
        raise DataError.of(
            "spatial_dims",
            expected=f"two of the dims of {str(da.name)!r}, rows first: {', '.join(dims)}",
            got=given,
            remedy="Name two of these dims, or leave it out if CF attributes name them.",
        )
    rows = [dim for dim in dims if _axis(da, dim) == "Y"]
    columns = [dim for dim in dims if _axis(da, dim) == "X"]
    if len(rows) == 1 and len(columns) == 1:
        return rows[0], columns[0]
    grid = _curvilinear(da)
    if grid is not None and set(grid) <= set(dims):
        return grid
    raise DataError.of(
        str(da.name),
        expected="one dimension with axis Y and one with axis X",
        got=f"dims ({', '.join(map(str, da.dims))})",
        remedy="Set the attribute 'axis' to 'Y' and 'X' on the two coordinates, rename the "
        "dims to names such as y and x (a suffix is fine: y_coarse), or, for the target, "
        "give spatial_dims=('rows', 'columns').",
    )


def find_layout(da: xr.DataArray, *, spatial_dims: Sequence[str] | None = None) -> Layout:
    """Find samples, rows and columns of a field with three dims, in any order.

    Parameters
    ----------
    da
        The field. Rows and columns are found by ``axis``, ``standard_name`` and ``units`` of their
        coordinates, by conventional names, or by a 2-D latitude; the other dim has the samples.
    spatial_dims
        Names of the (y, x) dims, if attributes are missing or wrong.

    Raises
    ------
    DataError
        No such dims. Names the dims found.
    """
    y, x = find_axes(da, spatial_dims=spatial_dims)
    others = [str(dim) for dim in da.dims if dim not in (y, x)]
    if len(others) != 1:
        raise DataError.of(
            str(da.name),
            expected=f"one sample dimension besides {y} and {x}",
            got=f"dims ({', '.join(map(str, da.dims))})",
            remedy=combine_remedy(da)
            or "Select one of each further dimension with isel, stack several into one "
            "with ds.stack(sample=[...]), or add one with expand_dims.",
        )
    return Layout(others[0], y, x)


def combine_remedy(da: xr.DataArray) -> str:
    """Return the remedy for a field of ERA5 with a dim ``expver``; empty for all others.

    It separates the final release from the preliminary one; each is missing where the other is
    valid, so that a selection loses samples.
    """
    if "expver" not in da.dims:
        return ""
    return (
        "The dimension expver has the final and the preliminary release of ERA5, each missing "
        "where the other is valid. Combine them: "
        "ds.isel(expver=0, drop=True).combine_first(ds.isel(expver=1, drop=True))."
    )


def is_rain(da: xr.DataArray, *, by_rate: bool = False) -> bool:
    """Return True for precipitation, judged by units and names.

    Units alone do not suffice: elevation is in metres, wind in metres per second, and evaporation
    in millimetres per day.

    Parameters
    ----------
    da
        The variable.
    by_rate
        Units such as mm/h and mm/day are enough without a ``standard_name``.
    """
    if not is_precipitation(str(da.attrs.get("units", "")).strip() or "?"):
        return False
    standard = str(da.attrs.get("standard_name", "")).strip().lower()
    if standard not in _NO_STANDARD_NAME:
        # A modifier, as in 'precipitation_flux standard_error', names another quantity.
        return standard.split()[-1] not in _MODIFIERS and _says_rain(standard)
    texts = " ".join(str(da.attrs.get(key, "")) for key in ("long_name", "GRIB_name"))
    names = (str(da.name), str(da.attrs.get("GRIB_shortName", "")))
    if _says_other(f"{da.name} {texts}"):
        return False
    return (
        _says_rain(f"{da.name} {texts}")
        or any(_RAIN_NAMES.fullmatch(name) for name in names)
        or da.attrs.get("GRIB_paramId") in _RAIN_PARAMETERS
        or (by_rate and _RAIN_RATES.match(str(da.attrs["units"])) is not None)
    )


def outline(da: xr.DataArray) -> str:
    """Return name, dims and units of a variable for a message."""
    return f"{da.name} ({', '.join(map(str, da.dims))}) [{da.attrs.get('units', 'no units')}]"


def _words(text: str) -> list[str]:
    """Return the words of a name or sentence, also those of MixedCase; 'rain water' is one."""
    words = " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text)).lower()
    return words.replace("rain water", "rainwater").split()


def _says_rain(text: str) -> bool:
    return any(_RAIN_WORDS.search(word) for word in _words(text)) and not _says_other(text)


def _says_other(text: str) -> bool:
    return any(_OTHER_WORDS.search(word) for word in _words(text))


def describes_data(da: xr.DataArray) -> bool:
    """Return True for errors, quality and counts of an observation, judged by names."""
    texts = [str(da.attrs.get(key, "")) for key in ("long_name", "standard_name")]
    words = " ".join(_words(f"{da.name} {' '.join(texts)}".replace("_", " ")))
    return _OF_DATA.search(words) is not None


def check_name(name: str, *, what: str = "target") -> None:
    """Refuse a name that a store would take for a path: '/pr' leads to the root of the disk.

    Raises
    ------
    DataError
        The name is empty, '.' or '..', or has a slash or a null character.
    """
    if name in ("", ".", "..") or {"/", "\0"} & set(name):
        plain = name.rsplit("/", maxsplit=1)[-1].strip(".\0") or "pr"
        raise DataError.of(
            what,
            expected="a name that stores can hold, such as 'pr'; no slash, not '.' or '..'",
            got=repr(name),
            remedy=f"Rename it: ds.rename({{{name!r}: {plain!r}}}).",
        )


def changed_axes(before: xr.DataArray | xr.Dataset, after: xr.DataArray | xr.Dataset) -> list[str]:
    """Return the dims whose labels differ: values of a position are those of another place.

    Examples
    --------
    >>> rain = xr.DataArray([1.0, 2.0], {"x": [10, 20]})
    >>> changed_axes(rain, rain[::-1]), changed_axes(rain, 2 * rain.drop_vars("x"))
    (['x'], [])
    """
    known = after.indexes
    return [
        str(dim)
        for dim, index in before.indexes.items()
        if dim in known and not same_axis(np.asarray(index), np.asarray(known[dim]))
    ]


def check_values(variable: xr.Variable, name: str, *, what: str = "store, coordinate") -> None:
    """Refuse values that no file can hold: categories, periods, dates of a zone, other objects.

    Raises
    ------
    DataError
        They are no real numbers, texts, or times without a time zone.
    """
    unknown = _unknown_values(variable)
    if unknown:
        raise DataError.of(
            f"{what} '{name}'",
            expected="values that can be written: texts, numbers or times without a time zone",
            got=unknown,
            remedy=f"Convert them, for times of a zone with pandas.to_datetime(ds[{name!r}]"
            f".astype(str).values, utc=True).tz_convert(None), else with ds[{name!r}].astype(str), "
            "or leave them out.",
        )


def _unknown_values(variable: xr.Variable) -> str:
    """Return the type of values that no file can hold; empty for all others."""
    dtype: object = variable.dtype
    if not isinstance(dtype, np.dtype):
        return f"type {dtype}"  # of pandas
    if dtype.kind != "O":
        longer = dtype.kind == "f" and dtype.itemsize > LONGEST_FLOAT
        return f"type {dtype}" if dtype.kind in "cV" or longer else ""
    values = variable.values.ravel()
    present = values[~variable.isnull().values.ravel()]
    if all(isinstance(value, str | bytes) or hasattr(value, "calendar") for value in present):
        return ""
    kinds = {type(value) for value in present}
    numbers = all(issubclass(kind, int | float | np.number) for kind in kinds)
    odd = next((value for value in present if not isinstance(value, str)), present[0])
    return "" if numbers and len(kinds) == 1 else f"{type(odd).__name__} {odd}"


def names_of(what: str, given: object) -> list[str]:
    """Return names of variables as a list; one name is one, and None is none.

    Raises
    ------
    ConfigError
        Something else than texts.
    """
    if given is None or isinstance(given, str):
        return [] if given is None else [given]
    names: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError.of(
            what,
            expected="names of variables, such as ['psl', 't850']",
            got=", ".join(one if isinstance(one, str) else type(one).__name__ for one in names),
            remedy="Give names: the variables themselves are in the Dataset.",
        )
    return names


def require(ds: xr.Dataset, name: str, *, what: str) -> xr.DataArray:
    """Return a variable of a Dataset.

    Raises
    ------
    MissingVariableError
        The Dataset has no such variable. Names the nearest ones.
    """
    given: Any = name  # of a program: it may be anything
    if isinstance(given, Hashable) and given in ds.variables:
        return ds[name]
    raise MissingVariableError.of(
        what,
        expected="a variable of the Dataset",
        got=repr(name),
        remedy=nearest(name, ds.data_vars),
    )


def _places(da: xr.DataArray | xr.Dataset) -> tuple[xr.DataArray, xr.DataArray] | None:
    """Return the maps of latitude and longitude of a field, None without them."""
    latitude, longitude = _geographic(da, "Y"), _geographic(da, "X")
    if latitude is None or longitude is None or latitude.dims != longitude.dims:
        return None
    return latitude, longitude


def maps_of_places(da: xr.DataArray) -> list[xr.DataArray | None]:
    """Return the 2-D latitude and longitude of a field; None for what it has not, or what moves."""
    found: list[xr.DataArray | None] = []
    axes: tuple[Literal["Y", "X"], ...] = ("Y", "X")
    for axis in axes:
        try:
            found.append(_geographic(da, axis))
        except DataError:  # a nest that moves
            found.append(None)
    return found


def _step_km(latitude: xr.DataArray, longitude: xr.DataArray, dim: str) -> float:
    """Return the median distance of neighbours along a dim of latitudes and longitudes."""
    values = [np.asarray(each.values, np.float64) for each in (latitude, longitude)]
    steps = [np.diff(each, axis=latitude.dims.index(dim)) for each in values]
    across = (steps[1] + 180.0) % 360.0 - 180.0
    middle = np.cos(np.deg2rad(np.nanmean(values[0])))
    return float(KM_PER_DEGREE * np.nanmedian(np.hypot(steps[0], across * middle)))


def curvilinear_km(da: xr.DataArray | xr.Dataset, y: str, x: str) -> float | None:
    """Return the side of a pixel in km from maps of latitude and longitude; None without them."""
    places = _places(da)
    if places is None or set(places[0].dims) != {y, x} or min(places[0].shape) < 2:
        return None
    side = float(np.sqrt(np.prod([_step_km(*places, dim) for dim in (y, x)])))
    return side if np.isfinite(side) and side > 0 else None


def _side(da: xr.DataArray, layout: Layout) -> float:
    """Return about the height of a cell in km; NaN where it is not known."""
    places = _places(da)
    if places is not None and places[0].sizes.get(layout.y, 1) > 1:
        return _step_km(*places, layout.y)
    if layout.y not in da.coords or da[layout.y].dtype.kind not in "iuf":
        return float("nan")
    try:
        axis = axis_of(layout.y, np.asarray(da[layout.y].values, np.float64), da[layout.y].attrs)
    except DataError:
        return float("nan")
    side, _ = sides_km(axis, axis)
    return float("nan") if side is None else side


def find_target(
    ds: xr.Dataset, target: str | None, *, spatial_dims: Sequence[str] | None = None
) -> str:
    """Return the name of the rain variable to generate.

    Parameters
    ----------
    ds
        The Dataset to search.
    target
        Its name. None takes the precipitation variable with three dims and the finest grid: the
        smallest cells, or the most of them if coordinates do not give their size.
    spatial_dims
        Names of its (y, x) dims, if attributes and names do not identify them.

    Raises
    ------
    MissingVariableError
        No variable has that name, none qualifies, or more than one does.
    """
    if target is not None:
        return str(require(ds, target, what="target").name)
    sizes: dict[str, int] = {}
    sides: dict[str, float] = {}
    problem: DataError | None = None
    for name, da in ds.data_vars.items():
        if da.ndim < 2 or not is_rain(da, by_rate=True):
            continue
        try:
            layout = find_layout(da, spatial_dims=spatial_dims)
        except DataError as error:
            problem = problem or error
            continue
        sizes[str(name)] = da.sizes[layout.y] * da.sizes[layout.x]
        sides[str(name)] = _side(da, layout)
    if problem is not None and not sizes:
        raise problem  # the only rain, and what keeps it from being the target
    if all(np.isfinite(side) for side in sides.values()):
        # By the size of cells, as far as it is known: a coarse globe may have more of them.
        least = min(sides.values(), default=0.0)
        sizes = {name: size for name, size in sizes.items() if sides[name] <= 1.01 * least}
    finest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(finest) == 1:
        return finest[0]
    raise MissingVariableError.of(
        "target",
        expected="one precipitation variable with a sample and two spatial dims",
        got=f"{', '.join(finest)}, on equal grids" if finest else "none",
        remedy=f"Name it: target='...'. Variables: {', '.join(map(str, ds.data_vars))}.",
    )

"""Files as their makers write them: small ones, written from their documented layouts.

Each maker writes a file with the dims, names, attributes, packing and fills of the format, and
opens it as its users do. Values are those of gamma-distributed rain.
"""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import XcvaeError

from .makers import Answer, AnyOf, admit, case, either, refused, right, times, warned

N = 12
LAT_ATTRS = {"units": "degrees_north", "standard_name": "latitude", "long_name": "latitude"}
LON_ATTRS = {"units": "degrees_east", "standard_name": "longitude", "long_name": "longitude"}

DAYS = {"units": "days since 1949-12-01", "dtype": "float64"}


def values(*shape: int, size: float, sea: bool = False) -> np.ndarray:
    field = np.random.default_rng(3).gamma(0.5, size, shape or (6, N, N)).astype("f4")
    if sea:
        field[..., :2, :3] = np.nan
    return field


def lat(name: str, start: float, step: float) -> xr.Variable:
    return xr.Variable(name, start + step * np.arange(N), LAT_ATTRS)


def lon(name: str, start: float, step: float) -> xr.Variable:
    return xr.Variable(name, start + step * np.arange(N), LON_ATTRS)


def curved(*dims: str) -> dict[str, xr.Variable]:
    j, i = np.meshgrid(np.arange(N), np.arange(N), indexing="ij")
    return {
        "lat": xr.Variable(dims, 47 + 0.1 * j + 0.02 * i, LAT_ATTRS),
        "lon": xr.Variable(dims, 8 - 0.02 * j + 0.1 * i, LON_ATTRS),
    }


def reopened(folder: Path, ds: xr.Dataset, encoding: Any = None, **options: Any) -> xr.Dataset:
    """Write netCDF 3, which needs SciPy only, and open it."""
    ds.to_netcdf(folder / "file.nc", engine="scipy", encoding=encoding)
    return xr.open_dataset(folder / "file.nc", engine="scipy", **options)


def with_groups(
    folder: Path, groups: dict[str, xr.Dataset], group: str, **options: Any
) -> xr.Dataset:
    """Write HDF5 with groups, and open one of them."""
    pytest.importorskip("netCDF4")
    for number, (name, ds) in enumerate(groups.items()):
        ds.to_netcdf(folder / "file.h5", mode="a" if number else "w", group=name, engine="netcdf4")
    return xr.open_dataset(folder / "file.h5", group=group, engine="netcdf4", **options)


# --- reanalyses and models ---------------------------------------------------------------------

GRIB = {
    "GRIB_paramId": 228,
    "GRIB_shortName": "tp",
    "GRIB_units": "m",
    "GRIB_missingValue": 3.4028234663852886e38,
}


def era5(folder: Path) -> xr.Dataset:
    """ERA5 of the Climate Data Store since 2024: valid_time, number, expver per time."""
    dims = ("valid_time", "latitude", "longitude")
    tp = {"units": "m", "long_name": "Total precipitation", "standard_name": "unknown", **GRIB}
    t2m = {"units": "K", "long_name": "2 metre temperature", "standard_name": "unknown"}
    ds = xr.Dataset(
        {"tp": (dims, values(size=4e-4), tp), "t2m": (dims, 280 + values(size=2), t2m)},
        {
            "valid_time": ("valid_time", times(6, "h"), {"standard_name": "time", "long_name": "time"}),
            "latitude": lat("latitude", 50, -0.25), "longitude": lon("longitude", 5, 0.25),
            "number": ((), 0, {"units": "1", "standard_name": "realization"}),
            "expver": ("valid_time", ["0001"] * 4 + ["0005"] * 2),
        },
        {"GRIB_centre": "ecmf", "Conventions": "CF-1.7"},
    )  # fmt: skip
    return reopened(folder, ds)


def era5_expver(folder: Path) -> xr.Dataset:
    """ERA5 of the Climate Data Store before 2024: packed, ERA5T behind expver."""
    dims = ("time", "expver", "latitude", "longitude")
    field = values(6, 2, N, N, size=4e-4)
    field[:4, 1], field[4:, 0] = np.nan, np.nan
    ds = xr.Dataset(
        {"tp": (dims, field, {"units": "m", "long_name": "Total precipitation"})},
        {"time": times(6, "h"), "expver": np.array([1, 5], "int32"), "latitude": lat("latitude", 50, -0.25),
         "longitude": lon("longitude", 5, 0.25)},
    )  # fmt: skip
    packing = {"dtype": "int16", "scale_factor": 2e-7, "add_offset": 6e-3, "_FillValue": -32767}
    return reopened(folder, ds, {"tp": packing})


def era5_number(folder: Path) -> xr.Dataset:
    """ERA5 ensemble members: number is a dim."""
    ds = era5(folder).drop_vars("t2m").load()
    return xr.concat(
        [ds, ds.assign_coords(number=1)],
        "number",
        data_vars="all",
        coords="minimal",
        compat="override",
    )


def cmip6(folder: Path) -> xr.Dataset:
    """CMIP6 by CMOR: bounds, 365_day, fills of 1e20, a scalar height."""
    dims = ("time", "lat", "lon")
    time = xr.date_range("2001-01-01 12:00", periods=6, calendar="noleap", use_cftime=True)
    start = xr.date_range("2001-01-01", periods=7, calendar="noleap", use_cftime=True)
    pr = {"standard_name": "precipitation_flux", "long_name": "Precipitation", "units": "kg m-2 s-1",
          "cell_methods": "area: time: mean", "cell_measures": "area: areacella"}  # fmt: skip
    tas = {"standard_name": "air_temperature", "units": "K", "cell_methods": "area: time: mean"}
    bounds = {
        name: np.add.outer(2.0 * np.arange(N) + first, [-1, 1])
        for name, first in (("lat", 40), ("lon", 350))
    }
    ds = xr.Dataset(
        {
            "pr": (dims, values(size=5e-5), pr), "tas": (dims, 280 + values(size=2), tas),
            "time_bnds": (("time", "bnds"), np.stack([start[:-1], start[1:]], 1)),
            "lat_bnds": (("lat", "bnds"), bounds["lat"]), "lon_bnds": (("lon", "bnds"), bounds["lon"]),
        },
        {
            "time": ("time", time, {"bounds": "time_bnds", "axis": "T", "standard_name": "time"}),
            "lat": xr.Variable("lat", 40 + 2.0 * np.arange(N), {**LAT_ATTRS, "bounds": "lat_bnds", "axis": "Y"}),
            "lon": xr.Variable("lon", 350 + 2.0 * np.arange(N), {**LON_ATTRS, "bounds": "lon_bnds", "axis": "X"}),
            "height": ((), 2.0, {"units": "m", "positive": "up", "axis": "Z"}),
        },
        {"mip_era": "CMIP6", "source_id": "TEST-ESM"},
    )  # fmt: skip
    fill = {"_FillValue": 1e20, "missing_value": 1e20}
    return reopened(folder, ds, {"pr": fill, "tas": fill, "time": DAYS})


def cordex(folder: Path) -> xr.Dataset:
    """EURO-CORDEX: rotated pole, 2-D latitudes, a character variable as grid mapping."""
    dims = ("time", "rlat", "rlon")
    pr = {
        "standard_name": "precipitation_flux",
        "units": "kg m-2 s-1",
        "grid_mapping": "rotated_pole",
    }
    tas = {"standard_name": "air_temperature", "units": "K", "grid_mapping": "rotated_pole"}
    pole = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
    ds = xr.Dataset(
        {
            "pr": (dims, values(size=5e-5), pr), "tas": (dims, 280 + values(size=2), tas),
            "rotated_pole": ((), np.array(b"", "S1"), pole),
            "time_bnds": (("time", "bnds"), np.stack([times(), times() + pd.Timedelta("1D")], 1)),
        },
        {
            "time": ("time", times() + pd.Timedelta("12h"), {"bounds": "time_bnds", "standard_name": "time", "axis": "T"}),
            "rlat": ("rlat", 0.055 + 0.11 * np.arange(N), {"standard_name": "grid_latitude", "units": "degrees", "axis": "Y"}),
            "rlon": ("rlon", -8.085 + 0.11 * np.arange(N), {"standard_name": "grid_longitude", "units": "degrees", "axis": "X"}),
            **curved("rlat", "rlon"),
        },
    )  # fmt: skip
    return reopened(folder, ds, {"time": DAYS})


def wrf(folder: Path, *, amounts: bool = False) -> xr.Dataset:
    """WRF: no coordinate along Time, XLAT and XLONG per Time, rain accumulated through the run."""
    dims = ("Time", "south_north", "west_east")
    total = values(size=0.3).cumsum(0)
    attrs = {
        "FieldType": 104,
        "MemoryOrder": "XY ",
        "stagger": "",
        "coordinates": "XLONG XLAT XTIME",
    }
    j, i = np.meshgrid(np.arange(N), np.arange(N), indexing="ij")
    ds = xr.Dataset(
        {
            "RAINNC": (dims, total, {"description": "ACCUMULATED TOTAL GRID SCALE PRECIPITATION", "units": "mm", **attrs}),
            "RAINC": (dims, 0 * total, {"description": "ACCUMULATED TOTAL CUMULUS PRECIPITATION", "units": "mm", **attrs}),
            "T2": (dims, 280 + total, {"description": "TEMP at 2 M", "units": "K", **attrs}),
            "XLAT": (dims, np.broadcast_to(47 + 0.03 * j, total.shape).astype("f4"), {"units": "degree_north", "description": "LATITUDE, SOUTH IS NEGATIVE"}),
            "XLONG": (dims, np.broadcast_to(8 + 0.04 * i, total.shape).astype("f4"), {"units": "degree_east"}),
            "Times": ("Time", np.array([f"2001-01-01_{h:02d}:00:00" for h in range(6)], "S19")),
            "XTIME": ("Time", np.arange(6.0) * 60, {"units": "minutes since 2001-01-01 00:00:00"}),
        },
        attrs={"TITLE": " OUTPUT FROM WRF V4.4 MODEL", "MAP_PROJ": 1, "DX": 3000.0, "DY": 3000.0},
    )  # fmt: skip
    found = reopened(folder, ds)
    if amounts:
        rates = found.RAINNC.diff("Time").assign_attrs(found.RAINNC.attrs)
        found = found.isel(Time=slice(1, None)).assign(RAINNC=rates).drop_vars("RAINC")
    return found


def ukcp18(folder: Path, grid: str = "osgb") -> xr.Dataset:
    """UKCP18: members in front, 360_day, coordinates of text."""
    y, x = (
        ("projection_y_coordinate", "projection_x_coordinate")
        if grid == "osgb"
        else ("grid_latitude", "grid_longitude")
    )
    metres = grid == "osgb"
    units, step = ("m", 12000.0) if metres else ("degrees", 0.11)
    mapping = {
        "grid_mapping_name": "transverse_mercator" if metres else "rotated_latitude_longitude"
    }
    time = xr.date_range("1980-12-01 12:00", periods=6, calendar="360_day", use_cftime=True)
    crs = "transverse_mercator" if metres else "rotated_latitude_longitude"
    attrs = {
        "standard_name": "lwe_precipitation_rate",
        "long_name": "Precipitation rate",
        "units": "mm/day",
        "grid_mapping": crs,
    }
    ds = xr.Dataset(
        {"pr": (("ensemble_member", "time", y, x), values(2, 6, N, N, size=4), attrs), crs: ((), 0, mapping)},
        {
            "ensemble_member": ("ensemble_member", np.array([1, 4], "int32"), {"units": "1"}),
            "time": ("time", time, {"standard_name": "time", "axis": "T"}),
            y: (y, step * np.arange(N), {"units": units, "standard_name": y, "axis": "Y"}),
            x: (x, step * np.arange(N), {"units": units, "standard_name": x, "axis": "X"}),
            "ensemble_member_id": ("ensemble_member", np.array([b"HadGEM3-r01", b"HadGEM3-r04"])),
            "month_number": ("time", np.full(6, 12, "int32"), {"units": "1"}),
            "yyyymmdd": ("time", np.array([f"198012{d:02d}" for d in range(1, 7)], "S8"), {"units": "1"}),
        },
    )  # fmt: skip
    return reopened(folder, ds)


def merra2(folder: Path) -> xr.Dataset:
    """MERRA-2: fills of 1e15, vmax and vmin, hours at half past."""
    attrs = {
        "long_name": "total_precipitation",
        "units": "kg m-2 s-1",
        "vmax": 1e15,
        "vmin": -1e15,
        "valid_range": [-1e15, 1e15],
    }
    coords = {
        "time": times(6, "h") + pd.Timedelta("30min"),
        "lat": lat("lat", 40, 0.5),
        "lon": lon("lon", 5, 0.625),
    }
    ds = xr.Dataset({"PRECTOTCORR": (("time", "lat", "lon"), values(size=1e-4), attrs)}, coords)
    return reopened(folder, ds, {"PRECTOTCORR": {"_FillValue": 1e15, "missing_value": 1e15}})


# --- gauges and satellites ---------------------------------------------------------------------


def e_obs(folder: Path) -> xr.Dataset:
    """E-OBS: int16 in tenths, -9999 over the sea, also in temperature."""
    dims = ("time", "latitude", "longitude")
    rr = {"units": "mm", "long_name": "rainfall", "standard_name": "thickness_of_rainfall_amount"}
    tg = {"units": "Celsius", "long_name": "mean temperature", "standard_name": "air_temperature"}
    coords = {
        "time": times(),
        "latitude": lat("latitude", 45.05, 0.1),
        "longitude": lon("longitude", 5.05, 0.1),
    }
    ds = xr.Dataset(
        {"rr": (dims, values(size=4, sea=True), rr), "tg": (dims, values(size=4, sea=True), tg)},
        coords,
    )
    packing = {"dtype": "int16", "_FillValue": -9999}
    return reopened(
        folder, ds, {"rr": packing | {"scale_factor": 0.1}, "tg": packing | {"scale_factor": 0.01}}
    )


def chirps(folder: Path) -> xr.Dataset:
    """CHIRPS: a standard name that CF does not have, NaN over the sea as -9999."""
    attrs = {"units": "mm/day", "standard_name": "convective precipitation rate", "time_step": "day",
             "long_name": "Climate Hazards group InfraRed Precipitation with Stations", "missing_value": -9999.0}  # fmt: skip
    coords = {
        "time": times(),
        "latitude": lat("latitude", -5, 0.05),
        "longitude": lon("longitude", 35, 0.05),
    }
    field = values(size=6, sea=True)
    ds = xr.Dataset(
        {
            "precip": (
                ("time", "latitude", "longitude"),
                np.where(np.isnan(field), -9999, field),
                attrs,
            )
        },
        coords,
    )
    return reopened(folder, ds)


def cpc(folder: Path) -> xr.Dataset:
    """CPC unified gauges: 0..360, latitudes falling, actual_range."""
    attrs = {"units": "mm", "var_desc": "Precipitation", "long_name": "Daily total of precipitation", "missing_value": np.float32(-9.96921e36),
             "valid_range": [0.0, 1000.0], "actual_range": [0.0, 66.0], "statistic": "Total"}  # fmt: skip
    coords = {"time": times(), "lat": lat("lat", 49.75, -0.5), "lon": lon("lon", 350.25, 0.5)}
    field = values(size=6, sea=True)
    ds = xr.Dataset(
        {
            "precip": (
                ("time", "lat", "lon"),
                np.where(np.isnan(field), np.float32(-9.96921e36), field),
                attrs,
            )
        },
        coords,
    )
    return reopened(folder, ds)


def mswep(folder: Path) -> xr.Dataset:
    """MSWEP: 3-hourly amounts as mm/3h."""
    attrs = {"units": "mm/3h", "long_name": "Precipitation"}
    coords = {"time": times(6, "3h"), "lat": lat("lat", 49.95, -0.1), "lon": lon("lon", 5.05, 0.1)}
    return reopened(
        folder,
        xr.Dataset({"precipitation": (("time", "lat", "lon"), values(size=1), attrs)}, coords),
    )


def imerg(folder: Path) -> xr.Dataset:
    """IMERG V07: HDF5 with group /Grid, (time, lon, lat), julian, error and quality beside rain."""
    dims = ("time", "lon", "lat")
    time = xr.date_range("2001-01-01", periods=6, freq="30min", calendar="julian", use_cftime=True)
    shape = (6, N, N)
    ds = xr.Dataset(
        {
            "precipitation": (dims, values(*shape, size=0.5), {"units": "mm/hr", "Units": "mm/hr", "LongName": "Complete merged microwave-infrared precipitation estimate"}),
            "randomError": (dims, values(*shape, size=0.4), {"units": "mm/hr", "LongName": "Root-mean-square error estimate"}),
            "probabilityLiquidPrecipitation": (dims, np.full(shape, 90.0, "f4"), {"units": "percent"}),
            "precipitationQualityIndex": (dims, np.full(shape, 0.6, "f4")),
            "time_bnds": (("time", "nv"), np.stack([time, time], 1)),
        },
        {"time": ("time", time, {"bounds": "time_bnds", "standard_name": "time", "axis": "T"}),
         "lon": lon("lon", 5.05, 0.1), "lat": lat("lat", 45.05, 0.1)},
    )  # fmt: skip
    ds.time.encoding = {"units": "seconds since 1980-01-06 00:00:00 UTC", "calendar": "julian"}
    for name in ("precipitation", "randomError"):
        ds[name].encoding = {"_FillValue": np.float32(-9999.9)}
    return with_groups(
        folder, {"/": xr.Dataset(attrs={"FileHeader": "ProductType=L3"}), "/Grid": ds}, "Grid"
    )


def daymet(folder: Path) -> xr.Dataset:
    """Daymet V4: Lambert projection, yearday, units such as 'degrees C'."""
    dims = ("time", "y", "x")
    lcc = {"grid_mapping_name": "lambert_conformal_conic", "longitude_of_central_meridian": -100.0,
           "latitude_of_projection_origin": 42.5, "standard_parallel": [25.0, 60.0], "semi_major_axis": 6378137.0}  # fmt: skip
    shared = {"grid_mapping": "lambert_conformal_conic", "cell_methods": "area: mean time: sum"}
    ds = xr.Dataset(
        {
            "prcp": (dims, values(size=4, sea=True), {"long_name": "daily total precipitation", "units": "mm/day", **shared}),
            "tmax": (dims, 10 + values(size=2), {"long_name": "daily maximum temperature", "units": "degrees C", **shared}),
            "swe": (dims, values(size=9)[::-1], {"long_name": "snow water equivalent", "units": "kg/m2", **shared}),
            "yearday": ("time", np.arange(1, 7, dtype="int16"), {"long_name": "yearday", "valid_range": [1, 365]}),
            "lambert_conformal_conic": ((), np.int16(0), lcc),
            "time_bnds": (("time", "nv"), np.stack([times(), times() + pd.Timedelta("1D")], 1)),
        },
        {
            "time": ("time", times() + pd.Timedelta("12h"), {"standard_name": "time", "bounds": "time_bnds"}),
            "y": ("y", -5e5 - 1000.0 * np.arange(N), {"units": "m", "standard_name": "projection_y_coordinate"}),
            "x": ("x", 1.5e6 + 1000.0 * np.arange(N), {"units": "m", "standard_name": "projection_x_coordinate"}),
            **curved("y", "x"),
        },
    )  # fmt: skip
    return reopened(folder, ds, {"prcp": {"_FillValue": -9999.0}, "time": DAYS})


def prism(folder: Path, units: str = "") -> xr.Dataset:
    """PRISM as rasterio opens its grids: band, spatial_ref, no units."""
    field = values(size=4, sea=True)
    attrs = {"AREA_OR_POINT": "Area", "scale_factor": 1.0, "add_offset": 0.0, "_FillValue": -9999.0}
    ds = xr.Dataset(
        {"ppt": (("time", "y", "x"), field, {**attrs, **({"units": units} if units else {})})},
        {"time": times(), "y": ("y", 49.9 - N * np.arange(N) / 288), "x": ("x", -125 + N * np.arange(N) / 288),
         "band": 1, "spatial_ref": ((), 0, {"crs_wkt": 'GEOGCS["NAD83"]', "grid_mapping_name": "latitude_longitude"})},
    )  # fmt: skip
    ds.ppt.attrs["grid_mapping"] = "spatial_ref"
    return ds


# --- radar -------------------------------------------------------------------------------------


def mrms(folder: Path, *, masked: bool = False) -> xr.Dataset:
    """MRMS by cfgrib: latitudes falling, longitudes 0..360, -3 outside the coverage."""
    field = values(size=1.0)
    field[:, 0, :4] = -3
    attrs = {
        "units": "mm h**-1",
        "long_name": "Precipitation rate",
        "standard_name": "unknown",
        "GRIB_missingValue": -999.0,
    }
    coords = {
        "time": times(6, "2min"),
        "latitude": lat("latitude", 54.995, -0.01),
        "longitude": lon("longitude", 230.005, 0.01),
    }
    ds = reopened(
        folder,
        xr.Dataset({"PrecipRate": (("time", "latitude", "longitude"), field, attrs)}, coords),
    )
    return ds.assign(PrecipRate=ds.PrecipRate.where(ds.PrecipRate >= 0)) if masked else ds


def radklim(folder: Path, freq: str = "h") -> xr.Dataset:
    """RADKLIM of the German weather service: kilometres, polar stereographic, 2-D latitudes."""
    attrs = {
        "units": "kg m-2",
        "standard_name": "rainfall_amount",
        "long_name": "rainfall_amount",
        "grid_mapping": "crs",
    }
    ds = xr.Dataset(
        {"rainfall_amount": (("time", "y", "x"), values(size=0.3, sea=True), attrs),
         "crs": ((), np.int32(0), {"grid_mapping_name": "polar_stereographic", "straight_vertical_longitude_from_pole": 10.0})},
        {"time": times(6, freq) + pd.Timedelta("50min"),
         "y": ("y", -4600.0 + np.arange(N), {"units": "km", "standard_name": "projection_y_coordinate", "axis": "Y"}),
         "x": ("x", -400.0 + np.arange(N), {"units": "km", "standard_name": "projection_x_coordinate", "axis": "X"}), **curved("y", "x")},
    )  # fmt: skip
    packing = {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -32768}
    return reopened(folder, ds, {"rainfall_amount": packing})


def stage4(folder: Path) -> xr.Dataset:
    """Stage IV by cfgrib: polar stereographic without coordinates, 2-D latitude 0..360."""
    attrs = {
        "units": "kg m**-2",
        "long_name": "Total precipitation",
        "standard_name": "unknown",
        "GRIB_gridType": "polar_stereographic",
    }
    where = curved("y", "x")
    ds = xr.Dataset(
        {"tp": (("time", "y", "x"), values(size=1.0, sea=True), attrs)},
        {"time": times(6, "h"), "step": np.timedelta64(1, "h"), "surface": 0.0, "latitude": where["lat"], "longitude": where["lon"] + 250},
    )  # fmt: skip
    return reopened(folder, ds)


def odim(folder: Path, *, decoded: bool = False) -> xr.Dataset:
    """OPERA composites (ODIM): HDF5 without dims, gain and offset in attributes of groups."""
    counts = np.minimum(values(N, N, size=20), 200).astype("uint8")
    counts[0, :3] = 255
    what = {"quantity": "RATE", "gain": 0.1, "offset": 0.0, "nodata": 255.0, "undetect": 0.0}
    data = xr.Dataset({"data": (("phony_dim_0", "phony_dim_1"), counts)})
    ds = with_groups(
        folder,
        {"/dataset1/data1": data, "/dataset1/data1/what": xr.Dataset(attrs=what)},
        "dataset1/data1",
    )
    if decoded:
        what = xr.open_dataset(
            folder / "file.h5", group="dataset1/data1/what", engine="netcdf4"
        ).attrs
        field = ds.data.where(ds.data != what["nodata"]) * what["gain"] + what["offset"]
        field = xr.concat([field] * 6, xr.Variable("time", times(6, "15min"))).rename(
            phony_dim_0="y", phony_dim_1="x"
        )
        ds = field.assign_attrs(units="mm h-1").rename("RATE").to_dataset()
    return ds


def knmi(folder: Path, *, decoded: bool = False) -> xr.Dataset:
    """KNMI composites: counts of 0.01 mm, 65535 outside the image, the formula in a group."""
    counts = np.minimum(values(N, N, size=40), 6000).astype("uint16")
    counts[0, :3] = 65535
    calibration = {
        "calibration_formulas": "GEO=0.010000*PV+0.000000",
        "calibration_out_of_image": 65535,
    }
    data = xr.Dataset({"image_data": (("phony_dim_0", "phony_dim_1"), counts)})
    ds = with_groups(
        folder, {"/image1": data, "/image1/calibration": xr.Dataset(attrs=calibration)}, "image1"
    )
    field = xr.concat([ds.image_data] * 6, xr.Variable("time", times(6, "5min")))
    field = field.rename(phony_dim_0="y", phony_dim_1="x").assign_attrs(
        units="0.01 mm", long_name="rain"
    )
    if decoded:
        field = (field.where(field != 65535) * 0.01).assign_attrs(units="mm", long_name="rain")
    return field.to_dataset(name="rain")


FORMATS = [
    case("ERA5", era5, right(target="tp", dims=("valid_time", "latitude", "longitude"), units="m", daily=False, roles={"t2m": "aligned"})),
    case("ERA5, named", era5, right(target="tp", roles={"t2m": "aligned"}, valid=1.0, wet=1e-4), target="tp"),
    case("ERA5, expver", era5_expver, refused("tp", "expver", "combine|fillna|max|sum"), target="tp"),
    case("ERA5, members", era5_number, refused("tp", "number", "isel|stack"), target="tp"),
    case("CMIP6", cmip6, right(target="pr", daily=True, roles={"tas": "aligned"}, valid=1.0, wet=1 / 86400)),
    case("CORDEX", cordex, right(target="pr", dims=("time", "rlat", "rlon"), daily=True, roles={"tas": "aligned"})),
    case("WRF", wrf, refused("RAINNC", "RAINC", "target=")),
    case("WRF, accumulated", wrf, either(warned("RAINNC", "accumul", "diff"), refused("RAINNC", "accumul", "diff")), target="RAINNC", conditions=["T2"]),
    case("WRF, amounts", lambda folder: wrf(folder, amounts=True), right(dims=("Time", "south_north", "west_east"), roles={"T2": "aligned"}),
         target="RAINNC", conditions=["T2"]),
    case("UKCP18, OSGB", ukcp18, refused("pr", "ensemble_member", "isel"), target="pr", coarsen=4),
    case("UKCP18, not named", ukcp18, refused("pr", "ensemble_member", "isel"), coarsen=4),
    case("UKCP18, OSGB, one member", lambda folder: ukcp18(folder).isel(ensemble_member=0),
         right(dims=("time", "projection_y_coordinate", "projection_x_coordinate"), daily=True), coarsen=4),
    case("UKCP18, rotated, one member", lambda folder: ukcp18(folder, "rotated").isel(ensemble_member=0),
         right(dims=("time", "grid_latitude", "grid_longitude"), daily=True), coarsen=4),
    case("MERRA-2", merra2, right(target="PRECTOTCORR", daily=False, wet=0.1 / 3600), coarsen=4),
    case("E-OBS", e_obs, right(target="rr", daily=True, units="mm", wet=1.0, valid=1 - 6 / 144), coarsen=4),
    case("E-OBS, temperature", e_obs, refused("tg", "36 of 864", "fill|mask")),
    case("CHIRPS", chirps, right(target="precip", daily=True, valid=1 - 6 / 144), coarsen=4),
    case("CPC", cpc, right(target="precip", daily=True, valid=1 - 6 / 144), coarsen=4),
    case("MSWEP", mswep, refused("precipitation", r"mm/\(3 h\)"), target="precipitation", coarsen=4),
    case("IMERG V07", imerg, right(target="precipitation", dims=("time", "lat", "lon"), daily=False, units="mm/hr"), target="precipitation", coarsen=4),
    case("IMERG V07, conditions by default", imerg, either(refused("randomError|conditions"), warned("randomError")), target="precipitation"),
    case("Daymet V4", daymet, right(target="prcp", dims=("time", "y", "x"), daily=True, valid=1 - 6 / 144, roles={"tmax": "aligned", "swe": "aligned"}, rain=set())),
    case("PRISM", prism, refused("ppt", "units"), target="ppt", coarsen=4),
    case("PRISM, with units", lambda folder: prism(folder, "mm"), either(right(target="ppt", daily=True), refused("ppt", "scale_factor|_FillValue")), coarsen=4),
    case("MRMS", mrms, refused("PrecipRate", "24 of 864 negative", "latitude=54.995"), target="PrecipRate", coarsen=4),
    case("MRMS, masked", lambda folder: mrms(folder, masked=True), right(target="PrecipRate", daily=False, valid=1 - 4 / 144), target="PrecipRate", coarsen=4),
    case("RADKLIM RW", radklim, right(target="rainfall_amount", daily=False, wet=0.1, valid=1 - 6 / 144), coarsen=4),
    case("RADKLIM YW", lambda folder: radklim(folder, "5min"), right(target="rainfall_amount", wet=0.1 / 12), coarsen=4),
    case("Stage IV", stage4, right(target="tp", dims=("time", "y", "x"), valid=1 - 6 / 144), coarsen=4),
    case("Stage IV, named", stage4, right(target="tp", dims=("time", "y", "x"), wet=0.1), target="tp", coarsen=4),
    case("OPERA ODIM", odim, refused("data", "units"), target="data", coarsen=4),
    case("OPERA ODIM, decoded", lambda folder: odim(folder, decoded=True), right(target="RATE", valid=1 - 3 / 144), target="RATE", coarsen=4),
    case("KNMI, counts", knmi, refused("rain", "18 of 864", "65535|fill"), target="rain", coarsen=4),
    case("KNMI, decoded", lambda folder: knmi(folder, decoded=True), right(target="rain", valid=1 - 3 / 144, wet=0.1 / 12), target="rain", coarsen=4),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), FORMATS)
def test_files_as_their_makers_write_them(
    tmp_path: Path,
    make: Callable[[Path], xr.Dataset],
    answer: Answer | AnyOf,
    options: dict[str, Any],
) -> None:
    with make(tmp_path) as ds:
        answer.check(lambda: admit(ds, **options))


def test_the_remedy_for_expver_keeps_all_samples(tmp_path: Path) -> None:
    with era5_expver(tmp_path) as ds:
        with pytest.raises(XcvaeError) as caught:
            admit(ds, target="tp")
        remedy = str(caught.value).rpartition("Combine them: ")[2].rstrip(".")
        facts = admit(eval(remedy, {"ds": ds}), target="tp", coarsen=4)
        assert facts["valid"] == 1.0
        first, second = ds.tp.transpose("expver", ...).values
        np.testing.assert_allclose(facts["ready"].tp, np.where(np.isnan(first), second, first))


def test_values_are_those_of_the_file(tmp_path: Path) -> None:
    with e_obs(tmp_path) as ds:
        facts = admit(ds, target="rr", coarsen=4)
    written = np.round(values(size=4, sea=True), 1)
    np.testing.assert_allclose(facts["ready"].rr, written, atol=1e-5)

"""Names and units of rain in CF, of ECMWF and NCEP GRIB, of CMIP, and of usual files."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.fields.cf import is_rain


def variable(name: str, units: str, **attrs: str) -> xr.DataArray:
    return xr.DataArray(np.ones((2, 3, 4)), name=name, attrs={"units": units, **attrs})


#: standard_name of CF -> units, whether it is rain.
CF = {
    "precipitation_flux": ("kg m-2 s-1", True),
    "precipitation_amount": ("kg m-2", True),
    "lwe_precipitation_rate": ("m s-1", True),
    "lwe_thickness_of_precipitation_amount": ("m", True),
    "thickness_of_rainfall_amount": ("m", True),
    "rainfall_flux": ("kg m-2 s-1", True),
    "rainfall_rate": ("m s-1", True),
    "rainfall_amount": ("kg m-2", True),
    "convective_precipitation_flux": ("kg m-2 s-1", True),
    "convective_precipitation_amount": ("kg m-2", True),
    "stratiform_precipitation_flux": ("kg m-2 s-1", True),
    "large_scale_precipitation_amount": ("kg m-2", True),
    "lwe_convective_precipitation_rate": ("m s-1", True),
    "lwe_stratiform_precipitation_rate": ("m s-1", True),
    "snowfall_flux": ("kg m-2 s-1", True),
    "snowfall_amount": ("kg m-2", True),
    "solid_precipitation_flux": ("kg m-2 s-1", True),
    "integral_wrt_time_of_precipitation_flux": ("kg m-2", True),
    "atmosphere_mass_content_of_water_vapor": ("kg m-2", False),
    "atmosphere_mass_content_of_cloud_liquid_water": ("kg m-2", False),
    "atmosphere_mass_content_of_rain": ("kg m-2", False),
    "lwe_thickness_of_atmosphere_mass_content_of_water_vapor": ("m", False),
    "water_evapotranspiration_flux": ("kg m-2 s-1", False),
    "water_evaporation_amount": ("kg m-2", False),
    "water_potential_evaporation_flux": ("kg m-2 s-1", False),
    "surface_snow_amount": ("kg m-2", False),
    "lwe_thickness_of_surface_snow_amount": ("m", False),
    "surface_snow_thickness": ("m", False),
    "runoff_flux": ("kg m-2 s-1", False),
    "surface_runoff_amount": ("kg m-2", False),
    "soil_moisture_content": ("kg m-2", False),
    "mass_content_of_water_in_soil": ("kg m-2", False),
    "surface_altitude": ("m", False),
    "geopotential_height": ("m", False),
    "wind_speed": ("m s-1", False),
    "eastward_wind": ("m s-1", False),
    "water_volume_transport_in_river_channel": ("m3 s-1", False),
    "tendency_of_atmosphere_mass_content_of_water_vapor": ("kg m-2 s-1", False),
    "atmosphere_boundary_layer_thickness": ("m", False),
}


@pytest.mark.parametrize("name", CF)
def test_standard_names_of_cf(name: str) -> None:
    units, expected = CF[name]
    assert is_rain(variable("v", units, standard_name=name)) is expected


#: Short name, long name, units and whether it is rain, as cfgrib reads GRIB of ECMWF and NCEP.
GRIB = [
    ("tp", "Total precipitation", "m", True),
    ("cp", "Convective precipitation", "m", True),
    ("lsp", "Large-scale precipitation", "m", True),
    ("sf", "Snowfall", "m of water equivalent", True),
    ("crr", "Convective rain rate", "kg m**-2 s**-1", True),
    ("lsrr", "Large scale rain rate", "kg m**-2 s**-1", True),
    ("mtpr", "Mean total precipitation rate", "kg m**-2 s**-1", True),
    ("tprate", "Total precipitation rate", "kg m**-2 s**-1", True),
    ("avg_tprate", "Time-mean total precipitation rate", "kg m**-2 s**-1", True),
    ("mxtpr", "Maximum total precipitation rate since previous post-processing", "kg m**-2 s**-1", True),
    ("prate", "Precipitation rate", "kg m**-2 s**-1", True),
    ("acpcp", "Convective precipitation (water)", "kg m**-2", True),
    ("apcp", "Total Precipitation", "kg m**-2", True),
    ("unknown", "Total precipitation", "kg m-2", True),
    ("pwat", "Precipitable water", "kg m**-2", False),
    ("tcrw", "Total column rain water", "kg m**-2", False),
    ("tcsw", "Total column snow water", "kg m**-2", False),
    ("tcwv", "Total column vertically-integrated water vapour", "kg m**-2", False),
    ("tcw", "Total column water", "kg m**-2", False),
    ("tclw", "Total column cloud liquid water", "kg m**-2", False),
    ("e", "Evaporation", "m of water equivalent", False),
    ("pev", "Potential evaporation", "m", False),
    ("ro", "Runoff", "m", False),
    ("sd", "Snow depth", "m of water equivalent", False),
    ("sde", "Snow depth", "m", False),
    ("z", "Geopotential height", "m", False),
    ("blh", "Boundary layer height", "m", False),
    ("cbh", "Cloud base height", "m", False),
    ("deg0l", "0 degrees C isothermal level (atm)", "m", False),
    ("fsr", "Forecast surface roughness", "m", False),
    ("swvl", "Volumetric soil water", "m**3 m**-3", False),
    ("viwvd", "Vertical integral of divergence of moisture flux", "kg m**-2 s**-1", False),
    ("ptype", "Precipitation type", "(Code table 4.201)", False),
    ("10fg", "Maximum 10 metre wind gust", "m s**-1", False),
]  # fmt: skip


@pytest.mark.parametrize(
    "standard", ["", "unknown"], ids=["no standard_name", "standard_name unknown"]
)
@pytest.mark.parametrize("row", GRIB, ids=[row[0] for row in GRIB])
def test_names_of_grib(row, standard: str) -> None:
    name, long_name, units, expected = row
    attrs = {"standard_name": standard} if standard else {}
    assert is_rain(variable(name, units, long_name=long_name, **attrs)) is expected


#: Name, units, long name, whether it is rain, as seen in files of many makers.
USUAL = [
    ("pr", "mm/day", "", True),
    ("pr", "kg m-2 s-1", "Precipitation", True),
    ("prc", "kg m-2 s-1", "Convective Precipitation", True),
    ("prsn", "kg m-2 s-1", "Snowfall Flux", True),
    ("rr", "mm", "rainfall", True),
    ("RR", "mm", "", True),
    ("rx", "mm", "", True),
    ("precip", "mm/day", "Climate Hazards group InfraRed Precipitation with Stations", True),
    ("precipitation", "mm/hr", "", True),
    ("precipitationCal", "mm/hr", "", True),
    ("prcp", "mm/day", "daily total precipitation", True),
    ("ppt", "mm", "", True),
    ("RAINNC", "mm", "ACCUMULATED TOTAL GRID SCALE PRECIPITATION", True),
    ("RAINC", "mm", "ACCUMULATED TOTAL CUMULUS PRECIPITATION", True),
    ("rainfall_amount", "mm", "", True),
    ("TOT_PREC", "kg m-2", "total precipitation amount", True),
    ("tot_prec", "kg m-2", "", True),
    ("P", "mm", "", False),
    ("R", "mm", "", False),
    ("QPE", "mm", "", True),
    ("image1_image_data", "mm", "", False),
    ("distance", "km", "distance to the nearest rain gauge", False),
    ("gauge_height", "m", "height of the rain gauge above ground", False),
    ("tcwv", "kg m-2", "Total column water vapour", False),
    ("prw", "kg m-2", "Water Vapor Path", False),
    ("pwat", "kg m-2", "precipitable water", False),
    ("qr", "kg kg-1", "rain water mixing ratio", False),
    ("rain_flag", "1", "rain flag", False),
    ("elevation", "m", "height of terrain", False),
    ("rain_top", "km", "height of the rain top", False),
    ("evspsbl", "kg m-2 s-1", "Evaporation Including Sublimation and Transpiration", False),
    ("mrro", "kg m-2 s-1", "Total Runoff", False),
    ("pet", "mm/day", "potential evapotranspiration", False),
    ("snd", "m", "Snow Depth", False),
    ("swe", "mm", "snow water equivalent", False),
    ("drainage", "mm", "drainage below the root zone", False),
    ("rain_days", "days", "number of rain days", False),
    ("terrain", "m", "terrain height", False),
    ("speed", "m s-1", "fall speed of rain drops", False),
    ("visibility", "m", "visibility in rain", False),
    ("interception", "mm", "rain intercepted by the canopy", False),
    ("constraint", "m", "constraint of the training", False),
    ("PRECT", "m s-1", "Total precipitation rate", True),
    ("MWprecipitation", "mm/hr", "", True),
    ("MultiSensor_QPE_01H", "mm", "", True),
    ("rain_drop", "mm", "diameter of rain drops", False),
    ("vir", "kg m-2", "vertically integrated rain", False),
    ("pr", "km", "", False),
    ("pr", "km h-1", "", False),
    ("pr", "knots", "", False),
]


@pytest.mark.parametrize(
    ("name", "units", "long_name", "expected"),
    USUAL,
    ids=[f"{row[0]} {row[1]}" for row in USUAL],
)
def test_names_of_files(name: str, units: str, long_name: str, expected: bool) -> None:
    attrs = {"long_name": long_name} if long_name else {}
    assert is_rain(variable(name, units, **attrs)) is expected

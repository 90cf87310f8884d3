"""Write the files of the page "Packed daily rain to scenarios": weather that was drawn by chance.

    python docs/data/make_island.py FOLDER [--years 6]

``rain.nc`` has daily sums over an island, packed into 16 bits, at noon, NaN over the sea.
``predictors.nc`` has pressure and temperature of a coarse model every 6 hours, for one more year.
Rain falls where lows pass; it is heavier on the mountain and when it is warm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import xarray as xr

FIRST = np.datetime64("2001-01-01")


def make(folder: Path, years: int = 6) -> None:
    rng = np.random.default_rng(0)
    end = FIRST.astype("M8[Y]") + years
    hours = np.arange(FIRST, (end + 1).astype("M8[D]"), np.timedelta64(6, "h")).astype("M8[ns]")
    lat, lon = 46 - 2.5 * np.arange(6), -5 + 2.5 * np.arange(7)
    # Positions and depths of lows, smooth in time.
    window = np.hanning(18) / np.linalg.norm(np.hanning(18))
    walk = rng.normal(size=(3, hours.size + 17))
    east, north, depth = (np.convolve(w, window, "valid") for w in walk)
    season = np.cos(2 * np.pi * ((hours - hours[0]) / np.timedelta64(1, "D") - 20) / 365.25)
    distance = np.hypot(
        (lat[None, :, None] - 40 - 4 * north[:, None, None]) / 5,
        (lon[None, None, :] - 3 - 6 * east[:, None, None]) / 8,
    )
    psl = 101_500 - 1_200 * (1 + depth + 0.5 * season)[:, None, None] * np.exp(-(distance**2))
    t850 = 281 - 7 * season[:, None, None] - 0.5 * (lat[None, :, None] - 40) + 0 * lon
    t850 = t850 + 2 * north[:, None, None]
    grid = {"time": hours, "lat": lat, "lon": lon}
    dims = ("time", "lat", "lon")
    xr.Dataset(
        {
            "psl": (dims, psl.astype("f4"), {"units": "Pa", "cell_methods": "time: point"}),
            "t850": (dims, t850.astype("f4"), {"units": "K", "cell_methods": "time: point"}),
        },
        grid,
    ).to_netcdf(folder / "predictors.nc", engine="scipy")

    days = (end.astype("M8[D]") - FIRST).astype(int)
    low = (1 + depth + 0.5 * season)[: 4 * days].reshape(-1, 4).mean(1)
    near = np.exp(-((np.hypot(east, 0.7 * north)[: 4 * days].reshape(-1, 4).mean(1)) ** 2))
    fine = {"lat": 39.0 + 0.05 * np.arange(24)[::-1], "lon": 2.0 + 0.05 * np.arange(32)}
    y, x = (fine["lat"] - 39.6) / 0.35, (fine["lon"] - 2.8) / 0.6
    radius = np.hypot(y[:, None], x[None, :])
    noise = rng.normal(size=(days, 24 + 8, 32 + 8))
    window = np.hanning(11)[1:-1]
    for axis in (1, 2):
        noise = np.apply_along_axis(np.convolve, axis, noise, window / 2.4, "same")
    cells = noise[:, 4:-4, 4:-4]
    mountain = 0.6 * np.exp(-((radius * 1.6) ** 2))
    level = 1.6 * low * near - 1.3
    rain = np.maximum(level[:, None, None] + mountain + 0.9 * cells, 0) ** 2 * 5  # mm
    rain[:, radius > 1] = np.nan
    noon = (FIRST + np.arange(days)).astype("M8[ns]") + np.timedelta64(12, "h")
    packing = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": np.int16(-32768)}
    attrs = {
        "standard_name": "lwe_thickness_of_precipitation_amount",
        "units": "mm",
        "cell_methods": "time: sum",
    }
    xr.Dataset({"pr": (dims, rain.astype("f4"), attrs)}, {"time": noon, **fine}).to_netcdf(
        folder / "rain.nc", engine="scipy", encoding={"pr": packing}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--years", type=int, default=6)
    options = parser.parse_args()
    make(options.folder, options.years)

"""Small Datasets in the shapes that users have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr

DatasetMaker = Callable[..., xr.Dataset]


@pytest.fixture
def make_radar() -> DatasetMaker:
    """Hourly rain on a 1 km grid with a condition of block means, both with coordinates."""

    def make(ny: int = 24, nx: int = 36, *, factor: int = 12, samples: int = 5) -> xr.Dataset:
        rng = np.random.default_rng(0)
        rain = rng.gamma(0.3, 4.0, (samples, ny, nx)).astype(np.float32)
        pr = xr.DataArray(
            rain,
            dims=("time", "y", "x"),
            coords={
                "time": pd.date_range("2018-05-10", periods=samples, freq="h"),
                "y": ("y", np.arange(ny)[::-1] + 0.5, {"units": "km", "axis": "Y"}),
                "x": ("x", np.arange(nx) + 0.5, {"units": "km", "axis": "X"}),
            },
            attrs={"units": "mm h-1", "standard_name": "lwe_precipitation_rate"},
        )
        coarse = pr.coarsen(y=factor, x=factor, boundary="pad").mean()
        return xr.Dataset({"pr": pr, "pr_coarse": coarse.rename(y="y_coarse", x="x_coarse")})

    return make


@pytest.fixture
def islands() -> xr.Dataset:
    """Daily rain over islands in metres, NaN at sea; pressure over a continent in degrees."""
    rng = np.random.default_rng(1)
    rain = rng.gamma(0.5, 5.0, (6, 35, 53)).astype(np.float32)
    rain[:, :12, :24] = np.nan
    return xr.Dataset(
        {
            "pr": (("time", "y", "x"), rain, {"units": "mm d-1"}),
            "mslp": (("time", "lat", "lon"), rng.normal(1e5, 800, (6, 11, 13)), {"units": "Pa"}),
            "z500": (
                ("time", "lat", "lon"),
                rng.normal(5e4, 900, (6, 11, 13)),
                {"units": "m**2 s**-2"},
            ),
        },
        coords={
            "time": pd.date_range("2000-01-01", periods=6),
            "y": ("y", 4_458_822.0 - 5000 * np.arange(35), {"units": "m"}),
            "x": ("x", 865_672.0 + 5000 * np.arange(53), {"units": "m"}),
            "lat": np.linspace(55, 30, 11),
            "lon": np.linspace(-15, 15, 13),
        },
    )

"""Small rain fields with dry pixels, wet pixels and a grid whose sides are odd."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr

from xcvae.metrics.metric import Metric
from xcvae.registry import registry

DIMS = ("realization", "time", "y", "x")


def rain(shape: tuple[int, ...], seed: int, *, wet: float = 0.4) -> np.ndarray:
    """Independent amounts, most of them zero, in float32 as stores have them."""
    random = np.random.default_rng(seed)
    amounts = random.gamma(0.7, 3.0, shape) + 0.1
    return np.where(random.random(shape) < wet, amounts, 0.0).astype("float32")


def labelled(values: np.ndarray, units: str = "mm h-1", step: str = "1h") -> xr.DataArray:
    """Name the dimensions of (realization, time, y, x) or (time, y, x)."""
    dims = DIMS[-values.ndim :]
    sizes = dict(zip(dims, values.shape, strict=True))
    times = np.datetime64("2020-05-01T00", "ns") + np.arange(sizes["time"]) * np.timedelta64(
        int(step[:-1]), step[-1]
    )
    coords = {"time": times, "y": np.arange(sizes["y"]) * 1.0, "x": np.arange(sizes["x"]) * 1.0}
    return xr.DataArray(values, dims=dims, coords=coords, name="pr", attrs={"units": units})


def short_metric(name: str) -> Metric:
    """Build a metric of the core for the six samples of these fields."""
    description = {"name": name, "samples": 4} if name == "temporal_spectrum" else name
    return registry().build("metric", description)


def valid_samples(
    forecast: xr.DataArray, observed: xr.DataArray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield observation, members and valid pixels of each sample."""
    for i in range(observed.sizes["time"]):
        truth, members = observed[i].values, forecast[:, i].values
        yield truth, members, np.isfinite(truth) & np.isfinite(members).all(axis=0)


@pytest.fixture
def observed() -> xr.DataArray:
    return labelled(rain((6, 13, 11), seed=1))


@pytest.fixture
def forecast() -> xr.DataArray:
    return labelled(rain((5, 6, 13, 11), seed=2))


@pytest.fixture
def masked(forecast: xr.DataArray, observed: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The same pair with missing pixels in the observation, and others in one member."""
    observed = observed.copy()
    observed[:, :4, :3] = np.nan
    forecast = forecast.copy()
    forecast[2, 1, 7, :] = np.nan
    return forecast, observed

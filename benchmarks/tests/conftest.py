"""The bundled radar, and a small record on disk, for the tests of benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import xarray as xr

from benchmarks.harness.radar import open_radar


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def radar() -> xr.Dataset:
    """The bundled record, in memory."""
    return open_radar()


@pytest.fixture(scope="session")
def test_radar() -> xr.Dataset:
    """Ten frames of the test days, spread over them."""
    return open_radar(2).isel(time=slice(None, None, 10))


@pytest.fixture(scope="module")
def record(radar: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of some frames of the bundled radar, on disk."""
    place = tmp_path_factory.mktemp("record") / "corner.zarr"
    few = radar[["pr"]].isel(time=slice(None, None, 8), y=slice(48, 96), x=slice(48, 84))
    few.drop_encoding().to_zarr(place, consolidated=False)
    return place

"""A record of one's own, as the benchmarks take it."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr


@pytest.fixture(scope="module")
def record(radar: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of some frames of the bundled radar."""
    place = tmp_path_factory.mktemp("record") / "corner.zarr"
    few = radar[["pr"]].isel(time=slice(None, None, 8), y=slice(48, 96), x=slice(48, 84))
    few.drop_encoding().to_zarr(place, consolidated=False)
    return place

"""Models that were trained for one step, for situations behind a training."""

from __future__ import annotations

import pytest
import xarray as xr

import xcvae
from xcvae.generator.model import Model

from .makers import SMALLEST, STEP, rain


def trained(ds: xr.Dataset, **options: object) -> Model:
    """Train the smallest network for one step."""
    return xcvae.train(ds, generator=SMALLEST, fit=STEP, device="cpu", progress=False, **options)


@pytest.fixture(scope="session")
def daily() -> xr.Dataset:
    """Six days of rain on 12 x 12 pixels without coordinates."""
    return rain().to_dataset()


@pytest.fixture(scope="session")
def model(daily: xr.Dataset) -> Model:
    return trained(daily, coarsen=4)

"""Data that figures and reports share, and a check of figures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure


@pytest.fixture(scope="session")
def storms(radar: xr.Dataset) -> xr.Dataset:
    """Six frames, the third of them with the most rain."""
    part = radar.isel(time=slice(400, 406)).copy(deep=True)
    part["pr"] = part.pr.where(part.pr.notnull(), 0.0)
    part["pr"][2] = part.pr[2] + 3.0
    return part


@pytest.fixture
def card() -> xr.Dataset:
    def score(values: list[float], better: object, units: str = "1") -> tuple[str, list, dict]:
        return "source", values, {"units": units, "better": better, "long_name": "a score"}

    return xr.Dataset(
        {
            "crps": score([0.2, 0.3], "lower", "mm h-1"),
            "crps_low": score([0.15, 0.25], "lower", "mm h-1"),
            "crps_high": score([0.25, 0.35], "lower", "mm h-1"),
            "spread_skill": score([0.9, 0.0], 1.0),
            "crps_skill": score([0.33, 0.0], "higher"),
            "spectral_distance": score([4.0, 14.0], "lower", "dB"),
            "wet_fraction": score([0.29, 0.45], "wet_fraction_observed"),
            "wet_fraction_observed": score([0.30, 0.30], "wet_fraction_observed"),
            "mass_bias": score([-1e-12, np.nan], 0.0),
        },
        coords={"source": ["xcvae", "bilinear"]},
    )


@pytest.fixture(scope="session")
def assert_uncut() -> Callable[[Figure], None]:
    """Return a function that fails if part of a figure lies outside the paper."""

    def check(figure: Figure) -> None:
        figure.canvas.draw()
        drawn, paper = figure.get_tightbbox(), figure.bbox_inches
        assert drawn.x0 >= paper.x0 - 0.01
        assert drawn.y0 >= paper.y0 - 0.01
        assert drawn.x1 <= paper.x1 + 0.01
        assert drawn.y1 <= paper.y1 + 0.01

    return check

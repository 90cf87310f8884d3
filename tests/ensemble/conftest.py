"""A real model, small and trained for seconds, and the storms it was trained on."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from xcvae import tutorial
from xcvae.generator.training.train import train

READER = """
import sys

class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("xcvae", "torch"):
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Blocked())
import intake
opened = intake.open_catalog(sys.argv[1])[sys.argv[2]].read()
assert opened.pr.chunks is not None, "not lazy"
assert "xcvae" not in sys.modules and "torch" not in sys.modules
print(float(opened.pr.astype("float64").sum()), opened.pr.attrs["units"], sep="|")
"""


@pytest.fixture(scope="session")
def storms() -> xr.Dataset:
    """30 wet frames of 48 x 36 km, in memory, target only."""
    ds = tutorial.open_dataset("radklim")
    part = ds.drop_dims(["y_coarse", "x_coarse"]).isel(y=slice(48, 96), x=slice(48, 84)).load()
    wet = (part.pr > 0.1).mean(("y", "x")) > 0.3
    return part.isel(time=np.flatnonzero(wet)[::3][:30])


@pytest.fixture(scope="session")
def model(storms, tmp_path_factory):
    """Four levels, enough training for posterior and prior to differ."""
    return train(
        storms,
        target="pr",
        coarsen=12,
        fit={"max_steps": 150, "batch_size": 4, "crop": 24, "validations": 1},
        generator={"channels": [24, 24, 16, 12], "latents": [4, 4, 2, 1]},
        device="cpu",
        path=tmp_path_factory.mktemp("model") / "tiny.xcvae",
        progress=False,
    )


@pytest.fixture(scope="session")
def few(storms) -> xr.Dataset:
    """Six storms, for tests that draw a lot."""
    return storms.isel(time=slice(0, 30, 5))


@pytest.fixture
def read_elsewhere(tmp_path):
    """Open a catalog entry with plain intake where xcvae and torch cannot be imported."""

    def read(catalog, name) -> tuple[float, str]:
        done = subprocess.run(
            [sys.executable, "-W", "error::UserWarning", "-c", READER, str(catalog), name],
            capture_output=True, text=True, check=False, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        total, units = done.stdout.strip().split("|")
        return float(total), units

    return read

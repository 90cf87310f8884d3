"""Post-processors that fail on purpose, for tests of what a failure leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from xcvae.ensemble.postprocess import Context
from xcvae.registry import Component


@dataclass(frozen=True)
class Fuse(Component):
    """A post-processor that fails on one storm for as long as a file exists."""

    storm: str
    file: str

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        here = np.datetime64(self.storm) in field["time"].values
        if here and field.values.any() and Path(self.file).exists():
            raise RuntimeError("the fuse blew")
        return field

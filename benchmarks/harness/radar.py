"""The bundled radar as the input of benchmarks: any size, any number of frames, any resolution."""

from __future__ import annotations

import numpy as np
import xarray as xr

import xcvae

__all__ = ["open_radar", "rescaled_rain", "resized_radar"]


def open_radar(split: int | None = None) -> xr.Dataset:
    """Read the bundled radar into memory: all frames, or those of a split."""
    ds = xcvae.tutorial.open_dataset("radklim")
    if split is not None:
        ds = ds.isel(time=(ds.split == split).values)
    return ds.drop_encoding().load()


def resized_radar(size: tuple[int, int], samples: int = 8) -> xr.Dataset:
    """Return frames of the bundled radar, repeated or cut to a size and a number."""
    ds = open_radar().drop_vars("split")
    count = ds.sizes["time"]
    rows, columns = (np.resize(np.arange(n), s) for n, s in zip((156, 132), size, strict=True))
    whole = ds.isel(time=np.resize(np.arange(count), samples), y=rows, x=columns)
    edges = {"y": np.arange(size[0]) * 1.0, "x": np.arange(size[1]) * 1.0}
    coarse = {f"{d}_coarse": np.linspace(0, n - 1, ds.sizes[f"{d}_coarse"]) for d, n in
              zip("yx", size, strict=True)}  # fmt: skip
    times = ds.time.values[0] + np.arange(samples) * np.timedelta64(5, "m")
    return whole.assign_coords(
        {d: (d, values, {"units": "km"}) for d, values in (edges | coarse).items()}
    ).assign_coords(time=times)


def rescaled_rain(rain: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiply rain, so that it is not a multiple of its resolution; below 0.1 mm h-1 is dry."""
    return np.where(rain * factor < 0.1, 0.0, rain * factor).astype("float32")

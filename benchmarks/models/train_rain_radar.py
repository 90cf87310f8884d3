"""Training of the bundled model "rain-radar": one model for any factor and pixel size.

    python -m benchmarks.models.train_rain_radar TILES --output DIR [--minutes 85]

TILES is a Zarr store of radar tiles with ``pr_hr`` (sample, y, x) in mm h-1 without gaps, ``lat``
(latitude of the centre) and ``split`` along sample: 0 to train on, 1 to validate on, 2 for reports,
which this script never reads. The bundled model is of tiles of the Multi-Radar Multi-Sensor System
(MRMS) of NOAA, work of the US government:

- Download files ``PrecipRate_00.00`` (GRIB2, 0.01 degrees, every 2 minutes; here every 10 minutes
  of 2019-06-10, 00:00 to 01:10 UTC) from the archive s3://noaa-mrms-pds, or from the example data
  of pysteps (github.com/pySTEPS/pysteps-data, mrms/2019/06/10), and open them with cfgrib.
- Set the missing code -3 to NaN. Cut tiles of 128 x 128 pixels every 62 pixels, each inside one
  block of 5 x 5 degrees, and keep those without a gap and with at least 10 % of the pixels above
  0.1 mm h-1.
- Give every block of 5 x 5 degrees, at all times, to one split (about 70, 15 and 15 % of the
  tiles), so that no storm is in two of them. Row 0 is north.

A training that is interrupted continues from its checkpoint in the next call. At the end DIR has

- ``trained.xcvae``: the model with weights in single precision,
- ``rain-radar.xcvae``: the same with weights in half precision, at most 4 MB,
- ``rain-radar.json``: the data, the settings and the validation scores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

import xcvae
from benchmarks.harness.results import write_json

#: Degrees of latitude in km, on a sphere of the radius 6371 km.
KM_PER_DEGREE = 111.195
#: Factors of the block means, and sides of pixels in km.
SCALES = {"factor": [2, 16], "pixel": [1, 8]}
#: Settings that are given; all others are the defaults.
GENERATOR = {"preset": "small", "constrain": True}
FIT = {"batch_size": 8, "crop": 64, "validations": 16, "max_steps": 10**6}


def open_tiles(path: str | Path, split: int) -> xr.Dataset:
    """Read the tiles of a split, with coordinates in km that fit their mean latitude."""
    store = xr.open_zarr(path)
    chosen = np.flatnonzero(store["split"].values == split)
    rain = store["pr_hr"].isel(sample=chosen).astype(np.float32).load()
    latitude = float(store["lat"].values.mean())
    step = KM_PER_DEGREE * 0.01
    across = step * np.cos(np.radians(latitude))
    rows, columns = rain.sizes["y"], rain.sizes["x"]
    coords = {
        "sample": chosen,
        "y": ("y", step * np.arange(rows)[::-1], {"units": "km", "axis": "Y"}),
        "x": ("x", across * np.arange(columns), {"units": "km", "axis": "X"}),
    }
    attrs = {"units": "mm h-1", "standard_name": "lwe_precipitation_rate"}
    field = xr.DataArray(rain.values, dims=("sample", "y", "x"), coords=coords, attrs=attrs)
    return field.to_dataset(name="pr")


def trained(tiles: str, output: Path, minutes: float) -> xcvae.Model:
    """Train the model, continue an interrupted training, or read the trained model."""
    path = output / "trained.xcvae"
    if path.exists():
        return xcvae.load(path)
    return xcvae.train(
        open_tiles(tiles, 0),
        target="pr",
        coarsen=SCALES,
        validation=open_tiles(tiles, 1),
        generator=GENERATOR,
        fit={**FIT, "max_minutes": minutes},
        path=path,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tiles", help="Zarr store of tiles")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=85.0)
    options = parser.parse_args(argv)
    options.output.mkdir(parents=True, exist_ok=True)
    model = trained(options.tiles, options.output, options.minutes)
    small = options.output / "rain-radar.xcvae"
    if not small.exists():
        model.halved().save(small)
    rows = model.training["history"]
    write_json(
        options.output / "rain-radar.json",
        {
            "scales": SCALES,
            "generator": GENERATOR,
            "fit": {**FIT, "max_minutes": options.minutes},
            "steps": model.training["steps"],
            "temperature": model.training["temperature"],
            "validation": min(rows, key=lambda row: row["val_crps"]),
        },
    )
    print(json.dumps(model.training["dial"]))


if __name__ == "__main__":
    main()

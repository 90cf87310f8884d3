r"""Make the bundled tutorial data: two subsets of the German radar climatology RADKLIM-YW.

The source is the example file inside the PyPI wheel of pycomlink 0.6.0. Download the wheel, then
run this script; reading the file needs netCDF4 (the extra `netcdf` of xcvae)::

    pip download --no-deps pycomlink==0.6.0
    python docs/data/make_radklim.py pycomlink-0.6.0-py3-none-any.whl \
        xcvae/tutorial/data/radklim.zarr xcvae/tutorial/data/radklim-sequence.zarr

Steps for the selected frames:

1. crop 156 x 132 pixels of 1 km out of 190 x 228 and turn them north up;
2. drop frames with a missing value, and frames with rain (0.1 mm h-1 or more) on less than 5 % of
   the pixels;
3. thin them: consecutive frames are strongly correlated (the correlation of wet frames is 0.7
   after 5 minutes, 0.5 after 10, 0.3 after 20), so frames for training are at least 10 minutes
   apart, frames for validation and test 20 minutes;
4. pack the rates as counts of 0.12 mm h-1, the resolution of the source (0.01 mm in 5 minutes),
   and add the means over blocks of 12 x 12 pixels as the coarse field.

The sequence has every frame of three wet hours of a test day, with steps 1 and 4.
"""

from __future__ import annotations

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.codecs import BloscCodec

MEMBER = "pycomlink/io/example_data/example_areal_reference_data.nc"
ROWS, COLUMNS = slice(0, 156), slice(24, 156)  # multiples of 12 without missing values
BLOCK = 12  # pixels, 13 x 11 blocks
STEP = 0.12  # mm h-1, the source counts 0.01 mm in 5 minutes
WET_RATE, WET_SHARE = 0.1, 0.05  # mm h-1, share of the pixels
VALIDATION, TEST = np.datetime64("2018-05-16"), np.datetime64("2018-05-17")  # first days
SPACING = {0: 10, 1: 20, 2: 20}  # minutes between frames, by split
FRAMES_A_CHUNK = 64
SEQUENCE = slice("2018-05-17T00:00", "2018-05-17T02:55")

Axis = tuple[str, np.ndarray, dict[str, str]]  # dimension, centres, attributes

ATTRIBUTES = {
    "Conventions": "CF-1.10",
    "title": "RADKLIM-YW radar rain rate, wet frames of 10-20 May 2018, 156 x 132 km",
    "institution": "Deutscher Wetterdienst (DWD)",
    "source": (
        f"RADKLIM-YW 5-minute rainfall sums, from {MEMBER} in the PyPI wheel pycomlink 0.6.0 "
        "(https://github.com/pycomlink/pycomlink)"
    ),
    "license": (
        "Data basis: Deutscher Wetterdienst, values processed. Terms of use of DWD (GeoNutzV), "
        "CC BY 4.0. pycomlink, which distributes the source file: BSD-3-Clause"
    ),
    "processing": (
        "Cropped from 190 x 228 to 156 x 132 pixels, turned north up, 5-minute sums converted to "
        "mm h-1, frames with missing values or rain on less than 5 % of the pixels dropped, the "
        "rest thinned to 10 (train) and 20 (val, test) minutes, block means of 12 x 12 pixels added"
    ),
    "comment": "The location is not real: the source file was transformed in space.",
}
SEQUENCE_ATTRIBUTES = ATTRIBUTES | {
    "title": "RADKLIM-YW radar rain rate, 17 May 2018, 0 to 3 UTC, every 5 minutes, 156 x 132 km",
    "processing": (
        "Cropped from 190 x 228 to 156 x 132 pixels, turned north up, 5-minute sums converted to "
        "mm h-1, block means of 12 x 12 pixels added"
    ),
}
RATE = {
    "standard_name": "lwe_precipitation_rate",
    "units": "mm h-1",
}


def read_counts(wheel: Path) -> xr.DataArray:
    """Read rain as whole counts of 0.01 mm in 5 minutes, dims (time, y, x), north up."""
    with (
        tempfile.TemporaryDirectory() as folder,
        zipfile.ZipFile(wheel) as archive,
        xr.open_dataset(archive.extract(MEMBER, folder)) as source,
    ):
        rain = source["rainfall_amount"].isel(y=ROWS, x=COLUMNS).load()
    rain = rain.drop_vars(["latitudes", "longitudes"])
    rain = rain.isel(y=slice(None, None, -1))  # the source starts in the south
    rain = rain.isel(time=rain.notnull().all(["y", "x"]).values)
    return (rain * 100).round().astype("uint16")


def split_of(time: np.ndarray) -> np.ndarray:
    """Assign days to training (0), validation (1) and test (2)."""
    return ((time >= VALIDATION).astype("int8") + (time >= TEST)).astype("int8")


def choose(counts: xr.DataArray) -> np.ndarray:
    """Choose wet frames that are at least `SPACING` minutes apart within a split."""
    wet = (counts * STEP >= WET_RATE).mean(["y", "x"]).values >= WET_SHARE
    time = counts["time"].values
    chosen: list[int] = []
    for split, minutes in SPACING.items():
        last = np.datetime64("1900-01-01")
        for index in np.flatnonzero(wet & (split_of(time) == split)):
            if time[index] - last >= np.timedelta64(minutes, "m"):
                chosen.append(int(index))
                last = time[index]
    return np.array(chosen)


def axis(size: int, width: float, name: str, *, descending: bool) -> Axis:
    """Place cell centres of one axis, in km from the centre of the domain."""
    centres = (np.arange(size) - (size - 1) / 2) * width
    letter = name[0]
    attributes = {
        "standard_name": f"projection_{letter}_coordinate",
        "long_name": f"distance from the centre of the domain along {letter}",
        "units": "km",
        "axis": letter.upper(),
    }
    return name, centres[::-1] if descending else centres, attributes


def build(counts: xr.DataArray) -> xr.Dataset:
    """Return the Dataset as stored: rates as counts, attributes of the CF conventions."""
    n_y, n_x = counts.shape[1:]
    blocks = (n_y // BLOCK, n_x // BLOCK)
    coarse = counts.astype("float64").coarsen(y=BLOCK, x=BLOCK).mean().values * STEP
    time = counts["time"].values
    return xr.Dataset(
        {
            "pr": (
                ("time", "y", "x"),
                counts.values,
                RATE
                | {
                    "long_name": "rain rate",
                    "cell_methods": "time: mean (interval: 5 minutes)",
                    "scale_factor": STEP,
                },
            ),
            "pr_coarse": (
                ("time", "y_coarse", "x_coarse"),
                coarse.astype("float32"),
                RATE
                | {
                    "long_name": "rain rate, means over blocks of 12 x 12 km",
                    "cell_methods": (
                        "time: mean (interval: 5 minutes) y_coarse: x_coarse: mean (interval: 1 km)"
                    ),
                },
            ),
        },
        coords={
            "time": ("time", time, {"standard_name": "time", "long_name": "time", "axis": "T"}),
            "split": (
                "time",
                split_of(time),
                {
                    "long_name": "10-15 May / 16 May / 17-20 May 2018",
                    "flag_values": [0, 1, 2],
                    "flag_meanings": "train val test",
                },
            ),
            "y": axis(n_y, 1.0, "y", descending=True),
            "x": axis(n_x, 1.0, "x", descending=False),
            "y_coarse": axis(blocks[0], BLOCK, "y_coarse", descending=True),
            "x_coarse": axis(blocks[1], BLOCK, "x_coarse", descending=False),
        },
        attrs=ATTRIBUTES,
    )


def write(ds: xr.Dataset, path: Path) -> None:
    """Write a Zarr v3 store with few files."""
    packed = {"compressors": [BloscCodec(cname="zstd", clevel=9, shuffle="shuffle")]}
    encoding: dict[str, dict[str, Any]] = {
        "pr": packed | {"chunks": (FRAMES_A_CHUNK, *ds["pr"].shape[1:])},
        "pr_coarse": packed | {"chunks": ds["pr_coarse"].shape},
        "time": {"units": "minutes since 2018-05-10", "dtype": "int64"},
    }
    # Without a fill value readers skip the search for missing values; there are none.
    encoding |= {name: {"_FillValue": None} for name in ("y", "x", "y_coarse", "x_coarse")}
    encoding["pr_coarse"] |= {"_FillValue": None}
    ds.to_zarr(path, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def main() -> None:
    """Write the store and print its content."""
    parser = argparse.ArgumentParser(description="Make the tutorial data from pycomlink's wheel.")
    parser.add_argument("wheel", type=Path, help="pycomlink-0.6.0-py3-none-any.whl")
    parser.add_argument("store", type=Path, help="output folder ending in .zarr")
    parser.add_argument("sequence", type=Path, help="the same for the sequence")
    arguments = parser.parse_args()
    counts = read_counts(arguments.wheel)
    sequence = build(counts.sel(time=SEQUENCE)).assign_attrs(SEQUENCE_ATTRIBUTES)
    frames = build(counts.isel(time=choose(counts)))
    for ds, store in ((frames, arguments.store), (sequence, arguments.sequence)):
        write(ds, store)
        size = sum(f.stat().st_size for f in store.rglob("*") if f.is_file())
        number = np.bincount(ds["split"].values).tolist()
        print(f"{store}: {number} frames (train, val, test), {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""The bundled data matches its attributes, the docs and the demo."""

from __future__ import annotations

from pathlib import Path

import intake
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae import tutorial
from xcvae.errors import ConfigError

TRAIN, VALIDATION, TEST = 0, 1, 2
STEP = 0.12  # mm h-1, the resolution of the source


@pytest.fixture(scope="module")
def radklim() -> xr.Dataset:
    return tutorial.open_dataset("radklim").load()


def test_open_dataset_reads_values_on_first_use_without_dask() -> None:
    ds = tutorial.open_dataset("radklim")
    assert ds["pr"].chunks is None
    assert not ds["pr"].variable._in_memory


def test_radklim_has_dims_and_sizes(radklim: xr.Dataset) -> None:
    assert radklim["pr"].dims == ("time", "y", "x")
    assert radklim["pr"].shape[1:] == (156, 132)
    assert radklim["pr"].dtype == np.float32
    assert radklim["pr_coarse"].dims == ("time", "y_coarse", "x_coarse")
    assert radklim["pr_coarse"].shape[1:] == (13, 11)
    assert radklim["pr_coarse"].dtype == np.float32
    assert set(radklim.data_vars) == {"pr", "pr_coarse"}


def test_radklim_has_cf_attributes(radklim: xr.Dataset) -> None:
    for name in ("pr", "pr_coarse"):
        assert radklim[name].attrs["units"] == "mm h-1"
        assert radklim[name].attrs["standard_name"] == "lwe_precipitation_rate"
        assert radklim[name].attrs["cell_methods"].startswith("time: mean")
    for name in ("y", "x", "y_coarse", "x_coarse"):
        letter = name[0]
        assert radklim[name].attrs["axis"] == letter.upper()
        assert radklim[name].attrs["units"] == "km"
        assert radklim[name].attrs["standard_name"] == f"projection_{letter}_coordinate"
    assert radklim.attrs["Conventions"].startswith("CF-")


def test_radklim_names_source_and_changes(radklim: xr.Dataset) -> None:
    assert "Data basis: Deutscher Wetterdienst, values processed" in radklim.attrs["license"]
    assert "pycomlink 0.6.0" in radklim.attrs["source"]
    assert "Cropped" in radklim.attrs["processing"]


def test_radklim_rates_are_whole_counts(radklim: xr.Dataset) -> None:
    rates = radklim["pr"].values.astype(np.float64)
    counts = np.rint(rates / STEP)
    np.testing.assert_allclose(rates, counts * STEP, rtol=2e-7, atol=0)
    assert rates.min() == 0
    assert 50 < rates.max() < 300
    assert np.isfinite(rates).all()


def test_radklim_coarse_field_is_the_block_mean(radklim: xr.Dataset) -> None:
    means = radklim["pr"].astype("float64").coarsen(y=12, x=12).mean()
    np.testing.assert_allclose(radklim["pr_coarse"], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(radklim["y_coarse"], means["y"])
    np.testing.assert_allclose(radklim["x_coarse"], means["x"])


def test_sequence_has_every_frame_of_three_test_hours(radklim: xr.Dataset) -> None:
    sequence = tutorial.open_dataset("radklim-sequence").load()
    assert (np.diff(sequence.time.values) == np.timedelta64(5, "m")).all()
    assert sequence.sizes["time"] == 36
    assert set(sequence.split.values) == {TEST}
    assert "Data basis: Deutscher Wetterdienst" in sequence.attrs["license"]
    assert "thinned" not in sequence.attrs["processing"]
    shared = np.intersect1d(sequence.time, radklim.time)
    assert shared.size == 9
    xr.testing.assert_identical(
        sequence.sel(time=shared).drop_attrs(deep=False),
        radklim.sel(time=shared).drop_attrs(deep=False),
    )
    assert not np.isin(sequence.time, radklim.time[radklim.split != TEST]).any()


def test_radklim_grid_is_one_kilometre_around_zero(radklim: xr.Dataset) -> None:
    np.testing.assert_array_equal(np.diff(radklim["y"]), -1.0)
    np.testing.assert_array_equal(np.diff(radklim["x"]), 1.0)
    assert float(radklim["y"].mean()) == 0
    assert float(radklim["x"].mean()) == 0


def test_radklim_split_is_by_days(radklim: xr.Dataset) -> None:
    split = radklim["split"]
    assert split.dtype == np.int8
    assert split.attrs["flag_meanings"].split() == ["train", "val", "test"]
    assert list(split.attrs["flag_values"]) == [TRAIN, VALIDATION, TEST]
    day = radklim["time"].dt.day
    expected = xr.where(day <= 15, TRAIN, xr.where(day == 16, VALIDATION, TEST))
    np.testing.assert_array_equal(split, expected)
    assert (np.bincount(split.values) >= [300, 60, 100]).all()


@pytest.mark.parametrize(("split", "minutes"), [(TRAIN, 10), (VALIDATION, 20), (TEST, 20)])
def test_radklim_frames_vary(radklim: xr.Dataset, split: int, minutes: int) -> None:
    time = radklim["time"].values[radklim["split"].values == split]
    assert np.diff(time).min() >= pd.Timedelta(minutes=minutes)


def test_radklim_frames_are_wet(radklim: xr.Dataset) -> None:
    share = (radklim["pr"] >= 0.1).mean(["y", "x"])
    assert float(share.min()) >= 0.05


def test_radklim_labels_are_unique_and_sorted(radklim: xr.Dataset) -> None:
    index = radklim.indexes["time"]
    assert index.is_unique
    assert index.is_monotonic_increasing


def test_names_lists_radklim() -> None:
    assert tutorial.names() == ["radklim", "radklim-sequence"]


def test_open_dataset_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'radclim'.*Did you mean 'radklim'"):
        tutorial.open_dataset("radclim")


def test_bundle_is_small() -> None:
    store = tutorial._DATA / "radklim.zarr"
    assert sum(f.stat().st_size for f in store.rglob("*") if f.is_file()) < 5e6


def test_catalog_of_the_repository_opens_radklim(radklim: xr.Dataset) -> None:
    catalog = intake.open_catalog(str(Path(__file__).parents[2] / "catalogs" / "tutorial.yaml"))
    assert list(catalog) == ["radklim"]
    opened = catalog["radklim"].read()
    assert opened["pr"].chunks is not None
    np.testing.assert_allclose(opened["pr"][::100], radklim["pr"][::100], rtol=2e-7)

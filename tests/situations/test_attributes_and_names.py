"""Attributes that JSON cannot hold, names that stores cannot hold: plain, or refused early."""

# ruff: noqa: E501, PT017  a row is a line; refused or right: both may serve

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.errors import XcvaeError

from .makers import SMALLEST, STEP, rain, times

ATTRIBUTES: dict[str, Any] = {
    "text": "as usual",
    "number": 4,
    "NumPy number": np.float32(4),
    "array": np.arange(3),
    "list": [1, 2],
    "truth value": True,
    "NumPy truth value": np.bool_(True),
    "None": None,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "datetime": datetime(2020, 1, 1),
    "datetime64": np.datetime64("2020-01-01"),
    "timedelta64": np.timedelta64(1, "h"),
    "bytes": b"gauge",
    "path": Path("a/b"),
    "dict": {"levels": 2},
    "dict of arrays": {"levels": np.arange(2)},
    "complex": 1 + 2j,
    "set": {1},
    "DataArray": xr.DataArray([1, 2]),
    "dtype": np.dtype("f4"),
}
PLACES = {"Dataset": lambda ds: ds, "coordinate": lambda ds: ds.x, "labels": lambda ds: ds.time}


@pytest.fixture(scope="module")
def columns(daily: xr.Dataset) -> xr.Dataset:
    return daily.assign_coords(x=np.arange(12.0))


@pytest.mark.parametrize("what", ATTRIBUTES)
@pytest.mark.parametrize("where", PLACES)
def test_attributes_do_not_stop_a_store(columns, model, tmp_path, where, what):
    ds = columns.copy(deep=True)
    # What of the Dataset travels is who made it.
    PLACES[where](ds).attrs["source" if where == "Dataset" else "note"] = ATTRIBUTES[what]
    try:
        xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    except XcvaeError as error:
        assert "note" in str(error) or "source" in str(error)
        return
    again = xr.open_zarr(tmp_path / "e.zarr", consolidated=False)
    assert again.pr.notnull().all()


# --- names and attributes with a meaning -------------------------------------------------------


def train(ds: xr.Dataset, **options: Any) -> Any:
    return xcvae.train(ds, generator=SMALLEST, fit=STEP, device="cpu", progress=False, **options)


NAMES = [
    "pr", "precipitation amount", "RR-1h", "pr.obs", "Niederschlagshöhe", "降水量", "pr(t)", "1pr", "pr%", "PR",
    "Grid/precipitation", "/pr", "../../outside", "..", ".",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_targets_are_stored_or_refused_before_the_training(tmp_path, name):
    ds = rain(name=name).to_dataset()
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    try:
        model = train(ds, target=name, coarsen=4)
    except XcvaeError as error:
        assert name in str(error)
        assert "rename" in str(error)
        return
    xcvae.sample(ds, model, members=1, store=folder / "e.zarr", progress=False)
    again = xr.open_zarr(folder / "e.zarr", consolidated=False)
    assert again[name].notnull().all()
    # Nothing is written outside the store.
    assert {path.name for path in folder.iterdir()} <= {"e.zarr", ".e.zarr.lock"}
    assert {path.name for path in tmp_path.rglob("*")} & {"outside"} == set()


@pytest.mark.parametrize(
    "attrs",
    [
        {"calendar": "standard"},
        {"units": "days since 2000-01-01"},
        {"standard_name": "time", "axis": "T"},
        {"bounds": "time_bnds"},
        {"dtype": "int32"},
        {"_FillValue": -1},
        {"coordinates": "lat lon"},
    ],
    ids=str,
)
def test_attributes_of_times_that_xarray_uses_itself(daily, model, tmp_path, attrs):
    ds = daily.assign_coords(time=("time", times(), attrs))
    try:
        xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    except XcvaeError as error:
        assert next(iter(attrs)) in str(error)
        assert "time" in str(error)
        return
    again = xr.open_zarr(tmp_path / "e.zarr", consolidated=False)
    np.testing.assert_array_equal(again.time, ds.time)


@pytest.mark.parametrize("dim", ["member", "number", "ensemble_member"])
def test_members_of_another_name_are_refused_with_a_rename(daily, model, dim):
    ens = xcvae.sample(daily, model, members=2, progress=False).rename(realization=dim)
    with pytest.raises(XcvaeError) as caught:
        xcvae.evaluate(daily, ens, metrics=["mae"], baselines=[], progress=False)
    assert f"rename({dim}='realization')" in str(caught.value).replace('"', "'")


def test_samples_called_realization_are_refused_or_drawn():
    ds = rain(dims=("realization", "y", "x"), coords={"realization": np.arange(6)}).to_dataset()
    try:
        model = train(ds, coarsen=4)
        ens = xcvae.sample(ds, model, members=2, progress=False)
    except XcvaeError as error:
        assert "realization" in str(error)
    else:
        assert ens.pr.shape == (2, 6, 12, 12)

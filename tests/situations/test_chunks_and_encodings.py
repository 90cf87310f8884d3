"""Chunks that differ between variables, and encodings of the files that data came from."""

# ruff: noqa: E501, PLR0917, PT017  a row is a line; refused or right: both may serve

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import xcvae

from .makers import SMALLEST, STEP, rain


@pytest.fixture(scope="module")
def pair() -> xr.Dataset:
    """Rain and its block means as a condition."""
    pr = rain()
    coarse = pr.coarsen(y=4, x=4).mean().rename(y="y_c", x="x_c")
    return xr.Dataset({"pr": pr, "pr_c": coarse.assign_attrs(pr.attrs)})


@pytest.fixture(scope="module")
def pair_model(pair: xr.Dataset):
    return xcvae.train(
        pair, target="pr", generator=SMALLEST, fit=STEP, device="cpu", progress=False
    )


@pytest.fixture(scope="module")
def pair_ensemble(pair, pair_model):
    return xcvae.sample(pair, pair_model, members=2, progress=False).load()


LAYOUTS = {
    "in memory": lambda ds: ds,
    "one chunk": lambda ds: ds.chunk(),
    "equal chunks": lambda ds: ds.chunk(time=2),
    "uneven chunks": lambda ds: ds.chunk(time=(1, 4, 1)),
    "chunks in space": lambda ds: ds.chunk(y=5, x=7),
    "other chunks of the condition": lambda ds: ds.assign(pr=ds.pr.chunk(time=5), pr_c=ds.pr_c.chunk(time=4)),
    "only the condition lazy": lambda ds: ds.assign(pr_c=ds.pr_c.chunk(time=4)),
    "only the target lazy": lambda ds: ds.assign(pr=ds.pr.chunk(time=4)),
    "a lazy coordinate": lambda ds: ds.chunk(time=4).assign_coords(valid=ds.time.drop_vars("time").chunk(time=3)),
    "lazy labels in 2-D": lambda ds: ds.chunk(time=4).assign_coords(lat=(("y", "x"), np.ones((12, 12)))).chunk(y=5),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scores_do_not_depend_on_chunks(pair, pair_ensemble, layout):
    options: dict[str, Any] = {"metrics": ["crps"], "baselines": ["bilinear"], "progress": False}
    expected = xcvae.evaluate(pair, pair_ensemble, **options)
    found = xcvae.evaluate(LAYOUTS[layout](pair), pair_ensemble, **options)
    np.testing.assert_allclose(found.crps, expected.crps, rtol=1e-5)


def train_pair(ds):
    return xcvae.train(
        ds, target="pr", conditions=["pr_c"], generator=SMALLEST, fit=STEP, device="cpu",
        progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_members_do_not_depend_on_chunks(pair, pair_model, pair_ensemble, layout):
    found = xcvae.sample(LAYOUTS[layout](pair), pair_model, members=2, progress=False)
    np.testing.assert_array_equal(found.pr.values, pair_ensemble.pr.values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_does_not_depend_on_chunks(pair, pair_model, layout):
    ds = LAYOUTS[layout](pair)
    found = train_pair(ds)
    assert found.record.mean == pytest.approx(pair_model.record.mean)
    assert found.record.maximum == pair_model.record.maximum


@pytest.mark.parametrize(
    "layout", ["in memory", "equal chunks", "uneven chunks", "chunks in space"]
)
def test_the_same_data_in_other_chunks_is_the_same_ensemble(pair, pair_model, tmp_path, layout):
    store = tmp_path / "e.zarr"
    xcvae.sample(LAYOUTS["equal chunks"](pair), pair_model, members=1, store=store, progress=False)
    again = xcvae.sample(LAYOUTS[layout](pair), pair_model, members=1, store=store, progress=False)
    assert again.sizes["realization"] == 1


# --- encodings ---------------------------------------------------------------------------------

PACKINGS = {
    "int16": {"dtype": "int16", "scale_factor": 1e-3, "_FillValue": -32768},
    "uint8": {"dtype": "uint8", "scale_factor": 0.1, "_FillValue": 255},
    "float32 with a fill": {"dtype": "float32", "_FillValue": -9999.0},
    "float16": {"dtype": "float16"},
    "chunks": {"chunks": (5, 12, 12)},
    "chunksizes of netCDF": {"chunksizes": (5, 12, 12), "contiguous": False},
    "szip of netCDF": {"zlib": True, "complevel": 4, "shuffle": True},
    "unknown to all": {"original_shape": (6, 12, 12), "source": "x.nc", "preferred_chunks": {"time": 5}},
}  # fmt: skip


def encoded(ds: xr.Dataset, encoding: dict[str, Any]) -> xr.Dataset:
    """The data as if they were read from a file with this encoding."""
    ds = ds.copy()
    ds.pr.encoding = dict(encoding)
    return ds


def heavy(ens: xr.Dataset) -> xr.Dataset:
    return ens.assign(pr=(ens.pr * 0 + 500.0).assign_attrs(ens.pr.attrs))


def _written(ds: xr.Dataset, folder: Any, form: str) -> xr.Dataset:
    if form == "Zarr":
        ds.to_zarr(folder / "x.zarr", consolidated=False)
        return xr.open_zarr(folder / "x.zarr", consolidated=False).load()
    ds.to_netcdf(folder / "x.nc", engine="scipy")
    return xr.load_dataset(folder / "x.nc", engine="scipy")


PARTS = {
    "a selection": lambda both: both.isel(time=slice(4, None)),
    "joined": lambda both: xr.concat(
        [both.isel(time=slice(0, 5)), both.isel(time=slice(5, None))],
        "time", data_vars="minimal", coords="different", compat="equals", join="exact",
    ),
    "merged": lambda both: xr.merge([both[["pr"]], both[["pr_c"]]], compat="equals", join="exact"),
}  # fmt: skip


@pytest.mark.parametrize("form", ["Zarr", "netCDF"])
@pytest.mark.parametrize("lazy", [False, True], ids=["in memory", "lazy"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_augmented_data_are_written_as_they_are(pair, pair_ensemble, tmp_path, packing, lazy, form):
    ds = encoded(pair.chunk(time=5) if lazy else pair, PACKINGS[packing])
    both = xcvae.augment(ds, heavy(pair_ensemble))
    assert float(both.pr.max()) == 500
    np.testing.assert_array_equal(_written(both, tmp_path, form).pr, both.pr)


@pytest.mark.parametrize("form", ["Zarr", "netCDF"])
@pytest.mark.parametrize("result", PARTS)
@pytest.mark.parametrize("packing", ["int16", "chunks"])
def test_parts_of_augmented_data_are_written_as_they_are(
    pair, pair_ensemble, tmp_path, packing, result, form
):
    both = PARTS[result](xcvae.augment(encoded(pair, PACKINGS[packing]), heavy(pair_ensemble)))
    np.testing.assert_array_equal(_written(both, tmp_path, form).pr, both.pr)


@pytest.mark.parametrize("form", ["Zarr", "netCDF"])
@pytest.mark.parametrize("packing", PACKINGS)
def test_ensembles_are_written_as_they_are(pair, pair_model, tmp_path, packing, form):
    ens = xcvae.sample(encoded(pair, PACKINGS[packing]), pair_model, members=2, progress=False)
    assert not set(ens.pr.encoding) & set(PACKINGS[packing])
    again = _written(heavy(ens).drop_attrs(), tmp_path, form)
    assert (again.pr == 500).all()


@pytest.mark.parametrize("packing", ["int16", "uint8"])
def test_stored_ensembles_are_those_that_are_drawn(
    pair, pair_model, pair_ensemble, tmp_path, packing
):
    ds = encoded(pair, PACKINGS[packing])
    stored = xcvae.sample(ds, pair_model, members=2, store=tmp_path / "e.zarr", progress=False)
    np.testing.assert_array_equal(stored.pr.values, pair_ensemble.pr.values)


@pytest.mark.parametrize(
    "attrs",
    [{"scale_factor": 0.01}, {"add_offset": 5.0}, {"_FillValue": 0.0}, {"missing_value": 0.0}],
    ids=lambda attrs: next(iter(attrs)),
)
def test_attributes_of_packed_values_do_not_change_members(pair, tmp_path, attrs):
    ds = pair.assign(pr=pair.pr.assign_attrs(attrs))
    try:
        model = train_pair(ds)
    except xcvae.errors.XcvaeError as error:
        assert next(iter(attrs)) in str(error)
        return
    lazy = xcvae.sample(ds, model, members=1, progress=False)
    stored = xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    np.testing.assert_array_equal(stored.pr.values, lazy.pr.values)
    assert not set(attrs) & set(lazy.pr.attrs)

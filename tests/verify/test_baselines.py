"""Baselines stretch the condition, or move the observation, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError
from xcvae.registry import build


def dataset(coarse: np.ndarray, fine: tuple[int, int]) -> xr.Dataset:
    target = np.random.default_rng(0).gamma(1, 1, (len(coarse), *fine)).astype("float32")
    return xr.Dataset(
        {
            "pr": (("time", "y", "x"), target, {"units": "mm h-1"}),
            "pr_coarse": (("time", "y_coarse", "x_coarse"), coarse, {"units": "mm d-1"}),
        },
        coords={"time": np.arange(len(coarse))},
        attrs={"target": "pr", "condition": "pr_coarse"},
    )


def test_bilinear_is_linear_between_centres_and_flat_beyond() -> None:
    ds = dataset(np.array([[[0.0, 8.0]]]), (1, 8))
    field = build("baseline", "bilinear")(ds, 5, 0)
    assert field.dims == ("realization", "time", "y", "x")
    assert field.sizes["realization"] == 1
    assert field.attrs["units"] == "mm d-1"
    assert field.values.ravel().tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


def test_bilinear_follows_coordinates_where_both_have_them() -> None:
    ds = dataset(np.array([[[0.0, 8.0]]]), (1, 3))
    ds = ds.assign_coords(x=[10.0, 11.0, 12.0], x_coarse=[10.0, 14.0])
    assert build("baseline", "bilinear")(ds, 1, 0).values.ravel().tolist() == [0, 2, 4]


def test_block_repeats_cells() -> None:
    coarse = np.arange(4.0).reshape(1, 2, 2)
    field = build("baseline", "block")(dataset(coarse, (6, 4)), 1, 0)
    np.testing.assert_array_equal(field[0, 0], np.kron(coarse[0], np.ones((3, 2))))


def test_missing_cells_leave_their_weight_to_the_others() -> None:
    coarse = np.array([[[np.nan, 4.0, 4.0]], [[1.0, 1.0, np.nan]], [[np.nan] * 3]])
    field = build("baseline", "bilinear")(dataset(coarse, (1, 6)), 1, 0)[0, :, 0]
    assert np.isnan(field[0, 0])
    np.testing.assert_allclose(field[0, 2:], 4)
    np.testing.assert_allclose(field[1, :4], 1)
    assert np.isnan(field[2]).all()


@pytest.mark.parametrize("name", ["bilinear", "block", "shuffled", "climatology", "rainfarm"])
def test_lazy_in_lazy_out(name: str) -> None:
    ds = dataset(np.random.default_rng(1).random((7, 3, 2)), (9, 6))
    baseline = build("baseline", name)
    lazy = baseline(ds.chunk(time=2, x_coarse=1), 3, 5)
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.compute(), baseline(ds, 3, 5))


def test_shuffled_gives_no_sample_its_own_field() -> None:
    ds = dataset(np.zeros((6, 1, 1)), (4, 4))
    shuffled = build("baseline", "shuffled")
    members = shuffled(ds, 12, 1)
    assert members.sizes["realization"] == 12
    xr.testing.assert_identical(members.time, ds.time)
    for i in range(6):
        own = (members[:, i] == ds.pr[i]).all(["y", "x"])
        assert not own.any()
        for member in members[:, i].values:
            assert any(np.array_equal(member, other) for other in ds.pr.values)
    distinct = shuffled(ds, 5, 1)[:, 0].values.reshape(5, -1)
    assert len(np.unique(distinct, axis=0)) == 5
    assert not shuffled(ds, 12, 2).equals(members)
    with pytest.raises(DataError, match="two samples"):
        shuffled(ds.isel(time=[0]), 2, 0)


def test_without_a_condition_nothing_can_be_stretched() -> None:
    ds = dataset(np.zeros((2, 1, 1)), (4, 4))[["pr"]].assign_attrs(target="pr")
    del ds.attrs["condition"]
    with pytest.raises(DataError, match="coarse precipitation condition"):
        build("baseline", "bilinear")(ds, 1, 0)

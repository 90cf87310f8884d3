"""Baselines from the condition, and from shuffled members."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

from xcvae.errors import DataError
from xcvae.registry import build
from xcvae.verify.baselines.interpolation import random_stream
from xcvae.verify.scorecard import DEFAULT_METRICS, evaluate


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


def test_bilinear_is_linear_between_centres_and_constant_beyond() -> None:
    ds = dataset(np.array([[[0.0, 8.0]]]), (1, 8))
    field = build("baseline", "bilinear")(ds, 5, 0)
    assert field.dims == ("realization", "time", "y", "x")
    assert field.sizes["realization"] == 1
    assert field.attrs["units"] == "mm d-1"
    assert field.values.ravel().tolist() == [0, 0, 1, 3, 5, 7, 8, 8]


def test_bilinear_uses_coordinates_of_both_grids() -> None:
    ds = dataset(np.array([[[0.0, 8.0]]]), (1, 3))
    ds = ds.assign_coords(x=[10.0, 11.0, 12.0], x_coarse=[10.0, 14.0])
    assert build("baseline", "bilinear")(ds, 1, 0).values.ravel().tolist() == [0, 2, 4]


def test_block_repeats_cells() -> None:
    coarse = np.arange(4.0).reshape(1, 2, 2)
    field = build("baseline", "block")(dataset(coarse, (6, 4)), 1, 0)
    np.testing.assert_array_equal(field[0, 0], np.kron(coarse[0], np.ones((3, 2))))


def test_bilinear_passes_the_weight_of_missing_cells_to_others() -> None:
    coarse = np.array([[[np.nan, 4.0, 4.0]], [[1.0, 1.0, np.nan]], [[np.nan] * 3]])
    field = build("baseline", "bilinear")(dataset(coarse, (1, 6)), 1, 0)[0, :, 0]
    assert np.isnan(field[0, 0])
    np.testing.assert_allclose(field[0, 1:], 4)  # the first of these has a quarter of its weight
    np.testing.assert_allclose(field[1, :4], 1)
    assert np.isnan(field[2]).all()


@pytest.mark.parametrize("name", ["bilinear", "block", "shuffled", "climatology", "rainfarm"])
def test_baseline_of_lazy_data_is_lazy_and_equal(name: str) -> None:
    ds = dataset(np.random.default_rng(1).random((7, 3, 2)), (9, 6))
    members = xr.concat([ds.pr, 2 * ds.pr, 3 * ds.pr], "realization").assign_attrs(units="mm h-1")
    ds = ds.assign(members=members).assign_attrs(members="members")
    baseline = build("baseline", name)
    lazy = baseline(ds.chunk(time=2, x_coarse=1), 3, 5)
    assert lazy.chunks is not None
    xr.testing.assert_identical(lazy.compute(), baseline(ds, 3, 5))


def smooth_members(count: int, seed: int) -> xr.DataArray:
    """Rain with spatial structure: smooth noise above a limit."""
    noise = np.random.default_rng(seed).normal(size=(count, 8, 24, 24))
    smooth = gaussian_filter(noise, (0, 0, 2, 2), mode="wrap")
    rain = np.maximum(smooth / smooth.std(), 0).astype("float32") * 4
    coords = {"time": np.arange(8)}
    dims = ("realization", "time", "y", "x")
    return xr.DataArray(rain, coords, dims, "pr", {"units": "mm h-1"})


def test_shuffled_keeps_values_of_pixels_and_no_pattern() -> None:
    truth, members = smooth_members(1, 1)[0], smooth_members(9, 2)
    members = (members + 1 + xr.DataArray(np.arange(9.0) * 1e-3, dims="realization")).assign_attrs(
        members.attrs
    )
    ds = truth.to_dataset().assign(members=members).assign_attrs(target="pr", members="members")
    shuffled = build("baseline", "shuffled")
    torn = shuffled(ds, 9, 1)
    np.testing.assert_array_equal(np.sort(torn, axis=0), np.sort(members, axis=0))
    # Each member has a ninth of its pixels from each.
    shares = (torn.values[:, None] == members.values).mean(axis=(2, 3, 4))
    assert abs(shares - 1 / 9).max() < 0.03
    assert not shuffled(ds, 9, 2).equals(torn)
    part = ds.isel(time=[5])
    np.testing.assert_array_equal(shuffled(part, 9, 1)[:, 0], torn.sel(time=5))


def test_frozen_members_keep_a_rank_that_the_seed_decides() -> None:
    truth, members = smooth_members(1, 1)[0], smooth_members(9, 2)
    ties = xr.DataArray(np.arange(9.0) * 1e-3, dims="realization")
    members = (members + 1 + ties).assign_attrs(members.attrs)
    ds = truth.to_dataset().assign(members=members).assign_attrs(target="pr", members="members")
    orders = []
    for seed in (1, 2):
        found = build("baseline", "frozen")(ds, 9, seed)
        np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(members, axis=0))
        ranks = np.argsort(np.argsort(found.values, axis=0), axis=0)
        assert (ranks == ranks[:, :1, :1, :1]).all()  # at every time and pixel
        orders.append(ranks[:, 0, 0, 0].tolist())
    assert orders[0] != orders[1]
    assert list(range(9)) not in orders


def test_shuffled_worsens_spatial_scores_only() -> None:
    ds, members = smooth_members(1, 1)[0].to_dataset(), smooth_members(9, 2).to_dataset()
    pooled = {"name": "crps", "pool": 4}
    card = evaluate(ds, members, metrics=[*DEFAULT_METRICS[:1], *DEFAULT_METRICS[2:], pooled],
                    baselines=["shuffled"])  # fmt: skip
    own, torn = card.sel(source="xcvae"), card.sel(source="shuffled")
    for name in ("crps", "mae", "spread_skill", "rank_deviation", "brier", "csi", "sedi", "ks"):
        assert torn[name].item() == pytest.approx(own[name].item()), name
    assert torn.spectral_distance_low > own.spectral_distance_high + 3
    assert torn.energy_score > own.energy_score
    assert torn.crps_2_low > own.crps_2


def test_shuffled_refuses_a_single_member() -> None:
    ds, one = smooth_members(1, 1)[0].to_dataset(), smooth_members(1, 2).to_dataset()
    with pytest.raises(DataError, match="at least two members, got one member"):
        evaluate(ds, one, metrics=["crps"], baselines=["shuffled"])
    with pytest.raises(DataError, match="got none"):
        build("baseline", "shuffled")(ds.assign_attrs(target="pr"), 3, 0)


def test_bilinear_refuses_data_without_condition() -> None:
    ds = dataset(np.zeros((2, 1, 1)), (4, 4))[["pr"]].assign_attrs(target="pr")
    del ds.attrs["condition"]
    with pytest.raises(DataError, match="coarse precipitation condition"):
        build("baseline", "bilinear")(ds, 1, 0)


@pytest.mark.parametrize("other", [(1, "a", "x", 0), (0, "b", "x", 0), (0, "a", "y", 0),
                                   (0, "a", "x", 1)])  # fmt: skip
def test_random_stream_differs_by_seed_baseline_label_and_member(
    other: tuple[int, str, str, int],
) -> None:
    numbers = random_stream(0, "a", "x", 0).random(4)
    np.testing.assert_array_equal(random_stream(0, "a", "x").random(4), numbers)
    assert not np.isin(random_stream(*other).random(4), numbers).any()


def test_streams_of_members_do_not_overlap() -> None:
    """The counter advances as numbers are drawn: members count in another word of it."""
    streams = [random_stream(0, "a", "2018", member).random(400) for member in range(3)]
    assert np.unique(np.concatenate(streams)).size == 1200

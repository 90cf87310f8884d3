"""SharpEdge removes the fringe of rain and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import binary_dilation
from xcvae_physics.edges import SharpEdge

from xcvae.testing import make_context, make_dataset, make_ensemble

STORM = np.array(
    [
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.0, 0.1, 0.2, 0.1, 0.0, 0.0, 0.0],
        [0.0, 0.2, 2.0, 4.0, 2.0, 0.2, 0.0],
        [0.0, 0.1, 3.0, 0.1, 3.0, 0.1, 0.0],
        [0.0, 0.0, 2.0, 5.0, 2.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0],
    ]
)


@pytest.fixture(scope="module")
def context():
    return make_context(make_dataset(samples=1))


def field(rain: np.ndarray) -> xr.DataArray:
    dims = ("realization", "time", "y", "x")
    return xr.DataArray(rain[None, None], dims=dims, attrs={"units": "mm h-1"})


def test_sharp_edge_removes_fringe_and_keeps_light_rain_inside(context) -> None:
    after = SharpEdge("0.5 mm h-1", rescale=False)(field(STORM), context).values[0, 0]
    expected = np.where(STORM < 0.5, 0.0, STORM)
    expected[3, 3] = 0.1
    np.testing.assert_array_equal(after, expected)


def test_sharp_edge_conserves_mass_of_each_area(context) -> None:
    after = SharpEdge("0.5 mm h-1")(field(STORM), context).values[0, 0]
    storm = STORM[:6].sum()
    assert after.sum() == pytest.approx(storm)
    assert not after[6].any()  # fringe only: removed with its mass
    kept = after > 0
    ratios = after[kept] / STORM[kept]
    np.testing.assert_allclose(ratios, storm / STORM[kept].sum())  # one factor: no smoothing


def test_sharp_edge_factor_is_limited(context) -> None:
    after = SharpEdge("1.9 mm h-1", limit=1.01)(field(STORM), context).values[0, 0]
    kept = after > 0
    np.testing.assert_allclose(after[kept] / STORM[kept], 1.01)


def test_sharp_edge_leaves_no_faint_pixel_beside_dry_one_on_radar(context) -> None:
    members = make_ensemble(make_dataset(masked=True)).astype("float64")
    after = SharpEdge("0.5 mm h-1", rescale=False)(members, context)
    faint = 0
    for one, old in zip(
        after.values.reshape(-1, 36, 48), members.values.reshape(-1, 36, 48), strict=True
    ):
        beside_dry = binary_dilation(one == 0, structure=np.ones((3, 3)))
        assert not (beside_dry & (one > 0) & (one < 0.5)).any()
        np.testing.assert_array_equal(one[old >= 0.5], old[old >= 0.5])
        faint += int(((old > 0) & (old < 0.5)).sum() > ((one > 0) & (one < 0.5)).sum())
    assert faint > 0


def test_sharp_edge_ignores_border_of_mask(context) -> None:
    rain = np.array([[np.nan, 0.2, 3.0, 3.0], [np.nan, 0.2, 3.0, 3.0]])
    after = SharpEdge("0.5 mm h-1")(field(rain), context)
    np.testing.assert_array_equal(after.values[0, 0], rain)

"""Fields of one sample: areas of cells, counts of members, means of blocks."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scores.probability import crps_for_ensemble

from xcvae import metrics
from xcvae.errors import ComponentError, DataError
from xcvae.metrics.sample import SampleFields, pixel_scores
from xcvae.registry import registry
from xcvae.verify.scorecard import evaluate

from .conftest import rain, short_metric, valid_samples

SIZES = np.array([1, 2, 1, 3, 1, 2, 2, 1, 1, 1, 3])
NO_AREA = ("crps_skill", "spectral_distance", "fss", "lag_correlation")


def with_area(observed: xr.DataArray, sizes: np.ndarray) -> xr.DataArray:
    area = np.broadcast_to(1e6 * sizes, observed.shape[1:])
    measured = observed.assign_coords(cell_area=(observed.dims[1:], area))
    return measured.assign_attrs(cell_measures="area: cell_area")


@pytest.mark.parametrize("name", [n for n in registry().names("metric") if n not in NO_AREA])
def test_metrics_weigh_cells_by_area(name: str, masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    metric = short_metric(name)
    cells = np.repeat(np.arange(SIZES.size), SIZES)
    split = [da.isel(x=cells).assign_coords(x=np.arange(cells.size) * 1.0) for da in masked]
    expected = metric(*split).item()
    if name == "energy_score":  # a norm over the grid, whose mean weight is one
        expected /= np.sqrt(SIZES.mean())
    assert metric(forecast, with_area(observed, SIZES)).item() == pytest.approx(expected, rel=1e-6)
    assert metric(forecast, observed).item() != pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["p99_ratio", "p999_ratio"])
def test_quantiles_below_a_cap_weigh_cells_by_area(
    name: str, masked: tuple[xr.DataArray, xr.DataArray]
) -> None:
    forecast, observed = masked
    metric = registry().build("metric", {"name": name, "cap": 6.0})
    cells = np.repeat(np.arange(SIZES.size), SIZES)
    split = [da.isel(x=cells).assign_coords(x=np.arange(cells.size) * 1.0) for da in masked]
    expected = metric(*split).item()
    assert metric(forecast, with_area(observed, SIZES)).item() == pytest.approx(expected, rel=1e-9)
    assert metric(forecast, observed).item() != pytest.approx(expected, rel=1e-5)


def test_fss_with_areas_is_the_formula(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    distance = worst = 0.0
    for truth, members, valid in valid_samples(forecast, observed):
        area = np.where(valid, SIZES, 0.0)
        for p, q in np.argwhere(valid):
            box = np.s_[max(0, p - 1) : p + 2, max(0, q - 1) : q + 2]
            share = (area[box] * (members[(slice(None), *box)] >= 2).mean(axis=0)).sum()
            seen = (area[box] * (truth[box] >= 2)).sum()
            share, seen = share / area[box].sum(), seen / area[box].sum()
            distance += SIZES[q] * (share - seen) ** 2
            worst += SIZES[q] * (share**2 + seen**2)
    found = metrics.fss(forecast, with_area(observed, SIZES), threshold=2.0, window=3)
    assert found.item() == pytest.approx(1 - distance / worst)


def test_evaluate_finds_areas_among_variables(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    measured = with_area(observed, SIZES)
    expected = metrics.crps(forecast, measured).item()
    ds = measured.to_dataset(name="pr").reset_coords("cell_area")
    card = evaluate(ds, forecast.to_dataset(name="pr"), metrics=["crps"], baselines=[])
    assert card.crps[0].item() == pytest.approx(expected)
    # Named, but elsewhere, as in many files: pixels count alike.
    card = evaluate(ds[["pr"]], forecast.to_dataset(name="pr"), metrics=["crps"], baselines=[])
    assert card.crps[0].item() == pytest.approx(metrics.crps(forecast, observed).item())


def test_dims_of_cell_areas_may_have_any_order(
    masked: tuple[xr.DataArray, xr.DataArray],
) -> None:
    forecast, observed = (da.isel(y=slice(11)) for da in masked)  # square: no shape tells
    measured = with_area(observed, SIZES)
    turned = measured.assign_coords(cell_area=measured.cell_area.T)
    assert metrics.crps(forecast, turned).item() == metrics.crps(forecast, measured).item()


@pytest.mark.parametrize("area", [-1.0, np.nan, 0.0])
def test_cell_areas_must_be_finite_and_positive(
    forecast: xr.DataArray, observed: xr.DataArray, area: float
) -> None:
    with pytest.raises(DataError, match="cell area 'cell_area'"):
        metrics.crps(forecast, with_area(observed, np.full(11, area)))


@pytest.mark.parametrize("count", [1, 2, 7, 300])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_pixel_scores_are_those_of_numpy(count: int, kind: str) -> None:
    members = rain((count, 401), seed=3).astype(kind) + 1000  # a mean that spoils plain sums
    truth = (rain((401,), seed=4) + 1000).astype(kind)
    found = pixel_scores(members, truth)
    x, y = members.astype(np.float64), truth.astype(np.float64)
    pairs = np.abs(x[:, None] - x[None]).sum(axis=(0, 1)) / max(count * (count - 1), 1)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(
        found.variance, x.var(axis=0, ddof=min(1, count - 1)), rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(found.median, np.median(x, axis=0))
    np.testing.assert_allclose(found.difference, pairs, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.error, np.abs(x - y).mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(found.below, (x < y).sum(axis=0))
    np.testing.assert_array_equal(found.ties, (x == y).sum(axis=0))


@pytest.mark.parametrize("count", [254, 255, 256, 257])
def test_counts_of_members_do_not_wrap(count: int) -> None:
    members = np.ones((count, 2), "float32")
    found = pixel_scores(members, np.array([1.0, 2.0], "float32"))
    assert found.ties.tolist() == [count, 0]
    assert found.below.tolist() == [0, count]
    fields = SampleFields(members[:, None], np.ones((1, 2), "float32"))
    assert fields.wet.events(1.0).tolist() == [count, count]


@pytest.mark.parametrize("pool", [1, 3, 20])
def test_crps_with_pool_is_that_of_block_means(
    masked: tuple[xr.DataArray, xr.DataArray], pool: int
) -> None:
    forecast, observed = masked
    valid = observed.notnull() & forecast.notnull().all("realization")
    blocks = {"y": pool, "x": pool}
    weight = (valid * xr.DataArray(SIZES, dims="x")).coarsen(blocks, boundary="pad").sum()
    means = [
        (da.fillna(0) * valid * xr.DataArray(SIZES, dims="x")).coarsen(blocks, boundary="pad").sum()
        / weight
        for da in masked
    ]
    by_block = crps_for_ensemble(*means, "realization", method="fair", preserve_dims="all")
    expected = (by_block * weight).sum() / weight.sum()
    found = metrics.crps(forecast, with_area(observed, SIZES), pool=pool)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["crps", "crps_skill"])
def test_crps_refuses_pools_below_one_pixel(name: str) -> None:
    with pytest.raises(ComponentError, match=r"'pool': expected a number >= 1, got 0"):
        registry().build("metric", {"name": name, "pool": 0})


def test_events_of_a_sample_depend_on_the_threshold() -> None:
    """Counts of one threshold are reused, those of another one are not."""
    members = np.array([[0.5, 2.0, 9.0], [0.2, 3.0, 4.0]])
    pixels = SampleFields(members[:, None], np.zeros((1, 3))).all_pixels
    for threshold, expected in ((0.3, [1, 2, 2]), (2.5, [0, 1, 2]), (0.3, [1, 2, 2])):
        np.testing.assert_array_equal(pixels.events(threshold), expected)

"""Amounts against SciPy and NumPy on pooled pixels."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ks_2samp

from xcvae import metrics
from xcvae.errors import ComponentError, UnitsError
from xcvae.metrics.distribution import (
    FIRST_WET,
    KS,
    WIDTH,
    P99Ratio,
    P999Ratio,
    quantile,
)

from .conftest import labelled, rain


def pooled(forecast: xr.DataArray, observed: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    valid = observed.notnull() & forecast.notnull().all("realization")
    members = np.broadcast_to(valid, forecast.shape)
    return forecast.values[members].astype(float), observed.values[valid].astype(float)


def test_wet_fractions_count_pixels(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    generated, truth = pooled(*masked)
    found = metrics.wet_fraction(*masked, threshold=2.0)
    assert found.item() == pytest.approx((generated >= 2).mean())
    assert found.attrs["better"] == pytest.approx((truth >= 2).mean())
    observed = metrics.wet_fraction_observed(*masked, threshold="48 mm/day")
    assert observed.item() == pytest.approx((truth >= 2).mean())


def test_wet_fraction_at_threshold_zero_counts_dry_pixels(
    masked: tuple[xr.DataArray, xr.DataArray],
) -> None:
    assert metrics.wet_fraction(*masked, threshold=0).item() == 1
    assert metrics.wet_fraction_observed(*masked, threshold=0).item() == 1


def test_wet_fraction_default_threshold_depends_on_units_and_days() -> None:
    values = np.array([[[0.05, 0.1, 0.5, 2.0]]]).repeat(3, axis=0).repeat(2, axis=1)
    hourly, daily = labelled(values), labelled(values, "mm d-1", "24h")
    assert metrics.wet_fraction(hourly, hourly).item() == 0.75
    assert metrics.wet_fraction(daily, daily).item() == 0.25
    flux = labelled(values * 1.01 / 3600, "kg m-2 s-1")
    assert metrics.wet_fraction(flux, flux).item() == 0.75


def test_wet_fraction_counts_float32_at_the_threshold() -> None:
    values = np.full((1, 2, 2), 0.7, dtype="float32")
    da = labelled(values)
    assert metrics.wet_fraction(da, da, threshold=0.7).item() == 1
    assert metrics.ks(da, da, threshold=0.7).item() == 0


def test_mass_bias_is_relative_to_the_total(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    generated, truth = pooled(*masked)
    expected = generated.sum() / 5 / truth.sum() - 1
    assert metrics.mass_bias(*masked).item() == pytest.approx(expected)
    _, observed = masked
    double = (2 * observed).assign_attrs(observed.attrs)
    assert metrics.mass_bias(double, observed).item() == pytest.approx(1)


@pytest.mark.parametrize("factor", [1.0, 1.3, 3.0])
def test_ks_is_that_of_scipy(factor: float) -> None:
    observed = labelled(rain((20, 31, 29), seed=8))
    forecast = labelled(np.float32(factor) * rain((4, 20, 31, 29), seed=9))
    generated, truth = pooled(forecast, observed)
    expected = ks_2samp(generated[generated >= 0.1], truth[truth >= 0.1]).statistic
    assert metrics.ks(forecast, observed).item() == pytest.approx(expected, abs=0.003)


def test_ks_of_quantised_data_is_that_of_scipy() -> None:
    observed = labelled(np.round(rain((20, 31, 29), seed=8) / 0.12) * 0.12)
    forecast = labelled(1.5 * rain((4, 20, 31, 29), seed=9))
    generated, truth = pooled(forecast, observed)
    expected = ks_2samp(generated[generated >= 0.1], truth[truth >= 0.1]).statistic
    assert metrics.ks(forecast, observed).item() == pytest.approx(expected, abs=0.005)


def test_ks_of_one_dry_side_is_one(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    dry = (observed * 0).assign_attrs(observed.attrs)
    assert metrics.ks(dry, observed).item() == 1
    assert metrics.ks(forecast, dry).item() == 1
    assert np.isnan(metrics.ks(dry, dry).item())


@pytest.mark.parametrize(("score", "q"), [(metrics.p99_ratio, 0.99), (metrics.p999_ratio, 0.999)])
@pytest.mark.parametrize("units", ["mm h-1", "kg m-2 s-1", "m s-1"])
def test_quantile_ratios_are_those_of_numpy(score, q: float, units: str) -> None:
    scale = {"mm h-1": 1.0, "kg m-2 s-1": 1 / 3600, "m s-1": 1 / 3.6e6}[units]
    observed = labelled(scale * rain((40, 31, 29), seed=8).astype(float), units)
    forecast = labelled(1.4 * scale * rain((4, 40, 31, 29), seed=9).astype(float), units)
    generated, truth = pooled(forecast, observed)
    expected = np.quantile(generated, q) / np.quantile(truth, q)
    assert score(forecast, observed).item() == pytest.approx(expected, rel=0.008)


def test_quantile_ratios_below_a_cap_are_those_of_numpy(
    masked: tuple[xr.DataArray, xr.DataArray],
) -> None:
    forecast, observed = (1.4 * masked[0]).assign_attrs(masked[0].attrs), masked[1]
    generated, truth = pooled(forecast, observed)
    expected = [np.quantile(v[v < 6], 0.99, method="higher") for v in (generated, truth)]
    found = metrics.p99_ratio(forecast, observed, cap="144 mm/day").item()
    assert found == pytest.approx(expected[0] / expected[1], rel=0.01)
    assert found != pytest.approx(metrics.p99_ratio(forecast, observed).item(), rel=0.05)
    with pytest.raises(ComponentError, match="cap: expected an amount above 0"):
        metrics.p99_ratio(forecast, observed, cap=0)
    with pytest.raises(UnitsError, match="cap: expected a number followed by units"):
        metrics.p99_ratio(forecast, observed, cap="5")
    area = xr.full_like(observed.isel(time=0, drop=True), 1.0).drop_attrs().rename("area")
    weighed = observed.assign_coords(area=area).assign_attrs(cell_measures="area: area")
    assert metrics.p99_ratio(forecast, weighed, cap=6).item() == pytest.approx(found)


def test_quantile_ratios_below_a_cap_count_dry_pixels() -> None:
    observed = labelled(rain((40, 31, 29), seed=8, wet=0.05))
    forecast = labelled(1.4 * rain((4, 40, 31, 29), seed=9, wet=0.08))
    generated, truth = pooled(forecast, observed)
    expected = [np.quantile(v[v < 9], 0.99) for v in (generated, truth)]
    found = metrics.p99_ratio(forecast, observed, cap=9.0).item()
    assert found == pytest.approx(expected[0] / expected[1], rel=0.01)


def test_amounts_of_packed_files_that_miss_the_cap_by_rounding_are_at_it() -> None:
    observed, forecast = rain((20, 31, 29), seed=8), labelled(rain((4, 20, 31, 29), seed=9))
    found = [
        metrics.p99_ratio(forecast, labelled(np.where(observed > 6, cap, observed)), cap=6.0)
        for cap in (6.0, 6.0 * (1 - 5e-5))
    ]
    assert found[0].item() == found[1].item()


def test_quantile_ratios_share_the_sums_of_ks(observed: xr.DataArray) -> None:
    assert P99Ratio().bind(observed) == P999Ratio().bind(observed) == KS().bind(observed)
    assert P99Ratio(cap=6.0).bind(observed) == P999Ratio(cap=6.0).bind(observed)


def test_quantile_ratios_below_a_cap_are_fair_to_members_without_it() -> None:
    """Half of what was above a cap is observed at it; the members are as the rain was."""
    rng = np.random.default_rng(0)
    observed, *members = np.round(rng.exponential(4.0, (5, 100, 40, 50)), 2)
    spike = (observed >= 20) & (rng.random(observed.shape) < 0.5)
    capped = labelled(np.where(spike, 20.0, observed))
    right = labelled(np.stack(members))
    assert metrics.p999_ratio(right, capped).item() > 1.04
    assert metrics.p999_ratio(right, capped, cap=20.0).item() == pytest.approx(1, abs=0.01)
    weak = (0.8 * right).assign_attrs(right.attrs)
    assert metrics.p99_ratio(weak, capped, cap=20.0).item() < 0.96
    tail = [metrics.twcrps(one, capped, threshold=10.0, cap=20.0).item() for one in (right, weak)]
    assert tail[0] < tail[1]


def test_quantile_at_the_end_of_a_bin_is_in_this_bin() -> None:
    """A level that the running sum reaches exactly is not in the next bin with values."""
    counts = np.zeros(FIRST_WET + 1000)
    counts[0], counts[FIRST_WET], counts[FIRST_WET + 500] = 2, 1, 1  # dry, wet, heavy
    found = quantile(counts, np.array([0.25, 0.5, 0.75, 1.0]))
    assert found[:2].tolist() == [0, 0]
    assert found[2:] == pytest.approx([np.exp(WIDTH), np.exp(501 * WIDTH)])


def test_quantiles_of_no_histograms_are_none() -> None:
    assert quantile(np.zeros((0, 60)), np.array([0.5, 1.0])).shape == (0, 2)
    assert quantile(np.zeros((3, 0, 60)), 0.5).shape == (3, 0)


def test_quantile_ratios_count_dry_pixels() -> None:
    values = np.zeros((1, 10, 100))
    values[0, 0, :50] = np.arange(1, 51)
    observed = labelled(values)
    forecast = labelled(np.where(values > 0, 2 * values, 0.0))
    assert metrics.p99_ratio(forecast, observed).item() == pytest.approx(2, rel=0.005)
    rare = labelled(np.where(values > 45, values, 0.0))
    assert metrics.p99_ratio(rare, observed).item() == 0
    assert np.isnan(metrics.p99_ratio(forecast, rare).item())


def test_quantile_ratios_interpolate_inside_bins() -> None:
    values = np.linspace(1, 100, 200_000).reshape(2, 200, 500)
    for factor in (1.001, 1.002, 1.003):
        found = metrics.p99_ratio(labelled(factor * values), labelled(values)).item()
        assert found == pytest.approx(factor, abs=1e-4)


def test_quantile_ratios_count_values_beyond_all_bins() -> None:
    values = rain((1, 20, 20), seed=3, wet=1.0)
    huge = values.copy()
    huge[0, :3] = 1e30
    huge[0, 4, 4] = 1e-30
    assert metrics.p99_ratio(labelled(huge), labelled(values)).item() > 1000


def test_ks_refuses_thresholds_of_other_dimensions(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with pytest.raises(UnitsError):
        KS(threshold="5 K")(forecast, observed)

"""Accuracy and calibration against `scores`, plain formulas and cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scores.probability import brier_score_for_ensemble, crps_for_ensemble

from xcvae import metrics
from xcvae.errors import ComponentError
from xcvae.metrics.calibration import RankDeviation
from xcvae.metrics.ensemble import CRPSSkill, TwCRPS
from xcvae.metrics.sample import pixel_scores

from .conftest import labelled, rain


def test_crps_is_the_fair_one_of_scores(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    counted = forecast.where(forecast.notnull().all("realization"))
    expected = crps_for_ensemble(counted, observed, "realization", method="fair")
    assert metrics.crps(forecast, observed).item() == pytest.approx(expected.item(), rel=1e-6)


def test_crps_of_one_member_is_its_absolute_error(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    one = forecast.isel(realization=[0])
    error = abs(one - observed).mean().item()
    assert metrics.crps(one, observed).item() == pytest.approx(error, rel=1e-6)
    assert metrics.crps(one.isel(realization=0), observed).item() == pytest.approx(error, rel=1e-6)


def test_fair_crps_does_not_depend_on_the_number_of_members() -> None:
    observed = labelled(rain((40, 20, 20), seed=3))
    many = labelled(rain((40, 40, 20, 20), seed=4))
    few = metrics.crps(many.isel(realization=slice(3)), observed).item()
    assert metrics.crps(many, observed).item() == pytest.approx(few, rel=0.02)


def test_crps_keeps_memory_bounded(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    import tracemalloc

    members = xr.concat([forecast] * 40, "realization")
    tracemalloc.start()
    metrics.crps(members, observed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 200 members: an array over all pairs of members would be 200 times the field.
    assert peak < 6 * members.nbytes


def test_crps_skill_compares_with_the_reference(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    reference = forecast.isel(realization=[0])
    skill = metrics.crps_skill(forecast, observed, reference=reference)
    ratio = metrics.crps(forecast, observed) / metrics.crps(reference, observed)
    assert skill.item() == pytest.approx(1 - ratio.item())
    assert skill.attrs["better"] == "higher"
    with pytest.raises(ComponentError, match="evaluate"):
        CRPSSkill()(forecast, observed)


def test_energy_score_is_the_formula(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    found = []
    for time in observed.time:
        truth = observed.sel(time=time).values
        members = forecast.sel(time=time).values.astype(float)
        valid = np.isfinite(truth) & np.isfinite(members).all(axis=0)
        truth, members = truth[valid], members[:, valid]
        m = len(members)
        error = np.mean([np.linalg.norm(one - truth) for one in members])
        pairs = sum(np.linalg.norm(one - other) for one in members for other in members)
        found.append(error - pairs / (2 * m * (m - 1)))
    assert metrics.energy_score(forecast, observed).item() == pytest.approx(np.mean(found))


def test_energy_score_of_equal_members_is_the_distance(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    one = forecast.isel(realization=[0])
    same = xr.concat([one] * 4, "realization")
    expected = np.sqrt(((one - observed) ** 2).sum(["y", "x"])).mean().item()
    assert metrics.energy_score(same, observed).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(31, 37), (64, 64), (10, 10)])
def test_energy_score_of_members_equal_to_the_observation_is_zero(shape: tuple[int, int]) -> None:
    """Products of maps are rounded, and the roots of what that leaves would not be small."""
    observed = labelled(rain((3, *shape), seed=8) + np.float32(20))
    same = xr.concat([observed] * 16, "realization")
    assert metrics.energy_score(same, observed).item() == 0


def test_mae_is_that_of_the_median(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    expected = abs(forecast.median("realization") - observed).mean().item()
    assert metrics.mae(forecast, observed).item() == pytest.approx(expected, rel=1e-6)


def test_spread_skill_is_the_formula(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    values = forecast.astype(float)
    variance = values.var("realization", ddof=1).mean().item()
    squared = ((values.mean("realization") - observed) ** 2).mean().item()
    expected = np.sqrt(6 / 5 * variance / squared)
    assert metrics.spread_skill(forecast, observed).item() == pytest.approx(expected)
    assert metrics.spread_skill(forecast.isel(realization=[0]), observed).item() == 0


def test_variance_of_members_that_differ_by_the_last_digit_is_exact() -> None:
    """Their mean is no number of float32: the variance about the nearest one is twice as large."""
    high = np.nextafter(np.float32(100), np.float32(200))
    scores = pixel_scores(np.array([[100.0], [high]], "float32"), np.zeros(1, "float32"))
    assert scores.variance.item() == pytest.approx((float(high) - 100) ** 2 / 2, rel=1e-6)
    assert scores.mean.item() == pytest.approx((100 + float(high)) / 2, rel=1e-12)


def test_calibration_scores_of_a_perfect_ensemble() -> None:
    observed = labelled(rain((60, 30, 30), seed=5))
    perfect = labelled(rain((8, 60, 30, 30), seed=6))
    assert metrics.spread_skill(perfect, observed).item() == pytest.approx(1, abs=0.02)
    assert metrics.rank_deviation(perfect, observed).item() < 0.01
    narrow = (0.5 * perfect + 0.5 * perfect.mean("realization")).assign_attrs(perfect.attrs)
    assert metrics.spread_skill(narrow, observed).item() < 0.6
    assert metrics.rank_deviation(narrow, observed).item() > 0.2


def test_rank_histogram_shares_ties_as_random_draws_do(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    random = np.random.default_rng(0)
    below = (forecast < observed).sum("realization").values
    ties = (forecast == observed).sum("realization").values
    draws = [below + random.integers(0, ties + 1) for _ in range(400)]
    expected = np.bincount(np.ravel(draws), minlength=6) / np.size(draws)
    histogram = metrics.rank_histogram(forecast, observed)
    np.testing.assert_allclose(histogram, expected, atol=0.003)
    assert histogram.sum().item() == pytest.approx(1)
    deviation = 0.5 * abs(histogram - 1 / 6).sum().item()
    assert metrics.rank_deviation(forecast, observed).item() == pytest.approx(deviation)


def test_rank_histogram_of_a_mostly_dry_field_is_the_formula() -> None:
    """A pixel that is dry on both sides counts 1 / (M + 1) for each of the M + 1 ranks."""
    members, observed = rain((4, 2, 9, 7), seed=21, wet=0.05), rain((2, 9, 7), seed=22, wet=0.05)
    expected = np.zeros(5)
    for seen, drawn in zip(observed.ravel(), members.reshape(4, -1).T, strict=True):
        below, ties = (drawn < seen).sum(), (drawn == seen).sum()
        expected[below : below + ties + 1] += 1 / (ties + 1)
    stats = RankDeviation().statistics(labelled(members), labelled(observed))
    np.testing.assert_allclose(stats["ranks"].sum("time"), expected, rtol=1e-12)
    found = metrics.rank_histogram(labelled(members), labelled(observed))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)


def test_rank_histogram_runs_from_below_all_to_above_all() -> None:
    observed = labelled(np.full((1, 2, 2), 9.0))
    low = labelled(np.ones((3, 1, 2, 2)))
    assert metrics.rank_histogram(low, observed).values.tolist() == [0, 0, 0, 1]
    assert metrics.rank_deviation(low, observed).item() == pytest.approx(0.75)


def test_brier_is_that_of_scores(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    counted = forecast.where(forecast.notnull().all("realization"))
    expected = brier_score_for_ensemble(
        counted, observed, "realization", 5.0, fair_correction=False
    )
    assert metrics.brier(forecast, observed).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 2.5, 9.0])
@pytest.mark.parametrize("cap", [None, 12.0])
def test_twcrps_is_the_crps_of_chained_amounts(
    masked: tuple[xr.DataArray, xr.DataArray], threshold: float, cap: float | None
) -> None:
    forecast, observed = masked
    pairs = []
    for time in observed.time:
        truth, members = (
            observed.sel(time=time).values,
            forecast.sel(time=time).values.astype(float),
        )
        valid = np.isfinite(truth) & np.isfinite(members).all(axis=0)
        y, x = (np.clip(v, threshold, cap) for v in (truth[valid], members[:, valid]))
        m = len(x)
        error = np.abs(x - y).mean(axis=0)
        pairs.append(error - np.abs(x[:, None] - x[None]).sum(axis=(0, 1)) / (2 * m * (m - 1)))
    expected = np.concatenate(pairs).mean()
    found = metrics.twcrps(forecast, observed, threshold=threshold, cap=cap)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    if threshold == 0 and cap is None:
        assert found.item() == pytest.approx(metrics.crps(forecast, observed).item(), rel=1e-12)


def test_twcrps_is_the_integral_of_brier_scores_beyond_the_threshold() -> None:
    """Its definition as a weighted integral (Gneiting and Ranjan 2011); ensembles as they are."""
    observed, forecast = labelled(rain((2, 9, 9), seed=3)), labelled(rain((4, 2, 9, 9), seed=4))
    edges = np.linspace(3, 40, 4000)
    middle = 0.5 * (edges[1:] + edges[:-1])
    x, y = forecast.values[..., None], observed.values[..., None]
    brier = ((x > middle).mean(axis=0) - (y > middle)) ** 2
    # The fair score leaves out the variance of a share of 4 members: p (1 - p) / (M - 1).
    share = (x > middle).mean(axis=0)
    integral = ((brier - share * (1 - share) / 3) * np.diff(edges)).sum(axis=-1).mean()
    assert metrics.twcrps(forecast, observed, threshold=3).item() == pytest.approx(
        integral, rel=1e-3, abs=1e-4
    )


def test_twcrps_threshold_is_that_of_the_record_if_it_is_known() -> None:
    observed, forecast = labelled(rain((2, 9, 9), seed=3)), labelled(rain((4, 2, 9, 9), seed=4))

    def of(**attrs: float) -> float:
        return TwCRPS().bind(observed.assign_attrs(attrs)).threshold

    assert of() == 5.0
    assert of(record_p99=7.5) == 7.5
    assert of(record_p99=0.01) == 5.0  # a desert: not even wet
    daily = metrics.twcrps(*(da.assign_attrs(units="mm/day") for da in (forecast, observed)))
    assert daily.attrs["units"] == "mm/day"
    in_days = [(24 * da).assign_attrs(units="mm/day") for da in (forecast, observed)]
    assert metrics.twcrps(*in_days).item() == pytest.approx(
        24 * metrics.twcrps(forecast, observed).item(), rel=1e-5
    )
    for cap in (4.0, 5.0):  # at the threshold itself nothing is left to score either
        with pytest.raises(ComponentError, match="above the threshold, 5 mm h-1"):
            metrics.twcrps(forecast, observed, cap=cap)

"""Return levels against scipy and against a distribution with known levels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from xcvae_extremes import gpd
from xcvae_extremes.levels import ReturnLevelRatio, return_levels

import xcvae


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.2, 0.6])
def test_fit_equals_fit_of_scipy(shape: float) -> None:
    sample = scipy.stats.genpareto.rvs(shape, scale=3.0, size=2000, random_state=1)
    ours = gpd.fit(sample)
    theirs = scipy.stats.genpareto.fit(sample, floc=0)
    assert ours == pytest.approx((theirs[0], theirs[2]), abs=2e-3)
    likelihood = [
        scipy.stats.genpareto.logpdf(sample, c, 0, s).sum() for c, s in (ours, theirs[::2])
    ]
    assert likelihood[0] >= likelihood[1] - 1e-4


def test_fit_of_bounded_sample_has_regular_shape() -> None:
    for sample in (np.linspace(0.5, 1.0, 200), 3 - np.geomspace(1e-3, 2.5, 50)):
        shape, scale = gpd.fit(sample)
        assert -0.51 <= shape < 0
        assert np.isfinite(scale)


def test_fit_of_counts_equals_fit_of_repeated_values() -> None:
    values, counts = np.array([0.5, 1.0, 2.5, 7.0]), np.array([20, 11, 5, 2])
    assert gpd.fit(values, counts) == pytest.approx(gpd.fit(np.repeat(values, counts)), rel=1e-6)
    assert np.isnan(gpd.fit(values)).all()  # too few


def test_return_level_equals_quantile_of_distribution() -> None:
    rate, period = 0.02, 5000
    expected = scipy.stats.genpareto.ppf(1 - 1 / (period * rate), 0.15, scale=2.0)
    assert gpd.return_level(0.15, 2.0, rate, period) == pytest.approx(expected)
    exponential = scipy.stats.expon.ppf(1 - 1 / (period * rate), scale=2.0)
    assert gpd.return_level(0.0, 2.0, rate, period) == pytest.approx(exponential)
    assert np.isnan(gpd.return_level(0.0, 2.0, rate, 10))


def tails(factor: float, *, samples: int = 60) -> tuple[xr.DataArray, xr.DataArray]:
    """Return rain with a Pareto tail above 5 mm h-1 in a tenth of the pixels, members scaled."""
    random = np.random.default_rng(3)
    size = (5, samples, 20, 20)
    rain = np.where(
        random.random(size) < 0.1,
        5 + scipy.stats.genpareto.rvs(0.1, scale=4.0, size=size, random_state=random),
        random.uniform(0, 5, size),
    )
    dims = ("realization", "time", "y", "x")
    field = xr.DataArray(rain, dims=dims, attrs={"units": "mm h-1"}, name="pr")
    forecast = (factor * field[1:]).assign_attrs(field.attrs)
    return forecast, field[0]


def test_return_levels_of_known_tail_lie_in_intervals() -> None:
    found = return_levels(*tails(1.0), periods=[100, 1000], threshold="5 mm h-1", resamples=60)
    for period in (100, 1000):
        truth = 5 + scipy.stats.genpareto.ppf(1 - 1 / (0.1 * period), 0.1, scale=4.0)
        one = found.sel(period=period)
        assert one.level.values == pytest.approx(truth, rel=0.1)
        assert (one.low < one.level).all()
        assert (one.level < one.high).all()
        assert (one.low < truth).all()
        assert (truth < one.high).all()
    assert found["shape"].values == pytest.approx(0.1, abs=0.06)
    assert found.level.attrs["units"] == "mm h-1"
    # Four members have more data than one observation: narrower intervals.
    width = (found.high - found.low).sel(period=1000)
    assert float(width.sel(side="generated")) < float(width.sel(side="observed"))


def test_return_levels_convert_with_units() -> None:
    forecast, observed = tails(1.0, samples=10)
    daily = [(24 * da).assign_attrs(units="mm/day") for da in (forecast, observed)]
    hourly = return_levels(forecast, observed, threshold="6 mm h-1", resamples=3)
    other = return_levels(*daily, threshold="6 mm h-1", resamples=3)
    np.testing.assert_allclose(other.level, 24 * hourly.level, rtol=1e-3)


def test_return_level_ratio_in_scorecard_has_interval() -> None:
    forecast, observed = tails(1.3)
    # Above 6.5 mm h-1, where the bulk of the members ends, both tails are Pareto.
    metric = {"name": "return_level_ratio", "threshold": "7 mm h-1"}
    card = xcvae.evaluate(
        observed.to_dataset(),
        forecast.to_dataset(),
        metrics=[metric],
        baselines=[],
        progress=False,
    )
    ratio = card.return_level_ratio[0]
    assert float(ratio) == pytest.approx(1.3, rel=0.1)
    assert (
        float(card.return_level_ratio_low[0])
        < float(ratio)
        < float(card.return_level_ratio_high[0])
    )
    assert float(ReturnLevelRatio("7 mm h-1")(forecast, observed)) == pytest.approx(float(ratio))


def test_return_level_ratio_is_nan_for_period_below_threshold_period() -> None:
    assert np.isnan(ReturnLevelRatio("5 mm h-1", period=2.0)(*tails(1.0, samples=5)))

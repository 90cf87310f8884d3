"""Quantile mapping against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from xcvae_extremes.mapping import QuantileMapping

from xcvae.errors import ComponentError, UnitsError
from xcvae.testing import make_context, make_dataset


def field(values: np.ndarray, units: str = "mm h-1") -> xr.DataArray:
    return xr.DataArray(values, dims=("realization", "time", "y", "x"), attrs={"units": units})


@pytest.fixture(scope="module")
def context():
    return make_context(make_dataset(samples=2))


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    random = np.random.default_rng(0)
    rain = random.gamma(0.7, 3.0, (2, 40, 20, 20))
    return np.where(random.random(rain.shape) < 0.4, 0.0, rain)


def test_mapping_gives_members_observed_distribution(drawn, context) -> None:
    observed = np.where(drawn[:1] < 0.4, 0.0, 1.6 * drawn[:1] ** 1.2)
    mapping = QuantileMapping.fit(field(drawn), field(observed))
    # Members that were not used for the fit.
    fresh = np.random.default_rng(1).gamma(0.7, 3.0, (1, 40, 20, 20))
    fresh = np.where(np.random.default_rng(2).random(fresh.shape) < 0.4, 0.0, fresh)
    after = mapping(field(fresh), context).values
    before = scipy.stats.ks_2samp(fresh.ravel(), observed.ravel()).statistic
    assert scipy.stats.ks_2samp(after.ravel(), observed.ravel()).statistic < 0.02 < before
    assert np.quantile(after, 0.999) == pytest.approx(np.quantile(observed, 0.999), rel=0.1)


def test_mapping_between_equal_distributions_is_identity(drawn, context) -> None:
    mapping = QuantileMapping.fit(field(drawn), field(drawn))
    np.testing.assert_allclose(mapping(field(drawn), context), drawn, atol=1e-9)


def test_mapping_converts_units_of_fit_and_field(drawn, context) -> None:
    observed = 48 * drawn[:1]
    mapping = QuantileMapping.fit(field(drawn[:1]), field(observed, "mm/day"))
    assert mapping.units == "mm/day"
    after = mapping(field(drawn[:1] / 3600, "kg m-2 s-1"), context)
    assert after.attrs["units"] == "kg m-2 s-1"
    np.testing.assert_allclose(after * 3600, 2 * drawn[:1], rtol=1e-6)


def test_mapping_interpolates_knots_and_scales_beyond_last(context) -> None:
    mapping = QuantileMapping((0.5, 2.0, 8.0), (0.0, 3.0, 10.0), "mm h-1")
    rain = field(np.array([0.0, 0.25, 0.5, 2.0, 5.0, 8.0, 16.0, np.nan]).reshape(1, 1, 2, 4))
    expected = [0.0, 0.0, 0.0, 3.0, 6.5, 10.0, 20.0, np.nan]
    np.testing.assert_allclose(mapping(rain, context).values.ravel(), expected)


def test_mapping_is_monotone(drawn, context) -> None:
    mapping = QuantileMapping.fit(field(drawn), field(drawn[::-1] ** 1.3))
    rain = np.sort(drawn.ravel()).reshape(1, 1, -1, 20)
    assert (np.diff(mapping(field(rain), context).values.ravel()) >= 0).all()


def test_fit_without_rain_is_refused(drawn) -> None:
    with pytest.raises(ComponentError, match="some generated rain"):
        QuantileMapping.fit(field(0 * drawn), field(drawn))
    with pytest.raises(UnitsError):
        QuantileMapping.fit(field(drawn, "K"), field(drawn))

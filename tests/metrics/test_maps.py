"""Nothing but physical values of matching samples, grids and units gets into a score."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae import metrics
from xcvae.errors import DataError, MismatchError, UnitsError
from xcvae.metrics.pairs import same_axis
from xcvae.registry import registry

NAMES = [name for name in registry().names("metric") if name != "crps_skill"]


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_refuses_fields_without_units(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    metric = registry().build("metric", name)
    with pytest.raises(UnitsError, match="no units"):
        metric(forecast.drop_attrs(), observed)
    with pytest.raises(UnitsError, match="no units"):
        metric(forecast, observed.drop_attrs())


@pytest.mark.parametrize("units", ["1", "K", "", "furlongs of rain"])
def test_units_of_something_else_are_refused(
    units: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with pytest.raises(UnitsError, match="units of precipitation"):
        metrics.crps(forecast.assign_attrs(units=units), observed)


def test_depth_against_rate_is_refused(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    with pytest.raises(UnitsError):
        metrics.crps(forecast.assign_attrs(units="mm"), observed)


@pytest.mark.parametrize("name", NAMES)
def test_every_metric_refuses_normalised_fields(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with xr.set_options(keep_attrs=True):
        scored = (forecast - forecast.mean()) / forecast.std()
    with pytest.raises(DataError, match="never below zero"):
        registry().build("metric", name)(scored, observed)


def test_rounding_below_zero_is_forgiven_and_infinity_is_not(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    tiny = forecast.copy()
    tiny[0, 0, 0, 0] = -1e-9
    assert np.isfinite(metrics.crps(tiny, observed))
    tiny[0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="infinite"):
        metrics.crps(tiny, observed)


@pytest.mark.parametrize("name", NAMES)
def test_units_do_not_change_what_is_scored(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    metric = registry().build("metric", name)
    other = (forecast * 24).assign_attrs(units="mm/day")
    xr.testing.assert_allclose(metric(other, observed), metric(forecast, observed), rtol=1e-5)


def test_water_mass_is_depth(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    other = (forecast.astype("float64") / 3600).assign_attrs(units="kg m-2 s-1")
    expected = metrics.crps(forecast, observed)
    xr.testing.assert_allclose(metrics.crps(other, observed), expected, rtol=1e-6)


def test_order_of_dimensions_does_not_matter(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    turned = metrics.crps(forecast.transpose("x", "time", "realization", "y"), observed.T)
    xr.testing.assert_identical(turned, metrics.crps(forecast, observed))


def test_dimensions_without_telling_names_can_be_given(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    names = {"y": "a", "x": "b"}
    stats = metrics.Metric.statistics
    crps = registry().build("metric", "crps")
    found = stats(crps, forecast.rename(names), observed.rename(names), spatial_dims=("a", "b"))
    assert (
        found["crps"].values.tolist() == crps.statistics(forecast, observed)["crps"].values.tolist()
    )


def test_a_single_map_is_one_sample(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    one = metrics.crps(forecast.isel(time=0), observed.isel(time=0))
    expected = metrics.crps(forecast.isel(time=[0]), observed.isel(time=[0]))
    assert one.item() == expected.item()


@pytest.mark.parametrize(
    "broken",
    [
        lambda da: da.isel(time=slice(3)),
        lambda da: da.isel(time=slice(None, None, -1)),
        lambda da: da.assign_coords(x=da.x + 1),
        lambda da: da.isel(y=slice(-1)),
        lambda da: da.isel(x=0),
        lambda da: da.expand_dims("height"),
    ],
)
def test_other_samples_or_grids_are_refused(
    broken, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with pytest.raises(MismatchError, match="forecast"):
        metrics.crps(broken(forecast), observed)


def test_coordinates_may_have_gone_through_float32() -> None:
    axis = np.linspace(47.123456789, 52.3, 500)
    assert same_axis(axis.astype("float32"), axis)
    assert not same_axis(axis + 0.005, axis)
    assert same_axis(np.array([3.0]), np.array([3.0]))
    assert not same_axis(np.array([3.0, 4.0]), np.array([3.0]))


@pytest.mark.parametrize("name", NAMES)
def test_masked_pixels_count_nowhere(name: str, masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    metric = registry().build("metric", name)
    forecast, observed = masked
    expected = metric(forecast, observed)
    valid = observed.notnull() & forecast.notnull().all("realization")
    poisoned = forecast.where(valid | forecast.isnull(), 777.0)
    truth = observed.where(valid | observed.isnull(), 555.0)
    assert not poisoned.identical(forecast)
    assert np.isfinite(expected)
    xr.testing.assert_identical(metric(poisoned, truth), expected)


@pytest.mark.parametrize("name", NAMES)
def test_dask_gives_the_same_numbers(name: str, masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    metric = registry().build("metric", name)
    forecast, observed = masked
    lazy = metric(forecast.chunk(time=2, realization=2, x=3), observed.chunk(time=4))
    xr.testing.assert_identical(lazy, metric(forecast, observed))


@pytest.mark.parametrize("name", NAMES)
def test_scores_say_what_they_are(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    score = registry().build("metric", name)(forecast, observed)
    assert score.shape == ()
    assert score.attrs["units"] in ("mm h-1", "1", "dB")
    assert score.attrs["long_name"]
    assert score.attrs["better"] in ("lower", "higher") or np.isfinite(score.attrs["better"])


@pytest.mark.parametrize("name", NAMES)
def test_all_masked_is_not_a_number(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    nothing = observed.where(observed < 0)
    assert np.isnan(registry().build("metric", name)(forecast, nothing).item())

"""Scores accept physical values of matching samples, grids and units only."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae import metrics
from xcvae.errors import DataError, MismatchError, UnitsError
from xcvae.fields.axes import same_axis
from xcvae.registry import registry

from .conftest import short_metric

NAMES = [name for name in registry().names("metric") if name != "crps_skill"]


@pytest.mark.parametrize("name", NAMES)
def test_metrics_refuse_fields_without_units(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    metric = short_metric(name)
    with pytest.raises(UnitsError, match="no units"):
        metric(forecast.drop_attrs(), observed)
    with pytest.raises(UnitsError, match="no units"):
        metric(forecast, observed.drop_attrs())


@pytest.mark.parametrize("units", ["1", "K", "", "furlongs of rain"])
def test_matched_refuses_units_other_than_precipitation(
    units: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with pytest.raises(UnitsError, match="units of precipitation"):
        metrics.crps(forecast.assign_attrs(units=units), observed)


def test_matched_refuses_depth_against_rate(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    with pytest.raises(UnitsError):
        metrics.crps(forecast.assign_attrs(units="mm"), observed)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_refuse_normalised_fields(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with xr.set_options(keep_attrs=True):
        scored = (forecast - forecast.mean()) / forecast.std()
    with pytest.raises(DataError, match="never below zero"):
        registry().build("metric", name)(scored, observed)


def test_matched_accepts_rounding_below_zero_but_no_infinity(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    tiny = forecast.copy()
    tiny[0, 0, 0, 0] = -1e-9
    assert np.isfinite(metrics.crps(tiny, observed))
    tiny[0, 0, 0, 0] = np.inf
    with pytest.raises(DataError, match="infinite"):
        metrics.crps(tiny, observed)


@pytest.mark.parametrize(("value", "problem"), [(-3.0, "never below zero"), (np.inf, "infinite")])
def test_matched_refuses_impossible_values_beside_missing_ones(
    value: float, problem: str, masked: tuple[xr.DataArray, xr.DataArray]
) -> None:
    forecast, observed = (da.copy() for da in masked)
    assert observed.isnull().any()
    observed[2, 9, 9] = value
    with pytest.raises(DataError, match=problem):
        metrics.crps(forecast, observed)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_do_not_depend_on_units(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    metric = short_metric(name)
    other = (forecast * 24).assign_attrs(units="mm/day")
    xr.testing.assert_allclose(metric(other, observed), metric(forecast, observed), rtol=1e-5)


def test_matched_converts_water_mass_to_depth(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    other = (forecast.astype("float64") / 3600).assign_attrs(units="kg m-2 s-1")
    expected = metrics.crps(forecast, observed)
    xr.testing.assert_allclose(metrics.crps(other, observed), expected, rtol=1e-6)


def test_metrics_do_not_depend_on_the_order_of_dims(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    turned = metrics.crps(forecast.transpose("x", "time", "realization", "y"), observed.T)
    xr.testing.assert_identical(turned, metrics.crps(forecast, observed))


def test_statistics_accepts_spatial_dims(forecast: xr.DataArray, observed: xr.DataArray) -> None:
    names = {"y": "a", "x": "b"}
    stats = metrics.Metric.statistics
    crps = registry().build("metric", "crps")
    found = stats(crps, forecast.rename(names), observed.rename(names), spatial_dims=("a", "b"))
    assert (
        found["crps"].values.tolist() == crps.statistics(forecast, observed)["crps"].values.tolist()
    )


def test_matched_treats_a_single_map_as_one_sample(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
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
def test_matched_refuses_other_samples_or_grids(
    broken, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    with pytest.raises(MismatchError, match="forecast"):
        metrics.crps(broken(forecast), observed)


def test_matched_refuses_curvilinear_grids_that_are_turned_or_elsewhere(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    """Maps of latitude and longitude alone say where pixels are, as in files of WRF."""
    latitude = 45 + 0.01 * np.add.outer(
        np.arange(observed.sizes["y"]), np.ones(observed.sizes["x"])
    )
    longitude = 5 + 0.01 * np.add.outer(
        np.zeros(observed.sizes["y"]), np.arange(observed.sizes["x"])
    )
    places = {"lat": (("y", "x"), latitude), "lon": (("y", "x"), longitude)}
    one, two = (da.drop_vars(["y", "x"], errors="ignore") for da in (forecast, observed))
    one, two = one.assign_coords(places), two.assign_coords(places)
    expected = metrics.crps(forecast, observed).item()
    same = one.assign_coords(lat=one.lat.astype("float32"), lon=one.lon + 360)
    assert metrics.crps(same, two).item() == expected
    turned = one.assign_coords(lat=one.lat.T, lon=one.lon.T)  # the order of dims means nothing
    assert metrics.crps(turned, two).item() == expected
    unknown = one.lat.copy()
    unknown[0, 0] = np.nan  # a corner without a place
    moved = one.assign_coords(lat=unknown), one.assign_coords(lon=one.lon + 0.01)
    for broken in (one.isel(y=slice(None, None, -1)), *moved):
        with pytest.raises(MismatchError, match="maps of latitude and longitude"):
            metrics.crps(broken, two)


def test_same_axis_accepts_rounding_to_float32() -> None:
    axis = np.linspace(47.123456789, 52.3, 500)
    assert same_axis(axis.astype("float32"), axis)
    assert not same_axis(axis + 0.005, axis)
    assert same_axis(np.array([3.0]), np.array([3.0]))
    assert not same_axis(np.array([3.0, 4.0]), np.array([3.0]))
    assert not same_axis(np.array([3.0]), np.array([4.0]))


def test_same_axis_tells_neighbouring_labels_apart() -> None:
    days = 20200501.0 + np.arange(5)  # a millionth of these values is 20 days
    assert same_axis(days, days)
    assert not same_axis(days, days + 1)


@pytest.mark.parametrize(
    ("axis", "moved"),
    [
        (1000.0 * np.arange(20), 0.5),  # metres: less than a thousandth of a step
        (5e6 + 10.0 * np.arange(20), 0.25),  # float32 has steps of half a metre there
    ],
)
def test_same_axis_tolerates_a_share_of_the_step_or_of_the_values(axis, moved) -> None:
    assert same_axis(axis + moved, axis)
    assert not same_axis(axis + 10.0, axis)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_ignore_masked_pixels(name: str, masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    metric = short_metric(name)
    forecast, observed = masked
    expected = metric(forecast, observed)
    valid = observed.notnull() & forecast.notnull().all("realization")
    poisoned = forecast.where(valid | forecast.isnull(), 777.0)
    truth = observed.where(valid | observed.isnull(), 555.0)
    assert not poisoned.identical(forecast)
    assert np.isfinite(expected)
    xr.testing.assert_identical(metric(poisoned, truth), expected)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_of_lazy_fields_are_equal(
    name: str, masked: tuple[xr.DataArray, xr.DataArray]
) -> None:
    metric = short_metric(name)
    forecast, observed = masked
    lazy = metric(forecast.chunk(time=2, realization=2, x=3), observed.chunk(time=4))
    xr.testing.assert_identical(lazy, metric(forecast, observed))


@pytest.mark.parametrize("name", NAMES)
def test_scores_have_units_name_and_direction(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    score = registry().build("metric", name)(forecast, observed)
    assert score.shape == ()
    assert score.attrs["units"] in ("mm h-1", "1", "dB")
    assert score.attrs["long_name"]
    assert score.attrs["better"] in ("lower", "higher") or np.isfinite(score.attrs["better"])


@pytest.mark.parametrize("name", NAMES)
def test_metrics_of_masked_fields_are_nan(
    name: str, forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    nothing = observed.where(observed < 0)
    assert np.isnan(registry().build("metric", name)(forecast, nothing).item())

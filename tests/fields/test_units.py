from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import ConfigError, UnitsError
from xcvae.fields.units import (
    FREQUENT,
    STEP,
    affine,
    default_drizzle_threshold,
    default_wet_threshold,
    exponents_of,
    factor,
    heaviest_rain,
    is_daily,
    is_precipitation,
    parse_quantity,
    per,
    rain_scale,
    step_of,
    to_units,
    units_of,
    with_duration,
)


@pytest.mark.parametrize(
    ("source", "wanted", "expected"),
    [
        ("mm/day", "mm h-1", 1 / 24),
        ("mm d-1", "mm/day", 1),
        ("kg m-2 s-1", "mm h-1", 3600),
        ("kg m-2 s-1", "mm/day", 86400),
        ("kg m-2", "mm", 1),
        ("m", "mm", 1000),
        ("mm", "kg m-2", 1),
        ("0.1 mm h-1", "mm h-1", 0.1),
        ("m**2 s**-2", "m2 s-2", 1),
        ("hPa", "Pa", 100),
        ("%", "1", 0.01),
        ("1", "1", 1),
    ],
)
def test_factor_converts(source: str, wanted: str, expected: float) -> None:
    assert factor(source, wanted, what="pr") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("units", FREQUENT)
def test_frequent_units_are_described_as_pint_does(units: str) -> None:
    by_pint = f"1 {units}"  # no key of the table
    assert exponents_of(units) == exponents_of(by_pint)
    for period in ("day", "hour"):
        assert per(units, period) == per(by_pint, period)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (one, two)
        for one, two in product(FREQUENT, repeat=2)
        if exponents_of(one) == exponents_of(two)
    ],
)
def test_factors_between_frequent_units_are_those_of_pint(source: str, wanted: str) -> None:
    assert affine(source, wanted, "pr") == affine(f"1 {source}", f"1 {wanted}", "pr")


@pytest.mark.parametrize(("source", "wanted"), [("mm", "mm h-1"), ("kg m-2 s-1", "m")])
def test_factor_refuses_rate_against_depth(source: str, wanted: str) -> None:
    with pytest.raises(UnitsError, match="accumulation period") as caught:
        factor(source, wanted, what="pr")
    assert f"'{source}'" in str(caught.value)
    assert f"'{wanted}'" in str(caught.value)
    assert "pr" in str(caught.value)


@pytest.mark.parametrize(
    ("source", "wanted", "step", "expected"),
    [
        ("kg m-2 s-1", "mm", 86400.0, 86400.0),
        ("mm", "kg m-2 s-1", 86400.0, 1 / 86400),
        ("mm/day", "m", 3600.0, 1 / 24000),
        ("m", "mm", None, 1000.0),
        ("mm/day", "mm h-1", 31 * 86400.0, 1 / 24),
    ],
)
def test_rain_scale_converts_rates_and_depths(
    source: str, wanted: str, step: float | None, expected: float
) -> None:
    assert rain_scale(source, wanted, step, what="tp") == pytest.approx(expected)


@pytest.mark.parametrize("step", [None, 28 * 86400.0])
def test_rain_scale_needs_a_step_that_is_not_a_month(step: float | None) -> None:
    with pytest.raises(UnitsError, match=r"tp: .*'mm'.*'mm h-1'.*a depth and the other a rate"):
        rain_scale("mm h-1", "mm", step, what="tp")


def test_factor_refuses_temperature_against_rain() -> None:
    with pytest.raises(UnitsError, match=r"'mm h-1', got 'K'"):
        factor("K", "mm h-1", what="t850")


@pytest.mark.parametrize(
    "units", ["foo", "(0 - 2)", "mm (3h)-1", "mm/3h", "mm 24h-1", "days since 2000-01-01", "x+"]
)
def test_factor_names_unknown_units(units: str) -> None:
    with pytest.raises(UnitsError, match="not known") as caught:
        factor(units, "mm h-1", what="pr")
    assert repr(units) in str(caught.value)


def test_units_per_several_hours_are_refused_and_those_of_areas_are_not() -> None:
    with pytest.raises(UnitsError, match=r"'mm /\(3 h\)'"):
        factor("mm 3h-1", "mm h-1", what="pr")
    assert factor("mm /(3 h)", "mm h-1", what="pr") == pytest.approx(1 / 3)
    assert factor("kg m-2 d-1", "mm h-1", what="pr") == pytest.approx(1 / 24)
    assert factor("mm 1h-1", "mm h-1", what="pr") == 1.0


def test_factor_refuses_units_with_an_offset_but_to_units_converts_them() -> None:
    with pytest.raises(UnitsError, match="offset"):
        factor("degC", "K", what="t2m")
    celsius = xr.DataArray([0.0, 20.0], attrs={"units": "degC"}, name="t2m")
    np.testing.assert_allclose(to_units(celsius, "K"), [273.15, 293.15])
    np.testing.assert_allclose(to_units(to_units(celsius, "K"), "degC"), celsius, atol=1e-10)


def test_to_units_drops_limits_in_other_units() -> None:
    attrs = {"units": "degC", "valid_min": -90.0, "valid_range": [-90.0, 60.0], "long_name": "t"}
    celsius = xr.DataArray([0.0, 20.0], attrs=attrs)
    assert to_units(celsius, "K").attrs == {"units": "K", "long_name": "t"}
    assert to_units(celsius, "deg C").attrs == {**attrs, "units": "deg C"}


def test_to_units_converts_values_keeps_attributes_and_type() -> None:
    da = xr.DataArray(
        np.array([24.0, 48.0], np.float32), attrs={"units": "mm/day", "long_name": "rain"}
    )
    hourly = to_units(da, "mm h-1")
    np.testing.assert_allclose(hourly, [1, 2], rtol=1e-6)
    assert hourly.attrs == {"units": "mm h-1", "long_name": "rain"}
    assert hourly.dtype == np.float32
    assert da.attrs["units"] == "mm/day"


def test_to_units_stays_lazy() -> None:
    da = xr.DataArray(np.ones((4, 3)), attrs={"units": "mm/day"}).chunk()
    hourly = to_units(da, "mm h-1")
    assert hourly.chunks is not None
    np.testing.assert_allclose(hourly.compute(), 1 / 24)


@pytest.mark.parametrize("attrs", [{}, {"units": ""}, {"units": "  "}])
def test_units_of_names_variable_and_remedy(attrs: dict[str, str]) -> None:
    with pytest.raises(UnitsError, match=r"ds\['dist'\]\.attrs\['units'\].*'1'"):
        units_of(xr.DataArray([1.0], name="dist", attrs=attrs))
    with pytest.raises(UnitsError, match="dist"):
        to_units(xr.DataArray([1.0], name="dist", attrs=attrs), "mm h-1")


def test_units_of_reads_a_number_as_dimensionless() -> None:
    assert units_of(xr.DataArray([1.0], name="mask", attrs={"units": 1})) == "1"


@pytest.mark.parametrize(
    ("value", "units", "expected"),
    [
        ("0.5 mm/day", "mm/day", 0.5),
        ("24 mm/day", "mm h-1", 1.0),
        ("0.1 mm h-1", "kg m-2 s-1", 0.1 / 3600),
        ("1e-1mm", "mm", 0.1),
        (".5 mm", "m", 0.0005),
        (0.3, "mm h-1", 0.3),
        (2, "mm h-1", 2.0),
        (np.float32(0.5), "mm h-1", 0.5),
        (np.int64(2), "mm h-1", 2.0),
    ],
)
def test_parse_quantity(value: str | float, units: str, expected: float) -> None:
    assert parse_quantity(value, units=units, what="threshold") == pytest.approx(expected)


def test_parse_quantity_refuses_a_text_without_units() -> None:
    with pytest.raises(UnitsError, match="threshold: expected a number followed by units"):
        parse_quantity("0.5", units="mm h-1", what="threshold")


@pytest.mark.parametrize("value", ["heavy", "mm 5", True, math.nan, math.inf, None])
def test_parse_quantity_refuses_other_than_finite_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        parse_quantity(value, units="mm h-1", what="threshold")  # type: ignore[arg-type]


def test_parse_quantity_names_both_units() -> None:
    with pytest.raises(
        UnitsError, match=r"'mm h-1' by a factor, got '5 mm'\. Correct the units in"
    ):
        parse_quantity("5 mm", units="mm h-1", what="threshold")
    with pytest.raises(UnitsError, match=r"got '20 mm/dya'\. Correct the units in the text"):
        parse_quantity("20 mm/dya", units="mm h-1", what="threshold")


@pytest.mark.parametrize("units", ["mm/h", "mm d-1", "kg m-2 s-1", "m", "mm", "kg m-2"])
def test_is_precipitation_for_rates_and_depths(units: str) -> None:
    assert is_precipitation(units)


@pytest.mark.parametrize("units", ["K", "Pa", "1", "m2 s-2", "foo", "kg"])
def test_is_precipitation_not_for_other_units(units: str) -> None:
    assert not is_precipitation(units)


def rain(units: str, times: object = None) -> xr.DataArray:
    count = 4 if times is None else len(times)  # type: ignore[arg-type]
    coords = {} if times is None else {"time": times}
    return xr.DataArray(
        np.ones(count), dims="time", coords=coords, attrs={"units": units}, name="pr"
    )


HOURS = pd.date_range("2020-01-01", periods=4, freq="h")
DAYS = pd.date_range("2020-01-01", periods=4, freq="D")


@pytest.mark.parametrize(
    ("units", "times", "wet", "drizzle"),
    [
        ("mm h-1", HOURS, 0.1, 0.1),
        ("mm h-1", None, 0.1, 0.1),
        ("mm h-1", DAYS, 1 / 24, 0.1 / 24),
        ("mm d-1", DAYS, 1.0, 0.1),
        ("mm/day", None, 1.0, 0.1),
        ("mm/day", HOURS, 2.4, 2.4),
        ("kg m-2 s-1", DAYS, 1 / 86400, 0.1 / 86400),
        ("kg m-2 s-1", HOURS, 0.1 / 3600, 0.1 / 3600),
        ("mm", HOURS, 0.1, 0.1),
        ("mm", DAYS, 1.0, 0.1),
        ("m", DAYS, 0.001, 0.0001),
        ("kg m-2", None, 0.1, 0.1),
        ("mm", pd.date_range("2020", periods=4, freq="5min"), 0.1 / 12, 0.1 / 12),
        ("mm", pd.date_range("2020", periods=4, freq="23h"), 1.0, 0.1),
        ("mm", pd.date_range("2021-02-01", periods=2, freq="MS"), 28.0, 2.8),
    ],
)
def test_default_thresholds_depend_on_units_and_time_step(
    units: str, times: object, wet: float, drizzle: float
) -> None:
    da = rain(units, times)
    assert default_wet_threshold(da, "time") == pytest.approx(wet)
    assert default_drizzle_threshold(da, "time") == pytest.approx(drizzle)


@pytest.mark.parametrize(("hours", "days"), [(20, 1), (24, 1), (30, 1), (48, 2), (62, 3)])
def test_a_depth_of_a_day_may_be_one_of_twenty_to_thirty_six_hours(hours: int, days: int) -> None:
    da = rain("mm", pd.date_range("2020-01-01", periods=4, freq=f"{hours}h"))
    assert default_wet_threshold(da, "time") == pytest.approx(1.0 * days)
    assert default_drizzle_threshold(da, "time") == pytest.approx(0.1 * days)


@pytest.mark.parametrize(
    ("units", "freq", "most"),
    [
        ("mm", "1h", 500.0),
        ("mm", "15min", 250.0),
        ("mm", "5s", 500.0 / 60**0.5),  # as in a minute
        ("mm", None, 500.0 * 744**0.5),
        ("mm d-1", "1D", 6000.0),
        ("mm d-1", None, 6000.0),
        ("mm d-1", "6h", 4000.0 * 24),
        ("mm h-1", "1D", 4000.0),
    ],
)
def test_heaviest_rain_depends_on_units_and_time_step(
    units: str, freq: str | None, most: float
) -> None:
    times = None if freq is None else pd.date_range("2020-01-01", periods=4, freq=freq)
    assert heaviest_rain(rain(units, times), "time") == pytest.approx(most, rel=1e-5)


def test_is_daily_uses_the_shortest_step() -> None:
    times = pd.to_datetime(["2020-01-01T03", "2020-01-01T04", "2020-02-01T07", "2020-03-05T10"])
    assert not is_daily(rain("mm h-1", times), "time")


def test_is_daily_reads_other_calendars() -> None:
    pytest.importorskip("cftime")
    days = xr.date_range("2000-01-01", periods=3, calendar="noleap", use_cftime=True)
    hours = xr.date_range("2000-01-01", periods=3, freq="6h", calendar="noleap", use_cftime=True)
    assert is_daily(rain("mm h-1", days), "time")
    assert not is_daily(rain("mm d-1", hours), "time")


@pytest.mark.parametrize(
    ("labels", "units", "step"),
    [
        (pd.to_timedelta([0, 6, 12, 18], "h"), "", 21600.0),
        ([0, 6, 12, 18], "hours since 2020-01-01", 21600.0),
        ([0.0, 1.0, 3.0, 4.0], "days since 2020-01-01 00:00:00", 86400.0),
        ([0, 1, 2, 3], "months since 2020-01-01", 86400 * 365.25 / 12),
        ([0, 1, 2, 3], "storms since 2020-01-01", None),
        ([0, 1, 2, 3], "hours", None),
    ],
)
def test_step_of_lead_times_and_of_times_that_are_not_decoded(
    labels: object, units: str, step: float | None
) -> None:
    da = rain("mm", labels)
    da["time"].attrs["units"] = units
    assert step_of(da, "time") == (None if step is None else pytest.approx(step))


def test_is_daily_of_a_single_sample_uses_units() -> None:
    assert is_daily(rain("mm d-1", DAYS[:1]), "time")
    assert not is_daily(rain("mm h-1", DAYS[:1]), "time")


def test_is_daily_ignores_repeated_times() -> None:
    twice = DAYS.append(DAYS[::-1]).append(DAYS[:1])
    assert is_daily(rain("mm h-1", twice), "time")
    assert is_daily(rain("mm d-1", DAYS[[0, 0]]), "time")
    assert not is_daily(rain("mm h-1", DAYS[[0, 0]]), "time")


def test_default_thresholds_of_a_selection_are_those_of_its_record() -> None:
    noons = rain("mm h-1", DAYS).assign_attrs({STEP: 3600.0})
    assert default_wet_threshold(noons, "time") == pytest.approx(0.1)
    one = rain("kg m-2", DAYS[:1]).assign_attrs({STEP: 300.0})
    assert default_wet_threshold(one, "time") == pytest.approx(0.1 / 12)


def bounded(units: str, starts: object, hours: object, label: float = 0.5) -> xr.Dataset:
    """Rain with the bounds of its times; labels lie at a share of every interval."""
    start, size = pd.DatetimeIndex(starts), pd.to_timedelta(hours, "h")
    ds = rain(units, start + label * size).rename("pr").to_dataset()
    ds["time"].attrs["bounds"] = "time_bnds"
    return ds.assign(time_bnds=(("time", "nv"), np.stack([start, start + size], axis=-1)))


@pytest.mark.parametrize("label", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("place", ["attrs", "encoding"])
def test_duration_of_a_depth_is_that_of_the_bounds_of_its_times(label: float, place: str) -> None:
    ds = bounded("kg m-2", DAYS, np.ones(len(DAYS)), label)
    if place == "encoding":  # as by decode_coords="all"
        ds["time"].encoding["bounds"] = ds["time"].attrs.pop("bounds")
        ds = ds.set_coords("time_bnds")
    found = with_duration(ds, ds["pr"], "time")
    assert step_of(found, "time") == 3600.0
    assert default_wet_threshold(found, "time") == pytest.approx(0.1)
    assert step_of(with_duration(ds, ds["pr"][:1], "time"), "time") == 3600.0


def test_bounds_of_undecoded_and_cftime_times_have_a_duration() -> None:
    ds = bounded("mm", DAYS, np.ones(len(DAYS)))
    numbers = ds.assign_coords(time=("time", np.arange(len(DAYS)) * 24.0))
    numbers["time"].attrs = {"bounds": "time_bnds", "units": "hours since 2020-01-01"}
    edges = np.stack([numbers["time"], numbers["time"] + 3], axis=-1)
    numbers["time_bnds"] = (("time", "nv"), edges)
    assert step_of(with_duration(numbers, numbers["pr"], "time"), "time") == 3 * 3600.0
    dates = xr.decode_cf(
        numbers.assign_coords(time=numbers["time"].assign_attrs(calendar="360_day"))
    )
    assert step_of(with_duration(dates, dates["pr"], "time"), "time") == 3 * 3600.0


def test_bounds_that_are_no_duration_of_a_depth_are_left_alone() -> None:
    count = len(DAYS)
    rates = bounded("mm h-1", DAYS, np.ones(count))
    assert STEP not in with_duration(rates, rates["pr"], "time").attrs
    known = bounded("mm", DAYS, np.ones(count))
    assert with_duration(known, known["pr"].assign_attrs({STEP: 300.0}), "time").attrs[STEP] == 300
    for ds in (
        bounded("mm", DAYS, np.arange(1, count + 1)),  # since the start of a forecast
        bounded("mm", DAYS, 24.0 * np.array([31, 29, 31, 30])),  # months
        bounded("mm", DAYS, np.zeros(count)),
        bounded("mm", DAYS, np.ones(count), label=5.0),  # means over bounds
        bounded("mm", DAYS, np.ones(count)).drop_vars("time_bnds"),
    ):
        assert STEP not in with_duration(ds, ds["pr"], "time").attrs

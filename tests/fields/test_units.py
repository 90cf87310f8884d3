from __future__ import annotations

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.errors import ConfigError, UnitsError
from xcvae.fields import units as parsing
from xcvae.fields.units import (
    default_drizzle_threshold,
    default_wet_threshold,
    factor,
    is_daily,
    is_precipitation,
    parse_quantity,
    to_units,
    units_of,
)

RATES = ["mm h-1", "mm/day", "mm d-1", "kg m-2 s-1", "m s-1", "mm/h", "0.1 mm h-1"]


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


def asked_of_pint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "FREQUENT", {})
    monkeypatch.setattr(parsing, "FACTORS", {})


@pytest.mark.parametrize("units", parsing.FREQUENT)
def test_what_is_known_of_frequent_units_is_what_pint_says(
    units: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = parsing.exponents_of(units), parsing.per_day(units)
    asked_of_pint(monkeypatch)
    assert known == (parsing.exponents_of(units), parsing.per_day(units))


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (one, two)
        for one, two in product(parsing.FREQUENT, repeat=2)
        if parsing.exponents_of(one) == parsing.exponents_of(two)
    ],
)
def test_factors_between_frequent_units_are_those_of_pint(
    source: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = parsing.affine(source, wanted, "pr")
    asked_of_pint(monkeypatch)
    assert found == parsing.affine(source, wanted, "pr")


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES))
def test_factor_there_and_back_is_one(one: str, other: str) -> None:
    there, back = factor(one, other, what="pr"), factor(other, one, what="pr")
    assert there > 0
    assert there * back == pytest.approx(1, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(RATES), st.sampled_from(RATES), st.sampled_from(RATES))
def test_factors_chain(one: str, two: str, three: str) -> None:
    direct = factor(one, three, what="pr")
    by_way = factor(one, two, what="pr") * factor(two, three, what="pr")
    assert direct == pytest.approx(by_way, rel=1e-12)


@pytest.mark.parametrize(("source", "wanted"), [("mm", "mm h-1"), ("kg m-2 s-1", "m")])
def test_a_rate_is_not_a_depth(source: str, wanted: str) -> None:
    with pytest.raises(UnitsError, match="accumulation period") as caught:
        factor(source, wanted, what="pr")
    assert f"'{source}'" in str(caught.value)
    assert f"'{wanted}'" in str(caught.value)
    assert "pr" in str(caught.value)


def test_temperature_is_not_rain() -> None:
    with pytest.raises(UnitsError, match=r"'mm h-1', got 'K'"):
        factor("K", "mm h-1", what="t850")


@pytest.mark.parametrize("units", ["foo", "(0 - 1)", "mm (3h)-1", "days since 2000-01-01", "x+"])
def test_unknown_units_are_named(units: str) -> None:
    with pytest.raises(UnitsError, match="not known") as caught:
        factor(units, "mm h-1", what="pr")
    assert repr(units) in str(caught.value)


def test_factor_refuses_units_with_an_offset_but_to_units_converts_them() -> None:
    with pytest.raises(UnitsError, match="offset"):
        factor("degC", "K", what="t2m")
    celsius = xr.DataArray([0.0, 20.0], attrs={"units": "degC"}, name="t2m")
    np.testing.assert_allclose(to_units(celsius, "K"), [273.15, 293.15])
    np.testing.assert_allclose(to_units(to_units(celsius, "K"), "degC"), celsius, atol=1e-10)


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
def test_missing_units_name_the_variable_and_the_remedy(attrs: dict[str, str]) -> None:
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
    ],
)
def test_parse_quantity(value: str | float, units: str, expected: float) -> None:
    assert parse_quantity(value, units=units, what="threshold") == pytest.approx(expected)


def test_parse_quantity_wants_units_behind_a_text() -> None:
    with pytest.raises(UnitsError, match="threshold: expected units behind the number"):
        parse_quantity("0.5", units="mm h-1", what="threshold")


@pytest.mark.parametrize("value", ["heavy", "mm 5", True, math.nan, math.inf, None])
def test_parse_quantity_refuses_what_is_no_number(value: object) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        parse_quantity(value, units="mm h-1", what="threshold")  # type: ignore[arg-type]


def test_parse_quantity_names_both_units() -> None:
    with pytest.raises(UnitsError, match=r"'mm h-1', got 'mm'"):
        parse_quantity("5 mm", units="mm h-1", what="threshold")


@pytest.mark.parametrize("units", ["mm/h", "mm d-1", "kg m-2 s-1", "m", "mm", "kg m-2"])
def test_precipitation_units(units: str) -> None:
    assert is_precipitation(units)


@pytest.mark.parametrize("units", ["K", "Pa", "1", "m2 s-2", "foo", "kg"])
def test_other_units_are_not_precipitation(units: str) -> None:
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
    ],
)
def test_default_thresholds(units: str, times: object, wet: float, drizzle: float) -> None:
    da = rain(units, times)
    assert default_wet_threshold(da, "time") == pytest.approx(wet)
    assert default_drizzle_threshold(da, "time") == pytest.approx(drizzle)


def test_a_selection_of_single_hours_does_not_become_daily() -> None:
    times = pd.to_datetime(["2020-01-01T03", "2020-01-01T04", "2020-02-01T07", "2020-03-05T10"])
    assert not is_daily(rain("mm h-1", times), "time")


def test_other_calendars_are_read() -> None:
    pytest.importorskip("cftime")
    days = xr.date_range("2000-01-01", periods=3, calendar="noleap", use_cftime=True)
    hours = xr.date_range("2000-01-01", periods=3, freq="6h", calendar="noleap", use_cftime=True)
    assert is_daily(rain("mm h-1", days), "time")
    assert not is_daily(rain("mm d-1", hours), "time")


def test_a_single_sample_is_judged_by_its_units() -> None:
    assert is_daily(rain("mm d-1", DAYS[:1]), "time")
    assert not is_daily(rain("mm h-1", DAYS[:1]), "time")


def test_samples_that_share_a_time_do_not_hide_the_step() -> None:
    twice = DAYS.append(DAYS[::-1]).append(DAYS[:1])
    assert is_daily(rain("mm h-1", twice), "time")
    assert is_daily(rain("mm d-1", DAYS[[0, 0]]), "time")
    assert not is_daily(rain("mm h-1", DAYS[[0, 0]]), "time")

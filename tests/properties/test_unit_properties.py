"""Properties of units: conversions there and back, chains, and refusals."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from xcvae.errors import ConfigError, UnitsError
from xcvae.fields.units import (
    factor,
    is_precipitation,
    parse_quantity,
    to_units,
    units_of,
)

RATES = ["mm h-1", "mm/day", "mm d-1", "kg m-2 s-1", "m s-1", "mm/h", "0.1 mm h-1"]
DEPTHS = ["mm", "m", "kg m-2", "cm", "0.1 mm"]
amounts = st.floats(1e-6, 1e6)
rates, depths = st.sampled_from(RATES), st.sampled_from(DEPTHS)
same_kind = st.tuples(rates, rates, rates) | st.tuples(depths, depths, depths)
few = settings(max_examples=50, deadline=None)


@few
@given(same_kind)
def test_factors_invert_and_chain(units: tuple[str, str, str]) -> None:
    one, two, three = units
    there, back = factor(one, two, what="pr"), factor(two, one, what="pr")
    assert there > 0
    assert there * back == pytest.approx(1, rel=1e-12)
    by_way = there * factor(two, three, what="pr")
    assert factor(one, three, what="pr") == pytest.approx(by_way, rel=1e-12)


@few
@given(same_kind, st.lists(amounts, min_size=1, max_size=5))
def test_to_units_there_and_back_is_the_same_field(
    units: tuple[str, str, str], values: list[float]
) -> None:
    one, two, _ = units
    da = xr.DataArray(np.array(values), dims="x", name="pr", attrs={"units": one, "note": "n"})
    back = to_units(to_units(da, two), one)
    np.testing.assert_allclose(back, da, rtol=1e-12)
    assert back.attrs == da.attrs


@few
@given(same_kind, amounts)
def test_quantities_are_read_as_to_units_converts(
    units: tuple[str, str, str], amount: float
) -> None:
    source, wanted, _ = units
    # Units with a number of their own cannot follow a number.
    source = source.removeprefix("0.1 ")
    found = parse_quantity(f"{amount!r} {source}", units=wanted, what="threshold")
    assert found == pytest.approx(amount * factor(source, wanted, what="pr"), rel=1e-9)
    assert parse_quantity(amount, units=wanted, what="threshold") == amount


@few
@given(amounts, rates)
def test_quantities_in_the_units_of_the_data_lose_no_digit_of_twelve(
    amount: float, units: str
) -> None:
    number = float(f"{amount:.12g}")
    text = f"{number!r} {units.removeprefix('0.1 ')}"
    assert parse_quantity(text, units=units.removeprefix("0.1 "), what="threshold") == number


@few
@given(rates, depths)
def test_rates_and_depths_refuse_each_other_by_name(rate: str, depth: str) -> None:
    for source, wanted in ((rate, depth), (depth, rate)):
        with pytest.raises(UnitsError, match="accumulation period") as refused:
            factor(source, wanted, what="pr")
        assert repr(source) in str(refused.value)
        assert repr(wanted) in str(refused.value)


@few
@given(st.text(max_size=12))
def test_any_text_is_units_or_a_units_error(text: str) -> None:
    da = xr.DataArray([1.0], dims="x", name="pr", attrs={"units": text})
    is_precipitation(text)
    with suppress(UnitsError):
        units = units_of(da)
        assert factor(units, units, what="pr") == 1


@few
@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_refused(text: str) -> None:
    with suppress(ConfigError, UnitsError):
        assert np.isfinite(parse_quantity(text, units="mm h-1", what="threshold"))

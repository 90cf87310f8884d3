"""Values of targets, conditions and statics that a model refuses."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.describe import DataSpec, describe, prepare
from xcvae.fields.validation import (
    _valid_range,
    check_observed,
    check_values,
    is_placeholder,
)

Maker = Callable[..., xr.Dataset]
lazy_or_not = pytest.mark.parametrize("lazy", [False, True])


def prepared_with(
    ds: xr.Dataset, name: str, value: float, *, lazy: bool
) -> tuple[xr.Dataset, DataSpec]:
    """Put one value into the third sample of a variable."""
    spec = describe(ds)
    ds = ds.copy(deep=True)
    ds[name][2, 1, 1] = value
    return prepare(ds.chunk(time=2) if lazy else ds, spec, need_target=True), spec


@lazy_or_not
def test_check_values_accepts_good_values(make_radar: Maker, lazy: bool) -> None:
    check_values(*prepared_with(make_radar(), "pr", np.nan, lazy=lazy))
    check_values(*prepared_with(make_radar(), "pr_coarse", 0.0, lazy=lazy))


@lazy_or_not
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pr", -999.0, r"pr: .*1 of 4320 negative .*time=2018-05-10T02"),
        ("pr", np.inf, r"pr: .*1 of 4320 infinite"),
        ("pr_coarse", np.nan, r"pr_coarse: .*1 of 30 missing or infinite, first at time=2018-05"),
        ("pr_coarse", -0.5, r"pr_coarse: expected rain of zero or more"),
    ],
)
def test_check_values_names_bad_values(
    make_radar: Maker, lazy: bool, name: str, value: float, said: str
) -> None:
    prepared, spec = prepared_with(make_radar(), name, value, lazy=lazy)
    with pytest.raises(DataError, match=said):
        check_values(prepared, spec)


def test_check_values_refuses_missing_values_of_statics(make_radar: Maker) -> None:
    ds = make_radar()
    ds["height"] = (("y", "x"), np.full((24, 36), np.nan), {"units": "m"})
    spec = describe(ds, conditions=["pr_coarse"], statics=["height"])
    with pytest.raises(DataError, match=r"height: .*864 of 864 missing"):
        check_values(prepare(ds, spec, need_target=True), spec)


def test_check_values_accepts_negative_conditions_other_than_rain(make_radar: Maker) -> None:
    ds = make_radar()
    ds["evap"] = (-ds.pr_coarse).assign_attrs(units="mm h-1", standard_name="")
    check_values(*prepared_with(ds, "evap", -4.0, lazy=False))


def test_check_values_accepts_rounding_in_a_dry_block(make_radar: Maker) -> None:
    prepared, spec = prepared_with(make_radar(), "pr", -1e-5, lazy=False)
    dry = prepared.assign(pr=prepared.pr.where(prepared.pr < 0, 0.0).assign_attrs(units="mm h-1"))
    check_values(dry, spec)


def test_check_values_accepts_all_nan_only_in_a_block(make_radar: Maker) -> None:
    prepared, spec = prepared_with(make_radar(), "pr", 0.0, lazy=False)
    empty = prepared.assign(pr=prepared.pr.where(False))
    check_values(empty, spec, masked=True)
    with pytest.raises(DataError, match="all NaN"):
        check_values(empty, spec)


def keep(prepared: xr.Dataset, flags: list[bool]) -> xr.Dataset:
    """Set the target of the other samples to NaN."""
    flag = xr.DataArray(flags, dims="time", coords={"time": prepared.time})
    return prepared.assign(pr=prepared.pr.where(flag))


@lazy_or_not
def test_check_observed_names_a_sample_without_valid_pixels(make_radar: Maker, lazy: bool) -> None:
    prepared, spec = prepared_with(make_radar(), "pr", np.nan, lazy=lazy)
    check_observed(prepared, spec)
    with pytest.raises(DataError, match=r"pr, time 2018-05-10T03.*NaN throughout in 2 of 5"):
        check_observed(keep(prepared, [True, True, True, False, False]), spec)


@lazy_or_not
@pytest.mark.parametrize("first", range(6))
def test_is_placeholder_for_targets_without_valid_pixels(
    make_radar: Maker, lazy: bool, first: int
) -> None:
    prepared, spec = prepared_with(make_radar(), "pr", 0.0, lazy=lazy)
    part = keep(prepared, [i == first for i in range(5)])
    assert is_placeholder(part.pr, spec) is (first == 5)


def test_is_placeholder_reads_up_to_the_first_valid_pixel(make_radar: Maker) -> None:
    prepared, spec = prepared_with(make_radar(), "pr", 0.0, lazy=True)
    read = []

    def note(block: np.ndarray) -> np.ndarray:
        read.append(len(block))
        return block

    data = prepared.pr.data.map_blocks(note, dtype=float, meta=np.empty((0, 0, 0)))
    assert not is_placeholder(prepared.pr.copy(data=data), spec)
    assert read == [2]


@pytest.mark.parametrize(
    ("attrs", "packing", "expected"),
    [
        ({}, {}, (-np.inf, np.inf)),
        ({"valid_min": 100}, {"scale_factor": 0.01}, (1.0, np.inf)),
        ({"valid_min": 0.0}, {"scale_factor": 0.01, "add_offset": 200.0}, (0.0, np.inf)),
        ({"valid_max": 30000}, {"scale_factor": 0.01}, (-np.inf, 30000.0)),
        ({"valid_max": 10}, {"add_offset": 273.15}, (-np.inf, 283.15)),
        ({"valid_range": [10, 200]}, {"scale_factor": 0.1, "add_offset": 5.0}, (6.0, 200.0)),
        ({"valid_range": [0, 50], "valid_max": 60.0}, {}, (0.0, 60.0)),
        ({"valid_min": "none"}, {}, (-np.inf, np.inf)),
    ],
)
def test_valid_range_is_the_widest_of_packed_and_decoded_limits(attrs, packing, expected) -> None:
    da = xr.DataArray([1.0], attrs=attrs)
    da.encoding = packing
    assert _valid_range(da) == pytest.approx(expected)

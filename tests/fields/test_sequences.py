"""Times of samples, runs of consecutive ones, and windows that respect gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import ConfigError
from xcvae.fields.sample_blocks import consecutive, segments, windows
from xcvae.fields.samples import times_of

FIVE = pd.date_range("2018-05-10", periods=3, freq="5min")


def labelled(values: object) -> xr.Dataset:
    return xr.Dataset(coords={"time": ("time", values)})


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_do_not_depend_on_their_resolution(unit: str) -> None:
    found = times_of(labelled(FIVE.values.astype(f"datetime64[{unit}]")), "time")
    assert found == [1525910400_000000 + 300_000000 * i for i in range(3)]


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "standard"])
def test_times_of_any_calendar_have_its_steps(calendar: str) -> None:
    pytest.importorskip("cftime")
    times = xr.date_range(
        "2001-02-28T23:30", periods=4, freq="15min", calendar=calendar, use_cftime=True
    )
    assert set(np.diff(times_of(xr.Dataset(coords={"time": times}), "time"))) == {900_000000}


@pytest.mark.parametrize(
    "values",
    [
        pd.to_timedelta([1, 2], "h"),
        xr.Variable("time", [1, 2], {"units": "hours since 1970-01-01"}),
        pd.DatetimeIndex(["1970-01-01T02:00", "1970-01-01T03:00"], tz="Etc/GMT-1"),
    ],
    ids=["lead times", "undecoded", "zone"],
)
def test_times_of_other_kinds(values: object) -> None:
    ds = xr.Dataset(coords={"time": values})
    assert times_of(ds, "time") == [3600_000000, 7200_000000]


@pytest.mark.parametrize("values", [["a", "b"], [1, 2], None])
def test_labels_that_are_no_times_are_refused(values: object) -> None:
    ds = xr.Dataset({"x": ("time", [0, 1])}) if values is None else labelled(values)
    with pytest.raises(ConfigError, match="expected times as labels"):
        times_of(ds, "time")


def test_consecutive_takes_rows_in_any_order() -> None:
    step, runs = consecutive(np.array([10, 0, 5, 40, 45]), np.array([0, 1, 2, 4]))
    assert step == 5
    assert [run.tolist() for run in runs] == [[1, 2, 0], [4]]


def test_single_sample_has_no_step() -> None:
    step, runs = consecutive(np.array([3]))
    assert step == 0
    assert [run.tolist() for run in runs] == [[0]]


def test_windows_leave_out_those_with_gaps() -> None:
    times = np.array([0, 5, 10, 15, 25, 30, 35, 40, 45, 50, 55])
    _, runs = consecutive(times)
    found = windows(times, runs, 4, 20)
    assert [times[part].tolist() for part in found] == [[0, 5, 10, 15], [40, 45, 50, 55]]


def test_segments_cover_every_row_once() -> None:
    runs = [np.arange(11), np.arange(20, 23)]
    for exact in (False, True):
        parts = segments(runs, 4, exact=exact)
        assert max(map(len, parts)) <= 4
        assert np.concatenate(parts).tolist() == np.concatenate(runs).tolist()

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import DataError, EmptySelectionError, MissingVariableError
from xcvae.fields.sample_blocks import slabs
from xcvae.fields.samples import check_same_samples, check_samples
from xcvae.fields.validation import check_complete, check_rain

Maker = Callable[..., xr.Dataset]
lazy_or_not = pytest.mark.parametrize("lazy", [False, True])


def rain(lazy: bool, *, at: dict[tuple[int, int, int], float] | None = None) -> xr.DataArray:
    values = np.full((6, 4, 5), 2.0)
    values[:, 0] = np.nan
    for place, value in (at or {}).items():
        values[place] = value
    da = xr.DataArray(
        values,
        dims=("time", "y", "x"),
        coords={"time": pd.date_range("2020-01-01", periods=6), "y": np.arange(4) * 10},
        attrs={"units": "mm h-1"},
        name="pr",
    )
    return da.chunk(time=2) if lazy else da


@lazy_or_not
def test_check_rain_accepts_a_mask(lazy: bool) -> None:
    check_rain(rain(lazy))
    check_rain(rain(lazy) * 0)


@lazy_or_not
def test_check_rain_accepts_rounding_below_zero(lazy: bool) -> None:
    check_rain(rain(lazy, at={(1, 1, 1): -1e-6, (0, 1, 1): 2.5}))


@lazy_or_not
def test_check_rain_counts_and_locates_negative_values(lazy: bool) -> None:
    with pytest.raises(DataError, match="pr: expected rain of zero or more") as caught:
        check_rain(rain(lazy, at={(3, 2, 4): -0.5, (4, 1, 1): -0.25}))
    message = str(caught.value)
    assert "2 of 120 negative (minimum -0.5 mm h-1)" in message
    assert "first at time=2020-01-04T00:00:00.000" in message
    assert ", y=20, x=4. " in message


@lazy_or_not
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_check_rain_counts_and_locates_infinite_values(lazy: bool, value: float) -> None:
    with pytest.raises(DataError, match=r"1 of 120 infinite, first at time=2020-01-06.*y=30, x=0"):
        check_rain(rain(lazy, at={(5, 3, 0): value}))


@lazy_or_not
def test_check_rain_refuses_all_nan(lazy: bool) -> None:
    with pytest.raises(DataError, match=r"pr: expected rain in at least one pixel.*all NaN"):
        check_rain(rain(lazy) * np.nan)


def test_check_rain_streams_chunks() -> None:
    sizes: list[int] = []

    def note(block: np.ndarray) -> np.ndarray:
        sizes.append(block.size)
        return block

    da = rain(True)
    check_rain(da.copy(data=da.data.map_blocks(note, dtype=float, meta=np.empty((0, 0, 0)))))
    assert sizes == [40, 40, 40]


def test_check_rain_counts_across_slabs_and_names_the_first() -> None:
    values = np.zeros((5, 1000, 3000), np.int8)  # two samples to a slab
    values[3, 7, 8] = values[4, 1, 2] = -3
    labels = {"time": np.arange("2020-01-01", "2020-01-06", dtype="datetime64[D]")}
    da = xr.DataArray(values, coords=labels, dims=("time", "y", "x"), name="pr")
    assert [slab.shape[0] for _, slab in slabs(da)] == [2, 2, 1]
    with pytest.raises(DataError, match=r"2 of 15000000 negative.*time=2020-01-04.*y=7, x=8"):
        check_rain(da)


def test_check_rain_accepts_integers_and_single_fields() -> None:
    check_rain(xr.DataArray(np.arange(6).reshape(2, 3), dims=("y", "x"), name="pr"))
    with pytest.raises(DataError, match="negative"):
        check_rain(xr.DataArray(np.array(-4), name="pr"))


@lazy_or_not
def test_check_complete_refuses_nan(lazy: bool) -> None:
    check_complete(rain(lazy)[:, 1:])
    with pytest.raises(DataError, match=r"30 of 120 missing or infinite.*time=2020-01-01"):
        check_complete(rain(lazy))


def test_check_complete_locates_samples_missing_after_a_join() -> None:
    other = rain(False)[2:, 1:].rename("mslp")
    joined = xr.merge([rain(False)[:, 1:], other], join="outer", compat="no_conflicts")
    with pytest.raises(DataError, match=r"mslp: .*first at time=2020-01-01.*other labels"):
        check_complete(joined.mslp)


def samples(labels: object, dim: str = "time") -> xr.Dataset:
    return xr.Dataset(coords={dim: labels})


@pytest.mark.parametrize(
    "labels",
    [
        pd.date_range("2020-01-01", periods=4),
        [3, 5, 9],
        ["storm b", "storm a"],
        [7],
    ],
)
def test_check_samples_accepts_rising_labels(labels: object) -> None:
    check_samples(samples(labels), "time")


def test_check_samples_accepts_missing_and_stacked_labels() -> None:
    check_samples(xr.Dataset({"pr": ("time", [1.0, 2.0])}), "time")
    grid = xr.Dataset(
        {"pr": (("year", "day"), np.ones((2, 3)))}, {"year": [2, 1], "day": [1, 2, 3]}
    )
    check_samples(grid.stack(sample=("year", "day")), "sample")


def test_check_samples_names_repeated_labels() -> None:
    times = pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-02", "2020-01-03"])
    with pytest.raises(DataError, match="1 repeated, first 2020-01-02 00:00:00 at position 2"):
        check_samples(samples(times), "time")
    with pytest.raises(DataError, match="1 repeated, first a at position 2"):
        check_samples(samples(["a", "b", "a"], "storm"), "storm")


def test_check_samples_accepts_shared_labels_of_augmented_data() -> None:
    times = pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"])
    three = samples(times.append(times).append(times[1:]))
    member = np.repeat([-1, 0, 1], [3, 3, 2])
    augmented = three.assign_coords(realization=("time", member))
    check_samples(augmented, "time", augmented=True)
    with pytest.raises(DataError, match="5 repeated, first 2020-01-01 00:00:00 at position 3"):
        check_samples(augmented, "time")
    with pytest.raises(DataError, match="5 repeated"):
        check_samples(three, "time", augmented=True)
    twice = augmented.isel(time=[0, 1, 2, 3, 4, 4])
    with pytest.raises(DataError, match="1 repeated, first 2020-01-02 00:00:00 at position 5"):
        check_samples(twice, "time", augmented=True)
    mixed = augmented.isel(time=[0, 1, 2, 4, 3])
    with pytest.raises(DataError, match=r"1 before the one it follows, .* at position 4"):
        check_samples(mixed, "time", augmented=True)


def test_check_samples_names_unsorted_labels() -> None:
    times = pd.to_datetime(["2020-01-01", "2020-01-03", "2020-01-02"])
    with pytest.raises(DataError, match=r"first 2020-01-02 00:00:00 at position 2.*sortby"):
        check_samples(samples(times), "time")
    with pytest.raises(DataError, match="2 before the one it follows, first 2 at position 1"):
        check_samples(samples([3, 2, 1]), "time")


def test_check_samples_names_missing_labels() -> None:
    with pytest.raises(DataError, match=r"1 missing \(NaN\), first NaT at position 1"):
        check_samples(samples(pd.to_datetime(["2020-01-01", None])), "time")


def test_check_samples_refuses_an_empty_selection() -> None:
    with pytest.raises(EmptySelectionError, match="none along 'time'"):
        check_samples(samples(pd.to_datetime([])), "time")


def test_check_samples_suggests_the_nearest_dim() -> None:
    with pytest.raises(MissingVariableError, match="Did you mean 'time'"):
        check_samples(samples([1, 2]), "tme")


def test_check_same_samples_suggests_rename_dims_for_equal_labels(islands: xr.Dataset) -> None:
    ds = islands.drop_vars("mslp").assign(mslp=islands.mslp.rename(time="day"))
    check_same_samples(ds, "z500", "time")
    with pytest.raises(DataError, match=r"labels equal up to the end.*rename_dims"):
        check_same_samples(ds, "mslp", "time")


def test_check_same_samples_refuses_ambiguous_samples() -> None:
    ds = xr.Dataset({"pr": ("time", [1.0]), "t": (("a", "b"), [[1.0]])})
    with pytest.raises(DataError, match="dimension 'time' of length 1, got none"):
        check_same_samples(ds, "t", "time")

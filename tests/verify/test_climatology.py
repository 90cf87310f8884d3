"""Climatology draws observed fields of other times, and none near the sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.errors import ComponentError, DataError, MismatchError, MissingVariableError
from xcvae.registry import build

YEAR = 365


def days(count: int, start: str = "2001-01-01", units: str = "mm d-1") -> xr.Dataset:
    """Daily fields; every pixel has the number of its day."""
    numbers = np.arange(count, dtype="float32")[:, None, None]
    time = np.datetime64(start, "ns") + np.arange(count) * np.timedelta64(1, "D")
    return xr.Dataset(
        {"pr": (("time", "y", "x"), np.broadcast_to(numbers, (count, 2, 3)).copy())},
        coords={"time": time, "y": [0.0, 1.0], "x": [0.0, 1.0, 2.0]},
        attrs={"target": "pr"},
    ).assign(pr=lambda ds: ds.pr.assign_attrs(units=units, standard_name="lwe_precipitation_rate"))


def drawn(ds: xr.Dataset, members: int = 5, seed: int = 0, **parameters: Any) -> xr.DataArray:
    """Return the numbers of the days of the members, which have to be whole fields."""
    baseline = build("baseline", {"name": "climatology", **parameters})
    field: xr.DataArray = baseline(ds, members, seed)
    assert field.dims == ("realization", *ds.pr.dims)
    assert field.attrs["units"] == ds.pr.attrs["units"]
    assert (field == field[..., :1, :1]).all()
    return field[..., 0, 0]


def test_climatology_without_record_skips_own_field_and_neighbours() -> None:
    ds = days(100)
    numbers = drawn(ds, members=60)
    apart = abs(numbers - np.arange(100))
    assert apart.min() == 10  # the root of 100
    assert (numbers.groupby("time").map(lambda day: day.std()) > 0).all()
    for own in numbers.values.T:
        assert len(np.unique(own)) == 60


def test_climatology_draws_distant_fields_uniformly() -> None:
    numbers = drawn(days(40), members=25)
    counts = np.bincount(numbers[:, 0].values.astype(int), minlength=40)
    assert counts[6:].max() == 1
    first = np.concatenate([drawn(days(40), members=1, seed=s)[0, :1] for s in range(400)])
    assert np.bincount(first.astype(int), minlength=40)[6:].min() >= 2
    assert first.min() == 6


def test_climatology_repeats_fields_of_a_short_record() -> None:
    numbers = drawn(days(4), members=7)
    assert sorted(np.unique(numbers[:, 0])) == [2, 3]


def test_climatology_draws_from_the_whole_record() -> None:
    record, test = days(730), days(20, "2003-06-01")
    numbers = drawn(test, members=40, record=record)
    assert numbers.values.min() < 30
    assert numbers.values.max() > 700


def test_climatology_window_crosses_new_year() -> None:
    record = days(3 * YEAR)
    test = days(5, "2010-12-30")
    numbers = drawn(test, members=60, record=record, window=30)
    day = numbers % YEAR + 1  # of the year
    middle = test.time.dt.dayofyear
    apart = abs(day - middle)
    apart = np.minimum(apart, 365.25 - apart)
    assert apart.max() <= 15
    assert apart.max() > 13
    assert (day > 300).any()
    assert (day < 60).any()
    for own in numbers.values.T:
        assert len(np.unique(own)) == 60  # of the 90 or so that there are


def test_climatology_skips_the_sample_in_a_given_record() -> None:
    record = days(400)
    test = record.isel(time=[200, 201]).assign_attrs(target="pr")
    numbers = drawn(test, members=300, record=record)
    assert abs(numbers - xr.DataArray([200, 201], dims="time")).min() == 20
    assert len(np.unique(numbers[:, 0])) == 300


def test_climatology_skips_neighbours_of_samples_outside_the_record() -> None:
    record = days(400)
    # Every third day is evaluated and missing in the record, which has its neighbours.
    test = record.isel(time=slice(100, 300, 3)).assign_attrs(target="pr")
    rest = record.drop_sel(time=test.time)
    own = xr.DataArray(test.pr[:, 0, 0].values, dims="time", coords={"time": test.time})
    assert abs(drawn(test, members=100, record=rest) - own).min() >= 17  # the root of 333
    # Distances are in time, not in positions of the record.
    gap = record.isel(time=np.r_[0:50, 200:400])
    numbers = drawn(record.isel(time=[49]).assign_attrs(target="pr"), members=220, record=gap)
    assert numbers.max() == 399
    assert 200 in numbers.values
    assert abs(numbers - 49).min() == 16  # the root of 250 steps of a day, whatever the gap


def test_climatology_accepts_cftime_calendars() -> None:
    ds = days(100)
    model = ds.assign_coords(time=xr.date_range("2001-01-01", periods=100, calendar="noleap"))
    assert model.time.dtype == object
    np.testing.assert_array_equal(drawn(model, members=20), drawn(ds, members=20))


def test_climatology_reads_records_from_paths_in_other_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = days(6, "2003-06-01")
    record = days(60, units="mm h-1").assign(pr=lambda ds: (ds.pr / 24).assign_attrs(ds.pr.attrs))
    record.drop_attrs(deep=False).to_zarr(tmp_path / "record.zarr", consolidated=False)
    in_memory = build("baseline", {"name": "climatology", "record": record})(test, 4, 1)
    monkeypatch.setenv("RECORDS", str(tmp_path))
    stored = build("baseline", {"name": "climatology", "record": "$RECORDS/record.zarr"})
    np.testing.assert_allclose(stored(test, 4, 1), in_memory, rtol=1e-6)
    np.testing.assert_allclose(in_memory, in_memory.round(), atol=1e-4)
    assert in_memory.max() > 20


def test_climatology_draws_are_independent_of_chunks_samples_and_members() -> None:
    ds, record = days(30, "2003-06-01"), days(200)
    whole = drawn(ds, members=8, record=record)
    chunked = drawn(ds.chunk(time=7), members=8, record=record.chunk(time=50))
    assert chunked.chunks is not None
    assert chunked.chunksizes["time"] == (7, 7, 7, 7, 2)
    np.testing.assert_array_equal(chunked, whole)
    np.testing.assert_array_equal(drawn(ds[{"time": [3, 20]}], 8, record=record), whole[:, [3, 20]])
    np.testing.assert_array_equal(drawn(ds, members=3, record=record), whole[:3])
    assert not np.array_equal(drawn(ds, members=8, seed=1, record=record), whole)


def test_scorecard_compares_an_ensemble_with_climatology() -> None:
    rng = np.random.default_rng(0)
    record, test = days(300), days(40, "2002-01-01")
    for ds in (record, test):
        ds["pr"] = ds.pr.copy(data=rng.gamma(0.5, 4, ds.pr.shape).astype("float32"))
    own = test[["pr"]].copy()
    own["pr"] = xr.concat([test.pr * f for f in (0.9, 1.0, 1.1)], "realization").assign_attrs(
        test.pr.attrs
    )
    card = xcvae.evaluate(
        test.drop_attrs(deep=False),
        own,
        metrics=["crps", "spread_skill", {"name": "crps_skill", "against": "climatology"}],
        baselines=[{"name": "climatology", "record": record, "window": 90}],
        progress=False,
    )
    assert card.source.values.tolist() == ["xcvae", "climatology"]
    scores = card.sel(source="climatology")
    assert float(scores.spread_skill) == pytest.approx(1, abs=0.25)
    assert float(card.crps[0]) < 0.2 * float(scores.crps)


def test_climatology_refuses_records_that_do_not_match(tmp_path: Path) -> None:
    test = days(6)
    elsewhere = days(60).assign_coords(x=[5.0, 6.0, 7.0])
    with pytest.raises(MismatchError, match="axis 'x'"):
        drawn(test, record=elsewhere)
    with pytest.raises(MismatchError, match="axis 'y'"):
        drawn(test, record=days(60).isel(y=[0]))
    with pytest.raises(MissingVariableError, match="'pr'"):
        drawn(test, record=days(60).rename(pr="rain"))
    with pytest.raises(DataError, match="none for some sample"):
        drawn(days(1))
    with pytest.raises(DataError, match="none for some sample"):
        drawn(days(6), record=days(60, "2001-06-01"), window=5)
    with pytest.raises(DataError, match="samples that are times"):
        drawn(test.assign_coords(time=np.arange(6)), window=30)
    with pytest.raises(ComponentError, match="above 0 and at most 366"):
        build("baseline", {"name": "climatology", "window": 0.0})


def test_climatology_draws_fields_that_were_observed_in_full() -> None:
    """One lost map was a member of most samples, and took them out of the scores of all sources."""
    random = np.random.default_rng(0)
    rain = xr.DataArray(
        random.gamma(0.5, 2.0, (40, 8, 8)),
        dims=("time", "y", "x"),
        coords={"time": np.datetime64("2001-01-01", "ns") + np.arange(40) * np.timedelta64(1, "D")},
        attrs={"units": "mm/day"},
        name="pr",
    )
    gaps = rain.where(~rain.time.isin(rain.time[[3, 20]]))
    gaps[10, :4] = np.nan
    dataset = gaps.to_dataset().assign_attrs(target="pr")
    climatology = build("baseline", "climatology")
    assert np.isfinite(climatology(dataset, 20, 0)).all()
    lost = climatology(dataset.isel(time=slice(8)), 6, 0)  # more members than complete fields
    assert np.isfinite(lost).any(("y", "x")).all()

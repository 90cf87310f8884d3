"""Labels of samples: calendars, resolutions, and how they match after a store."""

# ruff: noqa: E501  a row is a line; refused or right: both may serve

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xcvae

from .makers import admit, case, either, rain, refused, right, times, together

cftime = pytest.importorskip("cftime")

CALENDARS = [
    "standard", "gregorian", "proleptic_gregorian", "noleap", "365_day", "all_leap", "366_day",
    "360_day", "julian",
]  # fmt: skip


def cf_dates(calendar: str, n: int = 6, freq: str = "D") -> xr.CFTimeIndex:
    return xr.date_range("2001-02-26", periods=n, freq=freq, calendar=calendar, use_cftime=True)


def labelled(labels: object) -> xr.Dataset:
    return together(rain().drop_vars("time").assign_coords(time=("time", labels)))


def undecoded(calendar: str | None = None) -> xr.Dataset:
    """Times as numbers, read with decode_times=False."""
    ds = labelled(np.arange(6) + 51544)
    ds.time.attrs = {"units": "days since 1858-11-17"} | (
        {"calendar": calendar} if calendar else {}
    )
    return ds


def python_datetimes() -> np.ndarray:
    days = np.empty(6, object)
    days[:] = [datetime(2001, 1, 1) + timedelta(days=i) for i in range(6)]
    return days


def stacked() -> xr.Dataset:
    ds = together(rain(dims=("year", "month", "y", "x"), shape=(2, 3, 12, 12), coords={}))
    ds = ds.drop_vars("t").stack(sample=["year", "month"])
    return ds.assign(t=("sample", np.arange(6.0), {"units": "K"}))


DAYS = times().values
LABELS = [
    *(case(f"datetime64[{unit}]", lambda unit=unit: labelled(DAYS.astype(f"datetime64[{unit}]")), right(daily=True))
      for unit in ("s", "ms", "us", "ns")),
    *(case(f"cftime {name}, days", lambda name=name: labelled(cf_dates(name)), right(daily=True)) for name in CALENDARS),
    *(case(f"cftime {name}, hours", lambda name=name: labelled(cf_dates(name, freq="h")), right(daily=False, units="mm/day"))
      for name in ("standard", "noleap", "360_day")),
    case("Python datetimes", lambda: labelled(python_datetimes()), right(daily=True)),
    case("Python dates", lambda: labelled([one.date() for one in python_datetimes()]), either(right(daily=True), refused("time"))),
    case("numbers, undecoded", undecoded, right(target="pr")),
    case("numbers with a calendar, undecoded", lambda: undecoded("noleap"), right(target="pr")),
    case("names", lambda: labelled(list("fbacde")), right(target="pr")),
    case("years", lambda: labelled(np.arange(1990, 1996)), right(target="pr")),
    case("fractions", lambda: labelled(np.arange(6) / 24), right(target="pr")),
    case("none", lambda: together(rain().drop_vars("time")), right(target="pr")),
    case("stacked", stacked, right(dims=("sample", "y", "x"))),
    case("tz-aware", lambda: labelled(pd.date_range("2001", periods=6, tz="UTC").astype(object).values),
         either(right(daily=True), refused("time", "tz_localize|tz_convert|time zone|UTC"))),
    case("periods", lambda: labelled(pd.period_range("2001", periods=6, freq="M").astype(object).values),
         either(right(target="pr"), refused("time"))),
    case("one sample", lambda: together(rain().isel(time=[0])), right(daily=True)),
    case("months", lambda: labelled(pd.date_range("2001", periods=6, freq="MS").values), right(daily=True)),
    case("29 February", lambda: labelled(pd.date_range("2004-02-26", periods=6).values), right(daily=True)),
    case("days before 1678", lambda: labelled(np.datetime64("1500-01-01", "s") + np.arange(6) * np.timedelta64(1, "D")),
         right(daily=True)),
    case("valid_time as the dim", lambda: together(rain(), ).rename(time="valid_time"), right(dims=("valid_time", "y", "x"))),
    case("unsorted", lambda: together(rain()).isel(time=[0, 2, 1, 3, 4, 5]), refused("time", "position 2", "sortby")),
    case("falling", lambda: together(rain()).isel(time=slice(None, None, -1)), refused("time", "sortby")),
    case("unsorted numbers", lambda: labelled([1, 3, 2, 4, 5, 6]), refused("time", "sortby")),
    case("unsorted cftime", lambda: labelled(cf_dates("noleap")[[0, 2, 1, 3, 4, 5]]), refused("time", "sortby")),
    case("unsorted Python datetimes", lambda: labelled(python_datetimes()[[0, 2, 1, 3, 4, 5]]), refused("time", "sortby")),
    case("repeated", lambda: together(rain()).isel(time=[0, 1, 1, 2, 3, 4]), refused("time", "repeated", "drop_duplicates")),
    case("repeated cftime", lambda: labelled(cf_dates("360_day")[[0, 1, 1, 3, 4, 5]]), refused("time", "repeated", "drop_duplicates")),
    case("NaT", lambda: labelled([*DAYS[:5], np.datetime64("NaT")]), refused("time", "missing", r"notnull|isel|where")),
    case("NaN", lambda: labelled([1.0, np.nan, 3, 4, 5, 6]), refused("time", "missing")),
    case("no samples", lambda: together(rain()).isel(time=[]), refused("at least one sample", "time", "selection")),
    case("init and lead time", lambda: together(rain(dims=("init", "step", "y", "x"), shape=(2, 3, 12, 12)).assign_attrs(units="mm")).drop_vars("t"),
         refused("pr", "init, step", "stack"), target="pr"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "answer", "options"), LABELS)
def test_labels_are_read_or_refused(make, answer, options):
    answer.check(lambda: admit(make(), **options))


def test_nat_labels_can_be_dropped_as_the_message_says():
    ds = labelled([*DAYS[:5], np.datetime64("NaT")])
    admit(ds.isel(time=np.flatnonzero(ds.time.notnull())))


# --- after a store -----------------------------------------------------------------------------

STORED = {
    "datetime64[ns]": lambda: DAYS,
    "datetime64[us]": lambda: DAYS.astype("datetime64[us]"),
    "datetime64[ms]": lambda: DAYS.astype("datetime64[ms]"),
    "datetime64[s]": lambda: DAYS.astype("datetime64[s]"),
    "Python datetimes": python_datetimes,
    "cftime standard": lambda: cf_dates("standard"),
    "cftime proleptic_gregorian": lambda: cf_dates("proleptic_gregorian"),
    "cftime noleap": lambda: cf_dates("noleap"),
    "cftime 360_day": lambda: cf_dates("360_day"),
    "numbers": lambda: np.arange(6),
    "fractions": lambda: np.arange(6) / 7,
    "names": lambda: list("abcdef"),
    "cftime standard, hours": lambda: cf_dates("standard", freq="h"),
    "undecoded": lambda: undecoded().time,
    "undecoded noleap": lambda: undecoded("noleap").time,
}


def _evaluate(ds: xr.Dataset, ens: xr.Dataset) -> int:
    card = xcvae.evaluate(ds, ens, metrics=["mae"], baselines=[], progress=False)
    assert np.isfinite(card.mae).all()
    return 12


def _augment(ds: xr.Dataset, ens: xr.Dataset) -> int:
    both = xcvae.augment(ds, ens)
    np.testing.assert_array_equal(both.pr[:6], ds.pr)
    np.testing.assert_array_equal(both.pr[6:12], ens.pr[0])
    return both.sizes["time"] - 6


def _loader(ds: xr.Dataset, ens: xr.Dataset) -> int:
    catalog = Path(ens.encoding["source"]).with_name("catalog.yaml")
    batches = list(xcvae.loader(catalog, "e", real=ds, conditions=["t"], batch_size=12))
    assert sorted(batches[0]["t"].tolist()) == sorted([*ds.t.values] * 2)
    return sum(len(batch["pr"]) for batch in batches)


VERBS: dict[str, Callable[[xr.Dataset, xr.Dataset], int]] = {
    "evaluate": _evaluate,
    "augment": _augment,
    "loader": _loader,
}


@pytest.fixture(scope="module")
def stored(model, daily, tmp_path_factory):
    """Return data and stored ensemble by the name of their labels, each drawn once."""
    made: dict[str, tuple[xr.Dataset, xr.Dataset]] = {}

    def get(name: str) -> tuple[xr.Dataset, xr.Dataset]:
        if name not in made:
            labels = STORED[name]()
            given = labels if isinstance(labels, xr.DataArray) else ("time", labels)
            ds = daily.drop_vars("time").assign_coords(time=given)
            folder = tmp_path_factory.mktemp("stores")
            places = {"store": folder / "e.zarr", "catalog": folder / "catalog.yaml", "name": "e"}
            ensemble = xcvae.sample(ds, model, members=2, progress=False, **places)
            ensemble.encoding["source"] = str(places["store"])
            made[name] = ds.assign(t=("time", np.arange(6.0), {"units": "K"})), ensemble
        return made[name]

    return get


@pytest.mark.parametrize(
    "labels",
    [
        pd.date_range("2001", periods=6, tz="Europe/Berlin").astype(object).values,
        pd.period_range("2001", periods=6, freq="M").astype(object).values,
        pd.date_range("2001", periods=6, tz="Europe/Berlin"),
        pd.period_range("2001", periods=6, freq="M"),
        pd.CategoricalIndex(list("abcdef")),
    ],
    ids=["tz-aware", "periods", "tz-aware index", "period index", "categories"],
)
@pytest.mark.filterwarnings("ignore:DatetimeIndex.values:Warning")  # xarray, of pandas 4
def test_labels_that_no_store_holds_are_refused_before_drawing(daily, model, tmp_path, labels):
    ds = daily.drop_vars("time").assign_coords(time=("time", labels))
    with pytest.raises(xcvae.errors.DataError, match=r"time.*tz_convert.*astype"):
        xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    assert not any(tmp_path.iterdir())
    lazy = xcvae.sample(ds, model, members=1, progress=False)
    assert xcvae.augment(ds, lazy, select=labels[:2]).sizes["time"] == 8


@pytest.mark.parametrize(
    "values",
    [
        pd.Categorical(list("abacba")),
        pd.date_range("2001", periods=6, tz="UTC"),
        np.array([1, "a", 2, None, "b", 3], object),
        np.arange(6) * 1j,
    ],
    ids=["categories", "tz-aware", "mixed", "complex"],
)
def test_coordinates_that_no_file_holds_are_refused_by_name(daily, model, tmp_path, values):
    ds = daily.assign_coords(kind=("time", values))
    lazy = xcvae.sample(ds, model, members=1, progress=False)
    for write in (
        lambda: xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False),
        lambda: xcvae.augment(ds, lazy, store=tmp_path / "a.zarr"),
        lambda: lazy.cvae.to_netcdf(tmp_path / "files"),
    ):
        with pytest.raises(xcvae.errors.DataError, match=r"'kind': expected .*astype"):
            write()
    assert not any(tmp_path.iterdir())


def test_coordinates_of_a_grid_that_no_store_holds_are_refused_by_name(daily, model, tmp_path):
    kinds = pd.Categorical(["a", "b"] * (daily.sizes["y"] // 2) + ["a"] * (daily.sizes["y"] % 2))
    ds = daily.assign_coords(zone=("y", kinds))
    with pytest.raises(xcvae.errors.DataError, match=r"'zone': expected .*astype"):
        xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    assert not [file for file in tmp_path.rglob("*") if not file.name.startswith(".")]
    assert "zone" in xcvae.sample(ds, model, members=1, progress=False).coords


def test_numbers_as_objects_with_gaps_are_written(daily, model, tmp_path):
    """A gap is written as NaN."""
    ds = daily.assign_coords(number=("time", np.array([1.0, 2.0, None, 4.0, 5.0, 6.0], object)))
    ens = xcvae.sample(ds, model, members=1, store=tmp_path / "e.zarr", progress=False)
    assert np.isnan(float(ens.number[2]))


def test_coordinates_in_half_precision_and_numbers_as_objects_are_written(daily, model, tmp_path):
    ds = daily.assign_coords(
        half=("time", np.arange(6, dtype="float16")),
        number=("time", np.array([1, 2, 3, 4, 5, 6], object)),
    )
    for days in (ds.isel(time=slice(3)), ds):
        ens = xcvae.sample(
            days, model, members=1, store=tmp_path / "e.zarr", resume="append", progress=False
        )
    with xr.open_dataset(ens.cvae.to_netcdf(tmp_path / "files")[0]) as written:
        assert written.number.values.tolist() == [1, 2, 3, 4, 5, 6]
        assert written.half.values.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("verb", [_evaluate, _augment])
def test_days_of_another_calendar_are_refused(daily, model, verb):
    ens = xcvae.sample(daily, model, members=2, progress=False)
    ds = daily.drop_vars("time").assign_coords(time=("time", cf_dates("noleap")))
    with pytest.raises(xcvae.errors.MismatchError, match="6"):
        verb(ds, ens)


def test_data_as_cftime_go_with_an_ensemble_of_datetimes(daily, model):
    ens = xcvae.sample(daily, model, members=2, progress=False)
    days = xr.date_range("2001-01-01", periods=6, use_cftime=True)
    ds = daily.drop_vars("time").assign_coords(time=("time", days))
    assert _evaluate(ds, ens) == _augment(ds, ens) == 12


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("verb", VERBS)
def test_a_stored_ensemble_goes_with_its_data(stored, verb, name):
    ds, ensemble = stored(name)
    assert VERBS[verb](ds, ensemble) == 12

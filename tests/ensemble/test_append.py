"""Members and samples appended to a finished store: the values of one call, and nothing lost."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.ensemble.request import DEFAULT_POSTERIOR_SPREAD
from xcvae.ensemble.sample import sample
from xcvae.ensemble.store import EnsembleStore, open_store
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import ConfigError, MismatchError, OutputExistsError, StoreError

from ..support.failing import Fuse

QUIET = {"progress": False}
KINDS = ["zarr", "icechunk"]
UNITS = "hours since 2001-01-01"


def location(kind: str, folder: Path) -> str | Path:
    if kind == "icechunk":
        pytest.importorskip("icechunk")
        return f"icechunk:{folder / 'e.icechunk'}"
    return folder / "e.zarr"


def ledger_of(store):
    return EnsembleStore.of(store).status().complete.ledger


@pytest.fixture(scope="module")
def whole(few, model):
    """Six storms with five members, drawn in one call."""
    return sample(few, model, members=5, seed=3, **QUIET).load()


@pytest.mark.parametrize("kind", KINDS)
def test_appended_members_and_samples_equal_those_of_one_call(kind, few, model, whole, tmp_path):
    store = location(kind, tmp_path)
    # Chunks of 2 x 3: the first call leaves chunks half full along both dims.
    first = sample(
        few.isel(time=slice(4)), model, members=3, seed=3, store=store,
        chunks={"realization": 2, "time": 3}, **QUIET,
    )  # fmt: skip
    days = sample(few.isel(time=slice(4, 6)), model, like=first, store=store, **QUIET)
    assert days.pr.shape[:2] == (3, 6)
    np.testing.assert_array_equal(days.pr.values, whole.pr.values[:3])
    both = sample(few, model, like=first, members=range(3, 5), store=store, **QUIET)
    xr.testing.assert_identical(both.drop_attrs(), whole.drop_attrs())
    assert both.realization.values.tolist() == [0, 1, 2, 3, 4]
    assert [line.partition(": ")[2][:5] for line in both.history.splitlines()[-3:]] == ["xcvae"] * 3
    again = sample(few, model, like=first, members=5, store=store, **QUIET)  # all is there
    assert again.attrs == both.attrs
    assert again.pr.shape == both.pr.shape
    part = sample(few.isel(time=[1, 2, 5]), model, like=first, members=2, store=store, **QUIET)
    xr.testing.assert_identical(part, both.isel(realization=slice(2), time=[1, 2, 5]))
    # A repeated call that appended returns the same as the first time.
    for data, members in ((few.isel(time=slice(4, 6)), 3), (few, range(3, 5))):
        same = sample(data, model, like=first, members=members, store=store, **QUIET)
        assert same.pr.shape == both.pr.shape
    counts = [json.loads(ens.attrs["xcvae"])["postprocess"] for ens in (both, whole)]
    stored = sample(few, model, members=5, seed=3, store=tmp_path / "one.zarr", **QUIET)
    counts[1] = json.loads(stored.attrs["xcvae"])["postprocess"]
    assert counts[0][0]["removed"]["pixels"] == counts[1][0]["removed"]["pixels"]


def test_an_ensemble_that_has_grown_knows_all_samples_that_were_trained_on(few, tmp_path):
    """It knew those of the last call only, and nothing warned of scores of training samples."""
    fit = {"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1}
    generator = {"channels": [8, 8], "latents": [2, 1]}
    options = {"target": "pr", "coarsen": 8, "validation": 0, "progress": False}
    model = xcvae.train(few.isel(time=[0, 1, 3]), fit=fit, generator=generator, **options)
    store, first = tmp_path / "e.zarr", few.isel(time=slice(2))
    sample(first, model, members=2, store=store, **QUIET)
    for part, count in ((few.isel(time=slice(2, 4)), 3), (few.isel(time=slice(4, 6)), 3)):
        grown = sample(part, model, members=2, store=store, resume="append", **QUIET)
        assert json.loads(grown.attrs["xcvae"])["training_samples"]["count"] == count
    card = xcvae.evaluate(few, grown, metrics=["crps"], baselines=[], progress=False)
    assert "3 of 6 samples were trained on" in card.attrs["comment"]


@pytest.mark.parametrize("kind", KINDS)
def test_ledger_says_which_call_made_which_region(kind, few, model, tmp_path):
    store = location(kind, tmp_path)
    chunks = {"realization": 2, "time": 2}
    made = {"seed": 3, "store": store, "chunks": chunks, **QUIET}
    sample(few.isel(time=slice(3)), model, members=2, **made)
    sample(few, model, members=2, resume="append", **made)
    sample(few, model, members=range(2, 4), **made)
    ledger = ledger_of(store)
    calls = ledger.metadata()["calls"]
    assert [(one["realizations"], one["samples"]) for one in calls] == [
        ([0, 2], [0, 3]), ([0, 2], [3, 6]), ([2, 4], [0, 6]),
    ]  # fmt: skip
    by_call = [ledger.entries()[number]["calls"] for number in range(6)]
    assert by_call == [[0], [0, 1], [1], [2], [2], [2]]
    found = verify_store(store, ds=few, model=model, sample=6, progress=False)
    assert found.ok
    assert len(found.redrawn) == 6
    # The whole call finds the store as its own.
    opened = sample(few, model, members=4, **{**made, "resume": True})
    assert opened.sizes["realization"] == 4


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_members_under_their_own_numbers_equal_those_of_more_members(mode, few, model):
    whole = sample(few, model, mode=mode, members=5, **QUIET)
    some = sample(few, model, mode=mode, members=range(3, 5), **QUIET)
    assert some.realization.values.tolist() == [3, 4]
    np.testing.assert_array_equal(some.pr.values, whole.pr.values[3:])
    assert json.loads(some.attrs["xcvae"])["members"] == {"start": 3, "stop": 5}
    assert "drew 2 members" in some.history


@pytest.mark.parametrize(
    "members", [range(0), range(0, 6, 2), range(-2, 3), {"start": 2}, [3, 4], "3", 2.5], ids=repr
)
def test_members_that_are_no_numbers_in_a_row_are_refused(members, few, model):
    with pytest.raises(ConfigError, match=r"members: expected an integer >= 1, or a range"):
        sample(few, model, members=members, **QUIET)


def test_like_takes_everything_that_was_set(few, model, tmp_path):
    settings = {
        "mode": "posterior", "members": 2, "diversity": 0.1, "temperature": 0.9, "seed": 4,
        "postprocess": [{"name": "threshold", "value": "0.2 mm h-1"}], "min_mass": 0.1,
        "tile": {"y": 24, "x": 24},
    }  # fmt: skip
    for store in (None, tmp_path / "e.zarr"):
        first = sample(few, model, **settings, store=store, **QUIET)
        again = sample(few, model, like=first if store is None else store, **QUIET)
        np.testing.assert_array_equal(again.pr.values, first.pr.values)
        records = [json.loads(one.attrs["xcvae"]) for one in (first, again)]
        for key in (*settings, "spread", "diversity_reached"):
            if key != "postprocess":
                assert records[0][key] == records[1][key], key
    other = sample(few, model, like=first, spread=0.3, seed=5, **QUIET)
    record = json.loads(other.attrs["xcvae"])
    assert (record["seed"], record["spread"], record["diversity"]) == (5, 0.3, None)
    prior = sample(few, model, like=first, mode="prior", **QUIET)
    assert json.loads(prior.attrs["xcvae"])["spread"] == 1.0
    # That 1 is no choice of anybody: variations like a prior ensemble have the default spread.
    variations = sample(few, model, like=prior, mode="posterior", **QUIET)
    assert json.loads(variations.attrs["xcvae"])["spread"] == DEFAULT_POSTERIOR_SPREAD


def test_solved_spread_of_the_store_serves_appended_samples(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    made = {"mode": "posterior", "diversity": 0.1, "members": 2, "store": store, **QUIET}
    first = sample(few.isel(time=slice(3)), model, **made)
    spread = json.loads(first.attrs["xcvae"])["spread"]
    both = sample(few, model, like=first, store=store, **QUIET)
    assert json.loads(both.attrs["xcvae"])["spread"] == spread
    fixed = sample(few, model, mode="posterior", spread=spread, members=2, **QUIET)
    np.testing.assert_array_equal(both.pr.values, fixed.pr.values)


CHANGES = [
    ({"seed": 8}, "seed"),
    ({"temperature": 0.5}, "temperature"),
    ({"mode": "posterior"}, "mode"),
    ({"postprocess": []}, "postprocess"),
    ({"chunks": {"time": 1}}, "chunks"),
    ({"tile": {"y": 24}}, "tile"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_append_refuses_what_resume_refuses(kind, few, model, tmp_path):
    store = location(kind, tmp_path)
    made = {"members": 2, "seed": 3, "store": store, **QUIET}
    first = sample(few.isel(time=slice(4)), model, **made)
    for change, key in CHANGES:
        with pytest.raises(OutputExistsError, match=rf"{key} \(stored"):
            sample(few, model, **{**made, **change}, resume="append")
    changed = few.assign(pr=few.pr + 1.0)
    with pytest.raises(OutputExistsError, match=r"data \(stored"):
        sample(changed, model, **made, resume="append")
    # Without a word of appending, other data and members are refused as ever, with the remedy.
    for data, members in ((few, 2), (few.isel(time=slice(4)), 3)):
        with pytest.raises(OutputExistsError, match=r'resume="append"'):
            sample(data, model, **{**made, "members": members})
    with pytest.raises(MismatchError, match=r"range\(2, 4\)"):
        sample(few.isel(time=slice(4)), model, **{**made, "members": range(3, 5)})
    with pytest.raises(MismatchError, match="data without 4 of them"):
        sample(few.isel(time=slice(4, 6)), model, **{**made, "members": 3}, resume="append")
    with pytest.raises(MismatchError, match="Append the samples first, then the members"):
        sample(few, model, **{**made, "members": range(2, 4)}, resume="append")
    moved = few.assign_coords(y=few.y + 1.0)
    with pytest.raises(MismatchError, match="other values of 'y'"):
        sample(moved.isel(time=slice(4, 6)), model, **made, resume="append")
    earlier = few.isel(time=[4]).assign_coords(time=few.time.values[:1] - np.timedelta64(1, "D"))
    with pytest.raises(MismatchError, match="new samples after its last one"):
        sample(earlier, model, **made, resume="append")
    xr.testing.assert_identical(open_store(store).load(), first.load())
    assert verify_store(store).ok


def test_corrected_data_of_stored_samples_are_refused_beside_new_samples(few, model, tmp_path):
    """A window of days that overlaps the store: they were compared only if all days were given."""
    made = {"members": 2, "seed": 3, "store": tmp_path / "e.zarr", "resume": "append", **QUIET}
    for end in (3, 4, 5):
        sample(few.isel(time=slice(end)), model, **made)
    window = few.isel(time=slice(3, 6)).load()
    corrected = window.copy(deep=True)
    corrected["pr"][1] += 1.0
    day = str(few.time.dt.date.values[4])
    with pytest.raises(OutputExistsError, match=rf"data \(of {day}\S* to {day}\S*, stored"):
        sample(corrected, model, **made)
    with pytest.raises(OutputExistsError, match=rf"data \(of {day}"):
        sample(corrected.isel(time=[1]), model, **made)
    assert sample(window, model, **made).sizes["time"] == 6


def test_times_that_a_store_returns_in_another_form_are_appended(few, model, tmp_path):
    numbers = few.assign_coords(time=("time", np.arange(6.0) * 24, {"units": UNITS}))
    calendar = few.assign_coords(time=xr.decode_cf(numbers[["time"]]).indexes["time"])
    calendar = calendar.convert_calendar("proleptic_gregorian", use_cftime=True)
    for ds, store in ((numbers, tmp_path / "n.zarr"), (calendar, tmp_path / "c.zarr")):
        first = sample(ds.isel(time=slice(4)), model, members=1, seed=3, store=store, **QUIET)
        assert first.time.dtype.kind == "M"
        made = {"seed": 3, "store": store, "resume": "append", **QUIET}
        both = sample(ds, model, members=1, **made)
        both = sample(ds, model, members=2, **made)
        np.testing.assert_array_equal(
            both.pr.values, sample(ds, model, members=2, seed=3, **QUIET).pr
        )
        assert (both.time.values == np.arange("2001-01-01", "2001-01-07", dtype="M8[D]")).all()
        assert sample(ds.isel(time=[1, 5]), model, members=1, **made).time.equals(both.time[[1, 5]])
        assert verify_store(store, model=model, ds=ds, progress=False).ok


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dates", [False, True], ids=["times", "dates"])
def test_bounds_travel_with_their_coordinates(kind, dates, few, model, tmp_path):
    """A depth lasts as long as the bounds of its time; ensembles had none."""
    start = few.time.values
    edges = np.stack([start, start + np.timedelta64(390, "m")], axis=-1)
    sides = np.stack([few.y.values - 0.5, few.y.values + 0.5], axis=-1)
    ds = few.assign_coords(y=few.y, y_bnds=(("y", "bnds"), sides))
    ds["time_bnds"] = ("time", "bnds"), edges
    if dates:  # which a store returns as times
        ds = ds.drop_vars("time_bnds").convert_calendar("standard", use_cftime=True)
        ends = ds["time"].values + timedelta(hours=6.5)
        ds["time_bnds"] = ("time", "bnds"), np.stack([ds["time"].values, ends], axis=-1)
    ds["time"].attrs["bounds"], ds["y"].encoding["bounds"] = "time_bnds", "y_bnds"
    options = {"members": 2, "store": location(kind, tmp_path), "resume": "append", **QUIET}
    sample(ds.isel(time=slice(4)), model, **options)
    grown = sample(ds.isel(time=slice(4, 6)), model, **options)
    (file,) = grown.cvae.to_netcdf(tmp_path / "files")
    with xr.open_dataset(file) as copy:
        for ensemble in (grown, copy):
            assert ensemble["time"].attrs["bounds"] == "time_bnds"
            np.testing.assert_array_equal(ensemble["time_bnds"], edges)
            np.testing.assert_array_equal(ensemble["y_bnds"], sides)
    with xr.open_dataset(file, decode_cf=False) as copy:
        for name, bounds in (("time", "time_bnds"), ("y", "y_bnds")):
            for key, value in copy[bounds].attrs.items():  # none, or those of the coordinate
                assert (key, value) == (key, copy[name].attrs[key])


@pytest.mark.parametrize("kind", KINDS)
def test_bounds_of_times_that_are_numbers_are_appended(kind, few, model, tmp_path):
    """A store decodes both; the bounds have the units of their times."""
    hours = np.arange(6.0) * 24
    ds = few.assign_coords(time=("time", hours, {"units": UNITS, "bounds": "time_bnds"}))
    ds["time_bnds"] = ("time", "bnds"), np.stack([hours, hours + 24], axis=-1)
    options = {"members": 2, "store": location(kind, tmp_path), "resume": "append", **QUIET}
    sample(ds.isel(time=slice(4)), model, **options)
    grown = sample(ds, model, **options)
    np.testing.assert_array_equal(grown["time_bnds"][:-1, 1], grown["time"][1:])
    assert sample(ds, model, **{**options, "members": 3}).sizes["realization"] == 3


def test_append_refuses_what_all_samples_cannot_share(few, model, tmp_path):
    made = {"members": 1, "store": tmp_path / "e.zarr", **QUIET}
    here = few.assign_coords(
        run=np.datetime64("2001-01-01", "ns"), place=("y", list(map(str, few.y.values)))
    )
    first = sample(here.isel(time=slice(4)), model, **made)
    new = here.isel(time=slice(4, 6))
    noleap = new.convert_calendar("noleap", use_cftime=True)
    for changed, words in (
        (new.assign_coords(run=np.datetime64("2002-01-01", "ns")), "'run'.*2001-01-01.*2002-01-01"),
        (new.assign_coords(place=new.place[::-1].variable), "other values of 'place'"),
        (noleap, "'time': expected times, as in the store, got dates of the calendar 'noleap'"),
    ):
        with pytest.raises(MismatchError, match=words):
            sample(changed, model, **made, resume="append")
    xr.testing.assert_identical(open_store(made["store"]).load(), first.load())
    assert sample(new, model, **made, resume="append").sizes["time"] == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [({"like": 5}, "like: .*int 5"), ({"progress": "no"}, "progress: .*'no'")],
)
def test_wrong_arguments_are_named(few, model, options, words):
    with pytest.raises(ConfigError, match=words):
        sample(few, model, **{**QUIET, **options})


def test_append_to_a_damaged_store_asks_for_repair(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    made = {"members": 2, "seed": 3, "store": store, **QUIET}
    sample(few.isel(time=slice(4)), model, **made)
    next(p for p in (store / "pr" / "c").rglob("*") if p.is_file()).write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r'resume="repair"'):
        sample(few, model, **made, resume="append")


def test_a_store_that_has_grown_is_repaired_by_the_call_of_its_whole(few, model, whole, tmp_path):
    store = tmp_path / "e.zarr"
    made = {"seed": 3, "store": store, **QUIET}
    sample(few.isel(time=slice(4)), model, members=3, **made)
    sample(few, model, members=5, resume="append", **made)
    next(p for p in (store / "pr" / "c").rglob("*") if p.is_file()).write_bytes(b"damaged")
    assert not verify_store(store).ok
    sample(few, model, members=5, resume="repair", **made)
    assert verify_store(store).ok
    np.testing.assert_array_equal(open_store(store).pr.values, whole.pr.values)


def test_append_to_a_new_store_writes_it(few, model, whole, tmp_path):
    made = {"members": 5, "seed": 3, "store": tmp_path / "e.zarr", **QUIET}
    found = sample(few, model, **made, resume="append")
    np.testing.assert_array_equal(found.pr.values, whole.pr.values)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_append_loses_nothing_and_is_continued(kind, few, model, tmp_path):
    store, fuse = location(kind, tmp_path), tmp_path / "fuse"
    made = {
        "members": 2, "store": store, "chunks": {"time": 1}, **QUIET,
        "postprocess": [Fuse(str(few.time.values[5]), str(fuse))],
    }  # fmt: skip
    first = sample(few.isel(time=slice(3)), model, **made).load()
    fuse.touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **made, resume="append")
    xr.testing.assert_identical(open_store(store).load(), first)
    partial = EnsembleStore.of(store).status().partial
    assert sorted(partial.ledger.intact()) == [0, 1, 2, 3, 4]
    with pytest.raises(OutputExistsError, match="finish it by the call that was interrupted, and"):
        sample(few.isel(time=slice(5)), model, **made, resume="append")
    fuse.unlink()
    both = sample(few, model, **made, resume="append")
    whole = sample(few, model, **{**made, "store": None})
    np.testing.assert_array_equal(both.pr.values, whole.pr.values)
    assert not EnsembleStore.of(store).status().partial.exists


def test_append_killed_between_its_two_renames_is_finished_by_the_same_call(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    made = {"members": 2, "store": store, **QUIET}
    sample(few.isel(time=slice(3)), model, **made)
    both = sample(few, model, **made, resume="append").load()
    store.rename(tmp_path / "e.zarr.partial")
    opened = open_store(store)  # readers lack nothing meanwhile
    assert verify_store(store, ds=few, model=model, progress=False).ok
    again = sample(few, model, **made, resume="append")
    assert not (tmp_path / "e.zarr.partial").exists()
    xr.testing.assert_identical(opened.load(), both)
    xr.testing.assert_identical(again.load(), both)


def test_shared_chunks_survive_the_removal_of_the_older_ensemble(few, model, tmp_path):
    store = tmp_path / "e.zarr"
    made = {"members": 2, "store": store, "chunks": {"time": 1}, **QUIET}
    first = sample(few.isel(time=slice(3)), model, **made)
    shutil.copytree(store, tmp_path / "copy.zarr")
    both = sample(few, model, **made, resume="append")
    np.testing.assert_array_equal(both.pr.values[:, :3], open_store(tmp_path / "copy.zarr").pr)
    np.testing.assert_array_equal(first.pr.values, both.pr.values[:, :3])  # opened before

"""A store under its name is finished; an interrupted one goes on, another one is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from xcvae.ensemble.postprocess import Context
from xcvae.ensemble.sample import sample
from xcvae.ensemble.store import open_store
from xcvae.ensemble.store.base import EnsembleSpec, lock_folder, plan_chunks, regions_of
from xcvae.ensemble.store.local import FileLedger, LocalRegionWriter, LocalStore
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import ConfigError, DataError, OutputExistsError, StoreError, XcvaeError
from xcvae.registry import Component


@dataclass(frozen=True)
class Fuse(Component):
    """A post-processor that fails on one storm for as long as a file exists."""

    storm: str
    file: str

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        here = np.datetime64(self.storm) in field["time"].values
        if here and field.values.any() and Path(self.file).exists():
            raise RuntimeError("the fuse blew")
        return field


@pytest.fixture
def asked(few, tmp_path):
    """Six regions, two of which fail while the fuse file exists."""
    fuse = tmp_path / "fuse"
    fuse.touch()
    return {
        "members": 4,
        "seed": 7,
        "chunks": {"realization": 2, "time": 2},
        "postprocess": [Fuse(str(few.time.values[3]), str(fuse))],
        "store": tmp_path / "e.zarr",
        "progress": False,
    }


def interrupt(few, model, asked):
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **asked)


def mend(asked):
    Path(asked["postprocess"][0].file).unlink()


def chunk_files(folder):
    return {p.relative_to(folder): p for p in (folder / "pr" / "c").rglob("*") if p.is_file()}


def test_an_interrupted_store_is_not_there_and_says_so(few, model, asked):
    interrupt(few, model, asked)
    assert not asked["store"].exists()
    with pytest.raises(StoreError, match=r"an unfinished one.*draws what is missing"):
        open_store(asked["store"])


def test_an_interrupted_run_goes_on_and_ends_like_an_uninterrupted_one(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    done = {n: p.stat().st_mtime_ns for n, p in chunk_files(tmp_path / "e.zarr.partial").items()}
    assert len(done) == 4
    mend(asked)
    resumed = sample(few, model, **asked)
    kept = {
        name: p.stat().st_mtime_ns
        for name, p in chunk_files(asked["store"]).items()
        if name in done
    }
    assert kept == done
    whole = sample(few, model, **{**asked, "store": tmp_path / "whole.zarr"})
    np.testing.assert_array_equal(resumed.pr.values, whole.pr.values)
    told = [json.loads(ens.attrs["xcvae"]) for ens in (resumed, whole)]
    assert told[0] == told[1]
    assert not (tmp_path / "e.zarr.partial").exists()


def test_a_region_is_done_only_if_the_ledger_says_so_and_its_file_is_as_written(
    few, model, asked, tmp_path
):
    interrupt(few, model, asked)
    working = tmp_path / "e.zarr.partial" / "pr"
    for journal in (working / "ledger" / "regions").iterdir():
        lines = journal.read_text().splitlines()
        journal.write_text("\n".join(line for line in lines if '"region": 0' not in line))
    array = zarr.open_array(working, mode="r+")
    array[:2, :2] = -1.0
    array[2:, :2] = -1.0
    mend(asked)
    ens = sample(few, model, **asked)
    lazy = sample(few, model, **{**asked, "store": None})
    np.testing.assert_array_equal(ens.pr.values, lazy.pr.values)


@dataclass(frozen=True)
class LateFuse(Fuse):
    """One that does not blow while the dial is being set: only once there is a store."""

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        partial = Path(self.file).with_name("e.zarr.partial").exists()
        return super().__call__(field, context) if partial else field


def test_a_run_that_was_begun_keeps_its_spread(few, model, asked, tmp_path):
    late = LateFuse(**vars(asked["postprocess"][0]))
    dialled = {**asked, "postprocess": [late], "mode": "posterior", "diversity": 0.15}
    interrupt(few, model, dialled)
    file = tmp_path / "e.zarr.partial/pr/ledger/run.json"
    told = json.loads(file.read_text())
    solved = told["notes"]["dial"]["spread"]
    # As another machine might have solved it: the first regions are drawn with this one.
    told["notes"]["dial"]["spread"] = np.nextafter(solved, 1.0)
    file.write_text(json.dumps(told))
    mend(asked)
    resumed = sample(few, model, **dialled)
    assert json.loads(resumed.attrs["xcvae"])["spread"] == np.nextafter(solved, 1.0) != solved


@pytest.mark.parametrize(
    ("change", "again"), [({"seed": 8}, "restart"), ({"seed": 8}, True), ({}, True)], ids=str
)
def test_an_interrupted_replacement_goes_on_while_the_old_store_is_there(  # noqa: PLR0917  fixtures
    few, model, asked, tmp_path, change, again
):
    fuse = Path(asked["postprocess"][0].file)
    mend(asked)
    old = sample(few, model, **asked).pr.values
    fuse.touch()
    changed = {**asked, **change}
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **changed, resume="restart")
    np.testing.assert_array_equal(open_store(asked["store"]).pr.values, old)
    if change:
        np.testing.assert_array_equal(sample(few, model, **asked).pr.values, old)
    working = tmp_path / "e.zarr.partial"
    done = {n: p.stat().st_mtime_ns for n, p in chunk_files(working).items()}
    assert len(done) == 4
    mend(asked)
    new = sample(few, model, **changed, resume=again)
    kept = {n: p.stat().st_mtime_ns for n, p in chunk_files(asked["store"]).items() if n in done}
    assert kept == done
    lazy = sample(few, model, **{**changed, "store": None})
    np.testing.assert_array_equal(new.pr.values, lazy.pr.values)
    assert not working.exists()


def spoil(store, names=("pr/c/0/1/0/0", "x/c/0", "zarr.json")):
    """One chunk, one coordinate, and the metadata of the store itself."""
    for name in names:
        content = bytearray((store / name).read_bytes())
        content[len(content) // 2] ^= 1
        (store / name).write_bytes(content)


def test_a_damaged_store_is_repaired_on_request(few, model, asked):
    mend(asked)
    whole = sample(few, model, **asked).load()
    store = asked["store"]
    before = {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()}
    spoil(store)
    mended = sample(few, model, **asked, resume="repair")
    np.testing.assert_array_equal(mended.pr.values, whole.pr.values)
    np.testing.assert_array_equal(mended.x.values, whole.x.values)
    assert mended.attrs["xcvae"] == whole.attrs["xcvae"]
    after = {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()}
    assert [str(n) for n in after if after[n] != before[n]] == ["pr/c/0/1/0/0"]
    assert verify_store(store).ok
    assert not Path(f"{store}.partial").exists()
    # Nothing is damaged now: it is opened.
    sample(few, model, **asked, resume="repair")
    assert {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()} == after


def test_an_interrupted_repair_goes_on_like_any_run(few, model, asked):
    mend(asked)
    whole = sample(few, model, **asked).load()
    (asked["store"] / "pr/c/0/1/0/0").unlink()
    Path(asked["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="got 5 done, 1 failed"):
        sample(few, model, **asked, resume="repair")
    mend(asked)
    np.testing.assert_array_equal(sample(few, model, **asked).pr.values, whole.pr.values)


def test_another_ensemble_is_not_repaired(few, model, asked):
    mend(asked)
    sample(few, model, **asked)
    spoil(asked["store"])
    with pytest.raises(OutputExistsError, match=r"seed \(stored: 7, requested: 8\)"):
        sample(few, model, **{**asked, "seed": 8}, resume="repair")
    file = asked["store"] / "pr/ledger/run.json"
    file.write_text(file.read_text().replace('"torch version": "', '"torch version": "0.'))
    with pytest.raises(OutputExistsError, match=r"torch version \(stored: '0\."):
        sample(few, model, **asked, resume="repair")


def test_metadata_and_coordinates_of_a_begun_run_are_mended(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    spoil(tmp_path / "e.zarr.partial", ("pr/c/0/0/0/0", "x/c/0", "zarr.json"))
    mend(asked)
    ens = sample(few, model, **asked)
    lazy = sample(few, model, **{**asked, "store": None})
    xr.testing.assert_equal(ens.load(), lazy.load())


def test_a_finished_store_is_opened_without_the_lock(few, model, asked):
    mend(asked)
    sample(few, model, **asked)
    with lock_folder(asked["store"]):
        assert sample(few, model, **asked).sizes["realization"] == 4
        with pytest.raises(StoreError, match="no other process"):
            sample(few, model, **asked, resume="restart")


def test_late_chunk_of_a_worker_that_was_given_up_is_refused(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    partial = tmp_path / "e.zarr.partial"
    token = FileLedger.within(partial).metadata()["token"]
    late = LocalRegionWriter(partial / "pr", (2, 2), token)
    region = next(regions_of((2, 2), (4, 6, 48, 36)))
    values = np.full((2, 2, 48, 36), 1.0, "float32")
    mend(asked)
    finished = sample(few, model, **asked)
    with pytest.raises(FileNotFoundError, match="sees no run"):
        late.write(region, values, {})
    late.record_failure(region, "late")
    assert not partial.exists()
    mended = {**asked, "store": tmp_path / "e.zarr", "seed": 8, "resume": "restart"}
    Path(asked["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **mended)
    with pytest.raises(FileNotFoundError, match="another run has taken the place"):
        late.write(region, values, {})
    xr.testing.assert_identical(open_store(asked["store"]), finished)


def test_stray_chunks_of_earlier_versions_are_removed(few, model, asked, tmp_path):
    mend(asked)
    stray = tmp_path / "e.zarr.partial/pr/c/0/1/0/0"
    for _ in range(2):
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"late")
        sample(few, model, **asked)
        assert not (tmp_path / "e.zarr.partial").exists()


def test_a_late_failure_does_not_take_the_place_of_what_is_done(tmp_path):
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({"run": {}})
    done = {"region": 3, "state": "done", "file": "c/0", "bytes": 1, "sha256": ""}
    failed = {"region": 3, "state": "failed", "error": "lost"}
    for order in ((done, failed), (failed, done)):
        for entry in order:
            ledger.record(entry)
        assert ledger.entries() == {3: done}


def test_half_a_line_of_a_journal_costs_no_other_region(tmp_path, monkeypatch):
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({"run": {}})
    entries = [{"region": n, "state": "done", "file": f"c/{n}"} for n in range(3)]
    write = os.write
    with monkeypatch.context() as patched:
        # What a full disk does: it takes a part.
        patched.setattr(os, "write", lambda file, line: write(file, line[:20]))
        with pytest.raises(OSError, match="No space left"):
            ledger.record(entries[0])
    for entry in entries[1:]:
        ledger.record(entry)
    assert ledger.entries() == {1: entries[1], 2: entries[2]}


def test_every_process_has_a_journal_of_its_own(tmp_path):
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({"run": {}})
    ledger.record({"region": 0, "state": "done"})
    child = os.fork()
    if child == 0:
        ledger.record({"region": 1, "state": "done"})
        os._exit(0)
    os.waitpid(child, 0)
    ledger.record({"region": 2, "state": "done"})
    journals = sorted((tmp_path / "pr/ledger/regions").iterdir())
    assert sorted(len(path.read_text().split()) > 0 for path in journals) == [True, True]
    assert sorted(ledger.entries()) == [0, 1, 2]


def test_what_is_begun_does_not_grow_with_the_ensemble(few, model, asked, tmp_path):
    # Only beginning: a million chunks of one map each, none of which is drawn.
    shape = (1000, 1000, 48, 36)
    values = np.broadcast_to(np.float32(0), shape)
    template = xr.Dataset({"pr": (("realization", "time", "y", "x"), values)})
    folder = LocalStore(tmp_path / "m.zarr")
    spec = EnsembleSpec("pr", {"seed": 1}, (1, 1))
    tracemalloc.start()
    folder.begin(spec, template, {"shape": shape})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    assert zarr.open_array(folder.working / "pr", mode="r").chunks == (1, 1, 48, 36)


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"chunks": {"realization": 1}}, {"members": 5}], ids=str
)
def test_a_begun_run_of_another_kind_is_refused_and_kept(few, model, asked, tmp_path, change):
    (key,) = change
    interrupt(few, model, asked)
    regions = tmp_path / "e.zarr.partial/pr/ledger/regions"
    before = sorted(p.name for p in regions.iterdir())
    with pytest.raises(OutputExistsError, match=rf"e\.zarr\.partial.*{key} \(stored"):
        sample(few, model, **{**asked, **change})
    assert (
        sorted(p.name for p in (tmp_path / "e.zarr.partial/pr/ledger/regions").iterdir()) == before
    )
    mend(asked)
    restarted = sample(few, model, **{**asked, **change}, resume="restart")
    lazy = sample(few, model, **{**asked, **change, "store": None})
    np.testing.assert_array_equal(restarted.pr.values, lazy.pr.values)


def test_what_is_no_run_of_ours_is_refused_and_kept(few, model, asked, tmp_path):
    mend(asked)
    for name in ("e.zarr", "e.zarr.partial"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
            sample(few, model, **asked)
        assert (folder / "thesis.txt").exists()
        shutil.rmtree(folder)


def _user_folder(path):
    path.mkdir()
    (path / "thesis.txt").write_text("years of work")


def _user_zarr(path):
    xr.Dataset({"pr": ("time", np.ones(3))}).to_zarr(path, consolidated=False)


def _link_to_folder(path):
    _user_folder(path.with_name("home"))
    path.symlink_to(path.with_name("home"), target_is_directory=True)


USER_THINGS = {
    "folder": _user_folder,
    "file": lambda path: path.write_text("years of work"),
    "empty folder": lambda path: path.mkdir(),
    "Zarr store": _user_zarr,
    "link to a folder": _link_to_folder,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "chunks without a store": lambda path: (
        (path / "a/c/0").mkdir(parents=True) or (path / "a/c/0/notes").write_text("years of work")
    ),
}


def _tree(folder):
    """Names and contents below a folder, the lock of the store left out."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else path.is_symlink()
        for path in folder.rglob("*")
        if path.suffix != ".lock"
    }


@pytest.mark.parametrize("name", ["e.zarr", "e.zarr.partial"])
@pytest.mark.parametrize("kind", USER_THINGS)
def test_things_of_the_user_are_never_replaced(few, model, tmp_path, kind, name):
    USER_THINGS[kind](tmp_path / name)
    before = _tree(tmp_path)
    for resume in (True, False, "restart", "repair"):
        with pytest.raises(XcvaeError) as caught:
            sample(few, model, members=1, store=tmp_path / "e.zarr", resume=resume)
        assert "restart" not in str(caught.value)
        assert _tree(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_files_that_a_user_put_into_an_ensemble_keep_it_from_being_replaced(
    few, model, asked, tmp_path, finished
):
    if finished:
        mend(asked)
        sample(few, model, **asked)
    else:
        interrupt(few, model, asked)
        mend(asked)
    note = tmp_path / ("e.zarr" if finished else "e.zarr.partial") / "notes.txt"
    note.write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"did not write: notes\.txt"):
        sample(few, model, **{**asked, "seed": 8}, resume="restart")
    assert note.read_text() == "years of work"
    note.unlink()
    assert sample(few, model, **{**asked, "seed": 8}, resume="restart").sizes["time"] == 6


def test_what_took_the_name_of_a_store_during_a_run_is_kept(few, model, asked, tmp_path):
    mend(asked)
    sample(few, model, **asked)
    Path(asked["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **{**asked, "seed": 8}, resume="restart")
    mend(asked)
    shutil.rmtree(asked["store"])
    _user_folder(asked["store"])
    with pytest.raises(OutputExistsError, match="without a ledger"):
        sample(few, model, **{**asked, "seed": 8}, resume="restart")
    assert (asked["store"] / "thesis.txt").exists()
    shutil.rmtree(asked["store"])
    assert sample(few, model, **{**asked, "seed": 8}).sizes["realization"] == 4


@pytest.mark.parametrize("resume", [True, False, "restart", "repair"])
@pytest.mark.parametrize("store", ["obs.zarr", "obs.zarr/ens.zarr", ".", "link.zarr"])
def test_a_store_is_apart_from_the_data_it_is_drawn_for(few, model, tmp_path, store, resume):
    few.drop_encoding().to_zarr(tmp_path / "data/obs.zarr", consolidated=False)
    (tmp_path / "data/link.zarr").symlink_to("obs.zarr")
    before = _tree(tmp_path)
    opened = xr.open_zarr(tmp_path / "data/obs.zarr", consolidated=False).isel(time=[0, 1])
    with pytest.raises(ConfigError, match="apart from the data"):
        sample(opened, model, members=1, store=tmp_path / "data" / store, resume=resume)
    assert _tree(tmp_path) == before


def test_a_begun_run_of_other_packages_or_another_device_is_refused(few, model, asked, tmp_path):
    interrupt(few, model, asked)
    mend(asked)
    file = tmp_path / "e.zarr.partial/pr/ledger/run.json"
    told = json.loads(file.read_text())
    told["run"] |= {"torch version": "1.0", "device": "cuda"}
    file.write_text(json.dumps(told))
    with pytest.raises(OutputExistsError, match=r"torch version \(stored: '1\.0'.*device \(stored"):
        sample(few, model, **asked)


def test_what_is_not_drawn_yet_is_opened_on_request_only_and_is_not_dry(few, model, asked):
    interrupt(few, model, asked)
    partial = asked["store"].with_name("e.zarr.partial")
    for path in (asked["store"], partial):
        with pytest.raises(StoreError, match="an unfinished one"):
            open_store(path)
        part = open_store(path, incomplete=True).pr
        missing = np.isnan(part.values).all(axis=(2, 3))
        np.testing.assert_array_equal(missing.all(0), [False, False, True, True, False, False])
    mend(asked)
    sample(few, model, **asked)
    assert not np.isnan(open_store(asked["store"], incomplete=True).pr.values).any()


def test_the_ledger_knows_every_region_and_its_file(few, model, asked):
    interrupt(few, model, asked)
    entries = FileLedger.within(asked["store"].with_name("e.zarr.partial")).entries()
    assert [entries[n]["state"] for n in range(6)] == [
        "done", "failed", "done", "done", "failed", "done",
    ]  # fmt: skip
    assert "the fuse blew" in entries[4]["error"]
    mend(asked)
    sample(few, model, **asked)
    ledger = FileLedger.within(asked["store"])
    told = ledger.metadata()["run"]
    assert told["model_sha256"] == model.sha256
    assert told["seed"] == 7
    assert told["chunks"] == [2, 2]
    assert {"torch version", "xcvae version", "device", "data", "postprocess"} <= told.keys()
    entries = ledger.entries()
    for name, path in chunk_files(asked["store"]).items():
        (entry,) = [e for e in entries.values() if e["file"] == name.relative_to("pr").as_posix()]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["bytes"] == path.stat().st_size
    assert {e["state"] for e in entries.values()} == {"done"}
    assert [p.name for p in (asked["store"] / "pr/ledger").iterdir()].count("regions") == 0


def test_readers_of_zarr_do_not_see_the_ledger(few, model, asked):
    mend(asked)
    sample(few, model, **asked)
    # Warnings are errors: a file that Zarr does not know would raise one.
    assert sorted(zarr.open_group(asked["store"], mode="r").members())[0][0] == "pr"
    assert xr.open_datatree(asked["store"], engine="zarr", consolidated=False).groups == ("/",)


def test_a_failed_region_is_named_with_its_members_and_samples(few, model, asked):
    said = []
    with pytest.raises(StoreError) as raised:
        sample(few, model, **asked)
    said = str(raised.value)
    first, last = np.datetime_as_string(few.time.values[2:4], unit="s")
    assert "expected all 6 regions drawn and written, got 4 done, 2 failed" in said
    assert f"region 1 (realization 0 to 1, time {first} to {last}): " in said
    assert f"region 4 (realization 2 to 3, time {first} to {last}): " in said
    assert "repeat the call: only missing regions are drawn" in said


@pytest.mark.skipif(not hasattr(os, "sync"), reason="needs os.sync")
def test_finalize_waits_for_the_disk_before_the_store_gets_its_name(
    few, model, asked, tmp_path, monkeypatch
):
    mend(asked)
    sync, seen = os.sync, []

    def record_sync():
        partial = tmp_path / "e.zarr.partial"
        # All is written, the attributes and the sealed ledger too, and nothing has its name.
        complete = xr.open_zarr(partial, consolidated=False).attrs["history"]
        seen.append((asked["store"].exists(), FileLedger.within(partial).sealed, complete))
        sync()

    monkeypatch.setattr(os, "sync", record_sync)
    ens = sample(few, model, **asked)
    assert seen == [(False, True, ens.attrs["history"])]
    assert json.loads(ens.attrs["xcvae"])["postprocess"][0]["removed"] is not None


def test_one_process_at_a_time(few, model, asked):
    mend(asked)
    with lock_folder(asked["store"]), pytest.raises(StoreError, match="no other process"):
        sample(few, model, **asked)
    assert not asked["store"].exists()


def test_what_killed_calls_left_behind_is_cleared_away_and_nothing_else(
    few, model, asked, tmp_path
):
    mend(asked)
    for name in (".e.zarr.new-0123456789ab", ".e.zarr.old-0123456789ab"):
        (tmp_path / name).mkdir()
    (tmp_path / ".e.zarr.model-0123456789ab").touch()
    kept = {".e.zarr.thesis-0123456789ab", ".f.zarr.new-0123456789ab", ".e.zarr.new-notes"}
    for name in kept:
        (tmp_path / name).mkdir()
    sample(few, model, **asked)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == kept | {"e.zarr", ".e.zarr.lock"}


def test_stacked_samples_are_refused_before_anything_is_written(few, model, asked, tmp_path):
    mend(asked)
    plain = {**asked, "postprocess": None, "chunks": None}
    labels = {"run": ("time", [0, 0, 0, 1, 1, 1]), "step": ("time", [0, 1, 2] * 2)}
    stacked = few.drop_vars("time").assign_coords(labels).set_index(time=["run", "step"])
    lazy = sample(stacked, model, **{**plain, "store": None})
    assert lazy.indexes["time"].names == ["run", "step"]
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"stacked from run, step.*ds\.reset_index\('time'\)"):
        sample(stacked, model, **plain)
    assert sorted(tmp_path.iterdir()) == before
    ens = sample(stacked.reset_index("time"), model, **plain)
    assert ens.step.values.tolist() == [0, 1, 2] * 2


def test_what_cannot_be_begun_leaves_nothing_behind(few, model, asked, tmp_path):
    mend(asked)
    odd = few.assign_coords(note=("time", np.array([{"a": 1}] * 6, dtype=object)))
    with pytest.raises((TypeError, ValueError)):
        sample(odd, model, **asked)
    assert [p.name for p in tmp_path.iterdir()] == [".e.zarr.lock"]
    assert sample(few, model, **asked).sizes["realization"] == 4


def test_resume_false_wants_a_new_store(few, model, asked, tmp_path):
    mend(asked)
    sample(few, model, **asked)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, **asked, resume=False)
    sample(few, model, **{**asked, "store": tmp_path / "new.zarr"}, resume=False)


def test_dry_regions_are_written_too(few, model, asked):
    mend(asked)
    dry = {**asked, "postprocess": [{"name": "threshold", "value": "1000 mm h-1"}]}
    ens = sample(few, model, **dry)
    assert float(ens.pr.max()) == 0.0
    assert len(chunk_files(asked["store"])) == 6


def test_the_store_is_zarr_3_with_the_chunks_asked_for(few, model, asked):
    mend(asked)
    ens = sample(few, model, **asked)
    assert ens.pr.chunks[:2] == ((2, 2), (2, 2, 2))
    meta = json.loads((asked["store"] / "pr" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "zstd"]
    assert not any(coord.chunks for coord in ens.coords.values())


def test_text_labels_and_scalar_coordinates_survive(few, model, asked):
    mend(asked)
    named = few.assign_coords(station=("time", [f"s{i}" for i in range(6)]), height=2.0, crs=0)
    ens = sample(named, model, **asked)
    assert ens.station.values.tolist() == named.station.values.tolist()
    assert float(ens.height) == 2.0
    assert (
        ens.time.equals(named.time.drop_vars("station"))
        or (ens.time.values == named.time.values).all()
    )


def test_regions_cover_every_member_of_every_sample_once():
    shape, chunks = (5, 7, 2, 2), (2, 3)
    count = np.zeros(shape[:2], int)
    regions = list(regions_of(chunks, shape))
    for region in regions:
        count[slice(*region.realizations), slice(*region.samples)] += 1
    assert (count == 1).all()
    assert [region.number for region in regions] == list(range(9))


@pytest.mark.parametrize("sizes", [(16, 123, 156, 132), (64, 491, 128, 128), (4, 3, 2000, 2000)])
def test_default_chunks_hold_all_members_of_a_sample_and_some_megabytes(sizes):
    members, samples = plan_chunks(None, sizes=sizes, sample="time")
    size = 4 * members * samples * sizes[2] * sizes[3]
    assert size <= 8e6 or members == samples == 1
    assert size >= 3e6 or (members, samples) == sizes[:2]
    assert members == sizes[0] or samples == 1


def test_chunks_are_never_larger_than_the_ensemble():
    asked = {"realization": 100, "time": 100}
    assert plan_chunks(asked, sizes=(4, 3, 8, 8), sample="time") == (4, 3)
    with pytest.raises(ConfigError, match="x"):
        plan_chunks({"x": 4}, sizes=(4, 3, 8, 8), sample="time")

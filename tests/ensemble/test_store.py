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

from ..support.failing import Fuse


@pytest.fixture
def options(few, tmp_path):
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


def interrupt(few, model, options):
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **options)


def remove_fuse(options):
    Path(options["postprocess"][0].file).unlink()


def chunk_files(folder):
    return {p.relative_to(folder): p for p in (folder / "pr" / "c").rglob("*") if p.is_file()}


def test_open_store_refuses_unfinished_store(few, model, options):
    interrupt(few, model, options)
    assert not options["store"].exists()
    with pytest.raises(StoreError, match=r"an unfinished one.*draws what is missing"):
        open_store(options["store"])


def test_an_unfinished_folder_under_the_name_of_a_store_is_not_opened(few, model, options):
    """It has all attributes; the ledger tells that regions are missing."""
    interrupt(few, model, options)
    store = options["store"]
    store.with_name("e.zarr.partial").rename(store)
    with pytest.raises(StoreError, match="no such ensemble"):
        open_store(store)


def test_resumed_run_removes_files_that_were_written_in_part(few, model, options, tmp_path):
    interrupt(few, model, options)
    for folder in ("", "pr", "pr/ledger"):
        part = tmp_path / "e.zarr.partial" / folder / f"zarr.json.{'0a' * 16}.tmp"
        part.write_text("half")
    remove_fuse(options)
    sample(few, model, **options)
    assert not list(options["store"].rglob("*.tmp"))
    assert verify_store(options["store"]).ok


def test_resumed_run_equals_uninterrupted_run(few, model, options, tmp_path):
    interrupt(few, model, options)
    done = {n: p.stat().st_mtime_ns for n, p in chunk_files(tmp_path / "e.zarr.partial").items()}
    assert len(done) == 4
    remove_fuse(options)
    resumed = sample(few, model, **options)
    unchanged = {
        name: p.stat().st_mtime_ns
        for name, p in chunk_files(options["store"]).items()
        if name in done
    }
    assert unchanged == done
    whole = sample(few, model, **{**options, "store": tmp_path / "whole.zarr"})
    np.testing.assert_array_equal(resumed.pr.values, whole.pr.values)
    stored = [json.loads(ens.attrs["xcvae"]) for ens in (resumed, whole)]
    assert stored[0] == stored[1]
    assert not (tmp_path / "e.zarr.partial").exists()


def test_resume_draws_regions_without_entry_and_with_changed_file(few, model, options, tmp_path):
    interrupt(few, model, options)
    working = tmp_path / "e.zarr.partial" / "pr"
    for journal in (working / "ledger" / "regions").iterdir():
        lines = journal.read_text().splitlines()
        journal.write_text("\n".join(line for line in lines if '"region": 0' not in line))
    array = zarr.open_array(working, mode="r+")
    array[:2, :2] = -1.0
    array[2:, :2] = -1.0
    remove_fuse(options)
    ens = sample(few, model, **options)
    lazy = sample(few, model, **{**options, "store": None})
    np.testing.assert_array_equal(ens.pr.values, lazy.pr.values)


@dataclass(frozen=True)
class LateFuse(Fuse):
    """One that does not blow while the dial is being set: only once there is a store."""

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        partial = Path(self.file).with_name("e.zarr.partial").exists()
        return super().__call__(field, context) if partial else field


def test_resume_keeps_solved_spread(few, model, options, tmp_path):
    late = LateFuse(**vars(options["postprocess"][0]))
    with_diversity = {**options, "postprocess": [late], "mode": "posterior", "diversity": 0.15}
    interrupt(few, model, with_diversity)
    file = tmp_path / "e.zarr.partial/pr/ledger/run.json"
    stored = json.loads(file.read_text())
    solved = stored["notes"]["dial"]["spread"]
    # As another machine might have solved it: the first regions are drawn with this one.
    stored["notes"]["dial"]["spread"] = np.nextafter(solved, 1.0)
    file.write_text(json.dumps(stored))
    remove_fuse(options)
    resumed = sample(few, model, **with_diversity)
    assert json.loads(resumed.attrs["xcvae"])["spread"] == np.nextafter(solved, 1.0) != solved


@pytest.mark.parametrize(
    ("change", "again"), [({"seed": 8}, "restart"), ({"seed": 8}, True), ({}, True)], ids=str
)
def test_interrupted_replacement_resumes_and_keeps_old_store_until_finished(  # noqa: PLR0917  fixtures
    few, model, options, tmp_path, change, again
):
    fuse = Path(options["postprocess"][0].file)
    remove_fuse(options)
    old = sample(few, model, **options).pr.values
    fuse.touch()
    changed = {**options, **change}
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **changed, resume="restart")
    np.testing.assert_array_equal(open_store(options["store"]).pr.values, old)
    if change:
        np.testing.assert_array_equal(sample(few, model, **options).pr.values, old)
    working = tmp_path / "e.zarr.partial"
    done = {n: p.stat().st_mtime_ns for n, p in chunk_files(working).items()}
    assert len(done) == 4
    remove_fuse(options)
    new = sample(few, model, **changed, resume=again)
    unchanged = {
        n: p.stat().st_mtime_ns for n, p in chunk_files(options["store"]).items() if n in done
    }
    assert unchanged == done
    lazy = sample(few, model, **{**changed, "store": None})
    np.testing.assert_array_equal(new.pr.values, lazy.pr.values)
    assert not working.exists()


def test_resume_false_refuses_unfinished_replacement(few, model, options):
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **options, resume="restart")
    remove_fuse(options)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, **options, resume=False)
    assert not options["store"].exists()


def damage(store, names=("pr/c/0/1/0/0", "x/c/0", "zarr.json")):
    """One chunk, one coordinate, and the metadata of the store itself."""
    for name in names:
        content = bytearray((store / name).read_bytes())
        content[len(content) // 2] ^= 1
        (store / name).write_bytes(content)


def test_repair_draws_damaged_regions_only(few, model, options):
    remove_fuse(options)
    whole = sample(few, model, **options).load()
    store = options["store"]
    before = {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()}
    damage(store)
    repaired = sample(few, model, **options, resume="repair")
    np.testing.assert_array_equal(repaired.pr.values, whole.pr.values)
    np.testing.assert_array_equal(repaired.x.values, whole.x.values)
    assert repaired.attrs["xcvae"] == whole.attrs["xcvae"]
    after = {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()}
    assert [str(n) for n in after if after[n] != before[n]] == ["pr/c/0/1/0/0"]
    assert verify_store(store).ok
    assert not Path(f"{store}.partial").exists()
    # Nothing is damaged now: it is opened.
    sample(few, model, **options, resume="repair")
    assert {n: p.stat().st_mtime_ns for n, p in chunk_files(store).items()} == after


@pytest.mark.parametrize("reason", ["link", "note"])
def test_repair_that_could_not_end_changes_nothing(few, model, options, tmp_path, reason):
    """The link was renamed, or the store was unfinished, until the files were put in order."""
    remove_fuse(options)
    sample(few, model, **options)
    damage(options["store"])
    given = {**options, "resume": "repair"}
    note = options["store"] / "notes.txt"
    if reason == "link":
        given["store"] = tmp_path / "link.zarr"
        given["store"].symlink_to("e.zarr", target_is_directory=True)
    else:
        note.write_text("years of work")
    before = _tree(tmp_path)
    with pytest.raises(OutputExistsError, match=r"symbolic link to e\.zarr|did not write: notes"):
        sample(few, model, **given)
    assert _tree(tmp_path) == before
    note.unlink(missing_ok=True)
    sample(few, model, **options, resume="repair")
    assert verify_store(given["store"]).ok


def test_interrupted_repair_resumes(few, model, options):
    remove_fuse(options)
    whole = sample(few, model, **options).load()
    (options["store"] / "pr/c/0/1/0/0").unlink()
    Path(options["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="got 5 done, 1 failed"):
        sample(few, model, **options, resume="repair")
    remove_fuse(options)
    np.testing.assert_array_equal(sample(few, model, **options).pr.values, whole.pr.values)


def test_repair_refuses_other_ensemble_and_other_environment(few, model, options):
    remove_fuse(options)
    sample(few, model, **options)
    damage(options["store"])
    with pytest.raises(OutputExistsError, match=r"seed \(stored: 7, requested: 8\)"):
        sample(few, model, **{**options, "seed": 8}, resume="repair")
    file = options["store"] / "pr/ledger/run.json"
    file.write_text(file.read_text().replace('"torch version": "', '"torch version": "0.'))
    with pytest.raises(OutputExistsError, match=r"torch version \(stored: '0\."):
        sample(few, model, **options, resume="repair")


def test_resume_restores_changed_metadata_and_coordinates(few, model, options, tmp_path):
    interrupt(few, model, options)
    damage(tmp_path / "e.zarr.partial", ("pr/c/0/0/0/0", "x/c/0", "zarr.json"))
    remove_fuse(options)
    ens = sample(few, model, **options)
    lazy = sample(few, model, **{**options, "store": None})
    xr.testing.assert_equal(ens.load(), lazy.load())


def test_finished_store_opens_without_lock(few, model, options):
    remove_fuse(options)
    sample(few, model, **options)
    with lock_folder(options["store"]):
        assert sample(few, model, **options).sizes["realization"] == 4
        with pytest.raises(StoreError, match="no other process"):
            sample(few, model, **options, resume="restart")


def test_finished_store_is_read_in_a_folder_of_others(few, model, options, monkeypatch):
    """Folders of colleagues can be read, and not written to."""
    remove_fuse(options)
    whole = sample(few, model, **options).load()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    xr.testing.assert_identical(open_store(options["store"]).load(), whole)
    xr.testing.assert_identical(sample(few, model, **options).load(), whole)
    assert verify_store(options["store"]).ok
    for other in ({"resume": "repair"}, {"seed": 8}, {"store": options["store"].parent / "f.zarr"}):
        with pytest.raises(ConfigError, match="no permission to write"):
            sample(few, model, **{**options, **other})


def test_late_chunk_of_a_worker_that_was_given_up_is_refused(few, model, options, tmp_path):
    interrupt(few, model, options)
    partial = tmp_path / "e.zarr.partial"
    token = FileLedger.within(partial).metadata()["token"]
    late = LocalRegionWriter(partial / "pr", (2, 2), token)
    region = next(regions_of((2, 2), (4, 6, 48, 36)))
    values = np.full((2, 2, 48, 36), 1.0, "float32")
    remove_fuse(options)
    finished = sample(few, model, **options)
    with pytest.raises(FileNotFoundError, match="sees no run"):
        late.write(region, values, {})
    late.record_failure(region, "late")
    assert not partial.exists()
    repaired = {**options, "store": tmp_path / "e.zarr", "seed": 8, "resume": "restart"}
    Path(options["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **repaired)
    with pytest.raises(FileNotFoundError, match="another run has taken the place"):
        late.write(region, values, {})
    xr.testing.assert_identical(open_store(options["store"]), finished)


def test_stray_chunks_of_earlier_versions_are_removed(few, model, options, tmp_path):
    remove_fuse(options)
    stray = tmp_path / "e.zarr.partial/pr/c/0/1/0/0"
    for _ in range(2):
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"late")
        sample(few, model, **options)
        assert not (tmp_path / "e.zarr.partial").exists()


def test_region_without_chunk_has_no_entry_in_ledger(tmp_path):
    """The chunk is written first: an entry promises that it is there."""
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({})
    writer = LocalRegionWriter(ledger.array, (2, 2), ledger.metadata()["token"])
    region = next(regions_of((2, 2), (4, 6, 8, 8)))
    (ledger.array / "c").write_text("in the way of the folder of chunks")
    with pytest.raises(OSError, match="Not a directory"):
        writer.write(region, np.ones((2, 2, 8, 8), "float32"), {})
    assert ledger.entries() == {}
    (ledger.array / "c").unlink()
    writer.write(region, np.ones((2, 2, 8, 8), "float32"), {})
    assert list(ledger.entries()) == [0]


def test_ledger_does_not_adopt_files_of_user(tmp_path):
    """Files that were added after the run began stay foreign: a replacement must not lose them."""
    (tmp_path / "zarr.json").write_text("{}")
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({})
    (tmp_path / "zarr.json").write_text("final")
    (tmp_path / "notes.txt").write_text("years of work")
    ledger.note_template()
    assert ledger.changed() == {}
    assert ledger.foreign() == ["notes.txt"]


def test_ledger_keeps_completion_after_later_failure(tmp_path):
    ledger = FileLedger(tmp_path / "pr")
    ledger.start({"run": {}})
    done = {"region": 3, "state": "done", "file": "c/0", "bytes": 1, "sha256": ""}
    failed = {"region": 3, "state": "failed", "error": "lost"}
    for order in ((done, failed), (failed, done)):
        for entry in order:
            ledger.record(entry)
        assert ledger.entries() == {3: done}


def test_ledger_ignores_truncated_line(tmp_path, monkeypatch):
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


def test_ledger_has_one_journal_per_process(tmp_path):
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


def test_begin_memory_does_not_grow_with_number_of_chunks(few, model, options, tmp_path):
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
def test_resume_refuses_unfinished_store_with_other_identity(few, model, options, tmp_path, change):
    (key,) = change
    interrupt(few, model, options)
    regions = tmp_path / "e.zarr.partial/pr/ledger/regions"
    before = sorted(p.name for p in regions.iterdir())
    with pytest.raises(OutputExistsError, match=rf"e\.zarr\.partial.*{key} \(stored"):
        sample(few, model, **{**options, **change})
    assert (
        sorted(p.name for p in (tmp_path / "e.zarr.partial/pr/ledger/regions").iterdir()) == before
    )
    remove_fuse(options)
    restarted = sample(few, model, **{**options, **change}, resume="restart")
    lazy = sample(few, model, **{**options, **change, "store": None})
    np.testing.assert_array_equal(restarted.pr.values, lazy.pr.values)


def test_sample_refuses_folder_of_user(few, model, options, tmp_path):
    remove_fuse(options)
    for name in ("e.zarr", "e.zarr.partial"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "thesis.txt").write_text("years of work")
        with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
            sample(few, model, **options)
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
def test_no_resume_mode_replaces_things_of_user(few, model, tmp_path, kind, name):
    USER_THINGS[kind](tmp_path / name)
    before = _tree(tmp_path)
    for resume in (True, False, "restart", "repair"):
        with pytest.raises(XcvaeError) as caught:
            sample(few, model, members=1, store=tmp_path / "e.zarr", resume=resume)
        assert "restart" not in str(caught.value)
        assert _tree(tmp_path) == before


@pytest.mark.parametrize("finished", [True, False])
def test_restart_refuses_ensemble_with_files_of_user(few, model, options, tmp_path, finished):
    if finished:
        remove_fuse(options)
        sample(few, model, **options)
    else:
        interrupt(few, model, options)
        remove_fuse(options)
    note = tmp_path / ("e.zarr" if finished else "e.zarr.partial") / "notes.txt"
    note.write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"did not write: notes\.txt"):
        sample(few, model, **{**options, "seed": 8}, resume="restart")
    assert note.read_text() == "years of work"
    note.unlink()
    assert sample(few, model, **{**options, "seed": 8}, resume="restart").sizes["time"] == 6


def test_restart_refuses_link_to_ensemble(few, model, options, tmp_path):
    remove_fuse(options)
    sample(few, model, **options)
    link = tmp_path / "link.zarr"
    link.symlink_to("e.zarr", target_is_directory=True)
    with pytest.raises(OutputExistsError, match=r"a symbolic link to e\.zarr"):
        sample(few, model, **{**options, "store": link, "seed": 8}, resume="restart")
    assert link.is_symlink()
    assert open_store(link).sizes["realization"] == 4


def test_finalize_refuses_name_taken_during_run(few, model, options, tmp_path):
    remove_fuse(options)
    sample(few, model, **options)
    Path(options["postprocess"][0].file).touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, **{**options, "seed": 8}, resume="restart")
    remove_fuse(options)
    shutil.rmtree(options["store"])
    _user_folder(options["store"])
    with pytest.raises(OutputExistsError, match="without a ledger"):
        sample(few, model, **{**options, "seed": 8}, resume="restart")
    assert (options["store"] / "thesis.txt").exists()
    shutil.rmtree(options["store"])
    assert sample(few, model, **{**options, "seed": 8}).sizes["realization"] == 4


@pytest.mark.parametrize("resume", [True, False, "restart", "repair"])
@pytest.mark.parametrize("store", ["obs.zarr", "obs.zarr/ens.zarr", ".", "link.zarr"])
def test_store_overlapping_input_data_is_refused(few, model, tmp_path, store, resume):
    few.drop_encoding().to_zarr(tmp_path / "data/obs.zarr", consolidated=False)
    (tmp_path / "data/link.zarr").symlink_to("obs.zarr")
    before = _tree(tmp_path)
    opened = xr.open_zarr(tmp_path / "data/obs.zarr", consolidated=False).isel(time=[0, 1])
    with pytest.raises(ConfigError, match="apart from the data"):
        sample(opened, model, members=1, store=tmp_path / "data" / store, resume=resume)
    assert _tree(tmp_path) == before


def test_names_of_netcdf_files_are_refused_for_new_stores(few, model, tmp_path):
    with pytest.raises(ConfigError, match=r"e\.nc.*Name it e\.zarr.*to_netcdf"):
        sample(few, model, members=1, store=tmp_path / "e.nc", progress=False)
    assert not list(tmp_path.iterdir())
    first = sample(few, model, members=1, store=tmp_path / "e.zarr", progress=False)
    (tmp_path / "e.zarr").rename(tmp_path / "e.nc")  # as earlier versions wrote it
    again = sample(few, model, members=1, store=tmp_path / "e.nc", progress=False)
    np.testing.assert_array_equal(again.pr.values, xr.open_zarr(tmp_path / "e.nc").pr.values)
    assert first.pr.shape == again.pr.shape


def test_resume_refuses_other_packages_and_device(few, model, options, tmp_path):
    interrupt(few, model, options)
    remove_fuse(options)
    file = tmp_path / "e.zarr.partial/pr/ledger/run.json"
    stored = json.loads(file.read_text())
    stored["run"] |= {"torch version": "1.0", "device": "cuda"}
    file.write_text(json.dumps(stored))
    with pytest.raises(OutputExistsError, match=r"torch version \(stored: '1\.0'.*device \(stored"):
        sample(few, model, **options)


def test_missing_regions_are_nan_and_open_with_incomplete_only(few, model, options):
    interrupt(few, model, options)
    partial = options["store"].with_name("e.zarr.partial")
    for path in (options["store"], partial):
        with pytest.raises(StoreError, match="an unfinished one"):
            open_store(path)
        part = open_store(path, incomplete=True).pr
        missing = np.isnan(part.values).all(axis=(2, 3))
        np.testing.assert_array_equal(missing.all(0), [False, False, True, True, False, False])
    remove_fuse(options)
    sample(few, model, **options)
    assert not np.isnan(open_store(options["store"], incomplete=True).pr.values).any()


def test_ledger_has_entry_with_checksum_for_every_region(few, model, options):
    interrupt(few, model, options)
    entries = FileLedger.within(options["store"].with_name("e.zarr.partial")).entries()
    assert [entries[n]["state"] for n in range(6)] == [
        "done", "failed", "done", "done", "failed", "done",
    ]  # fmt: skip
    assert "the fuse blew" in entries[4]["error"]
    remove_fuse(options)
    sample(few, model, **options)
    ledger = FileLedger.within(options["store"])
    stored = ledger.metadata()["run"]
    assert stored["model_sha256"] == model.sha256
    assert stored["seed"] == 7
    assert stored["chunks"] == [2, 2]
    assert {"torch version", "xcvae version", "device", "data", "postprocess"} <= stored.keys()
    entries = ledger.entries()
    for name, path in chunk_files(options["store"]).items():
        (entry,) = [e for e in entries.values() if e["file"] == name.relative_to("pr").as_posix()]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["bytes"] == path.stat().st_size
    assert {e["state"] for e in entries.values()} == {"done"}
    assert [p.name for p in (options["store"] / "pr/ledger").iterdir()].count("regions") == 0


def test_zarr_readers_ignore_ledger(few, model, options):
    remove_fuse(options)
    sample(few, model, **options)
    # Warnings are errors: a file that Zarr does not know would raise one.
    assert sorted(zarr.open_group(options["store"], mode="r").members())[0][0] == "pr"
    assert xr.open_datatree(options["store"], engine="zarr", consolidated=False).groups == ("/",)


def test_store_error_names_members_and_samples_of_failed_regions(few, model, options):
    with pytest.raises(StoreError) as raised:
        sample(few, model, **options)
    message = str(raised.value)
    first, last = np.datetime_as_string(few.time.values[2:4], unit="s")
    assert "expected all 6 regions drawn and written, got 4 done, 2 failed" in message
    assert f"region 1 (realization 0 to 1, time {first} to {last}): " in message
    assert f"region 4 (realization 2 to 3, time {first} to {last}): " in message
    assert "repeat the call: only missing regions are drawn" in message


@pytest.mark.skipif(not hasattr(os, "sync"), reason="needs os.sync")
def test_finalize_waits_for_the_disk_before_the_store_gets_its_name(
    few, model, options, tmp_path, monkeypatch
):
    remove_fuse(options)
    sync, seen = os.sync, []

    def record_sync():
        partial = tmp_path / "e.zarr.partial"
        # All is written, the attributes and the sealed ledger too, and nothing has its name.
        complete = xr.open_zarr(partial, consolidated=False).attrs["history"]
        seen.append((options["store"].exists(), FileLedger.within(partial).sealed, complete))
        sync()

    monkeypatch.setattr(os, "sync", record_sync)
    ens = sample(few, model, **options)
    assert seen == [(False, True, ens.attrs["history"])]
    assert json.loads(ens.attrs["xcvae"])["postprocess"][0]["removed"] is not None


def test_lock_of_other_process_refuses_sample(few, model, options):
    remove_fuse(options)
    with lock_folder(options["store"]), pytest.raises(StoreError, match="no other process"):
        sample(few, model, **options)
    assert not options["store"].exists()


def test_sample_removes_stale_siblings_only(few, model, options, tmp_path):
    remove_fuse(options)
    for name in (".e.zarr.new-0123456789ab", ".e.zarr.old-0123456789ab"):
        (tmp_path / name).mkdir()
    (tmp_path / ".e.zarr.model-0123456789ab").touch()
    users = {".e.zarr.thesis-0123456789ab", ".f.zarr.new-0123456789ab", ".e.zarr.new-notes"}
    for name in users:
        (tmp_path / name).mkdir()
    sample(few, model, **options)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == users | {"e.zarr"}


def test_stacked_samples_are_refused_before_writing(few, model, options, tmp_path):
    remove_fuse(options)
    plain = {**options, "postprocess": None, "chunks": None}
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


def test_failed_begin_leaves_no_files(few, model, options, tmp_path):
    remove_fuse(options)
    odd = few.assign_coords(note=("time", np.array([{"a": 1}] * 6, dtype=object)))
    with pytest.raises((TypeError, ValueError)):
        sample(odd, model, **options)
    assert list(tmp_path.iterdir()) == []
    assert sample(few, model, **options).sizes["realization"] == 4


def test_resume_false_refuses_existing_store(few, model, options, tmp_path):
    remove_fuse(options)
    sample(few, model, **options)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, **options, resume=False)
    sample(few, model, **{**options, "store": tmp_path / "new.zarr"}, resume=False)


def test_dry_regions_are_written(few, model, options):
    remove_fuse(options)
    dry = {**options, "postprocess": [{"name": "threshold", "value": "1000 mm h-1"}]}
    ens = sample(few, model, **dry)
    assert float(ens.pr.max()) == 0.0
    assert len(chunk_files(options["store"])) == 6


def test_store_is_zarr_3_with_requested_chunks(few, model, options):
    remove_fuse(options)
    ens = sample(few, model, **options)
    assert ens.pr.chunks[:2] == ((2, 2), (2, 2, 2))
    meta = json.loads((options["store"] / "pr" / "zarr.json").read_text())
    assert meta["zarr_format"] == 3
    assert [codec["name"] for codec in meta["codecs"]] == ["bytes", "zstd"]
    assert not any(coord.chunks for coord in ens.coords.values())


def test_store_keeps_text_labels_and_scalar_coordinates(few, model, options):
    remove_fuse(options)
    named = few.assign_coords(station=("time", [f"s{i}" for i in range(6)]), height=2.0, crs=0)
    ens = sample(named, model, **options)
    assert ens.station.values.tolist() == named.station.values.tolist()
    assert float(ens.height) == 2.0
    assert (
        ens.time.equals(named.time.drop_vars("station"))
        or (ens.time.values == named.time.values).all()
    )


def test_regions_cover_every_member_and_sample_once():
    shape, chunks = (5, 7, 2, 2), (2, 3)
    count = np.zeros(shape[:2], int)
    regions = list(regions_of(chunks, shape))
    for region in regions:
        count[slice(*region.realizations), slice(*region.samples)] += 1
    assert (count == 1).all()
    assert [region.number for region in regions] == list(range(9))


@pytest.mark.parametrize("sizes", [(16, 123, 156, 132), (64, 491, 128, 128), (4, 3, 2000, 2000)])
def test_default_chunks_hold_all_members_and_about_8_mb(sizes):
    members, samples = plan_chunks(None, sizes=sizes, sample="time")
    size = 4 * members * samples * sizes[2] * sizes[3]
    assert size <= 8e6 or members == samples == 1
    assert size >= 3e6 or (members, samples) == sizes[:2]
    assert members == sizes[0] or samples == 1


def test_chunks_are_limited_to_size_of_ensemble():
    options = {"realization": 100, "time": 100}
    assert plan_chunks(options, sizes=(4, 3, 8, 8), sample="time") == (4, 3)
    with pytest.raises(ConfigError, match="x"):
        plan_chunks({"x": 4}, sizes=(4, 3, 8, 8), sample="time")

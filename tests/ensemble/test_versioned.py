"""An Icechunk repository holds what a Zarr store holds; its commits agree with themselves."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from xcvae.cli import main
from xcvae.ensemble import sample as sampling
from xcvae.ensemble.store import EnsembleStore, open_store
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import ConfigError, OutputExistsError, StoreError

icechunk = pytest.importorskip("icechunk")

from xcvae.ensemble.store.icechunk import IcechunkStore  # noqa: E402  only with icechunk

MADE = {"members": 4, "seed": 7, "chunks": {"realization": 2, "time": 2}, "progress": False}
REGIONS, PER_COMMIT = 6, 4


@pytest.fixture(scope="module")
def plain(few, model, tmp_path_factory):
    """The same ensemble as a plain Zarr store."""
    store = tmp_path_factory.mktemp("plain") / "e.zarr"
    return sampling.sample(few, model, store=store, **MADE).load()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "e.icechunk"


def sample(few, model, store, *, per_commit=PER_COMMIT, **changed):
    """Sample into the repository in a folder, with few regions per commit."""
    if isinstance(store, Path):
        store = IcechunkStore(store, regions_per_commit=per_commit)
    return sampling.sample(few, model, store=store, **{**MADE, **changed})


def opened(folder):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(folder)))


def messages(folder, branch="main"):
    """Return the messages of the commits of a branch, oldest first."""
    return [one.message for one in opened(folder).ancestry(branch=branch)][::-1]


def assert_same(ensemble, plain):
    xr.testing.assert_equal(ensemble, plain)
    assert ensemble.pr.values.tobytes() == plain.pr.values.tobytes()
    assert ensemble.attrs.keys() == plain.attrs.keys()
    assert ensemble.attrs["xcvae"] == plain.attrs["xcvae"]


@pytest.fixture
def fused(few, tmp_path):
    """A post-processor that fails for one storm, in two regions of six, while its file is there."""
    fuse, storm = tmp_path / "fuse", few.time.values[3]
    fuse.touch()

    def burning(field, context):
        if storm in field.time.values and field.values.any() and fuse.exists():
            raise RuntimeError("the fuse blew")
        return field

    return {"postprocess": [burning]}, fuse


def test_path_of_a_repository_may_begin_with_tilde(few, model, tmp_path, monkeypatch):
    """A folder with the name ~ was made in the working directory: `rm -r ~` is no remedy."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(work)
    sampling.sample(few, model, store="icechunk:~/e.icechunk", **MADE)
    assert list(work.iterdir()) == []
    assert open_store("icechunk:~/e.icechunk").sizes["realization"] == 4
    assert (home / "e.icechunk").is_dir()


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_icechunk_ensemble_equals_zarr_ensemble(few, model, plain, folder, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        ensemble = sample(few, model, folder)
    assert_same(ensemble, plain)
    assert ensemble.pr.chunks[:2] == ((2, 2), (2, 2, 2))
    # As whoever has icechunk, xarray and zarr reads it.
    session = opened(folder).readonly_session("main")
    assert_same(xr.open_zarr(session.store, consolidated=False), plain)
    assert xr.open_datatree(session.store, engine="zarr", consolidated=False).groups == ("/",)


def test_cluster_writes_same_ensemble(few, model, plain, folder):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        ensemble = sample(few.chunk(time=1), model, folder)
        assert_same(ensemble, plain)  # read by the workers
    assert len(messages(folder)) == 3 + math.ceil(REGIONS / PER_COMMIT)


def test_commit_metadata_hold_entries_of_own_regions(few, model, folder):
    sample(few, model, folder)
    assert messages(folder) == [
        "Repository initialized",
        "xcvae: 'pr' begins",
        "xcvae: 4 regions of 'pr', now 4 of 6",
        "xcvae: 2 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]
    repository = opened(folder)
    assert repository.list_branches() == {"main"}
    seen = 0
    for commit in reversed(list(repository.ancestry(branch="main"))):
        record = commit.metadata.get("xcvae", {"entries": []})
        seen += len(record["entries"])
        if "run" in record:
            assert record["run"]["model_sha256"] == model.sha256
            store = repository.readonly_session(snapshot_id=commit.id).store
            written = np.isfinite(zarr.open_array(store, path="pr", mode="r")[:]).any(axis=(2, 3))
            assert written.sum() == 4 * seen
    assert seen == REGIONS


def test_interrupted_run_is_not_on_main_and_resumes(few, model, folder, fused):
    options, fuse = fused
    store = f"icechunk:{folder}"
    with pytest.raises(StoreError, match=r"got 4 done, 2 failed.*\n.*the fuse blew") as raised:
        sample(few, model, folder, **options)
    assert store in str(raised.value)
    assert messages(folder) == ["Repository initialized"]
    with pytest.raises(StoreError, match=r"an unfinished one.*draws what is missing"):
        open_store(store)
    part = open_store(store, incomplete=True)
    assert part.attrs["xcvae_state"] == "unfinished"
    missing = np.isnan(part.pr.values).all(axis=(0, 2, 3))
    np.testing.assert_array_equal(missing, [False, False, True, True, False, False])
    fuse.unlink()
    resumed = sample(few, model, folder, **options)
    assert [text.split()[1] for text in messages(folder)[2:-1]] == ["4", "2"]
    lazy = sampling.sample(few, model, **{**MADE, **options})
    np.testing.assert_array_equal(resumed.pr.values, lazy.pr.values)
    assert "xcvae_state" not in resumed.attrs
    assert opened(folder).list_branches() == {"main"}


def test_interrupt_commits_the_regions_collected_before_it(few, model, plain, folder):
    drawn = []

    def interrupting(field, context):
        if field.values.any():
            drawn.append(field.time.values)
            if len(drawn) == 4:
                raise KeyboardInterrupt
        return field

    options = {"postprocess": [interrupting]}
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        sample(few, model, folder, **options)
    assert messages(folder, "xcvae-unfinished")[2:] == ["xcvae: 3 regions of 'pr', now 3 of 6"]
    resumed = sample(few, model, folder, **options)
    lazy = sampling.sample(few, model, **{**MADE, **options})
    np.testing.assert_array_equal(resumed.pr.values, lazy.pr.values)
    assert messages(folder)[3] == "xcvae: 3 regions of 'pr', now 6 of 6"


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"chunks": {"realization": 1}}, {"members": 5}], ids=str
)
def test_resume_refuses_other_identity_and_restart_replaces_it(few, model, folder, fused, change):
    options, fuse = fused
    (key,) = change
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, folder, **options)
    before = messages(folder, "xcvae-unfinished")
    with pytest.raises(OutputExistsError, match=rf"branch xcvae-unfinished.*{key} \(stored"):
        sample(few, model, folder, **options, **change)
    assert messages(folder, "xcvae-unfinished") == before
    fuse.unlink()
    restarted = sample(few, model, folder, **options, **change, resume="restart")
    lazy = sampling.sample(few, model, **{**MADE, **options, **change})
    np.testing.assert_array_equal(restarted.pr.values, lazy.pr.values)
    assert "xcvae: 4 regions of 'pr', now 4 of 6" not in messages(folder)[:2]
    assert opened(folder).list_branches() == {"main"}


def test_replacement_keeps_old_ensemble_on_main_until_finished(few, model, folder, fused):
    options, fuse = fused
    store = f"icechunk:{folder}"
    fuse.unlink()
    old = sample(few, model, folder, **options).pr.values
    with pytest.raises(OutputExistsError, match=r"seed \(stored: 7, requested: 8\)"):
        sample(few, model, folder, **options, seed=8)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, folder, **options, resume=False)
    fuse.touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, folder, **options, seed=8, resume="restart")
    np.testing.assert_array_equal(open_store(store).pr.values, old)
    # Nothing of the old one is on the branch of the new one.
    partial = EnsembleStore.of(store).status().partial
    states = {number: entry["state"] for number, entry in partial.ledger.entries().items()}
    assert states == {0: "done", 1: "failed", 2: "done", 3: "done", 4: "failed", 5: "done"}
    part = xr.open_zarr(partial.source, consolidated=False).pr.values
    assert np.isnan(part[:, 2:4]).all()
    assert np.isfinite(np.delete(part, [2, 3], axis=1)).all()
    fuse.unlink()
    # The same call without "restart" goes on with it.
    new = sample(few, model, folder, **options, seed=8).pr.values
    assert not np.array_equal(new, old)
    assert messages(folder)[-2] == "xcvae: 2 regions of 'pr', now 6 of 6"
    # The versions before stay, as in any repository.
    (first,) = [c for c in list(opened(folder).ancestry(branch="main"))[4:] if "fini" in c.message]
    session = opened(folder).readonly_session(snapshot_id=first.id)
    reopened = xr.open_zarr(session.store, consolidated=False)
    np.testing.assert_array_equal(reopened.pr.values, old)


def damage(folder):
    """Change a byte of the largest chunk."""
    path = max((folder / "chunks").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damaged_chunk_is_found_and_repaired(few, model, plain, folder, capsys):
    store = f"icechunk:{folder}"
    sample(few, model, folder)
    found = verify_store(store, ds=few, model=model, sample=2)
    assert found.ok
    assert str(found).startswith(f"{store}: finished, 6 of 6 regions as they were written")
    assert main(["verify", store]) == 0
    damage(folder)
    found = verify_store(store)
    assert len(found.damaged) == 1
    assert "content has changed" in str(found)
    assert main(["verify", store]) == 1
    assert_same(sample(few, model, folder, resume="repair"), plain)
    assert verify_store(store).ok
    assert messages(folder)[-3:] == [
        "xcvae: 'pr' is repaired",
        "xcvae: 1 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]


def test_interrupted_repair_resumes(few, model, folder, fused):
    options, fuse = fused
    fuse.unlink()
    whole = sample(few, model, folder, **options).load()
    for path in (folder / "chunks").iterdir():
        if path.stat().st_size > 5000:  # those of the regions, not of coordinates
            path.write_bytes(b"x" * path.stat().st_size)
    fuse.touch()
    with pytest.raises(StoreError, match="got 4 done, 2 failed"):
        sample(few, model, folder, **options, resume="repair")
    fuse.unlink()
    assert_same(sample(few, model, folder, **options), whole)
    assert messages(folder)[-4:] == [
        "xcvae: 'pr' is repaired",
        "xcvae: 4 regions of 'pr', now 4 of 6",
        "xcvae: 2 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]


def test_sample_deletes_branch_of_killed_call(few, model, plain, folder):
    sample(few, model, folder)
    repository = opened(folder)
    # Killed before the first commit, or after main was moved.
    repository.create_branch("xcvae-unfinished", repository.lookup_branch("main"))
    assert_same(sample(few, model, folder), plain)
    assert opened(folder).list_branches() == {"main"}


def test_ledger_keeps_completion_after_later_failure(few, model, plain, folder):
    sample(few, model, folder)
    session = opened(folder).writable_session("main")
    last = next(iter(opened(folder).ancestry(branch="main"))).metadata
    last["xcvae"]["entries"] = [{"region": 2, "state": "failed", "error": "lost"}]
    zarr.open_group(session.store, mode="r+").attrs["late"] = 1
    session.commit("late", last)
    found = verify_store(f"icechunk:{folder}")
    assert not found.missing
    assert found.changed.keys() == {"zarr.json"}


def test_verify_store_reports_missing_regions(few, model, folder, fused):
    options, _ = fused
    with pytest.raises(StoreError):
        sample(few, model, folder, **options)
    found = verify_store(f"icechunk:{folder}")
    assert not found.ok
    assert found.missing.keys() == {1, 4}
    assert "the fuse blew" in str(found)
    assert "not finished, 4 of 6" in str(found)


def test_commits_of_others_on_main_are_kept(few, model, plain, folder):
    store = f"icechunk:{folder}"
    sample(few, model, folder)
    session = opened(folder).writable_session("main")
    zarr.create_array(session.store, name="mine/notes", shape=(2,), dtype="int32")
    session.commit("mine")
    assert_same(sample(few, model, folder), plain)
    assert verify_store(store).ok
    assert messages(folder)[-1] == "mine"


def test_resume_refuses_main_that_moved(few, model, folder, fused):
    options, fuse = fused
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, folder, **options)
    session = opened(folder).writable_session("main")
    zarr.create_group(session.store)
    session.commit("mine")
    fuse.unlink()
    with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
        sample(few, model, folder, **options)
    # Nor is the other commit replaced on request: xcvae did not write it.
    with pytest.raises(OutputExistsError, match="without a ledger of xcvae"):
        sample(few, model, folder, **options, resume="restart")
    assert messages(folder)[-1] == "mine"


def test_replacement_refuses_main_with_later_commits(few, model, folder, fused):
    options, fuse = fused
    fuse.unlink()
    sample(few, model, folder, **options)
    fuse.touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, folder, **options, seed=8, resume="restart")
    session = opened(folder).writable_session("main")
    zarr.open_group(session.store, mode="r+").attrs["mine"] = 1
    session.commit("mine")
    fuse.unlink()
    with pytest.raises(StoreError, match="branch main has other commits since"):
        sample(few, model, folder, **options, seed=8)
    assert messages(folder)[-1] == "mine"


def test_concurrent_commit_of_other_writer_is_conflict(few, model, folder):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))

    def rival(field, context):
        branch = "xcvae-unfinished"
        if field.values.any() and len(messages(folder, branch)) == 2:
            session = opened(folder).writable_session(branch)
            zarr.open_group(session.store, mode="r+").attrs["rival"] = 1
            session.commit("rival")
        return field

    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(StoreError, match="a repository that nobody else commits to"),
    ):
        sample(few, model, repository, postprocess=[rival])
    assert messages(folder) == ["Repository initialized"]


def test_repository_object_is_written_on_main(few, model, plain, folder):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    assert_same(sample(few, model, repository), plain)
    assert_same(open_store(repository), plain)
    assert verify_store(repository).ok
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert_same(sample(few, model, folder), plain)


def test_model_without_file_needs_folder_for_processes(few, model, folder):
    import copy

    bare = copy.copy(model)
    bare.path = None
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    with dask.config.set(scheduler="processes"):
        with pytest.raises(ConfigError, match=r"Save it where they see it"):
            sample(few, bare, repository)
        sample(few, bare, f"icechunk:{folder}")


def test_folder_that_is_not_a_repository_is_refused(few, model, folder):
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
        sample(few, model, f"icechunk:{folder}")
    with pytest.raises(StoreError, match="only ensembles are replaced"):
        sample(few, model, f"icechunk:{folder}", resume="restart")
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="no such ensemble"):
        open_store(f"icechunk:{folder.with_name('nothing')}")
    assert not folder.with_name("nothing").exists()


def test_catalog_and_url_are_refused_before_drawing(few, model, folder, tmp_path):
    with pytest.raises(ConfigError, match="a plain Zarr store to list"):
        sample(few, model, f"icechunk:{folder}", catalog=tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"give the icechunk\.Repository"):
        sample(few, model, "icechunk:s3://bucket/e")
    with pytest.raises(ConfigError, match="the path of a local folder"):
        sample(few, model, "icechunk:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sync"), reason="needs os.sync")
def test_finalize_waits_for_the_disk_before_main_moves(few, model, folder, monkeypatch):
    sync, seen = os.sync, []

    def record_sync():
        seen.append((messages(folder), messages(folder, "xcvae-unfinished")))
        sync()

    monkeypatch.setattr(os, "sync", record_sync)
    sample(few, model, folder)
    # The last commit is written, and main does not have it.
    assert seen == [(["Repository initialized"], messages(folder))]


def test_lock_of_other_process_refuses_sample(few, model, folder):
    store = EnsembleStore.of(f"icechunk:{folder}")
    with store.lock(), pytest.raises(StoreError, match="no other process"):
        sample(few, model, f"icechunk:{folder}")
    assert not folder.exists()


def test_commit_metadata_do_not_grow_with_ensemble(few, model, folder):
    sample(few, model, folder, per_commit=1)
    splitting = opened(folder).config.manifest.splitting
    assert splitting is not None
    commits = list(opened(folder).ancestry(branch="main"))[1:-2]
    assert {len(json.dumps(one.metadata)) // 4000 for one in commits} == {0}
    assert [len(one.metadata["xcvae"]["entries"]) for one in commits] == [1] * REGIONS


def test_missing_icechunk_error_names_pip_command(tmp_path):
    code = """
import sys
sys.modules["icechunk"] = None
from xcvae.errors import ConfigError
from xcvae.ensemble.store import open_store
try:
    open_store(sys.argv[1])
except ConfigError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, f"icechunk:{tmp_path / 'e'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'pip install "xcvae[icechunk]"' in done.stdout

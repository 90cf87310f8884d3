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
def place(tmp_path):
    return tmp_path / "e.icechunk"


def sample(few, model, store, *, per_commit=PER_COMMIT, **changed):
    """Sample into the repository in a folder, with few regions per commit."""
    if isinstance(store, Path):
        store = IcechunkStore(store, regions_per_commit=per_commit)
    return sampling.sample(few, model, store=store, **{**MADE, **changed})


def opened(place):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place)))


def messages(place, branch="main"):
    """What the commits of a branch say, oldest first."""
    return [one.message for one in opened(place).ancestry(branch=branch)][::-1]


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


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"])
def test_it_holds_what_a_zarr_store_holds(few, model, plain, place, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        ensemble = sample(few, model, place)
    assert_same(ensemble, plain)
    assert ensemble.pr.chunks[:2] == ((2, 2), (2, 2, 2))
    # As whoever has icechunk, xarray and zarr reads it.
    session = opened(place).readonly_session("main")
    assert_same(xr.open_zarr(session.store, consolidated=False), plain)
    assert xr.open_datatree(session.store, engine="zarr", consolidated=False).groups == ("/",)


def test_a_cluster_of_two_processes_writes_the_same(few, model, plain, place):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        ensemble = sample(few.chunk(time=1), model, place)
        assert_same(ensemble, plain)  # read by the workers
    assert len(messages(place)) == 3 + math.ceil(REGIONS / PER_COMMIT)


def test_some_regions_share_a_commit_that_tells_of_them_and_of_no_others(few, model, place):
    sample(few, model, place)
    assert messages(place) == [
        "Repository initialized",
        "xcvae: 'pr' begins",
        "xcvae: 4 regions of 'pr', now 4 of 6",
        "xcvae: 2 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]
    repository = opened(place)
    assert repository.list_branches() == {"main"}
    seen = 0
    for commit in reversed(list(repository.ancestry(branch="main"))):
        told = commit.metadata.get("xcvae", {"entries": []})
        seen += len(told["entries"])
        if "run" in told:
            assert told["run"]["model_sha256"] == model.sha256
            store = repository.readonly_session(snapshot_id=commit.id).store
            there = np.isfinite(zarr.open_array(store, path="pr", mode="r")[:]).any(axis=(2, 3))
            assert there.sum() == 4 * seen
    assert seen == REGIONS


def test_an_interrupted_run_is_not_on_main_and_goes_on(few, model, place, fused):
    asked, fuse = fused
    store = f"icechunk:{place}"
    with pytest.raises(StoreError, match=r"got 4 done, 2 failed.*\n.*the fuse blew") as raised:
        sample(few, model, place, **asked)
    assert store in str(raised.value)
    assert messages(place) == ["Repository initialized"]
    with pytest.raises(StoreError, match=r"an unfinished one.*draws what is missing"):
        open_store(store)
    part = open_store(store, incomplete=True)
    assert part.attrs["xcvae_state"] == "unfinished"
    missing = np.isnan(part.pr.values).all(axis=(0, 2, 3))
    np.testing.assert_array_equal(missing, [False, False, True, True, False, False])
    fuse.unlink()
    resumed = sample(few, model, place, **asked)
    assert [text.split()[1] for text in messages(place)[2:-1]] == ["4", "2"]
    lazy = sampling.sample(few, model, **{**MADE, **asked})
    np.testing.assert_array_equal(resumed.pr.values, lazy.pr.values)
    assert "xcvae_state" not in resumed.attrs
    assert opened(place).list_branches() == {"main"}


def test_interrupt_commits_the_regions_collected_before_it(few, model, plain, place):
    drawn = []

    def interrupting(field, context):
        if field.values.any():
            drawn.append(field.time.values)
            if len(drawn) == 4:
                raise KeyboardInterrupt
        return field

    asked = {"postprocess": [interrupting]}
    with dask.config.set(scheduler="synchronous"), pytest.raises(KeyboardInterrupt):
        sample(few, model, place, **asked)
    assert messages(place, "xcvae-unfinished")[2:] == ["xcvae: 3 regions of 'pr', now 3 of 6"]
    resumed = sample(few, model, place, **asked)
    lazy = sampling.sample(few, model, **{**MADE, **asked})
    np.testing.assert_array_equal(resumed.pr.values, lazy.pr.values)
    assert messages(place)[3] == "xcvae: 3 regions of 'pr', now 6 of 6"


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"chunks": {"realization": 1}}, {"members": 5}], ids=str
)
def test_another_run_is_refused_with_its_keys_and_begun_on_request(
    few, model, place, fused, change
):
    asked, fuse = fused
    (key,) = change
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, place, **asked)
    before = messages(place, "xcvae-unfinished")
    with pytest.raises(OutputExistsError, match=rf"branch xcvae-unfinished.*{key} \(stored"):
        sample(few, model, place, **asked, **change)
    assert messages(place, "xcvae-unfinished") == before
    fuse.unlink()
    restarted = sample(few, model, place, **asked, **change, resume="restart")
    lazy = sampling.sample(few, model, **{**MADE, **asked, **change})
    np.testing.assert_array_equal(restarted.pr.values, lazy.pr.values)
    assert "xcvae: 4 regions of 'pr', now 4 of 6" not in messages(place)[:2]
    assert opened(place).list_branches() == {"main"}


def test_a_replacement_leaves_the_old_one_on_main_until_it_is_whole(few, model, place, fused):
    asked, fuse = fused
    store = f"icechunk:{place}"
    fuse.unlink()
    old = sample(few, model, place, **asked).pr.values
    with pytest.raises(OutputExistsError, match=r"seed \(stored: 7, requested: 8\)"):
        sample(few, model, place, **asked, seed=8)
    with pytest.raises(OutputExistsError, match="resume=False"):
        sample(few, model, place, **asked, resume=False)
    fuse.touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, place, **asked, seed=8, resume="restart")
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
    new = sample(few, model, place, **asked, seed=8).pr.values
    assert not np.array_equal(new, old)
    assert messages(place)[-2] == "xcvae: 2 regions of 'pr', now 6 of 6"
    # The versions before stay, as in any repository.
    (first,) = [c for c in list(opened(place).ancestry(branch="main"))[4:] if "fini" in c.message]
    session = opened(place).readonly_session(snapshot_id=first.id)
    kept = xr.open_zarr(session.store, consolidated=False)
    np.testing.assert_array_equal(kept.pr.values, old)


def spoil(place):
    """Change a byte of the largest chunk."""
    path = max((place / "chunks").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_damage_is_found_and_repaired(few, model, plain, place, capsys):
    store = f"icechunk:{place}"
    sample(few, model, place)
    found = verify_store(store, ds=few, model=model, sample=2)
    assert found.ok
    assert str(found).startswith(f"{store}: finished, 6 of 6 regions as they were written")
    assert main(["verify", store]) == 0
    spoil(place)
    found = verify_store(store)
    assert len(found.damaged) == 1
    assert "content has changed" in str(found)
    assert main(["verify", store]) == 1
    assert_same(sample(few, model, place, resume="repair"), plain)
    assert verify_store(store).ok
    assert messages(place)[-3:] == [
        "xcvae: 'pr' is repaired",
        "xcvae: 1 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]


def test_an_interrupted_repair_goes_on_like_any_run(few, model, place, fused):
    asked, fuse = fused
    fuse.unlink()
    whole = sample(few, model, place, **asked).load()
    for path in (place / "chunks").iterdir():
        if path.stat().st_size > 5000:  # those of the regions, not of coordinates
            path.write_bytes(b"x" * path.stat().st_size)
    fuse.touch()
    with pytest.raises(StoreError, match="got 4 done, 2 failed"):
        sample(few, model, place, **asked, resume="repair")
    fuse.unlink()
    assert_same(sample(few, model, place, **asked), whole)
    assert messages(place)[-4:] == [
        "xcvae: 'pr' is repaired",
        "xcvae: 4 regions of 'pr', now 4 of 6",
        "xcvae: 2 regions of 'pr', now 6 of 6",
        "xcvae: 'pr' is finished",
    ]


def test_a_branch_that_a_killed_call_left_is_cleared_away(few, model, plain, place):
    sample(few, model, place)
    repository = opened(place)
    # Killed before the first commit, or after main was moved.
    repository.create_branch("xcvae-unfinished", repository.lookup_branch("main"))
    assert_same(sample(few, model, place), plain)
    assert opened(place).list_branches() == {"main"}


def test_a_late_failure_does_not_take_the_place_of_what_is_done(few, model, plain, place):
    sample(few, model, place)
    session = opened(place).writable_session("main")
    last = next(iter(opened(place).ancestry(branch="main"))).metadata
    last["xcvae"]["entries"] = [{"region": 2, "state": "failed", "error": "lost"}]
    zarr.open_group(session.store, mode="r+").attrs["late"] = 1
    session.commit("late", last)
    found = verify_store(f"icechunk:{place}")
    assert not found.missing
    assert found.changed.keys() == {"zarr.json"}


def test_an_unfinished_one_is_verified_too(few, model, place, fused):
    asked, _ = fused
    with pytest.raises(StoreError):
        sample(few, model, place, **asked)
    found = verify_store(f"icechunk:{place}")
    assert not found.ok
    assert found.missing.keys() == {1, 4}
    assert "the fuse blew" in str(found)
    assert "not finished, 4 of 6" in str(found)


def test_commits_of_others_are_kept_and_do_not_matter(few, model, plain, place):
    store = f"icechunk:{place}"
    sample(few, model, place)
    session = opened(place).writable_session("main")
    zarr.create_array(session.store, name="mine/notes", shape=(2,), dtype="int32")
    session.commit("mine")
    assert_same(sample(few, model, place), plain)
    assert verify_store(store).ok
    assert messages(place)[-1] == "mine"


def test_a_main_that_has_moved_meanwhile_is_not_moved_back(few, model, place, fused):
    asked, fuse = fused
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, place, **asked)
    session = opened(place).writable_session("main")
    zarr.create_group(session.store)
    session.commit("mine")
    fuse.unlink()
    with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
        sample(few, model, place, **asked)
    # Nor is the other commit replaced on request: xcvae did not write it.
    with pytest.raises(OutputExistsError, match="without a ledger of xcvae"):
        sample(few, model, place, **asked, resume="restart")
    assert messages(place)[-1] == "mine"


def test_a_replacement_is_not_put_over_what_others_committed_meanwhile(few, model, place, fused):
    asked, fuse = fused
    fuse.unlink()
    sample(few, model, place, **asked)
    fuse.touch()
    with pytest.raises(StoreError, match="the fuse blew"):
        sample(few, model, place, **asked, seed=8, resume="restart")
    session = opened(place).writable_session("main")
    zarr.open_group(session.store, mode="r+").attrs["mine"] = 1
    session.commit("mine")
    fuse.unlink()
    with pytest.raises(StoreError, match="branch main has other commits since"):
        sample(few, model, place, **asked, seed=8)
    assert messages(place)[-1] == "mine"


def test_two_that_commit_at_a_time_do_not_mix(few, model, place):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)))

    def rival(field, context):
        branch = "xcvae-unfinished"
        if field.values.any() and len(messages(place, branch)) == 2:
            session = opened(place).writable_session(branch)
            zarr.open_group(session.store, mode="r+").attrs["rival"] = 1
            session.commit("rival")
        return field

    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(StoreError, match="a repository that nobody else commits to"),
    ):
        sample(few, model, repository, postprocess=[rival])
    assert messages(place) == ["Repository initialized"]


def test_a_repository_that_the_caller_opened_is_written_on_main(few, model, plain, place):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)))
    assert_same(sample(few, model, repository), plain)
    assert_same(open_store(repository), plain)
    assert verify_store(repository).ok
    assert [path.name for path in place.parent.iterdir()] == [place.name]
    assert_same(sample(few, model, place), plain)


def test_a_model_without_a_file_needs_one_where_no_folder_is_known(few, model, place):
    import copy

    bare = copy.copy(model)
    bare.path = None
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)))
    with dask.config.set(scheduler="processes"):
        with pytest.raises(ConfigError, match=r"Save it where they see it"):
            sample(few, bare, repository)
        sample(few, bare, f"icechunk:{place}")


def test_what_is_no_repository_is_refused_and_kept(few, model, place):
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="no xcvae ensemble"):
        sample(few, model, f"icechunk:{place}")
    with pytest.raises(StoreError, match="only ensembles are replaced"):
        sample(few, model, f"icechunk:{place}", resume="restart")
    assert [path.name for path in place.iterdir()] == ["thesis.txt"]
    with pytest.raises(StoreError, match="no such ensemble"):
        open_store(f"icechunk:{place.with_name('nothing')}")
    assert not place.with_name("nothing").exists()


def test_a_catalog_and_a_url_are_refused_before_anything_is_drawn(few, model, place, tmp_path):
    with pytest.raises(ConfigError, match="a plain Zarr store to list"):
        sample(few, model, f"icechunk:{place}", catalog=tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"give the icechunk\.Repository"):
        sample(few, model, "icechunk:s3://bucket/e")
    with pytest.raises(ConfigError, match="the path of a local folder"):
        sample(few, model, "icechunk:")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "sync"), reason="needs os.sync")
def test_finalize_waits_for_the_disk_before_main_moves(few, model, place, monkeypatch):
    sync, seen = os.sync, []

    def record_sync():
        seen.append((messages(place), messages(place, "xcvae-unfinished")))
        sync()

    monkeypatch.setattr(os, "sync", record_sync)
    sample(few, model, place)
    # The last commit is written, and main does not have it.
    assert seen == [(["Repository initialized"], messages(place))]


def test_one_process_at_a_time(few, model, place):
    store = EnsembleStore.of(f"icechunk:{place}")
    with store.lock(), pytest.raises(StoreError, match="no other process"):
        sample(few, model, f"icechunk:{place}")
    assert not place.exists()


def test_commits_do_not_grow_with_what_is_there(few, model, place):
    sample(few, model, place, per_commit=1)
    splitting = opened(place).config.manifest.splitting
    assert splitting is not None
    commits = list(opened(place).ancestry(branch="main"))[1:-2]
    assert {len(json.dumps(one.metadata)) // 4000 for one in commits} == {0}
    assert [len(one.metadata["xcvae"]["entries"]) for one in commits] == [1] * REGIONS


def test_without_icechunk_it_is_said_how_to_get_it(tmp_path):
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

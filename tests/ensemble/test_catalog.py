"""Catalogs are plain intake: whoever opens them needs neither xcvae nor torch."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from filelock import FileLock

from xcvae.ensemble import catalog
from xcvae.ensemble.sample import sample
from xcvae.ensemble.store.local import FileLedger
from xcvae.errors import CatalogError, ConfigError
from xcvae.files import original_name


@pytest.fixture
def store(tmp_path):
    """A small Zarr store, as far as the catalog is concerned an ensemble."""
    return make_store(tmp_path / "project" / "ens.zarr")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "project" / "catalogs" / "run.yaml"


def make_store(where, value=1.0):
    rain = xr.DataArray(
        np.full((2, 3, 4, 5), value, "float32"),
        dims=("realization", "time", "y", "x"),
        attrs={"units": "mm h-1"},
    )
    rain.to_dataset(name="pr").to_zarr(where, consolidated=False, zarr_format=3)
    return where


def test_open_entry_is_lazy_and_metadata_are_kept(path, store):
    catalog.append(path, "prior", store, {"seed": 1, "dims": ["realization", "time"]})
    opened = catalog.open_entry(path, "prior")
    assert opened.pr.chunks is not None
    assert float(opened.pr.mean()) == 1.0
    assert catalog.names(path) == ["prior"]
    assert catalog.metadata_of(path, "prior") == {"seed": 1, "dims": ["realization", "time"]}


def test_append_converts_numpy_scalars(path, store):
    metadata = {"score": np.float32(0.5), "seed": np.int64(3), "list": np.arange(2), "ok": np.True_}
    catalog.append(path, "prior", store, metadata)
    assert catalog.metadata_of(path, "prior") == {
        "score": 0.5, "seed": 3, "list": [0, 1], "ok": True,
    }  # fmt: skip


def test_catalog_has_no_absolute_path(path, store, tmp_path):
    catalog.append(path, "a", store, {})
    catalog.append(path, "b", make_store(tmp_path / "project" / "b.zarr"), {})
    catalog.open_entry(path, "a")
    catalog.annotate(path, "a", {"crps": 0.2})
    assert str(tmp_path) not in path.read_text()
    assert "{CATALOG_DIR}/../ens.zarr" in path.read_text()


def test_plain_intake_opens_entry_also_after_move(path, store, tmp_path, read_elsewhere):
    catalog.append(path, "prior", store, {"seed": 1})
    assert read_elsewhere(path, "prior") == (120.0, "mm h-1")
    moved = (tmp_path / "project").rename(tmp_path / "moved here")
    assert read_elsewhere(moved / "catalogs" / "run.yaml", "prior") == (120.0, "mm h-1")


def test_append_refuses_used_name(path, store, tmp_path):
    catalog.append(path, "prior", store, {"seed": 1})
    other = make_store(tmp_path / "project" / "other.zarr", 2.0)
    with pytest.raises(CatalogError, match=r"name 'prior'.*\.\./ens\.zarr.*catalog\.remove\("):
        catalog.append(path, "prior", other, {"seed": 2})
    with pytest.raises(CatalogError, match="name 'prior'"):
        catalog.check_name(path, "prior", other)
    assert catalog.metadata_of(path, "prior") == {"seed": 1}


def test_append_renews_entry_of_same_store(path, store):
    catalog.append(path, "prior", store, {"seed": 1})
    catalog.append(path, "prior", store, {"seed": 2})
    assert catalog.metadata_of(path, "prior") == {"seed": 2}


def test_overwrite_replaces_entry_and_its_data_description(path, store, tmp_path):
    catalog.append(path, "prior", store, {"seed": 1})
    other = make_store(tmp_path / "project" / "other.zarr", 2.0)
    catalog.append(path, "prior", other, {"seed": 2}, overwrite=True)
    assert float(catalog.open_entry(path, "prior").pr.mean()) == 2.0
    assert "ens.zarr" not in path.read_text()


def test_overwrite_keeps_other_name_of_same_store(path, store, tmp_path):
    catalog.append(path, "a", store, {})
    catalog.append(path, "b", store, {})
    other = make_store(tmp_path / "project" / "other.zarr", 2.0)
    catalog.append(path, "a", other, {}, overwrite=True)
    assert float(catalog.open_entry(path, "a").pr.mean()) == 2.0
    assert float(catalog.open_entry(path, "b").pr.mean()) == 1.0


def test_concurrent_appends_of_four_processes_are_all_kept(path, store):
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        list(pool.map(_append, [(path, f"run{i}", store, {"i": i}) for i in range(100)]))
    assert catalog.names(path) == sorted(f"run{i}" for i in range(100))
    assert catalog.metadata_of(path, "run7") == {"i": 7}


def _append(arguments):
    catalog.append(*arguments)


def test_link_to_catalog_has_its_lock_and_its_stores(path, store, tmp_path):
    """Two processes, one of which was given a link, lost entries of each other."""
    catalog.append(path, "prior", store)
    link = tmp_path / "elsewhere" / "mine.yaml"
    link.parent.mkdir()
    link.symlink_to(path)
    with FileLock(path.with_name(f".{path.name}.lock")), pytest.raises(CatalogError, match="lock"):
        catalog.append(link, "again", store, timeout=0.1)
    catalog.append(link, "again", store)
    assert link.is_symlink()
    assert catalog.names(path) == ["again", "prior"]
    assert float(catalog.open_entry(link, "prior").pr.mean()) == 1.0
    assert catalog.prune(link) == []


def test_paths_of_catalogs_and_stores_may_begin_with_tilde(path, store, tmp_path, monkeypatch):
    """As those of `sample` do."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROJECT", str(path.parents[1]))
    catalog.append("~/project/catalogs/run.yaml", "prior", "$PROJECT/ens.zarr")
    catalog.link("$PROJECT/all.yaml", "inner", "~/project/catalogs/run.yaml")
    assert catalog.names("~/project/catalogs/run.yaml") == ["prior"]
    assert catalog.search("~/project/all.yaml") == ["inner/prior"]
    assert float(catalog.open_entry("~/project/all.yaml", "inner/prior").pr.mean()) == 1.0
    catalog.remove("~/project/catalogs/run.yaml", "prior")
    assert catalog.names(path) == []


def test_catalog_that_cannot_be_changed_is_refused(path, store, tmp_path, monkeypatch):
    catalog.append(path, "prior", store)
    with pytest.raises(CatalogError, match="No such file"):
        catalog.prune(tmp_path / "nowhere" / "run.yaml")
    with pytest.raises(ConfigError, match="not a folder"):
        catalog.append(path / "run.yaml", "prior", store)
    access = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: not mode & os.W_OK and access(file, mode))
    assert catalog.names(path) == ["prior"]
    with pytest.raises(ConfigError, match="no permission to write"):
        catalog.remove(path, "prior")


def test_catalog_is_synchronised_before_rename(path, store, tmp_path, monkeypatch):
    catalog.append(path, "first", store, {})
    fsync, seen = os.fsync, []

    def record_fsync(handle):
        fsync(handle)
        name = Path(f"/proc/self/fd/{handle}").readlink().name
        seen.append((original_name(name), catalog.names(path)))

    monkeypatch.setattr(os, "fsync", record_fsync)
    catalog.append(path, "second", make_store(tmp_path / "project" / "b.zarr"), {})
    catalog.annotate(path, "first", {"crps": 0.5})
    before, after = ["first"], ["first", "second"]
    # Each change synchronises the new file, and after the rename the folder.
    assert seen == [("run.yaml", before), (None, after), ("run.yaml", after), (None, after)]


def test_append_refuses_unfinished_store(path, store):
    FileLedger(store / "pr").start({"run": {}, "notes": {}})
    with pytest.raises(CatalogError, match="still being written"):
        catalog.append(path, "prior", store, {})
    FileLedger(store / "pr").seal()
    catalog.append(path, "prior", store, {})


def test_sample_renews_outdated_entry_and_keeps_scores(few, model, tmp_path):
    options = {"store": tmp_path / "e.zarr", "catalog": tmp_path / "c.yaml", "members": 2}
    sample(few, model, seed=1, **options)
    old = (tmp_path / "c.yaml").read_bytes()
    sample(few, model, seed=2, resume="restart", **options)
    # As if that had been killed between the store and the catalog.
    (tmp_path / "c.yaml").write_bytes(old)
    sample(few, model, seed=2, **options)
    assert catalog.metadata_of(tmp_path / "c.yaml", "e")["seed"] == 2
    catalog.annotate(tmp_path / "c.yaml", "e", {"crps": 0.5})
    sample(few, model, seed=2, **options)
    assert catalog.metadata_of(tmp_path / "c.yaml", "e")["scores"] == {"crps": 0.5}


def test_annotate_adds_scores(path, store):
    catalog.append(path, "prior", store, {"seed": 1})
    catalog.annotate(path, "prior", {"crps": np.float64(0.25)})
    catalog.annotate(path, "prior", {"diversity": 0.2})
    assert catalog.metadata_of(path, "prior") == {
        "seed": 1, "scores": {"crps": 0.25, "diversity": 0.2},
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", "a/b", "data(x)", "{x}", "two words", "-x", 5])
def test_append_refuses_names_that_intake_misreads(path, store, name):
    with pytest.raises(CatalogError, match="letters, digits"):
        catalog.append(path, name, store, {})


def test_append_refuses_braces_in_path(path, tmp_path):
    with pytest.raises(CatalogError, match="without braces"):
        catalog.append(path, "prior", make_store(tmp_path / "project" / "{x}.zarr"), {})


def test_append_refuses_missing_store(path, tmp_path):
    with pytest.raises(CatalogError, match=r"no zarr\.json in it"):
        catalog.append(path, "prior", tmp_path / "nothing.zarr", {})
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "version: 1\nsources: {}\n", "{{{", "- a\n- b\n"])
def test_append_refuses_file_that_is_not_a_catalog(path, store, content):
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(CatalogError, match="intake 2 catalog"):
        catalog.append(path, "prior", store, {})
    assert path.read_text() == content


def test_unknown_entry_error_names_nearest(path, store):
    catalog.append(path, "prior64", store, {})
    with pytest.raises(CatalogError, match="Did you mean 'prior64'"):
        catalog.open_entry(path, "prior46")
    with pytest.raises(CatalogError, match="Did you mean 'prior64'"):
        catalog.annotate(path, "prior46", {})
    with pytest.raises(CatalogError, match="intake 2 catalog"):
        catalog.names(path.with_name("other.yaml"))


def test_open_entry_reports_missing_store(path, store):
    catalog.append(path, "prior", store, {})
    store.rename(store.with_name("gone.zarr"))
    with pytest.raises(CatalogError, match="moved without the catalog"):
        catalog.open_entry(path, "prior")


def test_open_entry_refuses_entry_that_is_not_a_dataset(path, tmp_path):
    from intake.readers.datatypes import CSV
    from intake.readers.entry import Catalog
    from intake.readers.readers import PandasCSV

    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    foreign = Catalog()
    foreign["table"] = PandasCSV(CSV(str(tmp_path / "table.csv")))
    foreign.aliases["table"] = "table"
    path.parent.mkdir(parents=True)
    foreign.to_yaml_file(str(path))
    with pytest.raises(CatalogError, match=r"expected an xarray\.Dataset, got DataFrame"):
        catalog.open_entry(path, "table", trust=True)
    with pytest.raises(CatalogError, match=r"readers:PandasCSV\b.* trust=True"):
        catalog.open_entry(path, "table")


def test_append_keeps_entries_of_others(path, store, tmp_path):
    test_open_entry_refuses_entry_that_is_not_a_dataset(path, tmp_path)
    catalog.append(path, "prior", store, {})
    assert catalog.names(path) == ["prior", "table"]


def test_changes_of_locked_catalog_time_out(path, store):
    catalog.append(path, "prior", store, {})
    before = path.read_bytes()
    with FileLock(path.with_name(".run.yaml.lock")):
        for change in (
            lambda: catalog.append(path, "other", store, {}, timeout=0.1),
            lambda: catalog.link(path, "inner", path, timeout=0.1),
            lambda: catalog.annotate(path, "prior", {"crps": 0.5}, timeout=0.1),
        ):
            with pytest.raises(CatalogError, match=r"within 0\.1 s, got a lock held by another"):
                change()
    assert path.read_bytes() == before

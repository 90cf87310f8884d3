"""Things of the user under the names that xcvae is to write to: refused, and kept to the byte."""

# ruff: noqa: E501, PLR0917, PT012, PT017  a row is a line; refused or right: both may serve

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import yaml

import xcvae
from xcvae import config, pipeline
from xcvae.cli import main
from xcvae.errors import XcvaeError

from .makers import SMALLEST, STEP, rain

WORK = "thirty years of work"


def folder(path: Path, name: str = "observations.nc") -> None:
    path.mkdir(parents=True)
    (path / name).write_text(WORK)


def zarr_store(path: Path, **options: Any) -> None:
    rain().to_dataset().to_zarr(path, consolidated=False, **options)


def link(path: Path, make: Callable[[Path], object]) -> None:
    make(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def read_only(path: Path) -> None:
    path.write_text(WORK)
    path.chmod(0o400)


def hard_link(path: Path) -> None:
    path.with_name("original").write_text(WORK)
    path.hardlink_to(path.with_name("original"))


def repository(path: Path) -> None:
    """Make an Icechunk repository of others."""
    icechunk = pytest.importorskip("icechunk")
    icechunk.set_logs_filter("icechunk::storage=error")
    others = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = others.writable_session("main")
    rain().to_dataset().to_zarr(session.store, consolidated=False)
    session.commit("rain")


THINGS: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: path.write_text(WORK),
    "an empty file": lambda path: path.write_bytes(b""),
    "a read-only file": read_only,
    "an executable": lambda path: (path.write_text("#!/bin/sh\n"), path.chmod(0o755)),
    "netCDF": lambda path: rain().to_dataset().to_netcdf(path, engine="scipy"),
    "NumPy": lambda path: path.write_bytes(np.arange(3).tobytes()),
    "YAML": lambda path: path.write_text("a: 1\n"),
    "JSON": lambda path: path.write_text('{"a": 1}'),
    "a catalog of intake 1": lambda path: path.write_text("sources:\n  a: {driver: csv}\n"),
    "safetensors of others": lambda path: path.write_bytes(b"\x08\0\0\0\0\0\0\0{}      "),
    "a folder": folder,
    "an empty folder": lambda path: path.mkdir(),
    "a folder of folders": lambda path: folder(path / "2001" / "01"),
    "a repository": lambda path: folder(path / ".git", "HEAD"),
    "Zarr 3": lambda path: zarr_store(path, zarr_format=3),
    "Zarr 2": lambda path: zarr_store(path, zarr_format=2),
    "a group of Zarr stores": lambda path: zarr_store(path / "2001.zarr"),
    "a link to a file": lambda path: link(path, lambda other: other.write_text(WORK)),
    "a link to a folder": lambda path: link(path, folder),
    "a link to a Zarr store": lambda path: link(path, zarr_store),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a named pipe": os.mkfifo,
    "a hard link": hard_link,
    "an Icechunk repository": repository,
    "chunks without metadata": lambda path: folder(path / "pr" / "c" / "0", "0"),
    "a ledger of others": lambda path: folder(path / "pr" / "ledger", "run.json"),
}


def contents(place: Path, *, locks: bool = False) -> dict[str, object]:
    """Names, kinds, permissions and contents below a folder, usually without locks."""
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        if path.name.endswith(".lock") and not locks:
            continue
        what: object = str(path.readlink()) if path.is_symlink() else path.is_dir()
        if path.is_file() and not path.is_symlink():
            what = path.read_bytes()
        found[str(path.relative_to(place))] = what, path.lstat().st_mode
    return found


@pytest.mark.parametrize("resume", [True, "restart"])
@pytest.mark.parametrize("thing", THINGS)
def test_stores_replace_nothing(daily, model, tmp_path, thing, resume):
    THINGS[thing](tmp_path / "e.zarr")
    before = contents(tmp_path)
    with pytest.raises(XcvaeError) as caught:
        xcvae.sample(
            daily, model, members=1, store=tmp_path / "e.zarr", resume=resume, progress=False
        )
    assert "e.zarr" in str(caught.value)
    assert "restart" not in str(caught.value)
    assert contents(tmp_path) == before


#: Names that a store takes next to its own, or within itself.
NEIGHBOURS = ("e.zarr.partial", ".e.zarr.lock", "e.zarr.partial/pr/ledger/0.json")


@pytest.mark.parametrize("store", ["e.zarr", "icechunk:e.zarr"])
@pytest.mark.parametrize("name", NEIGHBOURS)
@pytest.mark.parametrize("thing", ["a text", "a folder", "a link to a folder", "a hard link"])
def test_stores_replace_nothing_next_to_them(
    daily, model, tmp_path, monkeypatch, thing, name, store
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    THINGS[thing](tmp_path / name)
    before = contents(tmp_path, locks=True)
    with contextlib.suppress(XcvaeError):
        xcvae.sample(daily, model, members=1, store=store, resume="restart", progress=False)
    after = contents(tmp_path, locks=True)
    assert {one: after.get(one) for one in before} == before


@pytest.mark.parametrize("resume", [True, False, "restart", "repair"])
@pytest.mark.parametrize("unfinished", [False, True])
def test_ensembles_of_other_calls_are_replaced_by_restart_only(
    daily, model, tmp_path, unfinished, resume
):
    """Also one that is not finished, and both at their place."""
    place = tmp_path / "e.zarr"
    xcvae.sample(daily, model, members=2, seed=1, store=place, progress=False)
    if unfinished:
        place.rename(tmp_path / "e.zarr.partial")
    before = contents(tmp_path)
    if resume == "restart":
        xcvae.sample(daily, model, members=1, store=place, resume=resume, progress=False)
        return
    with pytest.raises(XcvaeError, match=r"e\.zarr"):
        xcvae.sample(daily, model, members=1, store=place, resume=resume, progress=False)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("thing", THINGS)
def test_repositories_replace_nothing(daily, model, tmp_path, monkeypatch, thing):
    monkeypatch.chdir(tmp_path)
    THINGS[thing](tmp_path / "e.zarr")
    before = contents(tmp_path)
    with contextlib.suppress(XcvaeError):
        store = "icechunk:e.zarr"
        xcvae.sample(daily, model, members=1, store=store, resume="restart", progress=False)
    after = contents(tmp_path)
    assert {one: after.get(one) for one in before} == before


@pytest.mark.parametrize("thing", THINGS)
def test_models_replace_nothing(model, tmp_path, thing):
    THINGS[thing](tmp_path / "model.xcvae")
    before = contents(tmp_path)
    copy = xcvae.load(_saved(model, tmp_path.with_name("models") / f"{tmp_path.name}.xcvae"))
    with pytest.raises(XcvaeError) as caught:
        copy.save(tmp_path / "model.xcvae")
    assert "model.xcvae" in str(caught.value)
    assert contents(tmp_path) == before


def _saved(model: Any, path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.to_bytes())
    return path


@pytest.mark.parametrize("thing", THINGS)
def test_trainings_replace_nothing(daily, tmp_path, thing):
    THINGS[thing](tmp_path / "model.xcvae")
    before = contents(tmp_path)
    with pytest.raises(XcvaeError) as caught:
        xcvae.train(
            daily,
            coarsen=4,
            generator=SMALLEST,
            fit=STEP,
            path=tmp_path / "model.xcvae",
            progress=False,
        )
    assert "model.xcvae" in str(caught.value)
    assert contents(tmp_path) == before


# Reading a named pipe waits for a writer.
@pytest.mark.parametrize("thing", [thing for thing in THINGS if thing != "a named pipe"])
def test_catalogs_replace_nothing(daily, model, tmp_path, thing):
    THINGS[thing](tmp_path / "catalog.yaml")
    before = contents(tmp_path)
    places = {"store": tmp_path / "e.zarr", "catalog": tmp_path / "catalog.yaml", "name": "e"}
    try:
        xcvae.sample(daily, model, members=1, progress=False, **places)
    except XcvaeError as error:
        assert "catalog" in str(error)
    after = contents(tmp_path)
    assert {name: what for name, what in after.items() if name in before} == before


CONFIG = {
    "data": {"path": "rain.zarr", "test": {"time": ["2001-01-01", "2001-01-03"]}},
    "output": "out",
    "train": {"target": "pr", "coarsen": 4, "generator": SMALLEST, "fit": STEP},
    "sample": [{"name": "prior", "members": 2}],
    "evaluate": {"metrics": ["mae"], "baselines": []},
    "diagnose": None,
}


@pytest.fixture(scope="module")
def run_until(tmp_path_factory):
    """Return a folder with data and the products of the first steps of a run."""
    first = tmp_path_factory.mktemp("data")
    zarr_store(first / "rain.zarr")
    folders = {"": first}
    settings = config.parse(CONFIG, folder=first)
    for step in ("train", "sample"):
        pipeline.run_step(settings, step, progress=False)
        folders[step] = tmp_path_factory.mktemp(step) / "run"
        shutil.copytree(first, folders[step])
    shutil.rmtree(first / "out")
    return folders


#: Product, the step that writes it, and the step before.
PRODUCTS = [
    ("made-from.json", "train", ""),
    ("model.xcvae", "train", ""),
    ("prior.zarr", "sample", "train"),
    ("catalog.yaml", "sample", "train"),
    ("report/prior-scores.json", "evaluate", "sample"),
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "thing", ["a text", "a folder", "a link to a file", "a link to a folder", "Zarr 3"]
)
@pytest.mark.parametrize(("product", "step", "before"), PRODUCTS, ids=[row[0] for row in PRODUCTS])
def test_runs_replace_nothing(run_until, tmp_path, product, step, before, thing, overwrite):
    folder = tmp_path / "run"
    shutil.copytree(run_until[before], folder)
    place = folder / "out" / product
    place.parent.mkdir(parents=True, exist_ok=True)
    THINGS[thing](place)
    theirs = {
        name: what for name, what in contents(folder).items() if name.startswith(f"out/{product}")
    }
    assert theirs
    settings = config.parse(CONFIG, folder=folder)
    try:
        pipeline.run_step(settings, step, overwrite=overwrite, progress=False)
    except (XcvaeError, OSError) as error:
        assert place.name in str(error)
    after = contents(folder)
    assert {name: after.get(name) for name in theirs} == theirs


@pytest.mark.parametrize(
    "name", ["report.json", "report.html", "summary.json", "prior-members.png", "training.png"]
)
def test_a_report_of_others_is_kept(run_until, tmp_path, name):
    shutil.copytree(run_until["sample"], tmp_path / "run")
    report = tmp_path / "run" / "out" / "report"
    report.mkdir()
    (report / name).write_text(WORK)
    settings = config.parse(CONFIG, folder=tmp_path / "run")
    try:
        for step in ("evaluate", "report"):
            pipeline.run_step(settings, step, progress=False)
    except XcvaeError as error:
        assert name in str(error)
    assert (report / name).read_text() == WORK


def _demo(folder: Path, *options: str) -> None:
    before = contents(folder)
    assert main(["demo", "--output", str(folder), *options]) == 1
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before


@pytest.mark.parametrize(
    "options", [(), ("--minutes", "0.001"), ("--minutes", "0.001", "--overwrite")], ids=" ".join
)
def test_the_demo_replaces_no_configuration_of_others(tmp_path, options):
    (tmp_path / "config.yaml").write_text("data: {tutorial: nothing}\noutput: .\n")
    _demo(tmp_path, *options)


@pytest.mark.parametrize("thing", ["a text", "a folder", "Zarr 3", "a link to a file"])
def test_the_demo_replaces_no_model_of_others(tmp_path, thing):
    THINGS[thing](tmp_path / "model.xcvae")
    _demo(tmp_path, "--minutes", "0.001", "--overwrite")


# --- the data themselves -----------------------------------------------------------------------


def test_the_input_is_never_the_output(daily, model, tmp_path):
    zarr_store(tmp_path / "obs.zarr")
    before = contents(tmp_path)
    ds = xr.open_zarr(tmp_path / "obs.zarr", consolidated=False)
    for store in (
        tmp_path / "obs.zarr",
        tmp_path / "obs.zarr" / "pr",
        tmp_path,
        tmp_path / "obs.zarr" / ".." / "obs.zarr",
    ):
        for resume in (True, False, "restart", "repair"):
            with pytest.raises(XcvaeError):
                xcvae.sample(ds, model, members=1, store=store, resume=resume, progress=False)
            assert contents(tmp_path) == before


@pytest.mark.parametrize("verb", ["sample", "train"])
def test_folders_that_cannot_be_written_are_refused_early(daily, model, tmp_path, verb):
    (tmp_path / "notes").write_text(WORK)
    place = tmp_path / "notes" / "x"
    with pytest.raises(XcvaeError) as caught:
        if verb == "sample":
            xcvae.sample(daily, model, members=1, store=place, progress=False)
        else:
            xcvae.train(daily, coarsen=4, generator=SMALLEST, fit=STEP, path=place, progress=False)
    assert "notes" in str(caught.value)


# --- files are data ----------------------------------------------------------------------------

READERS, DATATYPES = "intake.readers.readers:", "intake.readers.datatypes:"
ZARR = {"reader": f"{READERS}XArrayDatasetReader", "datatype": f"{DATATYPES}Zarr"}
#: Ways to run code by reading a catalog: what differs from an entry that xcvae writes.
POISONS: dict[str, dict[str, Any]] = {
    "PythonModule": {"reader": f"{READERS}PythonModule", "datatype": f"{DATATYPES}PythonSourceCode"},
    "a reader of others": {"reader": "poison:Reader"},
    "a datatype of others": {"datatype": "poison:Data"},
    "a reader of others that gives a catalog": {"reader": "poison:Reader", "output": "intake.readers.entry:Catalog"},
    "a class of an entry": {"cls": "poison:Entry"},
    "a class of a parameter": {"parameter": {"cls": "poison:Parameter", "default": "1"}},
    "a function as an argument": {"kwargs": {"preprocess": "{func(poison:run)}"}},
    "an import as an argument": {"kwargs": {"engine": "{import(poison:Engine)}"}},
    "a function as a parameter": {"parameter": {"cls": "intake.readers.user_parameters:SimpleUserParameter", "default": "func(poison:run)", "dtype": "str"}},
    "a reference from the metadata": {"metadata": {"see": "{data(other)}"}, "other": "poison:Reader"},
    "a reference to another entry": {"kwargs": {"chunks": ["{data(other)}"]}, "other": "poison:Reader"},
    "a method that writes": {"reader": "intake.readers.convert:Pipeline", "kwargs": {"steps": [["{data(d)}", [], {}], ["{func(intake.readers.transform:Method)}", ["ran"], {"method_name": "to_netcdf"}]]}},
    "templates of Kerchunk": {"kwargs": {"engine": "kerchunk"}},
}  # fmt: skip
#: Catalogs that intake could not even read without the class.
UNREADABLE = {"a class of an entry", "a class of a parameter"}


def poisoned(place: Path, kind: str) -> Path:
    """A catalog whose entry leaves a file where it is run."""
    code = place / "poison.py"
    code.write_text(f"from pathlib import Path\nPath({str(place / 'ran')!r}).touch()\n")
    changed = {**ZARR, **POISONS[kind]}
    plain: dict[str, Any] = {"metadata": {}, "user_parameters": {}}
    entry = {
        **plain,
        "reader": changed["reader"],
        "kwargs": {"args": ["{data(d)}"], **changed.get("kwargs", {})},
        "metadata": changed.get("metadata", {}),
        "output_instance": changed.get("output", "xarray:Dataset"),
        **({"cls": changed["cls"]} if "cls" in changed else {}),
    }
    data = {**plain, "datatype": changed["datatype"], "kwargs": {"url": str(code)}}
    content = {
        "version": 2,
        "metadata": {},
        "user_parameters": {"p": changed["parameter"]} if "parameter" in changed else {},
        "aliases": {"prior": "prior"},
        "data": {"d": data},
        "entries": {"prior": entry},
    }
    if "other" in changed:
        content["entries"]["other"] = {**entry, "reader": changed["other"], "metadata": {}}
    file = place / "catalog.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("kind", POISONS)
@pytest.mark.parametrize("verb", ["open", "loader", "search", "configuration"])
def test_catalogs_run_no_code(tmp_path, monkeypatch, verb, kind):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "poison", raising=False)
    file = poisoned(tmp_path, kind)
    try:
        if verb == "open":
            xcvae.catalog.open_entry(file, "prior")
        elif verb == "loader":
            list(xcvae.loader(file, "prior", target="pr"))
        elif verb == "search":
            xcvae.catalog.search(file)
        else:
            content = {
                "data": {"intake": {"catalog": "catalog.yaml", "name": "prior"}},
                "output": "out",
            }
            config.open_parts(config.parse(content, folder=tmp_path))
    except XcvaeError as error:
        refusal = str(error)
    else:
        refusal = "not refused"
    assert not (tmp_path / "ran").exists()
    if verb != "search" or kind in UNREADABLE:
        assert "PythonModule" in refusal or kind != "PythonModule"
        assert "trust" in refusal


def test_trusted_entries_are_opened_by_their_reader(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = poisoned(tmp_path, "PythonModule")
    with pytest.raises(XcvaeError, match=r"an xarray\.Dataset"):
        xcvae.catalog.open_entry(file, "prior", trust=True)
    assert (tmp_path / "ran").exists()


def test_plugins_beside_a_configuration_are_named(tmp_path, monkeypatch, capsys):
    zarr_store(tmp_path / "rain.zarr")
    (tmp_path / "halving_trials.py").write_text(
        "import xcvae\n\n\n@xcvae.hookimpl\ndef xcvae_components():\n    return {}\n"
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "plugins": ["halving_trials"]}))
    assert main(["run", str(tmp_path / "config.yaml"), "--check"]) == 0
    shown = capsys.readouterr()
    assert str(tmp_path / "halving_trials.py") in shown.out + shown.err

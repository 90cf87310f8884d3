"""Files of earlier versions: a model, a checkpoint, stores and a catalog written by 0e29e88.

Two stores in tiles are those of 2b64952, before stores recorded their seam.

`make_fixtures.py` wrote them. Last digits of a draw depend on the processor and on versions: an
unfinished store of another environment is refused by design. Then the tests check the refusal, and
complete a copy whose ledger has the environment of this machine. Equal bits are asserted where the
environment is that of the fixtures.
"""

from __future__ import annotations

import importlib.util
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.ensemble import catalog
from xcvae.ensemble.store import open_store
from xcvae.ensemble.verify_store import Verification, verify_store
from xcvae.errors import OutputExistsError, StoreError

HERE = Path(__file__).parent
DATA = HERE / "data"
MADE = json.loads((DATA / "made.json").read_text(encoding="utf-8"))
SEAM = json.loads((DATA / "seam.json").read_text(encoding="utf-8"))
ENVIRONMENT = ("xcvae version", "numpy version", "torch version", "device", "precision")
FINISHED = ("prior", "posterior")
UNFINISHED = (
    ("killed", "prior"),
    ("killed", "posterior"),
    ("killed", "replacement"),
    ("failed", "posterior"),
)


def _script():
    spec = importlib.util.spec_from_file_location("make_fixtures", HERE / "make_fixtures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


script = _script()


@dataclass(frozen=True)
class Machine:
    """This xcvae on this machine, with the model and the data of the fixtures.

    Attributes
    ----------
    environment
        The environment that it records in a ledger.
    comparable
        Draws have the bits of the fixtures.
    """

    storms: xr.Dataset
    model: xcvae.Model
    environment: dict[str, str]
    comparable: bool

    def call(self, fixture: str, **changed) -> xr.Dataset:
        """Repeat the call that made a fixture."""
        with dask.config.set(scheduler="synchronous"):
            asked = {**MADE["calls"][fixture], **changed}
            return xcvae.sample(self.storms, self.model, **asked)

    def verify(self, store: Path | str) -> Verification:
        """Verify a store, and draw all of its regions again."""
        return verify_store(store, ds=self.storms, model=self.model, sample=6, progress=False)

    def assert_members(self, ensemble: xr.Dataset, name: str) -> None:
        """Equal bits where they are comparable; elsewhere about the same rain in all."""
        known, values = MADE["stores"][name], ensemble.pr.values
        assert values.dtype == np.float32
        if self.comparable:
            assert script.sha(values) == known["sha256"]
        else:
            assert float(values.astype("float64").sum()) == pytest.approx(known["sum"], rel=0.1)


@pytest.fixture(scope="module")
def model() -> xcvae.Model:
    return xcvae.load(DATA / "model.xcvae").to("cpu")


@pytest.fixture(scope="module")
def here(model, tmp_path_factory) -> Machine:
    folder = unpacked("finished", tmp_path_factory.mktemp("here"))
    storms = script.radar(MADE["drawn"])
    xcvae.sample(storms, model, members=1, store=folder / "here.zarr", progress=False)
    environment = environment_of(folder / "here.zarr")
    same = environment == environment_of(folder / "prior.zarr")
    return Machine(storms, model, environment, same and script.processor() == MADE["processor"])


def unpacked(kind: str, folder: Path) -> Path:
    with zipfile.ZipFile(DATA / f"{kind}.zip") as packed:
        packed.extractall(folder)
    return folder


def ledger_of(store: Path) -> Path:
    return store / "pr" / "ledger" / "run.json"


def environment_of(store: Path) -> dict[str, str]:
    run = json.loads(ledger_of(store).read_text(encoding="utf-8"))["run"]
    return {key: run[key] for key in ENVIRONMENT}


def relabel(store: Path, environment: dict[str, str]) -> None:
    """Write another environment into the ledger of a store."""
    ledger = json.loads(ledger_of(store).read_text(encoding="utf-8"))
    ledger["run"] |= environment
    ledger_of(store).write_text(json.dumps(ledger), encoding="utf-8")


def files_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and content of all files, by name."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def done_in(partial: Path) -> dict[int, str]:
    """Chunk files of the regions that the journals list as done."""
    journals = (partial / "pr" / "ledger" / "regions").glob("*.jsonl")
    lines = [line for path in journals for line in path.read_text().splitlines() if line]
    entries = [json.loads(line) for line in lines]
    return {e["region"]: f"pr/{e['file']}" for e in entries if e["state"] == "done"}


def assert_intact(found: Verification) -> None:
    assert [*found.missing, *found.damaged, *found.changed] == []


# --- model and training -------------------------------------------------------------------------


def test_model_file_loads_and_is_written_with_the_same_bytes(model):
    path = DATA / "model.xcvae"
    known = MADE["model"]
    assert model.sha256 == known["sha256"]
    weights = {name: script.sha(w.numpy()) for name, w in model.network.state_dict().items()}
    assert weights == known["weights"]
    assert model.training["history"] == known["history"]
    assert model.training["seed"] == MADE["training"]["seed"]
    assert (model.spec.target, model.spec.units, model.spec.coarsen) == ("pr", "mm h-1", 6)
    assert model.to_bytes() == path.read_bytes()


def test_killed_training_continues_from_its_checkpoint(here, tmp_path):
    unpacked("training", tmp_path)
    checkpoint = tmp_path / "killed.xcvae.checkpoint"
    assert checkpoint.is_file()
    path = tmp_path / "killed.xcvae"
    model = xcvae.train(script.radar(MADE["learned"]), path=path, **MADE["training"])
    assert not checkpoint.exists()
    history, whole = model.training["history"], MADE["model"]["history"]
    assert [row["step"] for row in history] == [row["step"] for row in whole]
    # Rows before the kill are read: a repeated training has other times.
    assert history[0]["minutes"] == MADE["checkpoint"]["history"][0]["minutes"]
    if here.comparable:
        for row, other in zip(history, whole, strict=True):
            assert {**row, "minutes": 0} == {**other, "minutes": 0}
        weights = {name: script.sha(w.numpy()) for name, w in model.network.state_dict().items()}
        assert weights == MADE["model"]["weights"]
    else:
        assert history[-1]["val_crps"] == pytest.approx(whole[-1]["val_crps"], rel=0.2)


# --- finished stores ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINISHED)
def test_finished_store_opens_with_the_values_it_was_written_with(name, tmp_path):
    ensemble = open_store(unpacked("finished", tmp_path) / f"{name}.zarr")
    assert script.sha(ensemble.pr.values) == MADE["stores"][name]["sha256"]
    assert ensemble.pr.chunks[:2] == ((2, 2), (2, 2, 1))
    record = json.loads(ensemble.attrs["xcvae"])
    assert record["model_sha256"] == MADE["model"]["sha256"]
    asked = MADE["calls"][name]
    for key in ("seed", "members", "temperature", "diversity", "min_mass", "mode"):
        assert record[key] == asked.get(key, record[key])


@pytest.mark.parametrize("name", FINISHED)
def test_finished_store_verifies(name, tmp_path):
    found = verify_store(unpacked("finished", tmp_path) / f"{name}.zarr")
    assert found.ok
    assert (found.finished, found.regions) == (True, 6)


@pytest.mark.parametrize("name", FINISHED)
def test_finished_store_verifies_against_a_new_draw(name, here, tmp_path):
    store = unpacked("finished", tmp_path) / f"{name}.zarr"
    found = here.verify(store)
    assert found.redrawn == (0, 1, 2, 3, 4, 5)
    assert_intact(found)
    if here.comparable:
        assert found.ok, str(found)
    known = environment_of(store)
    for text in found.different.values():
        for key in ENVIRONMENT:
            # A difference in bits is explained by each difference between the environments.
            assert (f"{key} (stored: " in text) == (known[key] != here.environment[key])


@pytest.mark.parametrize("name", FINISHED)
def test_call_repeated_on_a_finished_store_opens_it_and_changes_no_file(name, here, tmp_path):
    folder = unpacked("finished", tmp_path)
    before = files_in(folder)
    listed = {"catalog": folder / "catalog.yaml", "name": f"{name}4"}
    ensemble = here.call(name, store=folder / f"{name}.zarr", **listed)
    assert script.sha(ensemble.pr.values) == MADE["stores"][name]["sha256"]
    assert files_in(folder) == before


def test_finished_store_is_refused_to_another_call(here, tmp_path):
    folder = unpacked("finished", tmp_path)
    before = files_in(folder)
    with pytest.raises(OutputExistsError, match=re.escape("seed (stored: 7, requested: 8)")):
        here.call("prior", store=folder / "prior.zarr", seed=8)
    assert files_in(folder) == before


@pytest.mark.parametrize("name", FINISHED)
def test_damaged_region_of_a_finished_store_is_repaired(name, here, tmp_path):
    store = unpacked("finished", tmp_path) / f"{name}.zarr"
    relabel(store, here.environment)
    before = files_in(store)
    (store / "pr/c/0/1/0/0").write_bytes(b"damaged")
    assert list(verify_store(store).damaged) == [1]
    ensemble = here.call(name, store=store, resume="repair")
    assert verify_store(store).ok
    here.assert_members(ensemble, name)
    after = files_in(store)
    assert after.keys() == before.keys()
    chunks = [file for file in before if file.startswith("pr/c/")]
    assert len(chunks) == 6
    assert [f for f in chunks if after[f][0] != before[f][0]] == ["pr/c/0/1/0/0"]


# --- unfinished stores --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), UNFINISHED)
def test_unfinished_store_is_completed_by_the_same_call(kind, name, here, tmp_path):
    store = unpacked(kind, tmp_path) / f"{name}.zarr"
    partial = store.with_name(f"{name}.zarr.partial")
    replaces = name == "replacement"
    regions = done_in(partial)
    done = {file: before for file, before in files_in(partial).items() if file in regions.values()}
    assert len(regions) == len(done) == (5 if kind == "failed" else 2)
    assert store.exists() == replaces
    resume = "restart" if replaces else True
    if environment_of(partial) != here.environment and not replaces:
        with pytest.raises(OutputExistsError, match=r"(version|precision|device) \(stored: "):
            here.call(name, store=store)
    relabel(partial, here.environment)
    ensemble = here.call(name, store=store, resume=resume)
    assert not partial.exists()
    here.assert_members(ensemble, name)
    after = files_in(store)
    assert {file: after[file] for file in done} == done
    found = here.verify(store)
    # What was drawn here has the bits of this machine in any case.
    assert set(found.different) <= (set() if here.comparable else set(regions)), str(found)
    assert_intact(found)
    assert found.finished
    assert here.call(name, store=store).identical(ensemble)


@pytest.mark.parametrize(("kind", "name"), UNFINISHED[:2] + UNFINISHED[3:])
def test_unfinished_store_is_readable_but_not_finished(kind, name, tmp_path):
    store = unpacked(kind, tmp_path) / f"{name}.zarr"
    with pytest.raises(StoreError, match="an unfinished one"):
        open_store(store)
    found = verify_store(store)
    regions = done_in(store.with_name(f"{name}.zarr.partial"))
    assert not found.ok
    assert not found.finished
    assert [*found.damaged, *found.changed] == []
    assert set(found.missing) == set(range(6)) - set(regions)
    if kind == "failed":
        assert list(found.missing.values()) == ["MemoryError: no memory for this one"]
    drawn = open_store(store, incomplete=True).pr.notnull().mean(("y", "x"))
    read = {(i // 2) * 3 + j // 2 for i, j in np.argwhere(drawn.values == 1)}
    assert read == set(regions)


def test_completed_posterior_keeps_the_spread_of_its_ledger(here, tmp_path):
    """Regions of one store never have two spreads: the one found before the kill is not solved."""
    store = unpacked("killed", tmp_path) / "posterior.zarr"
    partial = store.with_name("posterior.zarr.partial")
    ledger = json.loads(ledger_of(partial).read_text(encoding="utf-8"))
    assert 0 < ledger["notes"]["dial"]["spread"] < 0.5
    ledger["notes"]["dial"]["spread"] = 0.5
    ledger_of(partial).write_text(json.dumps(ledger), encoding="utf-8")
    relabel(partial, here.environment)
    ensemble = here.call("posterior", store=store)
    assert json.loads(ensemble.attrs["xcvae"])["spread"] == 0.5


def test_replaced_store_keeps_its_name_until_the_new_one_is_complete(tmp_path):
    store = unpacked("killed", tmp_path) / "replacement.zarr"
    assert verify_store(store).ok
    record = json.loads(open_store(store).attrs["xcvae"])
    assert (record["seed"], MADE["calls"]["replacement"]["seed"]) == (9, 8)


@pytest.mark.parametrize(("kind", "name"), UNFINISHED[:2] + UNFINISHED[3:])
@pytest.mark.parametrize("key", ["torch version", "precision"])
def test_unfinished_store_of_another_environment_is_refused(kind, name, key, here, tmp_path):
    store = unpacked(kind, tmp_path) / f"{name}.zarr"
    partial = store.with_name(f"{name}.zarr.partial")
    relabel(partial, {**here.environment, key: "another"})
    before = files_in(tmp_path)
    message = f"got {key} (stored: 'another', requested: {here.environment[key]!r})"
    with pytest.raises(OutputExistsError, match=re.escape(message)):
        here.call(name, store=store)
    assert files_in(tmp_path) == before


# --- stores in tiles of the first rule of the seam ----------------------------------------------


@dataclass(frozen=True)
class Tiles:
    """Stores of 2b64952, a finished one with two members, a killed one with the last two of four.

    Attributes
    ----------
    finished, killed
        The stores.
    storm, model
        Data and model.
    comparable
        Draws have the bits of the stores.
    """

    finished: Path
    killed: Path
    storm: xr.Dataset
    model: xcvae.Model
    comparable: bool

    def call(self, **changed) -> xr.Dataset:
        """Repeat the call that made the killed store."""
        with dask.config.set(scheduler="synchronous"):
            return xcvae.sample(self.storm, self.model, **{**SEAM["call"], **changed})

    def assert_complete(self, store: Path, drawn_here: list[int], members: np.ndarray) -> None:
        """All regions are drawn, with the first rule: by sum where bits are not comparable."""
        ensemble = open_store(store)
        assert "seam" not in json.loads(ensemble.attrs["xcvae"])["identity"]
        np.testing.assert_array_equal(ensemble.pr.values[drawn_here], members[drawn_here])
        found = verify_store(store, ds=self.storm, model=self.model, sample=4, progress=False)
        assert found.redrawn == (0, 1, 2, 3)
        assert_intact(found)
        assert set(found.different).isdisjoint(drawn_here), str(found)
        if self.comparable:
            assert found.ok, str(found)
            assert script.sha(ensemble.pr.values) == SEAM["sha256"]
        assert float(ensemble.pr.sum()) == pytest.approx(SEAM["sum"], rel=0.1)


@pytest.fixture
def tiles(here, tmp_path, monkeypatch) -> Tiles:
    monkeypatch.setenv("XCVAE_PRECISION", "float32")
    environment = {**here.environment, "precision": "float32"}
    folder = unpacked("seam", tmp_path)
    same = environment == environment_of(folder / "finished.zarr")
    for name in ("finished.zarr", "killed.zarr.partial"):
        relabel(folder / name, environment)
    comparable = same and script.processor() == SEAM["processor"]
    stores = folder / "finished.zarr", folder / "killed.zarr"
    return Tiles(*stores, script.strip(), here.model, comparable)


def test_stores_in_tiles_of_the_first_seam_are_completed_with_it(tiles):
    """By `like`, new members, a repair, and by the call that was interrupted."""
    # Neither store exists for this draw: nothing but `like` names the rule.
    members = tiles.call(like=open_store(tiles.finished)).pr.values
    new = tiles.call(store=tiles.finished.with_name("new.zarr"))
    assert json.loads(new.attrs["xcvae"])["identity"]["seam"] > 0
    if tiles.comparable:
        assert not np.array_equal(members, new.pr.values)
    before = files_in(tiles.finished)
    opened = tiles.call(store=tiles.finished, members=2)
    assert opened.sizes["realization"] == 2
    assert files_in(tiles.finished) == before
    tiles.call(store=tiles.finished, resume="append")
    (tiles.finished / "pr/c/1/0/0/0").write_bytes(b"damaged")
    tiles.call(store=tiles.finished, resume="repair")
    tiles.assert_complete(tiles.finished, [1, 2, 3], members)
    partial = tiles.killed.with_name("killed.zarr.partial")
    regions, kept = done_in(partial), files_in(partial)
    assert sorted(regions) == [2, 3]
    tiles.call(store=tiles.killed)
    assert not partial.exists()
    after = files_in(tiles.killed)
    assert {file: after[file] for file in regions.values()} == {
        file: kept[file] for file in regions.values()
    }
    tiles.assert_complete(tiles.killed, [0, 1], members)


# --- catalog ------------------------------------------------------------------------------------


def test_catalog_lists_and_opens_its_stores(tmp_path):
    listed = unpacked("finished", tmp_path) / "catalog.yaml"
    assert catalog.names(listed) == ["posterior4", "prior4"]
    sha256 = MADE["model"]["sha256"]
    assert catalog.search(listed, model=sha256[:8], mode="prior", seed=7) == ["prior4"]
    for name in FINISHED:
        ensemble = catalog.open_entry(listed, f"{name}4")
        assert script.sha(ensemble.pr.values) == MADE["stores"][name]["sha256"]
        metadata = catalog.metadata_of(listed, f"{name}4")
        assert (metadata["members"], metadata["units"]) == (4, "mm h-1")


def test_catalog_entries_serve_the_other_verbs(here, tmp_path):
    listed = unpacked("finished", tmp_path) / "catalog.yaml"
    ensemble = catalog.open_entry(listed, "prior4")
    card = here.storms.cvae.evaluate(ensemble, progress=False)
    assert list(card.source.values) == ["xcvae", "bilinear"]
    assert np.isfinite(card.crps.values).all()
    catalog.annotate(listed, "prior4", card)
    assert catalog.metadata_of(listed, "prior4")["scores"]["crps"] > 0
    assert here.storms.cvae.augment(ensemble).sizes["time"] == 5 + 4 * 5
    batches = list(xcvae.loader(listed, {"prior4": 1, "posterior4": 1}, batch_size=8))
    assert sum(len(batch["pr"]) for batch in batches) == 2 * 4 * 5


def test_new_store_joins_the_old_ones_in_the_catalog(here, tmp_path):
    folder = unpacked("finished", tmp_path)
    listed = {"catalog": folder / "catalog.yaml", "name": "new"}
    here.call("replacement", store=folder / "new.zarr", **listed)
    assert catalog.names(folder / "catalog.yaml") == ["new", "posterior4", "prior4"]
    old = catalog.open_entry(folder / "catalog.yaml", "prior4")
    assert script.sha(old.pr.values) == MADE["stores"]["prior"]["sha256"]


# --- Icechunk -----------------------------------------------------------------------------------


@pytest.fixture
def repositories(tmp_path) -> Path:
    pytest.importorskip("icechunk")
    return unpacked("icechunk", tmp_path)


def test_finished_repository_opens_and_verifies(repositories, here):
    store = f"icechunk:{repositories / 'finished.icechunk'}"
    assert script.sha(open_store(store).pr.values) == MADE["stores"]["icechunk"]["sha256"]
    found = here.verify(store)
    assert found.finished
    assert_intact(found)
    assert found.ok or not here.comparable, str(found)
    before = files_in(repositories)
    ensemble = here.call("prior", store=store)
    assert script.sha(ensemble.pr.values) == MADE["stores"]["icechunk"]["sha256"]
    assert files_in(repositories) == before


def test_unfinished_repository_is_completed_by_the_same_call(repositories, here, tmp_path_factory):
    store = f"icechunk:{repositories / 'failed.icechunk'}"
    found = verify_store(store)
    assert not found.finished
    assert list(found.missing.values()) == ["MemoryError: no memory for this one"]
    known = environment_of(unpacked("finished", tmp_path_factory.mktemp("known")) / "prior.zarr")
    if known != here.environment:
        # Commits cannot be relabelled.
        with pytest.raises(OutputExistsError, match=r"(version|precision|device) \(stored: "):
            here.call("prior", store=store)
        return
    ensemble = here.call("prior", store=store)
    here.assert_members(ensemble, "prior")
    assert verify_store(store).ok

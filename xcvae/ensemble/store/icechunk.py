"""An ensemble in an Icechunk repository.

Regions are committed some dozens at a time to the branch ``xcvae-unfinished``; the metadata of each
commit hold the ledger entries of its own regions, so that the last commit agrees with itself after
a kill at any moment. When all regions are written, ``main`` moves to the end of the branch in one
step. Every task writes into a fork of a session, which is sent back and merged in the calling
process.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import icechunk
import numpy as np
import xarray as xr
from icechunk import ConflictError, IcechunkError, Repository

from xcvae.ensemble.store import base
from xcvae.ensemble.store.zarr_format import (
    checksum,
    encode_chunk,
    get_key,
    identity_in,
    put_key,
    write_template,
)
from xcvae.errors import StoreError
from xcvae.files import Purpose, hidden_sibling, remove, sha256, stale_siblings

__all__ = ["IcechunkStore", "Repository"]

MAIN, UNFINISHED = "main", "xcvae-unfinished"
REGIONS_PER_COMMIT = 64
"""About 500 MB of values. A commit takes milliseconds on a disk; a kill costs no more than this."""
CHUNKS_PER_MANIFEST = (32, 256)
"""Along realizations and samples: a commit writes the manifests of its chunks anew, so that their
size, and not that of the ensemble, decides on its cost."""
COMMIT_KEY = "xcvae"
STATE = "xcvae_state"
"""Attribute of an unfinished ensemble."""


class IcechunkStore(base.EnsembleStore):
    """An Icechunk repository for an ensemble.

    Parameters
    ----------
    location
        Folder of the repository, which is made if it does not exist; or an open repository on any
        storage.
    regions_per_commit
        Regions that share a commit.
    """

    def __init__(
        self, location: Path | Repository, *, regions_per_commit: int = REGIONS_PER_COMMIT
    ) -> None:
        folder = location if isinstance(location, Path) else None
        self._folder = folder
        self._repository = None if isinstance(location, Path) else location
        self._name = f"icechunk:{location if isinstance(location, Path) else location.storage}"
        self.regions_per_commit = regions_per_commit

    @property
    def name(self) -> str:
        """``icechunk:`` and the folder or the storage."""
        return self._name

    @property
    def stem(self) -> str:
        """Name of the folder without its suffix."""
        return "" if self._folder is None else self._folder.stem

    @property
    def folder(self) -> Path | None:
        """Folder of the repository, if it was given as one."""
        return self._folder

    @property
    def catalog_path(self) -> None:
        """None: intake opens no repositories at relative paths."""
        return

    @property
    def repository(self) -> Repository | None:
        """The repository, opened; None if there is none."""
        folder = self._folder
        # If icechunk looked for a folder that does not exist, it would make it.
        if self._repository is None and folder is not None and folder.is_dir():
            with _explained(self.name):
                storage = _local_storage(folder)
                if Repository.exists(storage):
                    self._repository = Repository.open(storage)
        return self._repository

    def status(self) -> base.StoreStatus:
        """Look at the branches ``main`` and ``xcvae-unfinished``."""
        repository = self.repository
        unfinished = repository is not None and UNFINISHED in repository.list_branches()
        stale = self._folder is not None and stale_siblings(self._folder)
        return base.StoreStatus(self._complete(), self._partial(), not unfinished and not stale)

    def _complete(self) -> base.StoredEnsemble:
        repository = self.repository
        if repository is None:
            return base.StoredEnsemble(self.name, self._is_occupied())
        ledger = CommitLedger(repository, repository.lookup_branch(MAIN))
        newest = next(iter(repository.ancestry(snapshot_id=ledger.tip)))
        # The first commit of a repository is its own, and empty.
        if newest.parent_id is None:
            return base.StoredEnsemble(self.name)
        group = get_key(ledger.store, "zarr.json") or b""
        return base.StoredEnsemble(self.name, True, identity_in(group), ledger, ledger.store)

    def _partial(self) -> base.StoredEnsemble:
        name, repository = f"{self.name}, branch {UNFINISHED}", self.repository
        if repository is None or UNFINISHED not in repository.list_branches():
            return base.StoredEnsemble(name)
        ledger = CommitLedger(repository, repository.lookup_branch(UNFINISHED))
        if _is_ancestor(repository, ledger.tip, MAIN):
            return base.StoredEnsemble(name)  # killed before its first commit, or after its last
        return base.StoredEnsemble(name, True, None, ledger, ledger.store)

    def _is_occupied(self) -> bool:
        """Tell if something other than a repository or an empty folder has its name."""
        folder = self._folder
        if folder is None or not folder.exists():
            return False
        return not folder.is_dir() or any(folder.iterdir())

    def check_replaceable(self) -> None:
        """Refuse to replace the content of branches that xcvae did not write."""
        if self.repository is None:
            return  # begin() refuses anything else that has its name
        status = self.status()
        for found in (status.complete, status.partial):
            if found.exists and not found.metadata:
                raise base.not_replaceable(found.name, "commits without a ledger of xcvae")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder; on other storage, icechunk refuses the second of two commits."""
        with nullcontext() if self._folder is None else base.lock_folder(self._folder):
            repository, status = self.repository, self.status()
            if repository is not None and not status.is_clean and not status.partial.exists:
                repository.delete_branch(UNFINISHED)
            yield

    def temporary_path(self, purpose: Purpose) -> Path | None:
        """Return a new hidden name next to the folder; None for other storage."""
        return None if self._folder is None else hidden_sibling(self._folder, purpose)

    def begin(
        self,
        spec: base.EnsembleSpec,
        template: xr.Dataset,
        metadata: Mapping[str, Any],
        entries: Mapping[int, base.Entry] = base.NO_ENTRIES,
    ) -> IcechunkStoreWriter:
        """Make the branch; its first commit has metadata, coordinates and the description."""
        with _explained(self.name):
            repository = self.repository or self._create()
            start = repository.lookup_branch(MAIN)
            if UNFINISHED in repository.list_branches():
                repository.reset_branch(UNFINISHED, start)
            else:
                repository.create_branch(UNFINISHED, start)
            token = {"token": uuid4().hex, "variable": spec.variable}
            writer = IcechunkStoreWriter(self, repository, spec, {**metadata, **token})
            if entries:
                writer.commit_template(template, "is extended", list(entries.values()))
            else:
                writer.commit_template(template, "begins", clear=True)
            return writer

    def _create(self) -> Repository:
        """Make the repository under a hidden name, then rename it."""
        folder = self._folder
        if folder is None or self._is_occupied():
            expected, got = "an Icechunk repository, or nothing", "something else"
            remedy = "Choose another name: only ensembles are replaced."
            raise StoreError.of(f"store '{self.name}'", expected=expected, got=got, remedy=remedy)
        new = hidden_sibling(folder, "new")
        try:
            Repository.create(_local_storage(new), config=_repository_config())
            new.replace(folder)
        finally:
            remove(new)
        self._repository = Repository.open(_local_storage(folder))
        return self._repository

    def reopen(
        self, spec: base.EnsembleSpec, template: xr.Dataset, *, damaged: bool
    ) -> IcechunkStoreWriter:
        """Take up the branch; for a repair, one that starts at ``main``."""
        repository, status = self.repository, self.status()
        if repository is None:
            remedy = "Repeat the call: it writes the ensemble again."
            raise base.unwritable(self.name, "no repository: it was removed", remedy)
        with _explained(self.name):
            if damaged:
                repository.create_branch(UNFINISHED, repository.lookup_branch(MAIN))
                metadata = {**status.complete.metadata, "replaces": True}
                writer = IcechunkStoreWriter(self, repository, spec, metadata)
                writer.commit_template(template, "is repaired")
                return writer
            if not _is_ancestor(repository, repository.lookup_branch(MAIN), UNFINISHED):
                raise _conflict(self.name, "branch main has other commits since")
            writer = IcechunkStoreWriter(self, repository, spec, status.partial.metadata)
            if writer.ledger.changed() and not writer.ledger.sealed:
                writer.commit_template(template, "has its metadata again")
            return writer


@dataclass(frozen=True)
class ForkWriter:
    """Writes each region into a fork of a session; the receipt is its entry and that fork.

    Attributes
    ----------
    variable, chunks
        Name of the ensemble variable, and realizations and samples per chunk.
    fork
        A pickled fork without changes.
    """

    fork: bytes
    variable: str
    chunks: tuple[int, int]

    def write(
        self, region: base.Region, values: np.ndarray, stats: base.RegionStats
    ) -> tuple[int, Any]:
        """Write a region; it is safe once its receipt is committed."""
        file, content = encode_chunk(region, self.chunks, values)
        try:
            fork = pickle.loads(self.fork)
            put_key(fork.store, f"{self.variable}/{file}", content)
        except IcechunkError as error:
            # The number of the operating system tells a failing disk from a failing region.
            found = re.search(r"os error (\d+)", str(error))
            raise OSError(int(found[1]) if found else errno.EIO, _cause(error)) from error
        return len(content), (base.done_entry(region, file, content, stats), pickle.dumps(fork))

    def record_failure(self, region: base.Region, error: str) -> Any:
        """Return a receipt with the entry of a failed region, and without a fork."""
        return base.failed_entry(region, error), None


class IcechunkStoreWriter:
    """Writes an ensemble into a repository; the end of its context commits what was collected.

    Parameters
    ----------
    store
        The store.
    repository
        Its repository, which has the branch of unfinished ensembles.
    spec
        The ensemble.
    metadata
        Description of the run, for every commit: if old commits expire, only the entries of their
        regions are lost.
    """

    def __init__(
        self,
        store: IcechunkStore,
        repository: Repository,
        spec: base.EnsembleSpec,
        metadata: Mapping[str, Any],
    ) -> None:
        self._store, self._repository, self._spec = store, repository, spec
        self._metadata = {**metadata, "state": "begun"}
        self._base = repository.lookup_branch(MAIN)
        self._complete = 0
        self._start_session()

    def _start_session(self) -> None:
        self._session = self._repository.writable_session(UNFINISHED)
        self._entries: list[base.Entry] = []
        self._merged = 0
        fork = pickle.dumps(self._session.fork())
        self._writer = ForkWriter(fork, self._spec.variable, self._spec.chunks)

    def commit_template(
        self,
        template: xr.Dataset,
        text: str,
        entries: Sequence[base.Entry] = (),
        *,
        clear: bool = False,
    ) -> None:
        """Commit metadata, coordinates and entries of chunks that stay; `clear` drops chunks."""
        from zarr.core.buffer import Buffer
        from zarr.storage import MemoryStore

        session = self._repository.writable_session(UNFINISHED)
        if clear:
            session.store.sync_clear()
        found: dict[str, Buffer] = {}
        unfinished = template.assign_attrs({STATE: "unfinished"})
        write_template(unfinished, self._spec, MemoryStore(found))
        # Icechunk wants the metadata of an array before its chunks.
        for key in sorted(found, key=lambda key: not key.endswith("zarr.json")):
            put_key(session.store, key, found[key].to_bytes())
        self._metadata["files"] = {key: checksum(session.store, key) for key in sorted(found)}
        self._commit(session, text, self._metadata, entries)
        self._start_session()

    def __enter__(self) -> IcechunkStoreWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        # After an error a commit is tried too, and the first error is the one that is raised.
        with suppress(StoreError) if raised[0] else nullcontext():
            self._commit_regions()

    @property
    def ledger(self) -> CommitLedger:
        """The ledger in the commits of the branch."""
        return CommitLedger(self._repository, self._repository.lookup_branch(UNFINISHED))

    def prune(self, entries: Mapping[int, base.Entry]) -> None:
        """Count the complete regions; newer entries replace those of the others."""
        self._complete = len(entries)

    def region_writer(self) -> ForkWriter:
        """Return a writer with a fork of the last commit."""
        return self._writer

    def collect(self, receipt: Any) -> None:
        """Merge a fork; commit if they are enough."""
        if receipt is None:  # of a task whose worker died
            return
        entry, fork = receipt
        self._entries.append(entry)
        if fork is None:
            return
        with _explained(self._store.name):
            self._session.merge(pickle.loads(fork))
        self._merged += 1
        if self._merged == self._store.regions_per_commit:
            self._commit_regions()

    def _commit_regions(self) -> None:
        if not self._merged:
            return  # icechunk refuses a commit without changes
        self._complete += self._merged
        total = self._metadata["regions"]
        with _explained(self._store.name):
            self._session.commit(
                f"xcvae: {self._merged} regions of '{self._spec.variable}', now {self._complete} "
                f"of {total}",
                _commit_metadata(self._metadata, self._entries),
            )
            self._start_session()

    def _commit(
        self,
        session: icechunk.Session,
        text: str,
        metadata: Mapping[str, Any],
        entries: Sequence[base.Entry] = (),
    ) -> None:
        about = _commit_metadata(metadata, entries)
        session.commit(f"xcvae: '{self._spec.variable}' {text}", about)

    def finalize(self, attributes: Mapping[str, Any]) -> None:
        """Commit the final attributes, wait for the disk, and move ``main``."""
        import zarr

        repository = self._repository
        with _explained(self._store.name):
            if not self.ledger.sealed:
                session = repository.writable_session(UNFINISHED)
                group = zarr.open_group(session.store, mode="r+")
                known = {k: v for k, v in group.attrs.asdict().items() if k != STATE}
                group.attrs.put({**known, **attributes})
                changed = {"zarr.json": checksum(session.store, "zarr.json")}
                files = {**self._metadata["files"], **changed}
                metadata = {**self._metadata, "state": "finished", "files": files}
                self._commit(session, "is finished", metadata)
            tip = repository.lookup_branch(UNFINISHED)
            if self._store.folder is not None and hasattr(os, "sync"):
                os.sync()
            repository.reset_branch(MAIN, tip, from_snapshot_id=self._base)
            repository.delete_branch(UNFINISHED)


@dataclass(frozen=True)
class CommitLedger(base.Ledger):
    """The ledger of a run, in the metadata of its commits.

    Attributes
    ----------
    repository
        The repository.
    tip
        Identifier of the last commit.
    """

    repository: Repository
    tip: str

    @cached_property
    def _own(self) -> list[dict[str, Any]]:
        """Records in the commits of the last run, newest first; others may lie between them."""
        own: list[dict[str, Any]] = []
        for commit in self.repository.ancestry(snapshot_id=self.tip):
            record: Any = commit.metadata.get(COMMIT_KEY)
            if not isinstance(record, dict) or record.get("format") != base.FORMAT:
                continue
            if own and record["token"] != own[0]["token"]:
                break
            own.append(record)
        return own

    @cached_property
    def store(self) -> Any:
        """Store of Zarr at the last commit, to read from."""
        return self.repository.readonly_session(snapshot_id=self.tip).store

    @property
    def variable(self) -> str:
        """Name of the ensemble variable."""
        return str(self.metadata()["variable"])

    @property
    def sealed(self) -> bool:
        """True if all regions are complete and the attributes have their final values."""
        return self.metadata().get("state") == "finished"

    def metadata(self) -> dict[str, Any]:
        """Return the description of the run with its token; empty without commits of xcvae."""
        return {k: v for k, v in self._own[0].items() if k != "entries"} if self._own else {}

    def entries(self) -> dict[int, base.Entry]:
        """Return the entries by number of the region; a failure replaces no completion."""
        found: dict[int, base.Entry] = {}
        for entry in (entry for record in reversed(self._own) for entry in record["entries"]):
            if entry["state"] == base.DONE or entry["region"] not in found:
                found[entry["region"]] = entry
        return found

    def foreign(self) -> list[str]:
        """Return nothing: earlier commits keep everything that a new one leaves out."""
        return []

    def problem(self, name: str, size: int, digest: str) -> str:
        """Describe how the content of a key differs from what was written; empty if it does not."""
        try:
            content = get_key(self.store, name)
        except Exception as error:  # noqa: BLE001  of any kind: it cannot be read
            return _cause(error)
        if content is None:
            return "not there"
        if len(content) != size:
            return f"{len(content)} bytes in place of {size}"
        return "" if sha256(content) == digest else "its content has changed"


def _commit_metadata(metadata: Mapping[str, Any], entries: Sequence[base.Entry]) -> dict[str, Any]:
    return {COMMIT_KEY: {**metadata, "format": base.FORMAT, "entries": list(entries)}}


def _is_ancestor(repository: Repository, commit: str, branch: str) -> bool:
    """Tell if a commit is in the history of a branch."""
    return any(one.id == commit for one in repository.ancestry(branch=branch))


def _local_storage(folder: Path) -> icechunk.Storage:
    """Return the storage of a folder, without icechunk's warning of others: there is a lock."""
    icechunk.set_logs_filter("icechunk::storage=error")
    try:
        return icechunk.local_filesystem_storage(str(folder))
    finally:
        icechunk.set_logs_filter(None)  # as the environment says


def _repository_config() -> icechunk.RepositoryConfig:
    """Return the configuration of a repository whose manifests are split."""
    array = icechunk.ManifestSplitCondition.AnyArray()
    axis = icechunk.ManifestSplitDimCondition.Axis
    sizes = {array: {axis(number): size for number, size in enumerate(CHUNKS_PER_MANIFEST)}}
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(sizes)  # type: ignore[arg-type]
    )
    return config


def _cause(error: Exception) -> str:
    """Return the last line of a message of icechunk, which has the cause."""
    lines = [line.strip(" |`->x") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


def _conflict(name: str, got: str) -> StoreError:
    expected = "a repository that nobody else commits to"
    remedy = 'Start again with resume="restart", or choose another repository.'
    return StoreError.of(f"store '{name}'", expected=expected, got=got, remedy=remedy)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn errors of icechunk into errors of xcvae."""
    try:
        yield
    except ConflictError as error:
        raise _conflict(name, _cause(error)) from error
    except (IcechunkError, OSError) as error:
        remedy = "Fix the cause and repeat the call: regions that are committed are kept."
        raise base.unwritable(name, _cause(error), remedy) from error

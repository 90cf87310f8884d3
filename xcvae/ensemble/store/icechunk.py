"""An ensemble in an Icechunk repository.

Regions are committed some dozens at a time, each commit with the records of its own regions in its
metadata, so that whatever is killed, the last commit agrees with itself. They go to the branch
``xcvae-unfinished``; when all regions are there, ``main`` moves to its end in one step. Every task
writes into a fork of a session, which comes back and is merged where the run was called.
"""

from __future__ import annotations

import errno
import os
import pickle
import re
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import icechunk
import numpy as np
import xarray as xr
from icechunk import ConflictError, IcechunkError, Repository

from xcvae.ensemble.store.base import (
    DONE,
    FORMAT,
    Entry,
    Ledger,
    Region,
    RegionStats,
    Run,
    StoreStatus,
    done,
    failed,
)
from xcvae.ensemble.store.local import locked, remove, stale_files
from xcvae.ensemble.store.zarr_format import encoded, identity_in, write_template
from xcvae.errors import OutputExistsError, StoreError, explain
from xcvae.files import hidden_sibling, sha256

__all__ = [
    "MAIN",
    "UNFINISHED",
    "CommitLedger",
    "ForkPen",
    "IcechunkError",
    "IcechunkStore",
    "IcechunkStoreWriter",
    "Repository",
    "as_os_error",
    "checksums",
    "conflict",
    "copy_template",
    "create",
    "explained",
    "get",
    "in_words",
    "leads_to",
    "metadata_of",
    "open_at",
    "put",
]


T = TypeVar("T")


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    from zarr.core.sync import sync

    return sync(coroutine)


def get(store: Any, key: str) -> bytes | None:
    """Return what is under a key; None if nothing is."""
    from zarr.core.buffer import default_buffer_prototype

    found = _now(store.get(key, default_buffer_prototype()))
    return None if found is None else bytes(found.to_bytes())


def put(store: Any, key: str, content: bytes) -> None:
    """Put something under a key."""
    from zarr.core.buffer import default_buffer_prototype

    _now(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def _listed(keys: AsyncIterator[str]) -> list[str]:
    async def gathered() -> list[str]:
        return [key async for key in keys]

    return sorted(_now(gathered()))


def checksums(store: Any, variable: str) -> dict[str, list[Any]]:
    """Return size and SHA-256 of all metadata and coordinates, by key; no chunk is looked at.

    Parameters
    ----------
    store
        Of Zarr v3.
    variable
        Name of the ensemble variable, whose chunks are left out.
    """
    keys = []
    for node in _listed(store.list_dir("")):
        if node == "zarr.json":
            keys.append(node)
        elif node == variable:
            keys.append(f"{node}/zarr.json")
        else:
            keys += _listed(store.list_prefix(f"{node}/"))
    contents = {key: get(store, key) or b"" for key in keys}
    return {key: [len(one), sha256(one)] for key, one in contents.items()}


def copy_template(template: xr.Dataset, variable: str, chunks: tuple[int, int], store: Any) -> None:
    """Write metadata and coordinates over those that are there; chunks stay.

    Parameters
    ----------
    template, variable, chunks
        As of :func:`write_template`.
    store
        Of Zarr v3.
    """
    from zarr.storage import MemoryStore

    made = MemoryStore()
    write_template(template, variable, chunks, made)
    # An array has to be there before its chunks.
    for key in sorted(_listed(made.list()), key=lambda key: not key.endswith("zarr.json")):
        put(store, key, get(made, key) or b"")


OWN = "xcvae"


class _History(Protocol):
    def ancestry(self, *, snapshot_id: str) -> Iterable[Any]: ...

    def readonly_session(self, *, snapshot_id: str) -> Any: ...


def metadata_of(told: dict[str, Any], entries: list[Entry]) -> dict[str, Any]:
    """Return what a commit says of its run and of the regions that it brings.

    The run is in every commit: whoever expires old ones loses the records of some regions, which
    are drawn again if need be, and nothing else.
    """
    return {OWN: {**told, "format": FORMAT, "entries": entries}}


@dataclass(frozen=True)
class CommitLedger(Ledger):
    """The commits of a run, from one of them backwards.

    Parameters
    ----------
    repository
        Has them.
    tip
        The last of them.
    """

    repository: _History
    tip: str

    @cached_property
    def _own(self) -> list[dict[str, Any]]:
        """What those of the last run said, newest first; others may lie between them."""
        own: list[dict[str, Any]] = []
        for commit in self.repository.ancestry(snapshot_id=self.tip):
            told = commit.metadata.get(OWN)
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                continue
            if own and told["token"] != own[0]["token"]:
                break
            own.append(told)
        return own

    @cached_property
    def store(self) -> Any:
        """What Zarr reads."""
        return self.repository.readonly_session(snapshot_id=self.tip).store

    @property
    def variable(self) -> str:
        """Name of the ensemble variable."""
        return str(self.run()["variable"])

    @property
    def sealed(self) -> bool:
        """Whether all regions are done, and the attributes have their final values."""
        return self.run().get("state") == "finished"

    def run(self) -> dict[str, Any]:
        """Return what was to be written, with a token of its beginning; empty if nothing was."""
        return {k: v for k, v in self._own[0].items() if k != "entries"} if self._own else {}

    def entries(self) -> dict[int, Entry]:
        """Return what is recorded, by number of the region."""
        found: dict[int, Entry] = {}
        for entry in (entry for told in reversed(self._own) for entry in told["entries"]):
            if entry["state"] == DONE or entry["region"] not in found:
                found[entry["region"]] = entry
        return found

    def foreign(self) -> list[str]:
        """Return nothing: earlier commits keep everything that a new one leaves out."""
        return []

    def problem(self, name: str, size: int, digest: str) -> str:
        """Say what is wrong with a key of the store; empty if it is as it was written."""
        try:
            content = get(self.store, name)
        except Exception as error:  # noqa: BLE001  of any kind: it cannot be read
            return in_words(error)
        if content is None:
            return "not there"
        if len(content) != size:
            return f"{len(content)} bytes in place of {size}"
        return "" if sha256(content) == digest else "its content has changed"


def in_words(error: Exception) -> str:
    """Return the cause at the end of one of icechunk's messages, which go over many lines."""
    lines = [line.strip(" |`->x") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)


PER_MANIFEST = (32, 256)
"""Chunks along realizations and samples that share a file of places, which commits write anew."""


def open_at(path: Path) -> Repository | None:
    """Open the repository in a folder; None if none is there."""
    # If icechunk looked for a folder that is not there, it would make it.
    if not path.is_dir():
        return None
    storage = _storage(path)
    return Repository.open(storage) if Repository.exists(storage) else None


def create(path: Path) -> Repository:
    """Make a repository, which appears as a whole."""
    new = hidden_sibling(path, "new")
    try:
        Repository.create(_storage(new), config=_config())
        new.replace(path)
    finally:
        remove(new)
    return Repository.open(_storage(path))


def _storage(path: Path) -> icechunk.Storage:
    """Return that of a folder, without its warning of others who commit: there is a lock."""
    icechunk.set_logs_filter("icechunk::storage=error")
    try:
        return icechunk.local_filesystem_storage(str(path))
    finally:
        icechunk.set_logs_filter(None)  # as the environment says


def _config() -> icechunk.RepositoryConfig:
    """Return that of a repository in which commits do not grow with the ensemble."""
    array = icechunk.ManifestSplitCondition.AnyArray()
    axis = icechunk.ManifestSplitDimCondition.Axis
    sizes = {array: {axis(number): size for number, size in enumerate(PER_MANIFEST)}}
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(sizes)  # type: ignore[arg-type]
    )
    return config


def leads_to(repository: Repository, commit: str, branch: str) -> bool:
    """Whether a commit is in the history of a branch."""
    return any(one.id == commit for one in repository.ancestry(branch=branch))


def as_os_error(error: IcechunkError) -> OSError:
    """Return what the operating system said, by whose number trouble of the disk is told."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, in_words(error))


def conflict(name: str, got: str) -> StoreError:
    """Say that somebody else commits to a repository."""
    return StoreError(
        explain(
            f"store '{name}'",
            expected="a repository that nobody else commits to",
            got=got,
            remedy='Begin again with resume="restart", or choose another one.',
        )
    )


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of icechunk into ours."""
    try:
        yield
    except ConflictError as error:
        raise conflict(name, in_words(error)) from error
    except (IcechunkError, OSError) as error:
        raise StoreError(
            explain(
                f"store '{name}'",
                expected="a place that can be written to",
                got=in_words(error),
                remedy="What is committed is kept: mend the cause, and the same call goes on.",
            )
        ) from error


REGIONS_PER_COMMIT = 64
"""About 500 MB of values. A commit takes milliseconds on a disk; a kill costs no more than this."""
MAIN, UNFINISHED = "main", "xcvae-unfinished"
STATE = "xcvae_state"
"""Attribute of what is not finished."""


@dataclass(frozen=True)
class ForkPen:
    """Writes each region into a fork of a session of its own, which it hands back.

    Parameters
    ----------
    fork
        A pickled fork without changes.
    variable
        Name of the ensemble variable.
    chunks
        Realizations and samples per chunk.
    """

    fork: bytes
    variable: str
    chunks: tuple[int, int]

    def put(self, region: Region, values: np.ndarray, counts: RegionStats) -> tuple[int, Any]:
        """Write a region; it counts once what is handed back is committed."""
        file, content = encoded(region, self.chunks, values)
        try:
            fork = pickle.loads(self.fork)
            put(fork.store, f"{self.variable}/{file}", content)
        except IcechunkError as error:
            raise as_os_error(error) from error
        return len(content), (done(region, file, content, counts), pickle.dumps(fork))

    def failed(self, region: Region, said: str) -> Any:
        """Return the record of a region that came to nothing."""
        return failed(region, said), None


class IcechunkStoreWriter:
    """Writes the regions of one run into a repository; a context commits what it was handed.

    Parameters
    ----------
    repository
        Where to; its branch is there.
    run
        What.
    told
        What every commit says of it.
    name
        What messages call the repository.
    local
        Whether it lies on a disk here.
    """

    def __init__(
        self,
        repository: Repository,
        run: Run,
        told: Mapping[str, Any],
        *,
        name: str,
        local: bool,
    ) -> None:
        self.repository, self.run, self.name, self.local = repository, run, name, local
        self.told = {**told, "state": "begun"}
        self.base = self.repository.lookup_branch(MAIN)
        self._there = 0
        self._reset()

    def _reset(self) -> None:
        self._session = self.repository.writable_session(UNFINISHED)
        self._entries: list[Entry] = []
        self._brought = 0
        fork = pickle.dumps(self._session.fork())
        self._pen = ForkPen(fork, self.run.variable, self.run.chunks)

    def mended(self, template: xr.Dataset, what: str, *, new: bool = False) -> IcechunkStoreWriter:
        """Commit metadata and coordinates, in place of all that is there or over it."""
        variable = self.run.variable
        session = self.repository.writable_session(UNFINISHED)
        if new:
            session.store.sync_clear()
        marked = template.assign_attrs({STATE: "unfinished"})
        copy_template(marked, variable, self.run.chunks, session.store)
        self.told["files"] = checksums(session.store, variable)
        session.commit(f"xcvae: '{variable}' {what}", metadata_of(self.told, []))
        self._reset()
        return self

    def __enter__(self) -> IcechunkStoreWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        # After an error this is worth a try, and the error is what is told.
        with suppress(StoreError) if raised[0] else nullcontext():
            self._commit()

    @property
    def records(self) -> CommitLedger:
        """What the commits say."""
        return CommitLedger(self.repository, self.repository.lookup_branch(UNFINISHED))

    def keep(self, numbers: Mapping[int, Any]) -> None:
        """Count what is there; what is not is drawn again, and a newer entry is believed."""
        self._there = len(numbers)

    def pen(self) -> ForkPen:
        """Return what the next task writes with: a fork of the last commit."""
        return self._pen

    def take(self, handed: Any) -> None:
        """Merge a fork that came back; commit, if they are enough."""
        if handed is None:
            return
        entry, fork = handed
        self._entries.append(entry)
        if fork is None:
            return
        with explained(self.name):
            self._session.merge(pickle.loads(fork))
        self._brought += 1
        if self._brought == REGIONS_PER_COMMIT:
            self._commit()

    def _commit(self) -> None:
        if not self._brought:
            return  # a commit that changes nothing is none
        self._there += self._brought
        said = f"{self._brought} regions of '{self.run.variable}', now {self._there}"
        with explained(self.name):
            self._session.commit(
                f"xcvae: {said} of {self.told['regions']}", metadata_of(self.told, self._entries)
            )
            self._reset()

    def publish(self, attributes: Mapping[str, Any]) -> None:
        """Commit the final attributes, and move main there."""
        import zarr

        repository, variable = self.repository, self.run.variable
        with explained(self.name):
            if not self.records.sealed:
                session = repository.writable_session(UNFINISHED)
                group = zarr.open_group(session.store, mode="r+")
                known = {k: v for k, v in group.attrs.asdict().items() if k != STATE}
                group.attrs.put({**known, **attributes})
                files = checksums(session.store, variable)
                told = {**self.told, "state": "finished", "files": files}
                session.commit(f"xcvae: '{variable}' is finished", metadata_of(told, []))
            tip = repository.lookup_branch(UNFINISHED)
            if self.local and hasattr(os, "sync"):
                os.sync()
            repository.reset_branch(MAIN, tip, from_snapshot_id=self.base)
            repository.delete_branch(UNFINISHED)


class IcechunkStore:
    """An Icechunk repository for an ensemble.

    Parameters
    ----------
    place
        Its folder, which need not be there yet; or the repository, opened by who cares where it is.
    """

    def __init__(self, place: Path | Repository) -> None:
        self.path = place if isinstance(place, Path) else None
        self._repository = None if isinstance(place, Path) else place
        self.name = f"icechunk:{place if isinstance(place, Path) else place.storage}"

    @property
    def stem(self) -> str:
        """What a catalog would call it."""
        return "" if self.path is None else self.path.stem

    @property
    def place(self) -> Path | None:
        """The local folder that it takes, if it was given as one."""
        return self.path

    @property
    def listed(self) -> None:
        """A catalog does not list it."""
        return

    @property
    def repository(self) -> Repository | None:
        """It, opened; None if there is none."""
        if self._repository is None and self.path is not None:
            with explained(self.name):
                self._repository = open_at(self.path)
        return self._repository

    def _occupied(self) -> bool:
        """Whether something is at its path."""
        path = self.path
        if path is None or not path.exists():
            return False
        return not path.is_dir() or any(path.iterdir())

    def finished(self) -> StoreStatus:
        """Look at the branch main."""
        repository = self.repository
        if repository is None:
            return StoreStatus(self.name, self._occupied())
        commits = CommitLedger(repository, repository.lookup_branch(MAIN))
        newest = next(iter(repository.ancestry(snapshot_id=commits.tip)))
        # The first commit of a repository is its own, and empty.
        if newest.parent_id is None:
            return StoreStatus(self.name)
        group = get(commits.store, "zarr.json") or b""
        return StoreStatus(self.name, True, identity_in(group), commits, commits.store)

    def partial(self) -> StoreStatus:
        """Look at the branch of what is not finished."""
        name, repository = f"{self.name}, branch {UNFINISHED}", self.repository
        if repository is None or UNFINISHED not in repository.list_branches():
            return StoreStatus(name)
        commits = CommitLedger(repository, repository.lookup_branch(UNFINISHED))
        if leads_to(repository, commits.tip, MAIN):
            return StoreStatus(name)  # killed before its first commit, or after its last
        return StoreStatus(name, True, None, commits, commits.store)

    def check_replaceable(self) -> None:
        """Refuse to replace the content of branches that xcvae did not write."""
        if self.repository is None:
            return  # what is at its path is refused when the repository is made
        for held in (self.finished(), self.partial()):
            if held.there and not held.told:
                raise OutputExistsError(
                    explain(
                        f"store '{held.name}'",
                        expected="an ensemble that xcvae wrote, or nothing",
                        got="something without records of xcvae",
                        remedy="Choose another name: xcvae only replaces what it wrote.",
                    )
                )

    def is_clean(self) -> bool:
        """Whether no killed or living call has left anything."""
        repository = self.repository
        left = repository is not None and UNFINISHED in repository.list_branches()
        return not left and (self.path is None or not stale_files(self.path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold its folder for one call; elsewhere, who commits second is refused."""
        with nullcontext() if self.path is None else locked(self.path):
            repository = self.repository
            if repository is not None and not self.is_clean() and not self.partial().there:
                repository.delete_branch(UNFINISHED)
            yield

    def temporary_path(self, what: str) -> Path | None:
        """Return a new name beside its folder."""
        return None if self.path is None else hidden_sibling(self.path, what)

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> IcechunkStoreWriter:
        """Make a branch whose first commit has metadata, coordinates and what is to be written."""
        with explained(self.name):
            repository = self.repository or self._create()
            base = repository.lookup_branch(MAIN)
            if UNFINISHED in repository.list_branches():
                repository.reset_branch(UNFINISHED, base)
            else:
                repository.create_branch(UNFINISHED, base)
            told = {**said, "token": uuid4().hex, "variable": run.variable}
            return self._committer(repository, run, told).mended(template, "begins", new=True)

    def _create(self) -> Repository:
        """Make the repository, which appears as a whole."""
        path = self.path
        if path is None or self._occupied():
            raise StoreError(
                explain(
                    f"store '{self.name}'",
                    expected="an Icechunk repository, or nothing there",
                    got="something else",
                    remedy="Choose another name: only ensembles are replaced.",
                )
            )
        self._repository = create(path)
        return self._repository

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> IcechunkStoreWriter:
        """Make ready what was begun, or what is finished and to be repaired."""
        repository = self.repository
        if repository is None:
            raise StoreError(f"{self.name} is gone.")
        with explained(self.name):
            if damaged:
                repository.create_branch(UNFINISHED, repository.lookup_branch(MAIN))
                told = {**self.finished().told, "replaces": True}
                return self._committer(repository, run, told).mended(template, "is repaired")
            if not leads_to(repository, repository.lookup_branch(MAIN), UNFINISHED):
                raise conflict(self.name, "branch main has other commits since")
            committer = self._committer(repository, run, self.partial().told)
            changed = committer.records.changed() and not committer.records.sealed
            return committer.mended(template, "has its metadata again") if changed else committer

    def _committer(
        self, repository: Repository, run: Run, told: Mapping[str, Any]
    ) -> IcechunkStoreWriter:
        return IcechunkStoreWriter(
            repository, run, told, name=self.name, local=self.path is not None
        )

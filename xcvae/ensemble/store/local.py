"""An ensemble as a Zarr store in a folder, named ``<store>.partial`` until it is complete.

The unfinished folder is a Zarr store too: its metadata and coordinates are complete, some chunks
are missing, and its ledger lists those that are written. Every change of state is one rename, so
that a process may be killed at any moment; a replacement takes two, and between them the ledger
tells that the new ensemble is complete.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr

from xcvae.ensemble.store.base import (
    DONE,
    FORMAT,
    NO_ENTRIES,
    EnsembleSpec,
    EnsembleStore,
    Entry,
    Ledger,
    Region,
    RegionStats,
    StoredEnsemble,
    StoreStatus,
    done_entry,
    failed_entry,
    lock_folder,
    not_replaceable,
    unwritable,
)
from xcvae.ensemble.store.zarr_format import (
    consolidate,
    encode_chunk,
    identity_in,
    write_chunk,
    write_template,
)
from xcvae.errors import OutputExistsError, StoreError
from xcvae.files import (
    Purpose,
    file_sha256,
    hidden_sibling,
    is_taken,
    link_or_copy,
    original_name,
    remove,
    stale_siblings,
    write_json,
    write_text,
)

PARTIAL = ".partial"
#: Seconds in which a process usually gets from the first rename of a replacement to the second.
RENAMING = 0.1


class LocalStore(EnsembleStore):
    """A folder for an ensemble.

    Attributes
    ----------
    folder
        The finished store.
    working
        The unfinished store. A folder whose name ends in ``.partial`` is never a finished one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        unfinished = folder.name.endswith(PARTIAL)
        self.working = folder if unfinished else folder.with_name(folder.name + PARTIAL)

    @property
    def name(self) -> Path:
        """The folder."""
        return self._folder

    @property
    def stem(self) -> str:
        """Name of the folder without its suffix."""
        return self._folder.stem

    @property
    def folder(self) -> Path:
        """Folder of the finished store."""
        return self._folder

    @property
    def catalog_path(self) -> Path:
        """The folder: intake opens Zarr stores."""
        return self._folder

    def status(self) -> StoreStatus:
        """Look at the two folders and at the hidden ones of calls that run or were killed."""
        complete = self._complete()
        # Any variable is accepted here: another one is reported as a mismatch.
        ledger = FileLedger.within(self.working)
        exists = is_taken(self.working)
        partial = StoredEnsemble(self.working, exists, None, ledger, self.working)
        is_clean = not self.working.exists() and not stale_siblings(self.folder)
        return StoreStatus(complete, partial, is_clean)

    def _complete(self) -> StoredEnsemble:
        folder = self.folder
        if folder == self.working:
            return StoredEnsemble(folder)
        if self._lacks_its_name():
            time.sleep(RENAMING)  # a living process is past its second rename then
            with suppress(StoreError, OSError), self.lock():
                pass  # it was killed: the lock finishes what it did
            folder = self.working if self._lacks_its_name() else folder
        ledger = FileLedger.within(folder)
        try:
            identity = identity_in((folder / "zarr.json").read_bytes())
        except OSError:
            identity = None
        if ledger is not None and not ledger.sealed:
            identity = None
        return StoredEnsemble(folder, is_taken(folder), identity, ledger, folder)

    def _lacks_its_name(self) -> bool:
        """Return True between the two renames of a replacement, which is complete by then."""
        if is_taken(self.folder):
            return False
        ledger = FileLedger.within(self.working)
        return ledger is not None and ledger.sealed and bool(ledger.metadata().get("replaces"))

    def check_replaceable(self) -> None:
        """Refuse to replace anything that xcvae did not write: the ledger is the proof."""
        for path in (self.folder, self.working):
            reason = _reason_to_keep(path)
            if reason:
                raise not_replaceable(path, reason)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from writing, and remove what killed ones left behind."""
        with lock_folder(self.folder):
            _remove_stray_chunks(self.working)
            if self._lacks_its_name():
                self.working.rename(self.folder)  # killed between the two renames of finalize
            yield

    def temporary_path(self, purpose: Purpose) -> Path:
        """Return a new hidden name in the folder that the store is in."""
        return hidden_sibling(self.folder, purpose)

    def begin(
        self,
        spec: EnsembleSpec,
        template: xr.Dataset,
        metadata: Mapping[str, Any],
        entries: Mapping[int, Entry] = NO_ENTRIES,
    ) -> LocalStoreWriter:
        """Make metadata, coordinates and ledger in a hidden folder, then give it its name."""
        with self._temporary_folder("Nothing was drawn yet: choose another location.") as new:
            write_template(template, spec, new)
            ledger = FileLedger(new / spec.variable)
            ledger.start(metadata)
            ledger.take_over(self.folder / spec.variable, entries)
            old = self.move_away(self.working)
            new.rename(self.working)
            remove(old)
        return LocalStoreWriter(self, spec)

    def reopen(
        self, spec: EnsembleSpec, template: xr.Dataset, *, damaged: bool
    ) -> LocalStoreWriter:
        """Take up the unfinished folder; the damaged store becomes one by a rename."""
        ledger = FileLedger(self.working / spec.variable)
        remedy = "Fix the cause and repeat the call: nothing that is written is lost."
        with self._temporary_folder(remedy) as new:
            if damaged:
                self.folder.rename(self.working)
            for path in self.working.rglob("*"):
                if original_name(path.name):  # written in part by a killed process
                    path.unlink(missing_ok=True)
            if ledger.changed():
                write_template(template, spec, new)
                for path in sorted(path for path in new.rglob("*") if path.is_file()):
                    final = self.working / path.relative_to(new)
                    final.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(final)
                ledger.note_template()
        return LocalStoreWriter(self, spec)

    @contextmanager
    def _temporary_folder(self, remedy: str) -> Iterator[Path]:
        """Give a hidden name for a folder that is removed at the end; explain system errors."""
        new = self.temporary_path("new")
        try:
            yield new
        except OSError as error:
            raise unwritable(self.name, error, remedy) from error
        finally:
            remove(new)

    def move_away(self, path: Path) -> Path:
        """Rename a folder to a hidden name in one step; the caller removes it later."""
        old = self.temporary_path("old")
        if is_taken(path):
            path.rename(old)
        return old


def _reason_to_keep(path: Path) -> str:
    """Return why a path must not be replaced; empty for nothing and for an ensemble of xcvae."""
    if not is_taken(path):
        return ""
    if path.is_symlink():
        return f"a symbolic link to {path.readlink()} (give that path)"
    if not path.is_dir():
        return "a file"
    ledger = FileLedger.within(path)
    if ledger is None or not ledger.metadata():
        return "a folder without a ledger of xcvae"
    foreign = ledger.foreign()
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    return f"files that xcvae did not write: {foreign[0]}{more}" if foreign else ""


def _remove_stray_chunks(working: Path) -> None:
    """Delete chunks that workers of earlier versions wrote after a store was renamed."""
    if not working.is_dir() or (working / "zarr.json").exists():
        return
    # Chunks and nothing else: a folder with a ledger or other files stays.
    names = _files_below(working)
    stray = re.compile(r"[^/]+/c/\d+/\d+/0/0")
    if names and all(stray.fullmatch(final) for _, final in names):
        remove(working)


@dataclass(frozen=True)
class LocalRegionWriter:
    """Writes regions as chunk files, and records them in the ledger.

    Attributes
    ----------
    array, chunks
        Folder of the ensemble variable, and realizations and samples per chunk.
    token
        Token of the run that the regions belong to: a store of another run under the same name
        is left alone.
    """

    array: Path
    chunks: tuple[int, int]
    token: str

    def write(self, region: Region, values: np.ndarray, stats: RegionStats) -> tuple[int, None]:
        """Write a region, and then its entry in the ledger; there is no receipt."""
        self._check_token()
        file, content = encode_chunk(region, self.chunks, values)
        write_chunk(self.array, file, content)
        FileLedger(self.array).record(done_entry(region, file, content, stats))
        return len(content), None

    def record_failure(self, region: Region, error: str) -> None:
        """Record a failed region; a full disk may keep that from being written too."""
        with suppress(OSError):
            FileLedger(self.array).record(failed_entry(region, error))

    def _check_token(self) -> None:
        metadata = FileLedger(self.array).metadata()
        if not metadata:
            raise FileNotFoundError(
                errno.ENOENT,
                f"{socket.gethostname()} sees no run in {self.array}: it was removed, or the store "
                "is not in a folder that all workers share",
            )
        if metadata.get("token") != self.token:
            raise FileNotFoundError(errno.ENOENT, "another run has taken the place of this one")


class LocalStoreWriter:
    """Writes an ensemble into a folder; a region is safe as soon as its writer returns.

    Parameters
    ----------
    store
        The folders.
    spec
        The ensemble.
    """

    def __init__(self, store: LocalStore, spec: EnsembleSpec) -> None:
        self._store = store
        self.ledger = FileLedger(store.working / spec.variable)
        token = self.ledger.metadata()["token"]
        self._writer = LocalRegionWriter(self.ledger.array, spec.chunks, token)

    def __enter__(self) -> LocalStoreWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def prune(self, entries: Mapping[int, Entry]) -> None:
        """Drop all entries but these."""
        self.ledger.reopen(entries)

    def region_writer(self) -> LocalRegionWriter:
        """Return the writer of all tasks."""
        return self._writer

    def collect(self, receipt: Any) -> None:
        """Do nothing: region writers write to the ledger themselves."""

    def finalize(self, attributes: Mapping[str, Any]) -> None:
        """Set the final attributes, seal the ledger, wait for the disk, and rename the folder."""
        import zarr

        store = self._store
        try:
            zarr.open_group(store.working, mode="r+").attrs.update(dict(attributes))
            consolidate(store.working)
            self.ledger.note_template()
            self.ledger.seal()
            # Once for all files: a store that has its name survives a loss of power.
            if hasattr(os, "sync"):
                os.sync()
            # Something else may have taken the name since the run began.
            store.check_replaceable()
            old = store.move_away(store.folder)
            store.working.rename(store.folder)
        except OutputExistsError:
            raise
        except OSError as error:
            remedy = "All regions are drawn: fix the cause and repeat the call to finish the store."
            raise unwritable(store.name, error, remedy) from error
        remove(old)


@dataclass(frozen=True)
class FileLedger(Ledger):
    """The ledger in the folder of one array.

    It is ``ledger/run.json``, a journal per process in ``ledger/regions/`` while the store is
    written, and ``ledger/regions.jsonl`` in place of them when it is sealed.

    Attributes
    ----------
    array
        Folder of the ensemble variable.
    """

    array: Path

    @classmethod
    def within(cls, store: Path) -> FileLedger | None:
        """Return the ledger of a store, for a variable of any name; None if it has none."""
        found = sorted(store.glob("*/ledger/run.json")) if store.is_dir() else []
        return cls(found[0].parent.parent) if found else None

    @property
    def variable(self) -> str:
        """Name of the ensemble variable."""
        return self.array.name

    @property
    def sealed(self) -> bool:
        """True if all regions are complete."""
        return self._sealed.is_file()

    @property
    def _folder(self) -> Path:
        return self.array / "ledger"

    @property
    def _sealed(self) -> Path:
        return self._folder / "regions.jsonl"

    @property
    def _regions(self) -> Path:
        return self._folder / "regions"

    def start(self, metadata: Mapping[str, Any]) -> None:
        """Describe the run; metadata and coordinates of the store are written already."""
        self._regions.mkdir(parents=True)
        content = {"format": FORMAT, "token": uuid4().hex, **metadata, "files": self._template()}
        write_json(self._folder / "run.json", content)

    def take_over(self, array: Path, entries: Mapping[int, Entry]) -> None:
        """Add regions of another array; chunk files are shared with it where links can be made."""
        for entry in entries.values():
            link_or_copy(array / entry["file"], self.array / entry["file"])
        if entries:
            _write_lines(self._regions / f"shared-{uuid4().hex}.jsonl", entries.values())

    def note_template(self) -> None:
        """Record metadata and coordinates as they are now."""
        metadata = self.metadata()
        # Files that others have added since do not become ours by this.
        files = {n: found for n, found in self._template().items() if n in metadata["files"]}
        write_json(self._folder / "run.json", {**metadata, "files": files})

    def _template(self) -> dict[str, list[Any]]:
        """Return size and SHA-256 of every file of the store but chunks and ledger, by name."""
        store, own = self.array.parent, (self.array / "c", self._folder)
        files = (path for path in sorted(store.rglob("*")) if path.is_file())
        return {
            path.relative_to(store).as_posix(): list(file_sha256(path))
            for path in files
            if not any(path.is_relative_to(folder) for folder in own)
        }

    def foreign(self) -> list[str]:
        """Return the names of files in the folder of the store that xcvae did not write."""
        store, known = self.array.parent, self.metadata().get("files", {})
        own = re.compile(rf"{re.escape(self.variable)}/(c/\d+/\d+/0/0|ledger/.+)")
        names = _files_below(store)
        return [name for name, final in names if final not in known and not own.fullmatch(final)]

    def metadata(self) -> dict[str, Any]:
        """Return the description of the run with its token; empty without a ledger."""
        found = _read_json(self._folder / "run.json") or {}
        return found if found.get("format") == FORMAT else {}

    def problem(self, name: str, size: int, digest: str) -> str:
        """Describe how a file differs from what was written; empty if it does not."""
        try:
            size_now, digest_now = file_sha256(self.array.parent / name)
        except OSError as error:
            return error.strerror or str(error)
        if size_now != size:
            return f"{size_now} bytes in place of {size}"
        return "" if digest_now == digest else "its content has changed"

    def record(self, entry: Entry) -> None:
        """Append an entry; a failure never replaces an earlier completion."""
        # Each process has a journal of its own: shared file systems do not append for two.
        journal = os.open(
            self._regions / f"{_journal_name(os.getpid())}.jsonl",
            os.O_WRONLY | os.O_APPEND | os.O_CREAT,
            0o666,
        )
        try:
            # A new line first: a full disk may have cut the last one short.
            line = f"\n{json.dumps(entry)}".encode()
            if os.write(journal, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._regions))
        finally:
            os.close(journal)

    def entries(self) -> dict[int, Entry]:
        """Return the entries by number of the region."""
        files = [self._sealed] if self.sealed else sorted(self._regions.glob("*.jsonl"))
        # Ignore truncated lines (a write may have failed part-way).
        found = [_parse_object(line) for path in files for line in _lines(path)]
        whole = [entry for entry in found if entry is not None and "region" in entry]
        # Completions come last, and so replace failures of the same region.
        whole.sort(key=lambda entry: entry.get("state") == DONE)
        return {entry["region"]: entry for entry in whole}

    def reopen(self, entries: Mapping[int, Entry]) -> None:
        """Start the journals again with these entries, also those of a sealed ledger."""
        self._regions.mkdir(exist_ok=True)
        old = [self._sealed, *self._regions.glob("*.jsonl")]
        _write_lines(self._regions / f"kept-{uuid4().hex}.jsonl", entries.values())
        # A damaged region has no valid entry while it is drawn again.
        for path in old:
            path.unlink(missing_ok=True)

    def seal(self) -> None:
        """Gather all entries in one file: all regions are complete."""
        if not self.sealed:
            _write_lines(self._sealed, [entry for _, entry in sorted(self.entries().items())])
        shutil.rmtree(self._regions, ignore_errors=True)


def _files_below(folder: Path) -> list[tuple[str, str]]:
    """Return the name, and the name without a temporary suffix, of every file below a folder."""
    found = (path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    return [
        (
            path.relative_to(folder).as_posix(),
            path.with_name(original_name(path.name) or path.name).relative_to(folder).as_posix(),
        )
        for path in found
    ]


def _write_lines(path: Path, entries: Iterable[Entry]) -> None:
    write_text(path, "".join(f"{json.dumps(entry)}\n" for entry in entries))


def _read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is none."""
    try:
        return _parse_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parse_object(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        # Listed and then deleted: another process has continued the store.
        return []


@lru_cache(maxsize=4)
def _journal_name(process: int) -> str:  # noqa: ARG001  a forked process is another one
    """Return a name that no other process uses, on any host."""
    return uuid4().hex

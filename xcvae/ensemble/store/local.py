"""An ensemble as a plain Zarr store, in a folder that is ``<store>.partial`` until all is there.

While it is written, it is a Zarr store whose metadata and coordinates are complete, whose chunks
are not, and whose ledger says which of them are done. Every change of state is one rename, so that
a process may be killed anywhere.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr

from xcvae import files
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
from xcvae.ensemble.store.zarr_format import encoded, identity_in, put_chunk, write_template
from xcvae.errors import OutputExistsError, StoreError, explain
from xcvae.files import file_sha256, hidden_sibling, is_taken, original_name, write_json, write_text

__all__ = [
    "FileLedger",
    "LocalRegionWriter",
    "LocalStore",
    "locked",
    "remove",
    "stale_files",
]


def stale_files(path: Path) -> list[Path]:
    """Return what calls left beside a store that were killed, or are at it now."""
    own = re.compile(rf"\.{re.escape(path.name)}\.(new|old|model)-[0-9a-f]{{12}}")
    beside = path.parent.glob(f".{escape(path.name)}.*-????????????")
    return [p for p in beside if own.fullmatch(p.name)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store for one call; left-overs of killed ones are cleared away.

    Raises
    ------
    StoreError
        Another process is at it.
    """
    busy = StoreError(
        explain(
            f"store '{path}'",
            expected="no other process that writes it",
            got="one that does",
            remedy="Wait for it to end, or choose another name.",
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path, timeout=0, busy=busy):
        for old in stale_files(path):
            remove(old)
        yield


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class FileLedger(Ledger):
    """The ledger in the folder of one array.

    Parameters
    ----------
    array
        Folder of the ensemble variable.
    """

    array: Path

    @classmethod
    def within(cls, store: Path) -> FileLedger | None:
        """Return the ledger of a store, whatever its variable is called; None if it has none."""
        found = sorted(store.glob("*/ledger/run.json")) if store.is_dir() else []
        return cls(found[0].parent.parent) if found else None

    @property
    def variable(self) -> str:
        """Name of the ensemble variable."""
        return self.array.name

    @property
    def folder(self) -> Path:
        """Where the files of the ledger are."""
        return self.array / "ledger"

    @property
    def sealed(self) -> bool:
        """Whether all regions are done."""
        return self._sealed.is_file()

    @property
    def _sealed(self) -> Path:
        return self.folder / "regions.jsonl"

    @property
    def _regions(self) -> Path:
        return self.folder / "regions"

    def start(self, run: Mapping[str, Any]) -> None:
        """Say what is going to be written; metadata and coordinates are there already."""
        self._regions.mkdir(parents=True)
        content = {"format": FORMAT, "token": uuid4().hex, **run, "files": self._template()}
        write_json(self.folder / "run.json", content)

    def note_template(self) -> None:
        """Take metadata and coordinates, as they are now, for what was written."""
        run = self.run()
        # Files that others have put there since do not become ours by this.
        files = {name: found for name, found in self._template().items() if name in run["files"]}
        write_json(self.folder / "run.json", {**run, "files": files})

    def _template(self) -> dict[str, list[Any]]:
        """Return size and SHA-256 of every file of the store but chunks and ledger, by name."""
        store, own = self.array.parent, (self.array / "c", self.folder)
        files = (path for path in sorted(store.rglob("*")) if path.is_file())
        return {
            path.relative_to(store).as_posix(): list(file_sha256(path))
            for path in files
            if not any(path.is_relative_to(folder) for folder in own)
        }

    def foreign(self) -> list[str]:
        """Return the names of files in the folder of the store that xcvae did not write there."""
        store, known = self.array.parent, self.run().get("files", {})
        own = re.compile(rf"{re.escape(self.variable)}/(c/\d+/\d+/0/0|ledger/.+)")
        names = _files_below(store)
        return [name for name, final in names if final not in known and not own.fullmatch(final)]

    def run(self) -> dict[str, Any]:
        """Return what :meth:`start` was told, with a token of that start; empty if nothing was."""
        found = read_json(self.folder / "run.json") or {}
        return found if found.get("format") == FORMAT else {}

    def problem(self, name: str, size: int, digest: str) -> str:
        """Say what is wrong with a file of the store; empty if it is as it was written."""
        try:
            there, found = file_sha256(self.array.parent / name)
        except OSError as error:
            return error.strerror or str(error)
        if there != size:
            return f"{there} bytes in place of {size}"
        return "" if found == digest else "its content has changed"

    def record(self, entry: Entry) -> None:
        """Record one region; a failure never takes the place of what is done."""
        # Each process has a journal of its own: shared file systems do not append for two.
        journal = os.open(
            self._regions / f"{_own_name(os.getpid())}.jsonl",
            os.O_WRONLY | os.O_APPEND | os.O_CREAT,
            0o666,
        )
        try:
            # It begins with a new line: a full disk may have left half a one.
            line = f"\n{json.dumps(entry)}".encode()
            if os.write(journal, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._regions))
        finally:
            os.close(journal)

    def entries(self) -> dict[int, Entry]:
        """Return what is recorded, by number of the region."""
        files = [self._sealed] if self.sealed else sorted(self._regions.glob("*.jsonl"))
        found = [_parsed(line) for path in files for line in _lines(path)]
        # Of a line that a dying disk left in pieces nothing is believed.
        whole = [entry for entry in found if entry is not None and "region" in entry]
        # What is done comes last, and so takes the place of an earlier failure.
        whole.sort(key=lambda entry: entry.get("state") == DONE)
        return {entry["region"]: entry for entry in whole}

    def reopen(self, entries: Mapping[int, Entry]) -> None:
        """Begin the journals anew with these entries, also those of a store damaged since."""
        self._regions.mkdir(exist_ok=True)
        old = [self._sealed, *self._regions.glob("*.jsonl")]
        kept = self._regions / f"kept-{uuid4().hex}.jsonl"
        write_text(kept, "".join(f"{json.dumps(entry)}\n" for entry in entries.values()))
        # What is damaged must not be believed any more once it is drawn again.
        for path in old:
            path.unlink(missing_ok=True)

    def seal(self) -> None:
        """Gather all entries in one file: all regions are done."""
        if not self.sealed:
            ordered = [entry for _, entry in sorted(self.entries().items())]
            write_text(self._sealed, "".join(f"{json.dumps(entry)}\n" for entry in ordered))
        shutil.rmtree(self._regions, ignore_errors=True)


def _files_below(folder: Path) -> list[tuple[str, str]]:
    """Return every file and link below a folder: its name, and the one it is to have when done."""
    found = (path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    return [
        (
            path.relative_to(folder).as_posix(),
            path.with_name(original_name(path.name) or path.name).relative_to(folder).as_posix(),
        )
        for path in found
    ]


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if there is none."""
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        # Gone since it was listed: another process is going on with the store.
        return []


@lru_cache(maxsize=4)
def _own_name(process: int) -> str:  # noqa: ARG001  a forked process is another one
    """Return a name that no other process has, on any host."""
    return uuid4().hex


PARTIAL = ".partial"
STRAY = re.compile(r"[^/]+/c/\d+/\d+/0/0")


@dataclass(frozen=True)
class LocalRegionWriter:
    """Writes regions as chunk files, and records them.

    Parameters
    ----------
    array
        Folder of the ensemble variable.
    chunks
        Realizations and samples per chunk.
    token
        Of the run that the regions belong to: another run under the same name is left alone.
    """

    array: Path
    chunks: tuple[int, int]
    token: str

    def put(self, region: Region, values: np.ndarray, counts: RegionStats) -> tuple[int, Any]:
        """Write a region, and then record that it is there."""
        self._check_token()
        file, content = encoded(region, self.chunks, values)
        put_chunk(self.array / file, content)
        FileLedger(self.array).record(done(region, file, content, counts))
        return len(content), None

    def failed(self, region: Region, said: str) -> None:
        """Record that a region came to nothing; on a full disk that does not work either."""
        with suppress(OSError):
            FileLedger(self.array).record(failed(region, said))

    def _check_token(self) -> None:
        told = FileLedger(self.array).run()
        if not told:
            raise FileNotFoundError(
                errno.ENOENT,
                f"{socket.gethostname()} sees no run in {self.array}: it was removed, or the store "
                "is not in a folder that all workers share",
            )
        if told.get("token") != self.token:
            raise FileNotFoundError(errno.ENOENT, "another run has taken the place of this one")


@dataclass(frozen=True)
class LocalStore:
    """A folder for an ensemble.

    Parameters
    ----------
    path
        Name of the finished store.
    """

    path: Path

    @property
    def name(self) -> Path:
        """What messages call it."""
        return self.path

    @property
    def stem(self) -> str:
        """What a catalog calls it by default."""
        return self.path.stem

    @property
    def place(self) -> Path:
        """The local folder that it takes."""
        return self.path

    @property
    def listed(self) -> Path:
        """The folder that a catalog lists."""
        return self.path

    @property
    def working(self) -> Path:
        """The store while it is written; one that is called so is not finished itself."""
        name = self.path.name
        return self.path if name.endswith(PARTIAL) else self.path.with_name(name + PARTIAL)

    def finished(self) -> StoreStatus:
        """Look at what has its name."""
        if self.path == self.working:
            return StoreStatus(self.path)
        ledger = FileLedger.within(self.path)
        try:
            identity = identity_in((self.path / "zarr.json").read_bytes())
        except OSError:
            identity = None
        if ledger is not None and not ledger.sealed:
            identity = None
        return StoreStatus(self.path, is_taken(self.path), identity, ledger, self.path)

    def partial(self) -> StoreStatus:
        """Look at what is not finished."""
        # Under whatever name its variable goes: another one is a difference to be told.
        ledger = FileLedger.within(self.working)
        return StoreStatus(self.working, is_taken(self.working), None, ledger, self.working)

    def check_replaceable(self) -> None:
        """Refuse to replace anything that xcvae did not write: the ledger is the proof."""
        for path in (self.path, self.working):
            reason = _not_ours(path)
            if reason:
                raise OutputExistsError(
                    explain(
                        f"store '{path}'",
                        expected="an ensemble that xcvae wrote, or nothing",
                        got=reason,
                        remedy="Choose another name, or remove it yourself: xcvae only replaces "
                        "what it wrote.",
                    )
                )

    def is_clean(self) -> bool:
        """Whether no killed or living call has left anything beside it."""
        return not self.working.exists() and not stale_files(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold it for one call; left-overs of killed ones are cleared away."""
        with locked(self.path):
            _remove_strays(self.working)
            yield

    def temporary_path(self, what: str) -> Path:
        """Return a new name beside it, for what is there during one call."""
        return hidden_sibling(self.path, what)

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> LocalStoreWriter:
        """Make metadata, coordinates and ledger, no chunk; all of it appears in one step."""
        new = self.temporary_path("new")
        try:
            write_template(template, run.variable, run.chunks, new)
            FileLedger(new / run.variable).start(said)
            old = self.set_aside(self.working)
            new.rename(self.working)
            remove(old)
        except OSError as error:
            raise self.unwritable(error, "Nothing was drawn yet: choose another place.") from error
        finally:
            remove(new)
        return LocalStoreWriter(self, run)

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> LocalStoreWriter:
        """Make ready what was begun, or is to be repaired: its metadata are what they were."""
        new, ledger = self.temporary_path("new"), FileLedger(self.working / run.variable)
        try:
            if damaged:
                self.path.rename(self.working)
            for path in self.working.rglob("*"):  # halves of chunks and of markers
                if original_name(path.name):
                    path.unlink(missing_ok=True)
            if ledger.changed():
                write_template(template, run.variable, run.chunks, new)
                for path in sorted(path for path in new.rglob("*") if path.is_file()):
                    place = self.working / path.relative_to(new)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(place)
                ledger.note_template()
        except OSError as error:
            remedy = "Mend the cause and run the same call again."
            raise self.unwritable(error, remedy) from error
        finally:
            remove(new)
        return LocalStoreWriter(self, run)

    def set_aside(self, path: Path) -> Path:
        """Take what is there out of the way in one step; the caller deletes it in the end."""
        old = self.temporary_path("old")
        if is_taken(path):
            path.rename(old)
        return old

    def unwritable(self, error: OSError, remedy: str) -> StoreError:
        """Say that it cannot be written to."""
        return StoreError(
            explain(
                f"store '{self.path}'",
                expected="a place that can be written to",
                got=f"{type(error).__name__}: {error}",
                remedy=remedy,
            )
        )


class LocalStoreWriter:
    """Writes the regions of one run into a folder; each is safe as soon as its pen is done.

    Parameters
    ----------
    folder
        Where to.
    run
        What.
    """

    def __init__(self, folder: LocalStore, run: Run) -> None:
        self.folder, self.chunks = folder, run.chunks
        self.ledger = FileLedger(folder.working / run.variable)
        self._pen = LocalRegionWriter(self.ledger.array, run.chunks, self.ledger.run()["token"])

    def __enter__(self) -> LocalStoreWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    @property
    def records(self) -> Ledger:
        """The ledger."""
        return self.ledger

    def keep(self, numbers: Mapping[int, Entry]) -> None:
        """Believe no other entries than these."""
        self.ledger.reopen(numbers)

    def pen(self) -> LocalRegionWriter:
        """Return what tasks write with."""
        return self._pen

    def take(self, handed: Any) -> None:
        """Nothing is left to be done."""

    def publish(self, attributes: Mapping[str, Any]) -> None:
        """Give the store its final attributes and its name, and tidy up."""
        import zarr

        folder = self.folder
        try:
            zarr.open_group(folder.working, mode="r+").attrs.update(dict(attributes))
            self.ledger.note_template()
            self.ledger.seal()
            _to_disk()
            # Something else may have taken the name since the run began.
            folder.check_replaceable()
            old = folder.set_aside(folder.path)
            folder.working.rename(folder.path)
        except OutputExistsError:
            raise
        except OSError as error:
            remedy = "All regions are done: mend the cause, and the same call finishes it."
            raise folder.unwritable(error, remedy) from error
        remove(old)


def _not_ours(path: Path) -> str:
    """Return why a path must not be replaced; empty if nothing or an ensemble of xcvae is there."""
    if not is_taken(path):
        return ""
    if path.is_symlink():
        return f"a symbolic link to {path.readlink()}"
    if not path.is_dir():
        return "a file"
    ledger = FileLedger.within(path)
    if ledger is None or not ledger.run():
        return "a folder without a ledger of xcvae"
    foreign = ledger.foreign()
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    return f"files that xcvae did not write: {foreign[0]}{more}" if foreign else ""


def _to_disk() -> None:
    """Wait for the disk, once: a store that has its name survives a loss of power."""
    if hasattr(os, "sync"):
        os.sync()


def _remove_strays(working: Path) -> None:
    """Delete chunks that a worker wrote after its run was given up and the folder was gone."""
    if not working.is_dir() or (working / "zarr.json").exists():
        return
    # Chunks and nothing else: whatever has a ledger or other files is left alone.
    names = _files_below(working)
    if names and all(STRAY.fullmatch(final) for _, final in names):
        remove(working)

"""The ledger of a store: what is written there, and which of its regions are done.

It lies in the folder of the ensemble variable, where readers of Zarr do not look::

    <store>/<variable>/ledger/run.json         identity of the run, versions, notes, checksums of
                                               the metadata and coordinates
    <store>/<variable>/ledger/regions/*.jsonl  one journal per process: a line per region it tried
    <store>/<variable>/ledger/regions.jsonl    the same in one file, once all regions are done

Files appear in one step, whole or not at all; journals grow by whole lines. Each region is recorded
with the size and the SHA-256 of its chunk file, so that ``sha256sum`` is all it takes to check one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from xcvae.ensemble.records import DONE, FORMAT, Entry, Records

__all__ = ["TEMPORARY", "Ledger", "checksum"]

# What the writers of this package and of Zarr append to the names of files they have not finished.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.(tmp|partial)$")


@dataclass(frozen=True)
class Ledger(Records):
    """The ledger in the folder of one array.

    Parameters
    ----------
    array
        Folder of the ensemble variable.
    """

    array: Path

    @classmethod
    def within(cls, store: Path) -> Ledger | None:
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
            path.relative_to(store).as_posix(): list(checksum(path))
            for path in files
            if not any(path.is_relative_to(folder) for folder in own)
        }

    def foreign(self) -> list[str]:
        """Return the names of files in the folder of the store that xcvae did not write there."""
        store, known = self.array.parent, self.run().get("files", {})
        own = re.compile(rf"{re.escape(self.variable)}/(c/\d+/\d+/0/0|ledger/.+)")
        files = (path for path in store.rglob("*") if not path.is_dir() or path.is_symlink())
        names = (path.relative_to(store).as_posix() for path in files)
        return sorted(
            name for name in names
            if name not in known and not own.fullmatch(TEMPORARY.sub("", name))
            and not (TEMPORARY.search(name) and TEMPORARY.sub("", name) in known)
        )  # fmt: skip

    def run(self) -> dict[str, Any]:
        """Return what :meth:`start` was told, with a token of that start; empty if nothing was."""
        found = read_json(self.folder / "run.json") or {}
        return found if found.get("format") == FORMAT else {}

    def problem(self, name: str, size: int, sha256: str) -> str:
        """Say what is wrong with a file of the store; empty if it is as it was written."""
        try:
            there, found = checksum(self.array.parent / name)
        except OSError as error:
            return error.strerror or str(error)
        if there != size:
            return f"{there} bytes in place of {size}"
        return "" if found == sha256 else "its content has changed"

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


def checksum(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file, read piece by piece."""
    with path.open("rb", buffering=0) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


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


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object to a JSON file in one step."""
    write_text(path, json.dumps(content))


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: it is there as a whole or not at all."""
    # The name is its own: a worker that was given up may still be writing the same one.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

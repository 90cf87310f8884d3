"""What is recorded of an ensemble, wherever it lies: the run and its regions."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from xcvae.ensemble.regions import Counts, Region

__all__ = ["DONE", "FAILED", "FORMAT", "Entry", "Records", "done", "failed"]

FORMAT = "xcvae-ledger-1"
DONE, FAILED = "done", "failed"
HASHING_THREADS = 4

Entry = dict[str, Any]


def done(region: Region, file: str, content: bytes, counts: Counts) -> Entry:
    """Return the record of a region that is there.

    Parameters
    ----------
    region
        Which one.
    file
        Name of its chunk within the array.
    content
        Of the chunk.
    counts
        JSON types: what was counted when it was drawn.
    """
    return {
        "region": region.number,
        "state": DONE,
        "realizations": list(region.realizations),
        "samples": list(region.samples),
        "file": file,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "counts": counts,
    }


def failed(region: Region, said: str) -> Entry:
    """Return the record of a region that came to nothing, with its error."""
    return {"region": region.number, "state": FAILED, "error": said}


class Records(ABC):
    """What was written, region by region, and whether it still is what was written."""

    @property
    @abstractmethod
    def variable(self) -> str:
        """Name of the ensemble variable."""

    @property
    @abstractmethod
    def sealed(self) -> bool:
        """Whether all regions are done, and the attributes have their final values."""

    @abstractmethod
    def run(self) -> dict[str, Any]:
        """Return what was to be written, with a token of its beginning; empty if nothing was."""

    @abstractmethod
    def entries(self) -> dict[int, Entry]:
        """Return what is recorded, by number of the region."""

    @abstractmethod
    def problem(self, name: str, size: int, sha256: str) -> str:
        """Say what is wrong with a file of the store; empty if it is as it was written."""

    @abstractmethod
    def foreign(self) -> list[str]:
        """Return the names of files that would be lost with the store and are not its own."""

    def changed(self) -> dict[str, str]:
        """Say, by name, what is wrong with the files of metadata and coordinates."""
        known = self.run().get("files", {})
        said = {name: self.problem(name, size, sha256) for name, (size, sha256) in known.items()}
        return {name: text for name, text in said.items() if text}

    def intact(self) -> dict[int, Entry]:
        """Return the regions that are done and whose files are still as they were written."""
        there = {n: e for n, e in self.entries().items() if e.get("state") == DONE}
        damaged = self.damaged(there.values())
        return {number: entry for number, entry in there.items() if number not in damaged}

    def damaged(self, entries: Iterable[Entry]) -> dict[int, str]:
        """Say, by number of the region, what is wrong with the files of some entries."""
        entries = list(entries)
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            said = pool.map(self._damage, entries)
            return {e["region"]: text for e, text in zip(entries, said, strict=True) if text}

    def _damage(self, entry: Entry) -> str:
        name = f"{self.variable}/{entry['file']}"
        text = self.problem(name, entry["bytes"], entry["sha256"])
        return f"{entry['file']}: {text}" if text else ""

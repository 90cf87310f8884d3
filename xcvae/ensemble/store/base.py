"""A run, and what a place must offer so that a run can be written there and killed anywhere.

Two kinds of places are there: :mod:`xcvae.ensemble.store.local`, a plain Zarr store, and
:mod:`xcvae.ensemble.store.icechunk`, an Icechunk repository.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, explain
from xcvae.files import sha256

__all__ = [
    "DONE",
    "FAILED",
    "FORMAT",
    "EnsembleStore",
    "Entry",
    "Ledger",
    "Region",
    "RegionSource",
    "RegionStats",
    "RegionWriter",
    "Run",
    "StoreStatus",
    "StoreWriter",
    "done",
    "failed",
    "plan_chunks",
    "regions_of",
]


CHUNK_BYTES = 8_000_000

RegionStats = dict[str, Any]


@dataclass(frozen=True)
class Region:
    """One chunk: which realizations and which samples, by position."""

    number: int
    realizations: tuple[int, int]
    samples: tuple[int, int]

    @property
    def fields(self) -> int:
        """Number of maps."""
        return (self.realizations[1] - self.realizations[0]) * (self.samples[1] - self.samples[0])


class RegionSource(Protocol):
    """What can draw the values of a region, and says what it counted on the way (JSON types)."""

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Return float32 (realization, sample, y, x) and the counts of this region."""
        ...


def plan_chunks(
    chunks: Mapping[str, int] | None, *, sizes: Sequence[int], sample: str
) -> tuple[int, int]:
    """Choose realizations and samples per chunk: all members of as many samples as make 8 MB.

    Parameters
    ----------
    chunks
        Sizes to use for ``realization`` and the sample dimension instead.
    sizes
        Number of realizations, samples, rows and columns.
    sample
        Name of the sample dimension.

    Raises
    ------
    ConfigError
        A chunk size is not an integer >= 1, or of a dimension that is never cut.
    """
    members, samples, ny, nx = sizes
    fields = max(1, CHUNK_BYTES // (4 * ny * nx))
    planned = {"realization": min(members, fields)}
    planned[sample] = min(samples, max(1, fields // planned["realization"]))
    for dim, size in ({} if chunks is None else chunks).items():
        planned[dim] = _checked(dim, size, sample)
    return min(planned["realization"], members), min(planned[sample], samples)


def _checked(dim: str, size: object, sample: str) -> int:
    whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
    chunk = int(size) if whole else 0  # type: ignore[call-overload]
    if dim in ("realization", sample) and chunk >= 1:
        return chunk
    raise ConfigError(
        explain(
            f"chunks['{dim}']",
            expected=f"an integer >= 1 for 'realization' or '{sample}'",
            got=repr(size),
            remedy="Maps are never cut: leave their dimensions out.",
        )
    )


def regions_of(chunks: tuple[int, int], shape: Sequence[int]) -> Iterator[Region]:
    """Go through the regions of an ensemble of this shape, samples within realizations."""
    starts = product(range(0, shape[0], chunks[0]), range(0, shape[1], chunks[1]))
    for number, (r, s) in enumerate(starts):
        yield Region(
            number,
            realizations=(r, min(r + chunks[0], shape[0])),
            samples=(s, min(s + chunks[1], shape[1])),
        )


FORMAT = "xcvae-ledger-1"
DONE, FAILED = "done", "failed"
HASHING_THREADS = 4

Entry = dict[str, Any]


def done(region: Region, file: str, content: bytes, counts: RegionStats) -> Entry:
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
        "sha256": sha256(content),
        "counts": counts,
    }


def failed(region: Region, said: str) -> Entry:
    """Return the record of a region that came to nothing, with its error."""
    return {"region": region.number, "state": FAILED, "error": said}


class Ledger(ABC):
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
    def problem(self, name: str, size: int, digest: str) -> str:
        """Say what is wrong with a file of the store; empty if it is as it was written."""

    @abstractmethod
    def foreign(self) -> list[str]:
        """Return the names of files that would be lost with the store and are not its own."""

    def changed(self) -> dict[str, str]:
        """Say, by name, what is wrong with the files of metadata and coordinates."""
        known = self.run().get("files", {})
        said = {name: self.problem(name, size, digest) for name, (size, digest) in known.items()}
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


@dataclass(frozen=True)
class StoreStatus:
    """What is there under the name of an ensemble, or of the unfinished form of it.

    Parameters
    ----------
    name
        What messages call it.
    there
        Whether anything is.
    identity
        That of a finished ensemble of xcvae; None if it is none.
    records
        What is recorded of it, if anything is.
    source
        What xarray opens.
    """

    name: Path | str
    there: bool = False
    identity: dict[str, Any] | None = None
    records: Ledger | None = None
    source: Any = None

    @property
    def told(self) -> dict[str, Any]:
        """What is recorded of the run; empty if nothing is."""
        return {} if self.records is None else self.records.run()


class RegionWriter(Protocol):
    """Travels to whoever draws a region, and writes it."""

    def put(self, region: Region, values: np.ndarray, counts: RegionStats) -> tuple[int, Any]:
        """Write a region; its bytes, and what the writer must be handed."""
        ...

    def failed(self, region: Region, said: str) -> Any:
        """Record that a region came to nothing; returns what the writer must be handed."""
        ...


class StoreWriter(Protocol):
    """Writes the regions of one run; what it was handed is safe when its context ends."""

    @property
    def records(self) -> Ledger:
        """What is recorded so far."""
        ...

    def __enter__(self) -> StoreWriter: ...

    def __exit__(self, *raised: object) -> None: ...

    def keep(self, numbers: Mapping[int, Any]) -> None:
        """Believe no other entries than these, since the other regions are drawn again."""
        ...

    def pen(self) -> RegionWriter:
        """Return what the next task writes with."""
        ...

    def take(self, handed: Any) -> None:
        """Take over what a pen handed back."""
        ...

    def publish(self, attributes: Mapping[str, Any]) -> None:
        """Set the final attributes, and give the ensemble its name in one step."""
        ...


class EnsembleStore(Protocol):
    """Where an ensemble is written. Nothing has its name before all of it is there."""

    @property
    def name(self) -> Path | str:
        """What messages call it."""
        ...

    @property
    def stem(self) -> str:
        """What a catalog calls it by default."""
        ...

    @property
    def place(self) -> Path | None:
        """The local folder that it takes, if any."""
        ...

    @property
    def listed(self) -> Path | None:
        """The folder that a catalog can list, if it is one."""
        ...

    def finished(self) -> StoreStatus:
        """Look at what has its name."""
        ...

    def partial(self) -> StoreStatus:
        """Look at what is not finished."""
        ...

    def check_replaceable(self) -> None:
        """Refuse to replace anything that xcvae did not write.

        Raises
        ------
        OutputExistsError
            Something without a ledger of xcvae, or with files that the ledger does not know.
        """
        ...

    def is_clean(self) -> bool:
        """Whether no killed or living call has left anything."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold it for one call, and tidy up."""
        ...

    def temporary_path(self, what: str) -> Path | None:
        """Return a new name for a file that all workers see; None if there is no such folder."""
        ...

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> StoreWriter:
        """Write metadata, coordinates and what is to be written, all in one step."""
        ...

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> StoreWriter:
        """Make ready what was begun, or what is finished and to be repaired."""
        ...


@dataclass(frozen=True)
class Run:
    """An ensemble that is to be written: where, and what it is meant to hold.

    Parameters
    ----------
    target
        Where.
    variable
        Name of the ensemble variable.
    identity
        JSON types; two runs with the same identity write the same values.
    chunks
        Realizations and samples per chunk.
    made_with
        What decides on the last digits besides: versions of packages, and the device. A run that
        was begun goes on with the same only; a finished one does not care.
    notes
        JSON types that were found out for this run and are not part of its identity; those of a
        run that was begun are read with :func:`notes_of`.
    """

    target: EnsembleStore
    variable: str
    identity: Mapping[str, Any]
    chunks: tuple[int, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what a run that was begun must have in common with this one."""
        return {**self.identity, "chunks": list(self.chunks), **self.environment}

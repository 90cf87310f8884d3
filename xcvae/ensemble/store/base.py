"""The protocol of a store: regions, ledger, status, writer. It may be killed at any moment.

An ensemble is written region by region; a ledger says which regions are complete, and the ensemble
gets its name when all are. Two stores keep this protocol: :mod:`xcvae.ensemble.store.local`, a
Zarr store in a folder, and :mod:`xcvae.ensemble.store.icechunk`, an Icechunk repository.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, OutputExistsError, StoreError, check_flags
from xcvae.fields.cf import check_name
from xcvae.files import (
    NETCDF,
    Purpose,
    check_writable,
    expanded,
    is_url,
    local_path,
    locked,
    remove,
    sha256,
    stale_siblings,
)

if TYPE_CHECKING:
    from icechunk import Repository


CHUNK_BYTES = 8_000_000

RegionStats = dict[str, Any]
"""Statistics of one region in JSON types: what post-processing removed, members redrawn."""


@dataclass(frozen=True)
class Region:
    """Realizations and samples of one chunk, as half-open ranges of positions.

    Attributes
    ----------
    realizations, samples
        First position, and the one after the last.
    number
        Position in the order of :func:`regions_of`.
    """

    number: int
    realizations: tuple[int, int]
    samples: tuple[int, int]

    @property
    def fields(self) -> int:
        """Number of maps."""
        return (self.realizations[1] - self.realizations[0]) * (self.samples[1] - self.samples[0])


class RegionSource(Protocol):
    """Draws the values of a region; it is sent to the worker that draws."""

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Return float32 values (realization, sample, y, x) and the statistics of this region."""
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
    if chunks is not None:
        _check_chunks(chunks, sample)
        planned |= {dim: int(size) for dim, size in chunks.items()}
    return min(planned["realization"], members), min(planned[sample], samples)


def _check_chunks(chunks: object, sample: str) -> None:
    """Refuse what is no size by dimension, and dimensions that are never cut."""
    sizes: Mapping[Any, Any] = chunks if isinstance(chunks, Mapping) else {"": chunks}
    for dim, size in sizes.items():
        whole = isinstance(size, int | np.integer) and not isinstance(size, bool)
        known = dim in ("realization", sample)
        if not known or not whole or size < 1:
            raise ConfigError.of(
                f"chunks['{dim}']" if dim else "chunks",
                expected=f"an integer >= 1 for 'realization' or '{sample}', in a dict",
                got=repr(size) if known else repr(chunks),
                remedy=f"Give {{'realization': 8, '{sample}': 4}}, or leave it out. Maps are never "
                "cut: leave their dimensions out.",
            )


def regions_of(chunks: tuple[int, int], shape: Sequence[int]) -> Iterator[Region]:
    """Yield the regions of an ensemble of this shape, samples within realizations."""
    starts = product(range(0, shape[0], chunks[0]), range(0, shape[1], chunks[1]))
    for number, (r, s) in enumerate(starts):
        yield Region(
            number,
            realizations=(r, min(r + chunks[0], shape[0])),
            samples=(s, min(s + chunks[1], shape[1])),
        )


@dataclass(frozen=True)
class EnsembleSpec:
    """Content of the ensemble that a call requests.

    Attributes
    ----------
    variable, chunks
        Name of the ensemble variable, and realizations and samples per chunk.
    identity
        JSON types; two ensembles with the same identity have the same values.
    environment
        Versions of packages and the device, on which the last digits depend: an unfinished store
        is continued in the same environment only; a finished one is opened in any.
    notes
        JSON types that were computed for this ensemble and are no part of its identity, such as
        the spread that was solved for. A later call reads them with
        :func:`xcvae.ensemble.store.write.notes_of`.
    """

    variable: str
    identity: Mapping[str, Any]
    chunks: tuple[int, int]
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Models of older versions may have such a target: it must not lead out of the store.
        check_name(self.variable)

    def to_json(self) -> dict[str, Any]:
        """Return all that an unfinished store must have in common with this one."""
        return {**self.identity, "chunks": list(self.chunks), **self.environment}


FORMAT = "xcvae-ledger-1"
DONE, FAILED = "done", "failed"
HASHING_THREADS = 4

Entry = dict[str, Any]
"""Record of one region in JSON types, as :func:`done_entry` or :func:`failed_entry` returns it."""


NO_ENTRIES: Mapping[int, Entry] = MappingProxyType({})


def done_entry(region: Region, file: str, content: bytes, stats: RegionStats) -> Entry:
    """Return the entry of a region that is written.

    Parameters
    ----------
    region
        The region.
    file
        Name of its chunk within the array.
    content
        Bytes of the chunk.
    stats
        Statistics of the draw. ``calls``, the numbers of the calls that drew it, is recorded apart.
    """
    stats = dict(stats)
    calls = {"calls": stats.pop("calls")} if "calls" in stats else {}
    return {
        "region": region.number,
        "state": DONE,
        "realizations": list(region.realizations),
        "samples": list(region.samples),
        "file": file,
        "bytes": len(content),
        "sha256": sha256(content),
        "counts": stats,
        **calls,
    }


def failed_entry(region: Region, error: str) -> Entry:
    """Return the entry of a region that could not be drawn or written."""
    return {"region": region.number, "state": FAILED, "error": error}


class Ledger(ABC):
    """Record of what was written, region by region, with the SHA-256 of every file."""

    @property
    @abstractmethod
    def variable(self) -> str:
        """Name of the ensemble variable."""

    @property
    @abstractmethod
    def sealed(self) -> bool:
        """True if all regions are complete and the attributes have their final values."""

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return the description of the run that :meth:`EnsembleStore.begin` wrote.

        It has a token of its own, so that two runs under one name can be told apart; empty if the
        store has no ledger.
        """

    @abstractmethod
    def entries(self) -> dict[int, Entry]:
        """Return the entries by number of the region."""

    @abstractmethod
    def problem(self, name: str, size: int, digest: str) -> str:
        """Describe how a file differs from what was written; empty if it does not."""

    @abstractmethod
    def foreign(self) -> list[str]:
        """Return the names of files that xcvae did not write and that a replacement would lose."""

    def changed(self) -> dict[str, str]:
        """Describe, by name, how files of metadata and coordinates have changed."""
        known = self.metadata().get("files", {})
        found = {name: self.problem(name, size, digest) for name, (size, digest) in known.items()}
        return {name: text for name, text in found.items() if text}

    def intact(self) -> dict[int, Entry]:
        """Return the entries of the complete regions whose files have not changed."""
        done = {n: e for n, e in self.entries().items() if e.get("state") == DONE}
        damaged = self.damaged(done.values())
        return {number: entry for number, entry in done.items() if number not in damaged}

    def damaged(self, entries: Iterable[Entry]) -> dict[int, str]:
        """Describe, by number of the region, how the files of some entries have changed."""
        entries = list(entries)
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            found = pool.map(self._damage, entries)
            return {e["region"]: text for e, text in zip(entries, found, strict=True) if text}

    def _damage(self, entry: Entry) -> str:
        name = f"{self.variable}/{entry['file']}"
        text = self.problem(name, entry["bytes"], entry["sha256"])
        return f"{entry['file']}: {text}" if text else ""


@dataclass(frozen=True)
class StoredEnsemble:
    """Content found under the name of an ensemble, or under the name of its unfinished form.

    Attributes
    ----------
    name, exists
        Name for messages, and True if anything has this name.
    identity
        Identity of a complete ensemble of xcvae; None for anything else.
    ledger
        Its ledger, if it has one.
    source
        Argument for :func:`xarray.open_zarr`.
    """

    name: Path | str
    exists: bool = False
    identity: dict[str, Any] | None = None
    ledger: Ledger | None = None
    source: Any = None

    @property
    def metadata(self) -> dict[str, Any]:
        """Description of the run that wrote it; empty if it has no ledger."""
        return {} if self.ledger is None else self.ledger.metadata()


@dataclass(frozen=True)
class StoreStatus:
    """State of a store at one moment.

    Attributes
    ----------
    complete, partial
        The ensemble under its own name, and the unfinished one: a first version, a replacement, or
        a repair.
    is_clean
        Whether nothing is left of calls that were killed, or are running now.
    """

    complete: StoredEnsemble
    partial: StoredEnsemble
    is_clean: bool


class RegionWriter(Protocol):
    """Writes regions where they are drawn; it is sent to the worker with each task."""

    def write(self, region: Region, values: np.ndarray, stats: RegionStats) -> tuple[int, Any]:
        """Write a region; return its bytes and a receipt for :meth:`StoreWriter.collect`.

        Raises
        ------
        OSError
            It cannot be written; the ledger has no entry of it.
        """
        ...

    def record_failure(self, region: Region, error: str) -> Any:
        """Note that a region could not be drawn or written; return a receipt as above."""
        ...


class StoreWriter(Protocol):
    """Writes one ensemble, in the calling process; its context ends when all tasks have ended.

    Receipts that were collected are safe on disk when the context ends, also after an error.
    """

    @property
    def ledger(self) -> Ledger:
        """The ledger as it is now."""
        ...

    def __enter__(self) -> StoreWriter: ...

    def __exit__(self, *raised: object) -> None: ...

    def prune(self, entries: Mapping[int, Entry]) -> None:
        """Drop all entries but these: the other regions are drawn again."""
        ...

    def region_writer(self) -> RegionWriter:
        """Return the writer for the next task."""
        ...

    def collect(self, receipt: Any) -> None:
        """Take the receipt of a region writer."""
        ...

    def finalize(self, attributes: Mapping[str, Any]) -> None:
        """Set the final attributes, wait for the disk, and give the ensemble its name.

        The name appears in one step. In a folder, an older ensemble is renamed first; readers find
        the new one also between the two renames.
        """
        ...


# Imported by name, and only when a call needs them: icechunk is optional.
_LOCAL = "xcvae.ensemble.store.local:LocalStore"
_ICECHUNK = "xcvae.ensemble.store.icechunk:IcechunkStore"
_PREFIX = "icechunk:"


class EnsembleStore(ABC):
    """Location where one ensemble is written and read; its name appears when it is complete."""

    @staticmethod
    def of(store: str | os.PathLike[str] | Repository | EnsembleStore) -> EnsembleStore:
        """Return the store of a path, of ``"icechunk:PATH"``, or of an Icechunk repository.

        Raises
        ------
        ConfigError
            The argument is none of these, or icechunk is not installed.
        """
        if isinstance(store, EnsembleStore):
            return store
        if store is None:
            raise ConfigError.of(
                "store",
                expected="the path of a store",
                got="None",
                remedy="Give a folder such as 'ens.zarr', or icechunk:PATH.",
            )
        text = os.fspath(store) if isinstance(store, str | os.PathLike) else ""
        kind, location = _ICECHUNK, cast("Path | Repository | None", store)
        if text.startswith(_PREFIX):
            location = _icechunk_folder(text)
        elif type(store).__module__.partition(".")[0] != "icechunk":
            # Stores of others are read in folders that only they may write to.
            kind, location = _LOCAL, local_path("store", store, writable=False)
        try:
            found: EnsembleStore = resolve_name(kind)(location)
        except ModuleNotFoundError as error:
            if error.name != "icechunk":
                raise
            expected = "icechunk to be installed, for an Icechunk repository"
            remedy = 'pip install "xcvae[icechunk]", or give the path of a Zarr store.'
            raise ConfigError.of("store", expected=expected, got=error, remedy=remedy) from error
        return found

    @property
    @abstractmethod
    def name(self) -> Path | str:
        """Name for messages."""

    @property
    @abstractmethod
    def stem(self) -> str:
        """Default name of its entry in a catalog."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Local folder of the store; None if it lies elsewhere."""

    @property
    @abstractmethod
    def catalog_path(self) -> Path | None:
        """Folder that a catalog can list; None if intake cannot open this kind of store."""

    def check_writable(self) -> None:
        """Refuse a local folder that cannot be written to, before hours are spent on its content.

        Raises
        ------
        ConfigError
            It cannot.
        """
        if self.folder is not None:
            check_writable("store", self.folder)

    @abstractmethod
    def status(self) -> StoreStatus:
        """Look at the store; no lock is needed."""

    @abstractmethod
    def check_replaceable(self) -> None:
        """Refuse to replace anything that xcvae did not write.

        Raises
        ------
        OutputExistsError
            Something without a ledger of xcvae, or with files that the ledger does not list.
        """

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing, and remove what killed ones left behind.

        Raises
        ------
        StoreError
            Another process is writing.
        """

    @abstractmethod
    def temporary_path(self, purpose: Purpose) -> Path | None:
        """Return a new name for a file that all workers see; None if no such folder is known."""

    @abstractmethod
    def begin(
        self,
        spec: EnsembleSpec,
        template: xr.Dataset,
        metadata: Mapping[str, Any],
        entries: Mapping[int, Entry] = NO_ENTRIES,
    ) -> StoreWriter:
        """Write metadata and coordinates of a new ensemble in one step, no region yet.

        Parameters
        ----------
        spec
            The ensemble that is to be written.
        template
            Coordinates and attributes, and the variable with the right shape: its values do not
            matter.
        metadata
            Description of the run, for the ledger.
        entries
            Regions of the complete ensemble that the new one has too: its chunks are taken over.
        """

    @abstractmethod
    def reopen(self, spec: EnsembleSpec, template: xr.Dataset, *, damaged: bool) -> StoreWriter:
        """Continue the unfinished ensemble, or with ``damaged`` turn the complete one into it.

        Metadata and coordinates that have changed are written again; regions are not looked at.
        """

    def open(self, *, incomplete: bool = False) -> xr.Dataset:
        """Open the ensemble lazily; see :func:`open_store`."""
        status = self.status()
        found = status.complete
        if found.identity is None:
            unfinished = bool(status.partial.metadata)
            if not (incomplete and unfinished):
                got, remedy = "no such ensemble", "Check the path."
                if unfinished:
                    got = "an unfinished one"
                    remedy = (
                        "Repeat the call of sample: it draws what is missing. incomplete=True "
                        "opens the regions that are written."
                    )
                expected = "a finished ensemble of xcvae"
                name = f"store '{self.name}'"
                raise StoreError.of(name, expected=expected, got=got, remedy=remedy)
            found = status.partial
        opened: xr.Dataset = xr.open_zarr(found.source, consolidated=False, chunks={})
        # Coordinates are small and needed for every selection: only the members stay lazy.
        return opened.assign_coords({n: coord.compute() for n, coord in opened.coords.items()})


def _icechunk_folder(text: str) -> Path:
    """Return the folder of ``"icechunk:PATH"``, absolute."""
    folder = text.removeprefix(_PREFIX)
    if not folder or is_url(folder):
        expected = f"{_PREFIX} and the path of a local folder"
        remedy = (
            "For remote storage, open the repository with icechunk and give the "
            "icechunk.Repository as store."
        )
        raise ConfigError.of("store", expected=expected, got=repr(text), remedy=remedy)
    return expanded(folder).absolute()


def open_store(
    store: str | os.PathLike[str] | Repository, *, incomplete: bool = False
) -> xr.Dataset:
    """Open a finished ensemble lazily, chunked as it is stored.

    Parameters
    ----------
    store
        Path of a Zarr store, ``"icechunk:PATH"``, or an Icechunk repository.
    incomplete
        Open an unfinished ensemble too; regions that are not drawn yet are NaN.

    Raises
    ------
    StoreError
        There is no such store, it is still being written, or it is no ensemble of xcvae.
    """
    check_flags(incomplete=incomplete)
    return EnsembleStore.of(store).open(incomplete=incomplete)


@contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Keep other processes from writing the store in a folder; remove what killed ones left.

    Raises
    ------
    StoreError
        Another process is writing it.
    """
    expected, got = "no other process that writes it", "one that does"
    remedy = "Wait until it ends, or choose another name."
    busy = StoreError.of(f"store '{path}'", expected=expected, got=got, remedy=remedy)
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, timeout=0, busy=busy):
        for old in stale_siblings(path):
            remove(old)
        yield


def refuse_netcdf(folder: Path, instead: str) -> None:
    """Refuse a new store with the name of a NetCDF file, and name what writes one.

    Raises
    ------
    ConfigError
        The name ends as that of a NetCDF file.
    """
    if folder.suffix.lower() in NETCDF:
        raise ConfigError.of(
            "store",
            expected="the name of a Zarr store, which is a folder",
            got=str(folder),
            remedy=f"Name it {folder.stem}.zarr; for NetCDF: {instead}.",
        )


def unwritable(name: Path | str, error: Exception | str, remedy: str) -> StoreError:
    """Return the error of a store that cannot be written to."""
    expected = "a location that can be written to"
    got = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
    return StoreError.of(f"store '{name}'", expected=expected, got=got, remedy=remedy)


def not_replaceable(name: Path | str, reason: str) -> OutputExistsError:
    """Return the error of something that xcvae did not write and must not replace."""
    expected = "an ensemble that xcvae wrote, or nothing"
    remedy = "Choose another name, or remove it yourself: xcvae only replaces what it wrote."
    return OutputExistsError.of(f"store '{name}'", expected=expected, got=reason, remedy=remedy)


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe each key in which two identities differ.

    Examples
    --------
    >>> differences({"seed": 1, "mode": "prior"}, {"seed": 2, "mode": "prior"})
    ['seed (stored: 1, requested: 2)']
    """
    keys = [*requested, *(key for key in stored if key not in requested)]
    return [
        f"{key} (stored: {stored.get(key)!r}, requested: {requested.get(key)!r})"
        for key in keys
        if stored.get(key) != requested.get(key)
    ]

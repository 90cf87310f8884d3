"""A run, and what a place must offer so that a run can be written there and killed anywhere.

Two kinds of places are there: :mod:`xcvae.ensemble.folder`, a plain Zarr store, and
:mod:`xcvae.ensemble.versioned`, an Icechunk repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr

from xcvae.ensemble.records import Records
from xcvae.ensemble.regions import Counts, Region

__all__ = ["Held", "Pen", "Run", "Target", "Writer"]


@dataclass(frozen=True)
class Held:
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
    records: Records | None = None
    source: Any = None

    @property
    def told(self) -> dict[str, Any]:
        """What is recorded of the run; empty if nothing is."""
        return {} if self.records is None else self.records.run()


class Pen(Protocol):
    """Travels to whoever draws a region, and writes it."""

    def put(self, region: Region, values: np.ndarray, counts: Counts) -> tuple[int, Any]:
        """Write a region; its bytes, and what the writer must be handed."""
        ...

    def failed(self, region: Region, said: str) -> Any:
        """Record that a region came to nothing; returns what the writer must be handed."""
        ...


class Writer(Protocol):
    """Writes the regions of one run; what it was handed is safe when its context ends."""

    @property
    def records(self) -> Records:
        """What is recorded so far."""
        ...

    def __enter__(self) -> Writer: ...

    def __exit__(self, *raised: object) -> None: ...

    def keep(self, numbers: Mapping[int, Any]) -> None:
        """Believe no other entries than these, since the other regions are drawn again."""
        ...

    def pen(self) -> Pen:
        """Return what the next task writes with."""
        ...

    def take(self, handed: Any) -> None:
        """Take over what a pen handed back."""
        ...

    def publish(self, attributes: Mapping[str, Any]) -> None:
        """Set the final attributes, and give the ensemble its name in one step."""
        ...


class Target(Protocol):
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

    def finished(self) -> Held:
        """Look at what has its name."""
        ...

    def begun(self) -> Held:
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

    def tidy(self) -> bool:
        """Whether no killed or living call has left anything."""
        ...

    def locked(self) -> AbstractContextManager[None]:
        """Hold it for one call, and tidy up."""
        ...

    def aside(self, what: str) -> Path | None:
        """Return a new name for a file that all workers see; None if there is no such folder."""
        ...

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> Writer:
        """Write metadata, coordinates and what is to be written, all in one step."""
        ...

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> Writer:
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

    target: Target
    variable: str
    identity: Mapping[str, Any]
    chunks: tuple[int, int]
    made_with: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what a run that was begun must have in common with this one."""
        return {**self.identity, "chunks": list(self.chunks), **self.made_with}

"""Regions on their way into an Icechunk repository: forks come back, are merged and committed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble import keys
from xcvae.ensemble.chunks import encoded
from xcvae.ensemble.commits import Commits, metadata_of
from xcvae.ensemble.icechunks import IcechunkError, Repository, as_os_error, explained
from xcvae.ensemble.records import Entry, done, failed
from xcvae.ensemble.regions import Counts, Region
from xcvae.ensemble.target import Run
from xcvae.errors import StoreError

__all__ = ["MAIN", "UNFINISHED", "Committer", "ForkPen"]

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

    def put(self, region: Region, values: np.ndarray, counts: Counts) -> tuple[int, Any]:
        """Write a region; it counts once what is handed back is committed."""
        file, content = encoded(region, self.chunks, values)
        try:
            fork = pickle.loads(self.fork)
            keys.put(fork.store, f"{self.variable}/{file}", content)
        except IcechunkError as error:
            raise as_os_error(error) from error
        return len(content), (done(region, file, content, counts), pickle.dumps(fork))

    def failed(self, region: Region, said: str) -> Any:
        """Return the record of a region that came to nothing."""
        return failed(region, said), None


class Committer:
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

    def mended(self, template: xr.Dataset, what: str, *, new: bool = False) -> Committer:
        """Commit metadata and coordinates, in place of all that is there or over it."""
        variable = self.run.variable
        session = self.repository.writable_session(UNFINISHED)
        if new:
            session.store.sync_clear()
        marked = template.assign_attrs({STATE: "unfinished"})
        keys.copy_template(marked, variable, self.run.chunks, session.store)
        self.told["files"] = keys.checksums(session.store, variable)
        session.commit(f"xcvae: '{variable}' {what}", metadata_of(self.told, []))
        self._reset()
        return self

    def __enter__(self) -> Committer:
        return self

    def __exit__(self, *raised: object) -> None:
        # After an error this is worth a try, and the error is what is told.
        with suppress(StoreError) if raised[0] else nullcontext():
            self._commit()

    @property
    def records(self) -> Commits:
        """What the commits say."""
        return Commits(self.repository, self.repository.lookup_branch(UNFINISHED))

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
                files = keys.checksums(session.store, variable)
                told = {**self.told, "state": "finished", "files": files}
                session.commit(f"xcvae: '{variable}' is finished", metadata_of(told, []))
            tip = repository.lookup_branch(UNFINISHED)
            if self.local and hasattr(os, "sync"):
                os.sync()
            repository.reset_branch(MAIN, tip, from_snapshot_id=self.base)
            repository.delete_branch(UNFINISHED)

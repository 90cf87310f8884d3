"""An ensemble in an Icechunk repository.

Regions are committed some dozens at a time, each commit with the records of its own regions in its
metadata, so that whatever is killed, the last commit agrees with itself. They go to the branch
``xcvae-unfinished``; when all regions are there, ``main`` moves to its end in one step. Every task
writes into a fork of a session, which comes back and is merged where the run was called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import xarray as xr

from xcvae.ensemble import keys
from xcvae.ensemble.beside import aside, left_behind, locked
from xcvae.ensemble.commits import Commits
from xcvae.ensemble.committing import MAIN, UNFINISHED, Committer
from xcvae.ensemble.icechunks import (
    Repository,
    conflict,
    create,
    explained,
    leads_to,
    open_at,
)
from xcvae.ensemble.target import Held, Run
from xcvae.ensemble.template import identity_in
from xcvae.errors import OutputExistsError, StoreError, explain

__all__ = ["Versioned"]


class Versioned:
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

    def finished(self) -> Held:
        """Look at the branch main."""
        repository = self.repository
        if repository is None:
            return Held(self.name, self._occupied())
        commits = Commits(repository, repository.lookup_branch(MAIN))
        newest = next(iter(repository.ancestry(snapshot_id=commits.tip)))
        # The first commit of a repository is its own, and empty.
        if newest.parent_id is None:
            return Held(self.name)
        group = keys.get(commits.store, "zarr.json") or b""
        return Held(self.name, True, identity_in(group), commits, commits.store)

    def begun(self) -> Held:
        """Look at the branch of what is not finished."""
        name, repository = f"{self.name}, branch {UNFINISHED}", self.repository
        if repository is None or UNFINISHED not in repository.list_branches():
            return Held(name)
        commits = Commits(repository, repository.lookup_branch(UNFINISHED))
        if leads_to(repository, commits.tip, MAIN):
            return Held(name)  # killed before its first commit, or after its last
        return Held(name, True, None, commits, commits.store)

    def check_replaceable(self) -> None:
        """Refuse to replace the content of branches that xcvae did not write."""
        if self.repository is None:
            return  # what is at its path is refused when the repository is made
        for held in (self.finished(), self.begun()):
            if held.there and not held.told:
                raise OutputExistsError(
                    explain(
                        f"store '{held.name}'",
                        expected="an ensemble that xcvae wrote, or nothing",
                        got="something without records of xcvae",
                        remedy="Choose another name: xcvae only replaces what it wrote.",
                    )
                )

    def tidy(self) -> bool:
        """Whether no killed or living call has left anything."""
        repository = self.repository
        left = repository is not None and UNFINISHED in repository.list_branches()
        return not left and (self.path is None or not left_behind(self.path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold its folder for one call; elsewhere, who commits second is refused."""
        with nullcontext() if self.path is None else locked(self.path):
            repository = self.repository
            if repository is not None and not self.tidy() and not self.begun().there:
                repository.delete_branch(UNFINISHED)
            yield

    def aside(self, what: str) -> Path | None:
        """Return a new name beside its folder."""
        return None if self.path is None else aside(self.path, what)

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> Committer:
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

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> Committer:
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
            committer = self._committer(repository, run, self.begun().told)
            changed = committer.records.changed() and not committer.records.sealed
            return committer.mended(template, "has its metadata again") if changed else committer

    def _committer(self, repository: Repository, run: Run, told: Mapping[str, Any]) -> Committer:
        return Committer(repository, run, told, name=self.name, local=self.path is not None)

"""A run that writes a store: what it is, what is there of it, and who is at it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from xcvae.ensemble.identity import differences
from xcvae.ensemble.ledger import Ledger, read_json
from xcvae.errors import OutputExistsError, StoreError, explain

__all__ = [
    "Resume",
    "Run",
    "State",
    "find",
    "identity_of",
    "is_settled",
    "locked",
    "notes_of",
    "remove",
]

ASIDE = ("new-", "old-", "model-")
"""How files and folders beside a store are called that a killed call may leave behind."""

Resume = bool | Literal["restart", "repair"]
State = Literal["finished", "begun", "new", "damaged"]


@dataclass(frozen=True)
class Run:
    """A store that is to be written, and what it is meant to hold.

    Parameters
    ----------
    path
        Name of the finished store.
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

    path: Path
    variable: str
    identity: Mapping[str, Any]
    chunks: tuple[int, int]
    made_with: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def working(self) -> Path:
        """The store while it is written."""
        return self.path.with_name(self.path.name + ".partial")

    @property
    def ledger(self) -> Ledger:
        """The ledger of the store while it is written."""
        return Ledger(self.working / self.variable)

    def to_json(self) -> dict[str, Any]:
        """Return what a run that was begun must have in common with this one."""
        return {**self.identity, "chunks": list(self.chunks), **self.made_with}

    def clear_temporary(self) -> None:
        """Delete what was being written when a run was killed: halves of chunks and of markers."""
        for ending in ("partial", "tmp"):
            for path in self.working.rglob(f"*.{ending}"):
                path.unlink(missing_ok=True)

    def aside(self, what: str) -> Path:
        """Return a new name beside the store, for what is there during one call."""
        return self.path.with_name(f".{self.path.name}.{what}-{uuid4().hex[:12]}")


def _left_behind(path: Path) -> list[Path]:
    """What calls left beside a store that were killed, or are at it now."""
    beside = path.parent.glob(f".{escape(path.name)}.*-????????????")
    return [p for p in beside if p.name.removeprefix(f".{path.name}.").startswith(ASIDE)]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a store for one call; left-overs of killed ones are cleared away.

    Raises
    ------
    StoreError
        Another process is at it.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The lock goes with the process that holds it, however that ends.
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
            for old in _left_behind(path):
                remove(old)
            _remove_strays(path.with_name(f"{path.name}.partial"))
            yield
    except Timeout as error:
        raise StoreError(
            explain(
                f"store '{path}'",
                expected="no other process that writes it",
                got="one that does",
                remedy="Wait for it to end, or choose another name.",
            )
        ) from error


def _remove_strays(working: Path) -> None:
    """Delete chunks that a worker wrote after its run was given up and the folder was gone."""
    if not working.is_dir() or (working / "zarr.json").exists():
        return
    # Chunks and nothing else: whatever has a ledger or other files is left alone.
    files = [path.relative_to(working).parts for path in working.rglob("*") if path.is_file()]
    if all(len(parts) > 2 and parts[1] == "c" for parts in files):
        remove(working)


def is_settled(run: Run, resume: Resume) -> bool:
    """Whether the same ensemble is there, finished, and nothing else is to be done or tidied.

    It can be said without the lock, so that any number of processes open a store at a time.
    """
    there = identity_of(run.path)
    if resume is not True or there is None or differences(there, run.identity):
        return False
    return not run.working.exists() and not _left_behind(run.path)


def find(run: Run, resume: Resume) -> State:
    """Say what is already there under the name of a run.

    Returns
    -------
    str
        ``"finished"``: the same ensemble, to be opened. ``"begun"``: a part of the same ensemble,
        to be continued. ``"new"``: nothing, or with ``resume="restart"`` something to replace.
        ``"damaged"``: with ``resume="repair"``, the same ensemble, of which files have changed.

    Raises
    ------
    OutputExistsError
        Something else is there, or ``resume=False`` and anything is there.
    """
    begun = _begun(run)
    if resume and begun.get("replaces") and not differences(begun["run"], run.to_json()):
        # The one to be replaced keeps its name until the last step.
        return "begun"
    if resume == "restart":
        return "new"
    if resume == "repair" and run.path.exists():
        return _repairable(run)
    for path, content, wanted in (
        (run.path, identity_of(run.path), dict(run.identity)),
        (run.working, begun.get("run"), run.to_json()),
    ):
        if not path.exists():
            continue
        differing = ["no xcvae ensemble"] if content is None else differences(content, wanted)
        if differing or not resume:
            raise _taken(path, differing, resume)
        return "finished" if path == run.path else "begun"
    return "new"


def _repairable(run: Run) -> State:
    ledger = Ledger.within(run.path)
    told = {} if ledger is None else ledger.run()
    if ledger is None or not told:
        raise _taken(run.path, ["no xcvae ensemble"], resume=True)
    # More than its identity: what is drawn again must have the last digits of the rest.
    differing = differences(told["run"], run.to_json())
    if differing:
        raise _taken(run.path, differing, resume=True)
    count = told.get("regions", len(ledger.entries()))
    if len(ledger.intact()) == count and not ledger.changed():
        return "finished"
    if run.working.exists():
        raise _taken(run.working, ["a replacement with other settings"], resume=True)
    return "damaged"


def _taken(path: Path, differing: list[str], resume: Resume) -> OutputExistsError:
    return OutputExistsError(
        explain(
            f"store '{path}'",
            expected="nothing there, or the same ensemble" if resume else "nothing there",
            got="; ".join(differing) or "the same ensemble, and resume=False",
            remedy='Choose another name, or replace what is there with resume="restart".',
        )
    )


def _begun(run: Run) -> dict[str, Any]:
    return _told(run.working)


def _told(store: Path) -> dict[str, Any]:
    # Under whatever name its variable goes: another one is a difference to be told.
    ledger = Ledger.within(store)
    return {} if ledger is None else ledger.run()


def notes_of(run: Run, state: State) -> dict[str, Any]:
    """Return the notes of a run that was begun or is to be repaired; empty for a new one."""
    where = {"begun": run.working, "damaged": run.path}.get(state)
    notes = _told(where).get("notes") if where else None
    return notes if isinstance(notes, dict) else {}


def identity_of(path: Path) -> dict[str, Any] | None:
    """Read the identity out of a finished store; None if it is none of ours, or not finished."""
    ledger = Ledger.within(path)
    group = read_json(path / "zarr.json") or {}
    try:
        identity = json.loads(group["attributes"]["xcvae"])["identity"]
    except (KeyError, TypeError, ValueError):
        return None
    finished = ledger is None or ledger.sealed
    return identity if finished and isinstance(identity, dict) else None


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

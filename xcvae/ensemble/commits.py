"""What the commits of an Icechunk repository record: each of them the regions it brought.

Read without importing icechunk, by whatever has opened the repository.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from xcvae.ensemble import keys
from xcvae.ensemble.records import DONE, FORMAT, Entry, Records

__all__ = ["Commits", "in_words", "metadata_of"]

OWN = "xcvae"


class _History(Protocol):
    def ancestry(self, *, snapshot_id: str) -> Iterable[Any]: ...

    def readonly_session(self, *, snapshot_id: str) -> Any: ...


def metadata_of(told: dict[str, Any], entries: list[Entry]) -> dict[str, Any]:
    """Return what a commit says of its run and of the regions that it brings.

    The run is in every commit: whoever expires old ones loses the records of some regions, which
    are drawn again if need be, and nothing else.
    """
    return {OWN: {**told, "format": FORMAT, "entries": entries}}


@dataclass(frozen=True)
class Commits(Records):
    """The commits of a run, from one of them backwards.

    Parameters
    ----------
    repository
        Has them.
    tip
        The last of them.
    """

    repository: _History
    tip: str

    @cached_property
    def _own(self) -> list[dict[str, Any]]:
        """What those of the last run said, newest first; others may lie between them."""
        own: list[dict[str, Any]] = []
        for commit in self.repository.ancestry(snapshot_id=self.tip):
            told = commit.metadata.get(OWN)
            if not isinstance(told, dict) or told.get("format") != FORMAT:
                continue
            if own and told["token"] != own[0]["token"]:
                break
            own.append(told)
        return own

    @cached_property
    def store(self) -> Any:
        """What Zarr reads."""
        return self.repository.readonly_session(snapshot_id=self.tip).store

    @property
    def variable(self) -> str:
        """Name of the ensemble variable."""
        return str(self.run()["variable"])

    @property
    def sealed(self) -> bool:
        """Whether all regions are done, and the attributes have their final values."""
        return self.run().get("state") == "finished"

    def run(self) -> dict[str, Any]:
        """Return what was to be written, with a token of its beginning; empty if nothing was."""
        return {k: v for k, v in self._own[0].items() if k != "entries"} if self._own else {}

    def entries(self) -> dict[int, Entry]:
        """Return what is recorded, by number of the region."""
        found: dict[int, Entry] = {}
        for entry in (entry for told in reversed(self._own) for entry in told["entries"]):
            if entry["state"] == DONE or entry["region"] not in found:
                found[entry["region"]] = entry
        return found

    def foreign(self) -> list[str]:
        """Return nothing: earlier commits keep everything that a new one leaves out."""
        return []

    def problem(self, name: str, size: int, sha256: str) -> str:
        """Say what is wrong with a key of the store; empty if it is as it was written."""
        try:
            content = keys.get(self.store, name)
        except Exception as error:  # noqa: BLE001  of any kind: it cannot be read
            return in_words(error)
        if content is None:
            return "not there"
        if len(content) != size:
            return f"{len(content)} bytes in place of {size}"
        return "" if hashlib.sha256(content).hexdigest() == sha256 else "its content has changed"


def in_words(error: Exception) -> str:
    """Return the cause at the end of one of icechunk's messages, which go over many lines."""
    lines = [line.strip(" |`->x") for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line), type(error).__name__)

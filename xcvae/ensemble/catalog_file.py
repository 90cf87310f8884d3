"""The file of a catalog: its lock, its replacement in one step, and what may be written to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import xarray as xr
import yaml

from xcvae.errors import CatalogError, explain

__all__ = ["forget", "headline", "locked", "refuse_used", "replace", "url_of"]

LOCK_SECONDS = 120.0
# What intake adds on opening; written back, it would pin the catalog to the folder it was read in.
OPENED = ("CATALOG_DIR", "CATALOG_PATH", "STORAGE_OPTIONS")


def url_of(catalog: Path, listed: str | os.PathLike[str]) -> str:
    """Name a store or another catalog relative to this one.

    Raises
    ------
    CatalogError
        There are braces in the path.
    """
    relative = Path(os.path.relpath(Path(listed).resolve(), catalog.resolve().parent)).as_posix()
    if "{" in relative or "}" in relative:
        raise CatalogError(
            explain(
                f"store '{listed}'",
                expected="a path without braces",
                got=repr(relative),
                remedy="intake reads braces in paths as parameters: rename the folder.",
            )
        )
    return "{CATALOG_DIR}/" + relative


def refuse_used(entries: Any, catalog: Path, name: str, url: str, *, overwrite: bool) -> None:
    """Refuse a name that intake would misread, or that stands for something else already.

    Raises
    ------
    CatalogError
        Says what it stands for.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise CatalogError(
            explain(
                "name",
                expected="letters, digits, '_', '-' or '.'",
                got=repr(name),
                remedy="Choose a name such as 'prior64'.",
            )
        )
    if overwrite or (name not in entries.aliases and name not in entries.entries):
        return
    used = [entries.data[token].kwargs.get("url") for token in _data_of(entries, name)]
    if used != [url]:
        raise CatalogError(
            explain(
                f"name '{name}' in {catalog}",
                expected="a name that is not used yet",
                got=f"an entry for {', '.join(map(str, used)) or 'other data'}",
                remedy="Choose another name or catalog, or overwrite the entry explicitly.",
            )
        )


def forget(entries: Any, name: str) -> None:
    """Take an entry out, and the data descriptions that no other entry reads."""
    tokens = set(_data_of(entries, name))
    if name in entries.aliases or name in entries.entries:
        del entries[name]
    kept = {token for other in entries.entries for token in _data_of(entries, other)}
    for token in tokens - kept:
        del entries.data[token]


def headline(card: xr.Dataset) -> dict[str, float]:
    """Return the scores of xcvae in a scorecard, without intervals.

    Raises
    ------
    CatalogError
        There are none, or they are by groups.
    """
    own = card.sel(source="xcvae") if "xcvae" in card.get("source", ()) else card
    scores = {n: da for n, da in own.data_vars.items() if da.ndim == 0 and "better" in da.attrs}
    if not scores:
        raise CatalogError(
            explain(
                "card",
                expected="a scorecard with the source 'xcvae', not by groups",
                got=f"variables with the dims {dict(own.sizes)}",
                remedy="Give what xcvae.evaluate(ds, ensemble) returns.",
            )
        )
    return {str(name): round(float(da), 6) for name, da in scores.items()}


def _data_of(entries: Any, name: str) -> list[str]:
    """Return the tokens of the data descriptions that an entry reads."""
    token = entries.aliases.get(name, name)
    text = str(entries.entries[token].kwargs) if token in entries.entries else ""
    return [found for found in re.findall(r"data\(([^)]+)\)", text) if found in entries.data]


def replace(entries: Any, path: Path) -> None:
    """Replace the file in one step: a reader sees the old catalog or the new one, never half."""
    content = entries.to_dict()
    content["user_parameters"] = {
        key: value for key, value in content["user_parameters"].items() if key not in OPENED
    }
    # The lock is held: what other processes left behind, they left when they were killed.
    for stale in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            yaml.safe_dump(content, stream, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the catalog for one change; without a lock, concurrent changes lose entries.

    Raises
    ------
    CatalogError
        Another process holds it for too long.
    """
    from filelock import FileLock, Timeout

    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=LOCK_SECONDS):
            yield
    except Timeout as error:
        raise CatalogError(
            explain(
                f"catalog '{path}'",
                expected=f"the lock {lock} within {LOCK_SECONDS:g} s",
                got="a lock held by another process",
                remedy="Wait for it to end, or delete the lock if no such process runs.",
            )
        ) from error

"""What lies beside a store: its lock, and what comes and goes with a call."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4

from xcvae.errors import StoreError, explain

__all__ = ["aside", "left_behind", "locked", "remove"]


def aside(path: Path, what: str) -> Path:
    """Return a new name beside a store, for what is there during one call."""
    return path.with_name(f".{path.name}.{what}-{uuid4().hex[:12]}")


def left_behind(path: Path) -> list[Path]:
    """Return what calls left beside a store that were killed, or are at it now."""
    own = re.compile(rf"\.{re.escape(path.name)}\.(new|old|model)-[0-9a-f]{{12}}")
    beside = path.parent.glob(f".{escape(path.name)}.*-????????????")
    return [p for p in beside if own.fullmatch(p.name)]


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
            for old in left_behind(path):
                remove(old)
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


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)

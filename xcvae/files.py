"""Files on disk: written in one step, locked, and identified by their SHA-256.

Every file that xcvae writes goes through :func:`atomic_path`: readers see the old content or the
new one, and a process may be killed at any moment. What such a process leaves behind has a name
that :func:`original_name` recognises, so that nothing else is ever cleared away.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

__all__ = [
    "atomic_path",
    "file_sha256",
    "hidden_sibling",
    "is_taken",
    "locked",
    "original_name",
    "remove_stale",
    "sha256",
    "write_bytes",
    "write_json",
    "write_text",
]

# Names of unfinished files: ours, those of earlier versions of xcvae, and those of Zarr.
_TEMPORARY = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}\.(tmp|partial)")


def original_name(name: str) -> str | None:
    """Return the name of the file that a temporary file was to become; None for other files.

    Examples
    --------
    >>> original_name("run.json.0123456789abcdef0123456789abcdef.tmp")
    'run.json'
    >>> original_name("notes.tmp") is None
    True
    """
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else found["name"]


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Give a temporary name to write to; the file takes its own name when the context ends.

    Parameters
    ----------
    path
        Name of the complete file.
    sync
        Wait until the content is on the disk before the file is renamed, and until the renaming
        is: the file then survives a loss of power. For files that cannot be made again cheaply.

    Raises
    ------
    OSError
        The file cannot be written. Nothing is left behind, and an older file is untouched.
    """
    # A random name: a worker that was given up may still be writing the same file.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield temporary
        if sync:
            _sync(temporary)
        temporary.replace(path)
        if sync:
            with suppress(OSError):  # some file systems cannot do this for a folder
                _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes, *, sync: bool = False) -> None:
    """Write a file in one step; see :func:`atomic_path`."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str, *, sync: bool = False) -> None:
    """Write a text file (UTF-8) in one step; see :func:`atomic_path`."""
    write_bytes(path, text.encode(), sync=sync)


def write_json(path: Path, content: object, *, indent: int | None = None) -> None:
    """Write JSON types to a file in one step; see :func:`atomic_path`."""
    write_text(path, json.dumps(content, indent=indent))


def remove_stale(path: Path) -> None:
    """Delete the temporary files of one file, left behind by processes that were killed.

    The caller holds the lock of the file: nobody else is writing it.
    """
    for sibling in path.parent.glob("*.tmp"):
        if original_name(sibling.name) == path.name:
            sibling.unlink(missing_ok=True)


def sha256(content: bytes) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> tuple[int, str]:
    """Return size in bytes and SHA-256 of a file, read piece by piece."""
    with path.open("rb", buffering=0) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def is_taken(path: Path) -> bool:
    """Tell if a name is in use, also by a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def hidden_sibling(path: Path, purpose: str) -> Path:
    """Return an unused hidden name beside a path, for a file or folder of one call."""
    return path.with_name(f".{path.name}.{purpose}-{uuid4().hex[:12]}")


@contextmanager
def locked(path: Path, *, timeout: float, busy: Exception) -> Iterator[None]:
    """Hold the lock of a path, ``.NAME.lock`` beside it, for the time of a context.

    The lock is the operating system's: it ends with the process that holds it.

    Parameters
    ----------
    path
        File or folder that one process at a time may change; its parent exists.
    timeout
        Seconds to wait for another process.
    busy
        Raised if another process still holds the lock then.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=timeout)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()

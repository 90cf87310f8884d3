"""Files on disk: named, written in one step, locked, and identified by their SHA-256.

Every file that xcvae writes goes through :func:`atomic_path`: readers see the old content or the
new one, and a process may be killed at any moment. Files that a killed process leaves behind have
names that :func:`original_name` and :func:`stale_siblings` recognise: no other file is removed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from xcvae.errors import ConfigError, OutputExistsError

if TYPE_CHECKING:
    from filelock import FileLock

# Names of unfinished files: ours, those of earlier versions of xcvae, and those of Zarr.
_TEMPORARY = re.compile(r"(?P<name>.+)\.[0-9a-f]{32}\.(tmp|partial)")
# A scheme such as s3://, also after pathlib made s3:/ of it; one letter is a drive.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://")

# Content of the file of a lock: it proves that xcvae made the file, and may remove it.
_LOCK = b"Lock of xcvae, without use when no process of it runs.\n"

#: Endings of files of data, by the library that reads them.
NETCDF = (".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".he5")
GRIB = (".grib", ".grb", ".grib2", ".grb2", ".grib1")

Purpose = Literal["new", "old", "model"]
"""Use of a hidden file or folder: a store that is being made, one that is being replaced, a model
for the workers."""


def is_url(text: str) -> bool:
    """Tell if a text is the address of something that is not a local file."""
    return _URL.match(text) is not None


def expanded(text: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and environment variables such as ``$DATA`` replaced."""
    return Path(os.path.expandvars(text)).expanduser()


def input_path(name: str, value: object) -> Path:
    """Return the path of an input, relative if it was given so.

    Parameters
    ----------
    name
        Argument that the value was given for.
    value
        The path. ``~`` and environment variables are replaced.

    Raises
    ------
    ConfigError
        The value is not a path.
    """
    if isinstance(value, str | os.PathLike):
        return expanded(value)
    raise ConfigError.of(
        name,
        expected="the path of a file",
        got=f"{type(value).__name__}",
        remedy="Give a str or a pathlib.Path.",
    )


def local_path(name: str, value: object, *, writable: bool = True) -> Path | None:
    """Return the path of an output, absolute, so that a later change of folder does not matter.

    Parameters
    ----------
    name
        Argument that the value was given for.
    value
        The path; None stays None. ``~`` and environment variables are replaced.
    writable
        Refuse a path that cannot be written to; False for what may only be read.

    Raises
    ------
    ConfigError
        The value is the address of something that is not a local file or folder, or no path; or
        nothing can be written there.
    """
    if value is None:
        return None
    remedy, got = "Give a str or a pathlib.Path.", repr(value)
    if isinstance(value, str | os.PathLike):
        if not is_url(os.fspath(value)):
            path = expanded(value).absolute()
            if writable:
                check_writable(name, path)
            return path
        got = repr(os.fspath(value))
        remedy = (
            "Only local files are written: write there, then copy, or mount the remote storage."
        )
    expected = "the path of a local file or folder"
    raise ConfigError.of(name, expected=expected, got=got, remedy=remedy)


def check_writable(name: str, path: Path) -> None:
    """Refuse a path of an output that cannot be made, before hours are spent on its content.

    Raises
    ------
    ConfigError
        One of its parents is a file, or the folder that exists may not be written to.
    """
    # Parents that do not exist are made later.
    folder = next((p for p in path.parents if is_taken(p)), path.parent)
    got = ""
    if not folder.is_dir():
        got = f"{folder}, which is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        got = f"{folder}, where this user has no permission to write"
    if got:
        expected = f"a path in a folder that can be written to ({path})"
        remedy = "Choose another folder, or change its permissions."
        raise ConfigError.of(name, expected=expected, got=got, remedy=remedy)


def original_name(name: str) -> str | None:
    """Return the final name of a temporary file; None for other files.

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


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links.

    Files that xcvae writes are replaced and never changed in place, so that two names are safe.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


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


def hidden_sibling(path: Path, purpose: Purpose) -> Path:
    """Return an unused hidden name in the folder of a path, for a file or folder of one call."""
    return path.with_name(f".{path.name}.{purpose}-{uuid4().hex[:12]}")


def stale_siblings(path: Path) -> list[Path]:
    """Return the hidden siblings of a path that exist; without its lock, some may be in use."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.(new|old|model)-[0-9a-f]{{12}}")
    found = path.parent.glob(f".{escape(path.name)}.*-????????????")
    return [sibling for sibling in found if ours.fullmatch(sibling.name)]


@contextmanager
def hidden_folder(path: Path, *, also: Path | None = None) -> Iterator[Path]:
    """Make a hidden folder for the files of one call; remove those that killed calls left behind.

    Each has a lock of its own: calls with the same path do not wait for each other.

    Parameters
    ----------
    path
        The folder is made beside this path, which need not exist.
    also
        Another path beside which earlier calls may have made theirs.
    """
    for one in (path, also):
        if one is not None:
            _remove_abandoned(one)
    new = hidden_sibling(path, "new")
    busy = OutputExistsError(f"{new}: another process has this random name. Repeat the call.")
    # Another call may look whether the process of this lock is gone before it is held.
    with locked(new, timeout=60, busy=busy):
        try:
            new.mkdir()
            yield new
        finally:
            remove(new)


def _remove_abandoned(path: Path) -> None:
    """Delete the hidden folders beside a path whose processes are gone: their locks are free."""
    ours = re.compile(rf"\.(\.{re.escape(path.name)}\.new-[0-9a-f]{{12}})\.lock")
    for file in path.parent.glob(f"..{escape(path.name)}.new-????????????.lock"):
        found = ours.fullmatch(file.name)
        if found is None:
            continue
        folder, busy = path.with_name(found[1]), OutputExistsError(f"{file} is locked.")
        # In use, or of another user who may not be disturbed.
        with suppress(OSError, OutputExistsError):
            # Folders of stores have no lock: that of the store is theirs.
            if file.read_bytes() == _LOCK:
                with locked(folder, timeout=0, busy=busy):
                    remove(folder)


def rename_new(path: Path, target: Path) -> None:
    """Give a file another name on the same disk, which must be free.

    Raises
    ------
    OutputExistsError
        The name is taken: another process was faster.
    """
    taken = OutputExistsError.of(
        str(target),
        expected="a free name",
        got="a file that another process has made meanwhile",
        remedy="Choose another folder, or remove it yourself: nothing is replaced.",
    )
    try:
        os.link(path, target)  # a renaming would replace a file
    except FileExistsError as error:
        raise taken from error
    except OSError as error:  # a file system without hard links
        if is_taken(target):
            raise taken from error
        path.rename(target)
    else:
        path.unlink()


def remove(path: Path) -> None:
    """Delete a file or a folder with all its content, if it exists."""
    if path.is_file() or path.is_symlink():
        path.unlink(missing_ok=True)
    else:  # after an interruption, Zarr may make the folder now
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def locked(path: Path, *, timeout: float, busy: Exception) -> Iterator[None]:
    """Hold the lock of a path, ``.NAME.lock`` in its folder, during a context.

    The lock is the operating system's: it ends with the process that holds it. Its file is removed
    at the end of the context if xcvae made it.

    Parameters
    ----------
    path
        File or folder that one process at a time may change; its parent exists.
    timeout
        Seconds to wait for another process.
    busy
        Raised if another process still holds the lock then.

    Raises
    ------
    OutputExistsError
        A folder, a link or a file with content has the name of the lock.
    """
    from filelock import FileLock, Timeout

    file = path.with_name(f".{path.name}.lock")
    lock, end = FileLock(file), time.monotonic() + timeout
    while True:
        with _lock_file(file) as foreign:
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                if time.monotonic() >= end:
                    raise busy from error
            else:
                if _is_locked_file(lock, file):
                    # Another file than that seen before: that was removed, and the lock made one.
                    ours = foreign is None or not os.path.samestat(foreign, file.stat())
                    break
                lock.release()  # its last holder has removed the file: it is no lock any more
                continue
        time.sleep(0.02)
    try:
        if ours and not file.stat().st_size:
            file.write_bytes(_LOCK)
        yield
    finally:
        # Other systems do not remove open files.
        if ours and os.name == "posix" and _is_lock(file):
            file.unlink(missing_ok=True)
        lock.release()


def _is_lock(file: Path) -> bool:
    """Return False for a file that somebody has put in the place of the lock meanwhile."""
    try:
        return file.stat().st_size in (0, len(_LOCK)) and file.read_bytes() in (b"", _LOCK)
    except OSError:
        return False


@contextmanager
def _lock_file(file: Path) -> Iterator[os.stat_result | None]:
    """Make the file of a lock unless it exists; yield the state of one that xcvae did not make.

    An empty file may be somebody's: it serves as a lock, and stays. Old versions of filelock empty
    the file when they open it, so that the answer counts that was given before. The file stays open
    during the context, so that no new one can have its inode.

    Raises
    ------
    OutputExistsError
        A folder, a link or a file with other content has the name.
    """
    with suppress(FileExistsError):
        _make_lock_file(file)
    with ExitStack() as opened:
        found: os.stat_result | None = None
        # Removed by its last holder: made by the lock again.
        with suppress(FileNotFoundError):
            state = file.lstat()
            content = None
            if stat.S_ISREG(state.st_mode) and state.st_size in (0, len(_LOCK)):
                reader = opened.enter_context(file.open("rb"))
                content, found = reader.read(), os.fstat(reader.fileno())
            if content not in (b"", _LOCK):
                raise OutputExistsError.of(
                    str(file),
                    expected="a free name for a lock",
                    got="something that is not a lock of xcvae",
                    remedy="Move it elsewhere, or choose another name for the output.",
                )
            if content == _LOCK:
                found = None
        yield found


def _make_lock_file(file: Path) -> None:
    """Make the file of a lock; on a full disk, leave none without content, which stays for ever."""
    stream = file.open("xb")
    try:
        with stream:
            stream.write(_LOCK)
    except OSError:
        file.unlink(missing_ok=True)
        raise


def _is_locked_file(lock: FileLock, file: Path) -> bool:
    """Tell if a lock is that of the file which has its name now."""
    handle = getattr(getattr(lock, "_context", None), "lock_file_fd", None)
    if handle is None:
        return True
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False

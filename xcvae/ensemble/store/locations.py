"""Names of outputs: local paths, and the folders of Icechunk repositories."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NoReturn

from xcvae.errors import ConfigError, explain

__all__ = ["icechunk_path", "local_path"]

# A scheme such as s3://, also after pathlib made s3:/ of it; one letter is a drive.
ICECHUNK = "icechunk:"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/|.*://")


def local_path(name: str, value: str | os.PathLike[str] | None) -> Path | None:
    """Return where an output goes, absolute, so that a later change of folder does not matter.

    Raises
    ------
    ConfigError
        It is the address of something that is not a local file or folder, or no path at all.
    """
    if value is None:
        return None
    if not isinstance(value, str | os.PathLike):
        _refuse(name, "the path of a local file or folder", value, "Give a str or a pathlib.Path.")
    if _URL.match(os.fspath(value)):
        _refuse(
            name, "the path of a local file or folder", os.fspath(value),
            "Only local files are written: write there, then copy, or mount the remote storage.",
        )  # fmt: skip
    return Path(value).absolute()


def icechunk_path(value: object) -> Path | None:
    """Return the folder of ``"icechunk:PATH"``, absolute; None if it is something else.

    Raises
    ------
    ConfigError
        No local folder follows.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value).startswith(ICECHUNK):
        return None
    folder = os.fspath(value).removeprefix(ICECHUNK)
    if not folder or _URL.match(folder):
        _refuse(
            "store", f"{ICECHUNK} and the path of a local folder", os.fspath(value),
            "Open what is elsewhere with icechunk, and give the icechunk.Repository as store.",
        )  # fmt: skip
    return Path(folder).absolute()


def _refuse(name: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError(explain(name, expected=expected, got=repr(got), remedy=remedy))

"""Repositories of Icechunk, opened and made (the only module that imports icechunk)."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import icechunk
from icechunk import ConflictError, IcechunkError, Repository

from xcvae.ensemble.beside import aside, remove
from xcvae.ensemble.commits import in_words
from xcvae.errors import StoreError, explain

__all__ = [
    "IcechunkError",
    "Repository",
    "as_os_error",
    "conflict",
    "create",
    "explained",
    "leads_to",
    "open_at",
]

PER_MANIFEST = (32, 256)
"""Chunks along realizations and samples that share a file of places, which commits write anew."""


def open_at(path: Path) -> Repository | None:
    """Open the repository in a folder; None if none is there."""
    # If icechunk looked for a folder that is not there, it would make it.
    if not path.is_dir():
        return None
    storage = _storage(path)
    return Repository.open(storage) if Repository.exists(storage) else None


def create(path: Path) -> Repository:
    """Make a repository, which appears as a whole."""
    new = aside(path, "new")
    try:
        Repository.create(_storage(new), config=_config())
        new.replace(path)
    finally:
        remove(new)
    return Repository.open(_storage(path))


def _storage(path: Path) -> icechunk.Storage:
    """Return that of a folder, without its warning of others who commit: there is a lock."""
    icechunk.set_logs_filter("icechunk::storage=error")
    try:
        return icechunk.local_filesystem_storage(str(path))
    finally:
        icechunk.set_logs_filter(None)  # as the environment says


def _config() -> icechunk.RepositoryConfig:
    """Return that of a repository in which commits do not grow with the ensemble."""
    array = icechunk.ManifestSplitCondition.AnyArray()
    axis = icechunk.ManifestSplitDimCondition.Axis
    sizes = {array: {axis(number): size for number, size in enumerate(PER_MANIFEST)}}
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(
        splitting=icechunk.ManifestSplittingConfig.from_dict(sizes)  # type: ignore[arg-type]
    )
    return config


def leads_to(repository: Repository, commit: str, branch: str) -> bool:
    """Whether a commit is in the history of a branch."""
    return any(one.id == commit for one in repository.ancestry(branch=branch))


def as_os_error(error: IcechunkError) -> OSError:
    """Return what the operating system said, by whose number trouble of the disk is told."""
    found = re.search(r"os error (\d+)", str(error))
    number = int(found[1]) if found else errno.EIO
    return OSError(number, in_words(error))


def conflict(name: str, got: str) -> StoreError:
    """Say that somebody else commits to a repository."""
    return StoreError(
        explain(
            f"store '{name}'",
            expected="a repository that nobody else commits to",
            got=got,
            remedy='Begin again with resume="restart", or choose another one.',
        )
    )


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn errors of icechunk into ours."""
    try:
        yield
    except ConflictError as error:
        raise conflict(name, in_words(error)) from error
    except (IcechunkError, OSError) as error:
        raise StoreError(
            explain(
                f"store '{name}'",
                expected="a place that can be written to",
                got=in_words(error),
                remedy="What is committed is kept: mend the cause, and the same call goes on.",
            )
        ) from error

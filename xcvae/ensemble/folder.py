"""An ensemble as a plain Zarr store, in a folder that is ``<store>.partial`` until all is there.

While it is written, it is a Zarr store whose metadata and coordinates are complete, whose chunks
are not, and whose ledger says which of them are done. Every change of state is one rename, so that
a process may be killed anywhere.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.beside import aside, left_behind, locked, remove
from xcvae.ensemble.chunks import encoded, put_chunk
from xcvae.ensemble.ledger import TEMPORARY, Ledger
from xcvae.ensemble.records import Entry, Records, done, failed
from xcvae.ensemble.regions import Counts, Region
from xcvae.ensemble.target import Held, Run
from xcvae.ensemble.template import identity_in, write_template
from xcvae.errors import OutputExistsError, StoreError, explain

__all__ = ["Folder", "FolderPen"]

PARTIAL = ".partial"
STRAY = re.compile(r"[^/]+/c/\d+/\d+/0/0")


@dataclass(frozen=True)
class FolderPen:
    """Writes regions as chunk files, and records them.

    Parameters
    ----------
    array
        Folder of the ensemble variable.
    chunks
        Realizations and samples per chunk.
    token
        Of the run that the regions belong to: another run under the same name is left alone.
    """

    array: Path
    chunks: tuple[int, int]
    token: str

    def put(self, region: Region, values: np.ndarray, counts: Counts) -> tuple[int, Any]:
        """Write a region, and then record that it is there."""
        self._check_token()
        file, content = encoded(region, self.chunks, values)
        put_chunk(self.array / file, content)
        Ledger(self.array).record(done(region, file, content, counts))
        return len(content), None

    def failed(self, region: Region, said: str) -> None:
        """Record that a region came to nothing; on a full disk that does not work either."""
        with suppress(OSError):
            Ledger(self.array).record(failed(region, said))

    def _check_token(self) -> None:
        told = Ledger(self.array).run()
        if not told:
            raise FileNotFoundError(
                errno.ENOENT,
                f"{socket.gethostname()} sees no run in {self.array}: it was removed, or the store "
                "is not in a folder that all workers share",
            )
        if told.get("token") != self.token:
            raise FileNotFoundError(errno.ENOENT, "another run has taken the place of this one")


@dataclass(frozen=True)
class Folder:
    """A folder for an ensemble.

    Parameters
    ----------
    path
        Name of the finished store.
    """

    path: Path

    @property
    def name(self) -> Path:
        """What messages call it."""
        return self.path

    @property
    def stem(self) -> str:
        """What a catalog calls it by default."""
        return self.path.stem

    @property
    def place(self) -> Path:
        """The local folder that it takes."""
        return self.path

    @property
    def listed(self) -> Path:
        """The folder that a catalog lists."""
        return self.path

    @property
    def working(self) -> Path:
        """The store while it is written; one that is called so is not finished itself."""
        name = self.path.name
        return self.path if name.endswith(PARTIAL) else self.path.with_name(name + PARTIAL)

    def finished(self) -> Held:
        """Look at what has its name."""
        if self.path == self.working:
            return Held(self.path)
        ledger = Ledger.within(self.path)
        try:
            identity = identity_in((self.path / "zarr.json").read_bytes())
        except OSError:
            identity = None
        if ledger is not None and not ledger.sealed:
            identity = None
        return Held(self.path, _exists(self.path), identity, ledger, self.path)

    def begun(self) -> Held:
        """Look at what is not finished."""
        # Under whatever name its variable goes: another one is a difference to be told.
        ledger = Ledger.within(self.working)
        return Held(self.working, _exists(self.working), None, ledger, self.working)

    def check_replaceable(self) -> None:
        """Refuse to replace anything that xcvae did not write: the ledger is the proof."""
        for path in (self.path, self.working):
            reason = _not_ours(path)
            if reason:
                raise OutputExistsError(
                    explain(
                        f"store '{path}'",
                        expected="an ensemble that xcvae wrote, or nothing",
                        got=reason,
                        remedy="Choose another name, or remove it yourself: xcvae only replaces "
                        "what it wrote.",
                    )
                )

    def tidy(self) -> bool:
        """Whether no killed or living call has left anything beside it."""
        return not self.working.exists() and not left_behind(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold it for one call; left-overs of killed ones are cleared away."""
        with locked(self.path):
            _remove_strays(self.working)
            yield

    def aside(self, what: str) -> Path:
        """Return a new name beside it, for what is there during one call."""
        return aside(self.path, what)

    def begin(self, run: Run, template: xr.Dataset, said: Mapping[str, Any]) -> FolderWriter:
        """Make metadata, coordinates and ledger, no chunk; all of it appears in one step."""
        new = self.aside("new")
        try:
            write_template(template, run.variable, run.chunks, new)
            Ledger(new / run.variable).start(said)
            old = self.set_aside(self.working)
            new.rename(self.working)
            remove(old)
        except OSError as error:
            raise self.unwritable(error, "Nothing was drawn yet: choose another place.") from error
        finally:
            remove(new)
        return FolderWriter(self, run)

    def reopen(self, run: Run, template: xr.Dataset, *, damaged: bool) -> FolderWriter:
        """Make ready what was begun, or is to be repaired: its metadata are what they were."""
        new, ledger = self.aside("new"), Ledger(self.working / run.variable)
        try:
            if damaged:
                self.path.rename(self.working)
            for path in self.working.rglob("*"):  # halves of chunks and of markers
                if TEMPORARY.search(path.name):
                    path.unlink(missing_ok=True)
            if ledger.changed():
                write_template(template, run.variable, run.chunks, new)
                for path in sorted(path for path in new.rglob("*") if path.is_file()):
                    place = self.working / path.relative_to(new)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(place)
                ledger.note_template()
        except OSError as error:
            remedy = "Mend the cause and run the same call again."
            raise self.unwritable(error, remedy) from error
        finally:
            remove(new)
        return FolderWriter(self, run)

    def set_aside(self, path: Path) -> Path:
        """Take what is there out of the way in one step; the caller deletes it in the end."""
        old = self.aside("old")
        if _exists(path):
            path.rename(old)
        return old

    def unwritable(self, error: OSError, remedy: str) -> StoreError:
        """Say that it cannot be written to."""
        return StoreError(
            explain(
                f"store '{self.path}'",
                expected="a place that can be written to",
                got=f"{type(error).__name__}: {error}",
                remedy=remedy,
            )
        )


class FolderWriter:
    """Writes the regions of one run into a folder; each is safe as soon as its pen is done.

    Parameters
    ----------
    folder
        Where to.
    run
        What.
    """

    def __init__(self, folder: Folder, run: Run) -> None:
        self.folder, self.chunks = folder, run.chunks
        self.ledger = Ledger(folder.working / run.variable)
        self._pen = FolderPen(self.ledger.array, run.chunks, self.ledger.run()["token"])

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    @property
    def records(self) -> Records:
        """The ledger."""
        return self.ledger

    def keep(self, numbers: Mapping[int, Entry]) -> None:
        """Believe no other entries than these."""
        self.ledger.reopen(numbers)

    def pen(self) -> FolderPen:
        """Return what tasks write with."""
        return self._pen

    def take(self, handed: Any) -> None:
        """Nothing is left to be done."""

    def publish(self, attributes: Mapping[str, Any]) -> None:
        """Give the store its final attributes and its name, and tidy up."""
        import zarr

        folder = self.folder
        try:
            zarr.open_group(folder.working, mode="r+").attrs.update(dict(attributes))
            self.ledger.note_template()
            self.ledger.seal()
            _to_disk()
            # Something else may have taken the name since the run began.
            folder.check_replaceable()
            old = folder.set_aside(folder.path)
            folder.working.rename(folder.path)
        except OutputExistsError:
            raise
        except OSError as error:
            remedy = "All regions are done: mend the cause, and the same call finishes it."
            raise folder.unwritable(error, remedy) from error
        remove(old)


def _exists(path: Path) -> bool:
    """Tell whether a name is taken, also by a link that leads nowhere."""
    return path.exists() or path.is_symlink()


def _not_ours(path: Path) -> str:
    """Return why a path must not be replaced; empty if nothing or an ensemble of xcvae is there."""
    if not _exists(path):
        return ""
    if path.is_symlink():
        return f"a symbolic link to {path.readlink()}"
    if not path.is_dir():
        return "a file"
    ledger = Ledger.within(path)
    if ledger is None or not ledger.run():
        return "a folder without a ledger of xcvae"
    foreign = ledger.foreign()
    more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
    return f"files that xcvae did not write: {foreign[0]}{more}" if foreign else ""


def _to_disk() -> None:
    """Wait for the disk, once: a store that has its name survives a loss of power."""
    if hasattr(os, "sync"):
        os.sync()


def _remove_strays(working: Path) -> None:
    """Delete chunks that a worker wrote after its run was given up and the folder was gone."""
    if not working.is_dir() or (working / "zarr.json").exists():
        return
    # Chunks and nothing else: whatever has a ledger or other files is left alone.
    files = [path for path in working.rglob("*") if not path.is_dir() or path.is_symlink()]
    names = [TEMPORARY.sub("", path.relative_to(working).as_posix()) for path in files]
    if names and all(STRAY.fullmatch(name) for name in names):
        remove(working)

"""The hand-over: ensembles as entries of an intake catalog (the only module that imports intake).

The catalog is plain intake 2: whoever has intake, xarray and zarr opens an entry lazily with
``intake.open_catalog(path)[name].read()``; xcvae is not needed. Stores are named relative to the
catalog, so that a folder that holds both can be moved or copied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
import yaml

from xcvae.errors import CatalogError, explain, nearest
from xcvae.fields.dataspec import plain

if TYPE_CHECKING:
    from intake.readers.entry import Catalog

__all__ = ["annotate", "append", "check_name", "metadata_of", "names", "open_entry"]

LOCK_SECONDS = 120.0
# What intake adds on opening; written back, it would pin the catalog to the folder it was read in.
OPENED = ("CATALOG_DIR", "CATALOG_PATH", "STORAGE_OPTIONS")


def append(
    catalog: str | os.PathLike[str],
    name: str,
    store: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> None:
    """Add a finished store to a catalog; the catalog is made if there is none.

    Parameters
    ----------
    catalog
        Path of the YAML file.
    name
        Name of the entry: letters, digits, ``_``, ``-``, ``.``.
    store
        Path of the Zarr store.
    metadata
        What the entry says about the store; everything becomes JSON types.
    overwrite
        Replace an entry of that name that points to another store.

    Raises
    ------
    CatalogError
        The name is used for another store or cannot be used, the store is not there, or the file
        is not an intake 2 catalog.
    """
    catalog = Path(catalog)
    if not (Path(store) / "zarr.json").is_file():
        raise CatalogError(
            explain(
                f"store '{store}'",
                expected="a finished Zarr v3 store",
                got="no zarr.json in it",
                remedy="Write the ensemble first; only then can it be listed.",
            )
        )
    catalog.parent.mkdir(parents=True, exist_ok=True)
    with _locked(catalog):
        entries = _read(catalog, new=True)
        _refuse_used(entries, catalog, name, store, overwrite=overwrite)
        _forget(entries, name)
        entries[name] = _reader(_url(catalog, store), metadata)
        entries.aliases[name] = name
        _write(entries, catalog)


def check_name(catalog: str | os.PathLike[str], name: str, store: str | os.PathLike[str]) -> None:
    """Make sure that :func:`append` will take this name, before hours are spent on the store.

    Raises
    ------
    CatalogError
        As :func:`append` raises it.
    """
    catalog = Path(catalog)
    _refuse_used(_read(catalog, new=True), catalog, name, store, overwrite=False)


def names(catalog: str | os.PathLike[str]) -> list[str]:
    """Return the names of the entries of a catalog, sorted.

    Raises
    ------
    CatalogError
        There is no such file, or it is not an intake 2 catalog.
    """
    return sorted(str(name) for name in _read(Path(catalog)).aliases)


def open_entry(catalog: str | os.PathLike[str], name: str) -> xr.Dataset:
    """Open an entry as a lazy Dataset, chunked as it is stored.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, or what the entry points to cannot be opened.
    """
    entries = _read(Path(catalog))
    _known(entries, catalog, name)
    try:
        opened = entries[name].read()
    except (OSError, ValueError, KeyError) as error:
        raise CatalogError(
            explain(
                f"entry '{name}' of {catalog}",
                expected="data that xarray can open",
                got=f"{type(error).__name__}: {error}",
                remedy="Was the store moved without the catalog, or deleted?",
            )
        ) from error
    if isinstance(opened, xr.Dataset):
        return opened
    raise CatalogError(
        explain(
            f"entry '{name}' of {catalog}",
            expected="an xarray.Dataset",
            got=type(opened).__name__,
            remedy="Choose an entry that intake reads with xarray.",
        )
    )


def annotate(catalog: str | os.PathLike[str], name: str, scores: Mapping[str, Any]) -> None:
    """Add headline scores to the metadata of an entry, under the key ``scores``.

    Raises
    ------
    CatalogError
        There is no such catalog or entry.
    """
    catalog = Path(catalog)
    with _locked(catalog):
        entries = _read(catalog)
        _known(entries, catalog, name)
        described = entries.get_entity(name).metadata
        described["scores"] = {**described.get("scores", {}), **plain(scores)}
        _write(entries, catalog)


def metadata_of(catalog: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """Return what an entry says about its store.

    Raises
    ------
    CatalogError
        There is no such catalog or entry.
    """
    entries = _read(Path(catalog))
    _known(entries, catalog, name)
    return dict(entries.get_entity(name).metadata)


def _known(entries: Catalog, catalog: str | os.PathLike[str], name: str) -> None:
    if name not in entries.aliases and name not in entries.entries:
        raise CatalogError(f"{catalog} has no entry '{name}'. {nearest(name, entries.aliases)}")


def _refuse_used(
    entries: Catalog,
    catalog: Path,
    name: str,
    store: str | os.PathLike[str],
    *,
    overwrite: bool,
) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise CatalogError(
            explain(
                "name",
                expected="letters, digits, '_', '-' or '.'",
                got=repr(name),
                remedy="Choose a name such as 'prior64'.",
            )
        )
    url = _url(catalog, store)
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


def _url(catalog: Path, store: str | os.PathLike[str]) -> str:
    relative = Path(os.path.relpath(Path(store).resolve(), catalog.resolve().parent)).as_posix()
    if "{" in relative or "}" in relative:
        raise CatalogError(
            explain(
                f"store '{store}'",
                expected="a path without braces",
                got=repr(relative),
                remedy="intake reads braces in paths as parameters: rename the folder.",
            )
        )
    return "{CATALOG_DIR}/" + relative


def _data_of(entries: Catalog, name: str) -> list[str]:
    """Return the tokens of the data descriptions that an entry reads."""
    token = entries.aliases.get(name, name)
    text = str(entries.entries[token].kwargs) if token in entries.entries else ""
    return [found for found in re.findall(r"data\(([^)]+)\)", text) if found in entries.data]


def _forget(entries: Catalog, name: str) -> None:
    """Take an entry out, and the data descriptions that no other entry reads."""
    tokens = set(_data_of(entries, name))
    if name in entries.aliases or name in entries.entries:
        del entries[name]
    kept = {token for other in entries.entries for token in _data_of(entries, other)}
    for token in tokens - kept:
        del entries.data[token]


def _reader(url: str, metadata: Mapping[str, Any]) -> Any:
    from intake.readers.datatypes import Zarr
    from intake.readers.readers import XArrayDatasetReader

    # Plain types: a NumPy scalar in it would leave an empty catalog file.
    return XArrayDatasetReader(
        Zarr(url), engine="zarr", chunks={}, consolidated=False, metadata=plain(metadata)
    )


def _read(path: Path, *, new: bool = False) -> Catalog:
    from intake.readers.entry import Catalog

    if new and not path.exists():
        return Catalog()
    try:
        return Catalog.from_yaml_file(str(path))
    # A damaged catalog fails in many ways inside intake: wrong types, missing keys, broken YAML.
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError(
            explain(
                f"catalog '{path}'",
                expected="an intake 2 catalog file",
                got=f"{type(error).__name__}: {error}",
                remedy="Check the path; catalogs of intake 1 are not read.",
            )
        ) from error


def _write(entries: Catalog, path: Path) -> None:
    """Replace the file in one step: a reader sees the old catalog or the new one, never half."""
    content = entries.to_dict()
    content["user_parameters"] = {
        key: value for key, value in content["user_parameters"].items() if key not in OPENED
    }
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
def _locked(path: Path) -> Iterator[None]:
    """Hold the catalog for one change; without a lock, concurrent changes lose entries."""
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

"""The hand-over: ensembles as entries of an intake catalog (the only module that imports intake).

The catalog is plain intake 2: whoever has intake, xarray and zarr opens an entry lazily with
``intake.open_catalog(path)[name].read()``; xcvae is not needed. Stores are named relative to the
catalog, so that a folder that holds both can be moved or copied. Where an entry is another catalog
(`link`), ``"inner/prior64"`` names an entry of that one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
import yaml

from xcvae import files
from xcvae.ensemble.store.local import FileLedger
from xcvae.errors import CatalogError, explain, nearest
from xcvae.fields.dataspec import plain
from xcvae.files import remove_stale, write_text

if TYPE_CHECKING:
    from intake.readers.entry import Catalog

__all__ = [
    "annotate",
    "append",
    "check_name",
    "forget",
    "headline",
    "link",
    "locked",
    "metadata_of",
    "names",
    "open_entry",
    "refuse_used",
    "replace",
    "search",
    "url_of",
]


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
    remove_stale(path)
    write_text(path, yaml.safe_dump(content, sort_keys=True), sync=True)


def locked(path: Path) -> AbstractContextManager[None]:
    """Hold the catalog for one change; without a lock, concurrent changes lose entries.

    Raises
    ------
    CatalogError
        Another process holds it for too long.
    """
    busy = CatalogError(
        explain(
            f"catalog '{path}'",
            expected=f"the lock of the catalog within {LOCK_SECONDS:g} s",
            got="a lock held by another process",
            remedy="Wait until that process ends, then repeat the call.",
        )
    )
    return files.locked(path, timeout=LOCK_SECONDS, busy=busy)


Place = str | os.PathLike[str]

CATALOG = "intake.readers.entry:Catalog"  # what an entry gives that is a catalog


def append(
    catalog: Place,
    name: str,
    store: Place,
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
    from intake.readers.datatypes import Zarr
    from intake.readers.readers import XArrayDatasetReader

    ledger = FileLedger.within(Path(store))
    there = (Path(store) / "zarr.json").is_file()
    if not there or (ledger is not None and not ledger.sealed):
        raise CatalogError(
            explain(
                f"store '{store}'",
                expected="a finished Zarr v3 store",
                got="one that is still being written" if there else "no zarr.json in it",
                remedy="Write the ensemble first; only then can it be listed.",
            )
        )
    url = url_of(Path(catalog), store)
    # Plain types: a NumPy scalar in it would leave an empty catalog file.
    reader = XArrayDatasetReader(
        Zarr(url), engine="zarr", chunks={}, consolidated=False, metadata=plain(metadata)
    )
    _put(Path(catalog), name, url, reader, overwrite=overwrite)


def link(
    catalog: Place,
    name: str,
    other: Place,
    metadata: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Add another catalog to a catalog, as an entry that is read when somebody opens it.

    Parameters
    ----------
    catalog, name, overwrite
        As of `append`.
    other
        Path of the other YAML file.
    metadata
        What the entry says about it.

    Raises
    ------
    CatalogError
        As of `append`; or the other file is not an intake 2 catalog.
    """
    from intake.readers.datatypes import YAMLFile
    from intake.readers.readers import YAMLCatalogReader

    _read(Path(other))  # a file that is no catalog is found now, not by who opens it
    url = url_of(Path(catalog), other)
    reader = YAMLCatalogReader(YAMLFile(url), metadata=plain(metadata or {}))
    _put(Path(catalog), name, url, reader, overwrite=overwrite)


def _put(catalog: Path, name: str, url: str, reader: Any, *, overwrite: bool) -> None:
    catalog.parent.mkdir(parents=True, exist_ok=True)
    with locked(catalog):
        entries = _read(catalog, new=True)
        refuse_used(entries, catalog, name, url, overwrite=overwrite)
        forget(entries, name)
        entries[name] = reader
        entries.aliases[name] = name
        replace(entries, catalog)


def check_name(catalog: Place, name: str, store: Place) -> None:
    """Make sure that :func:`append` will take this name, before hours are spent on the store.

    Raises
    ------
    CatalogError
        As :func:`append` raises it.
    """
    path, url = Path(catalog), url_of(Path(catalog), store)
    refuse_used(_read(path, new=True), path, name, url, overwrite=False)


def names(catalog: Place) -> list[str]:
    """Return the names of the entries of a catalog, sorted.

    Raises
    ------
    CatalogError
        There is no such file, or it is not an intake 2 catalog.
    """
    return sorted(str(name) for name in _read(Path(catalog)).aliases)


def search(
    catalog: Place,
    *,
    model: str | None = None,
    mode: str | None = None,
    seed: int | None = None,
) -> list[str]:
    """Find ensembles in a catalog and in the catalogs that it lists.

    Parameters
    ----------
    catalog
        Path of the YAML file.
    model
        SHA-256 of the model, or its first digits.
    mode, seed
        How it was drawn: ``"prior"`` or ``"posterior"``, and the seed of the noise.

    Returns
    -------
    list of str
        Names of the entries that agree with all that is given, sorted, as `open_entry` takes them.

    Raises
    ------
    CatalogError
        One of the catalogs cannot be read.
    """
    asked = {key: v for key, v in (("mode", mode), ("seed", seed)) if v is not None}
    return sorted(
        name
        for name, said in _walk(Path(catalog), "", set())
        if asked.items() <= said.items()
        and str(said.get("model_sha256", "")).startswith(model or "")
    )


def open_entry(catalog: Place, name: str) -> xr.Dataset:
    """Open an entry as a lazy Dataset, chunked as it is stored.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, or what the entry points to cannot be opened.
    """
    _, entries, own = _holder(Path(catalog), name)
    try:
        opened = entries[own].read()
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


def annotate(catalog: Place, name: str, card: xr.Dataset | Mapping[str, Any]) -> None:
    """Add headline scores to the metadata of an entry, under the key ``scores``, in one step.

    Parameters
    ----------
    catalog, name
        The entry.
    card
        Scorecard of `xcvae.evaluate` (the scores of xcvae are taken, without intervals and
        groups), or scores by name. Those of other names stay.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, or no score in the card.
    """
    scores = headline(card) if isinstance(card, xr.Dataset) else card
    path, _, own = _holder(Path(catalog), name)
    with locked(path):
        entries = _read(path)
        _known(entries, path, own)
        described = entries.get_entity(own).metadata
        described["scores"] = {**described.get("scores", {}), **plain(scores)}
        replace(entries, path)


def metadata_of(catalog: Place, name: str) -> dict[str, Any]:
    """Return what an entry says about its store.

    Raises
    ------
    CatalogError
        There is no such catalog or entry.
    """
    _, entries, own = _holder(Path(catalog), name)
    return dict(entries.get_entity(own).metadata)


def _holder(path: Path, name: str) -> tuple[Path, Catalog, str]:
    """Follow 'inner/prior64' to the catalog that has 'prior64' itself."""
    entries = _read(path)
    while "/" in name and name not in entries.aliases and name not in entries.entries:
        first, _, name = name.partition("/")
        _known(entries, path, first)
        path = _inner(entries, path, first)
        entries = _read(path)
    _known(entries, path, name)
    return path, entries, name


def _inner(entries: Catalog, path: Path, name: str) -> Path:
    """Return the path of a catalog that is an entry."""
    if entries.get_entity(name).output_instance != CATALOG:
        raise CatalogError(f"{path}: '{name}' is no catalog, so that nothing is inside it.")
    return Path(str(entries[name].data.url).removeprefix("file://"))


def _walk(path: Path, inside: str, seen: set[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all names and metadata, of each catalog once even if they list each other."""
    seen.add(path.resolve())
    entries = _read(path)
    for name in entries.aliases:
        if entries.get_entity(name).output_instance != CATALOG:
            yield f"{inside}{name}", entries.get_entity(name).metadata
        elif (inner := _inner(entries, path, name)).resolve() not in seen:
            yield from _walk(inner, f"{inside}{name}/", seen)


def _known(entries: Catalog, catalog: Path, name: str) -> None:
    if name not in entries.aliases and name not in entries.entries:
        raise CatalogError(f"{catalog} has no entry '{name}'. {nearest(name, entries.aliases)}")


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

"""Ensembles as entries of an intake catalog (the only module that imports intake).

The catalog is plain intake 2: with intake, xarray and zarr installed, and without xcvae,
``intake.open_catalog(path)[name].read()`` opens an entry lazily. Stores are named relative to the
catalog, so that a folder that holds both can be moved or copied. Where an entry is another catalog
(`link`), ``"inner/prior64"`` names an entry of that one.
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

from xcvae.ensemble import dataset
from xcvae.ensemble.store.local import FileLedger
from xcvae.errors import CatalogError, check_flags, nearest
from xcvae.fields.dataspec import plain
from xcvae.files import (
    check_writable,
    input_path,
    is_taken,
    is_url,
    locked,
    remove_stale,
    write_text,
)

if TYPE_CHECKING:
    from intake.readers.entry import Catalog


_CLASSES = "intake.readers."
#: Readers of arrays, the one that `append` writes first, and the reader of linked catalogs.
READERS = frozenset(
    f"{_CLASSES}readers:{name}"
    for name in ("XArrayDatasetReader", "XArrayPatternReader", "DaskZarr", "NumpyZarr")
)
#: Chain of a reader and of methods of its Dataset; only methods that compute are accepted.
PIPELINE, _METHOD = f"{_CLASSES}convert:Pipeline", f"{{func({_CLASSES}transform:Method)}}"
METHODS = frozenset({"astype", "drop_vars", "isel", "rename"})
CATALOG_READER = f"{_CLASSES}readers:YAMLCatalogReader"
DATATYPES = frozenset(
    f"{_CLASSES}datatypes:{name}"
    for name in ("Zarr", "HDF5", "NetCDF3", "GRIB2", "OpenDAP", "YAMLFile")
)
# Parameters and descriptions that intake builds as soon as it reads a catalog.
_PARAMETERS = re.compile(rf"{re.escape(_CLASSES)}user_parameters:\w*UserParameter")
_DESCRIPTIONS = re.compile(rf"{re.escape(_CLASSES)}entry:(Data|Reader)Description")
_TEMPLATE = re.compile(r"\b(func|import|pickle64)\s*\(")
_REFERENCE = re.compile(r"data[(]([^)]+)[)]")
# Kerchunk references may contain templates that fsspec renders with Jinja.
_RENDERED = re.compile(r"\breference:|^kerchunk$")


def check_classes(content: object, catalog: str) -> None:
    """Refuse a catalog with classes that intake would import to read it.

    Parameters
    ----------
    content
        The catalog as YAML reads it; anything but a mapping is left to intake to refuse.
    catalog
        Its name in messages.

    Raises
    ------
    CatalogError
        A parameter or a description names a class that is not one of intake's own.
    """
    sections = content if isinstance(content, Mapping) else {}
    for section in ("entries", "data", "user_parameters"):
        for name, described in _items(sections.get(section)):
            accepted = _PARAMETERS if section == "user_parameters" else _DESCRIPTIONS
            _check_class(described, accepted, f"'{name}' of {catalog}")
            if isinstance(described, Mapping):
                for key, parameter in _items(described.get("user_parameters")):
                    _check_class(parameter, _PARAMETERS, f"'{name}.{key}' of {catalog}")


def check_entry(content: Mapping[str, Any], name: str, catalog: str) -> None:
    """Refuse an entry that does more than read arrays or another catalog.

    Parameters
    ----------
    content
        The whole catalog as a mapping: an entry refers to its data, and to other entries.
    name
        Alias or token of the entry.
    catalog
        Name of the catalog in messages.

    Raises
    ------
    CatalogError
        The entry, or what it refers to, has a reader or a type of data that is not accepted, or
        an argument that intake would evaluate.
    """
    subject = f"entry '{name}' of {catalog}"
    _check_arguments({"user_parameters": content["user_parameters"]}, subject)
    left, seen = [name], set[str]()
    while left:
        token = left.pop()
        token = content["aliases"].get(token, token)
        if token in seen:
            continue
        seen.add(token)
        for section, key, accepted in (
            ("entries", "reader", READERS | {PIPELINE, CATALOG_READER}),
            ("data", "datatype", DATATYPES),
        ):
            if token in content[section]:
                described = content[section][token]
                if described[key] not in accepted:
                    raise _refusal(subject, str(described[key]))
                _check_arguments(described, subject)
                left += [found for text in _texts(described) for found in _REFERENCE.findall(text)]


def _check_class(described: object, accepted: re.Pattern[str], subject: str) -> None:
    cls = described.get("cls") if isinstance(described, Mapping) else None
    if cls is not None and not accepted.fullmatch(str(cls)):
        raise _refusal(subject, str(cls))


def _check_arguments(described: Mapping[str, Any], subject: str) -> None:
    parameters = [
        {key: value for key, value in parameter.items() if key != "description"}
        if isinstance(parameter, Mapping)
        else parameter
        for _, parameter in _items(described.get("user_parameters"))
    ]
    for text in _texts([described.get("kwargs"), parameters]):
        if text != _METHOD and (_TEMPLATE.search(text) or _RENDERED.search(text)):
            raise _refusal(subject, text)
    for method in _methods(described.get("kwargs")):
        if method not in METHODS:
            raise _refusal(subject, f"a call of the method {method!r}")


def _texts(value: object) -> Iterator[str]:
    """Yield all texts in nested mappings and lists, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _texts(inner)


def _methods(value: object) -> Iterator[object]:
    """Yield the names of the methods that a pipeline calls."""
    if isinstance(value, Mapping):
        if "method_name" in value:
            yield value["method_name"]
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _methods(inner)


def _items(section: object) -> Iterator[tuple[str, object]]:
    if isinstance(section, Mapping):
        yield from ((str(name), value) for name, value in section.items())


def _refusal(subject: str, got: str) -> CatalogError:
    return CatalogError.of(
        subject,
        expected="a reader of arrays, such as XArrayDatasetReader of Zarr, without code",
        got=got if len(got) < 200 else f"{got[:200]}...",
        remedy="This may run code on your computer. If you know who wrote the catalog and want "
        "that, set trust=True (`trust: true` in a configuration).",
    )


LOCK_SECONDS = 120.0
PathLike = str | os.PathLike[str]


def append(
    catalog: PathLike,
    name: str,
    store: PathLike,
    metadata: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    timeout: float = LOCK_SECONDS,
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
        Description of the store; everything becomes JSON types. Default: read from the store.
    overwrite
        Replace an entry of that name that points to another store.
    timeout
        Seconds to wait for another process that changes the catalog.

    Raises
    ------
    CatalogError
        The name is used for another store or cannot be used, the store does not exist, the file is
        not an intake 2 catalog, or another process keeps it locked.
    """
    from intake.readers.datatypes import Zarr
    from intake.readers.readers import XArrayDatasetReader

    store = input_path("store", store)
    ledger = FileLedger.within(store)
    exists = (store / "zarr.json").is_file()
    if not exists or (ledger is not None and not ledger.sealed):
        raise CatalogError.of(
            f"store '{store}'",
            expected="a finished Zarr v3 store",
            got="one that is still being written" if exists else "no zarr.json in it",
            remedy="Write the ensemble first; only then can it be listed.",
        )
    url = _url_of(input_path("catalog", catalog), store)
    if metadata is None:
        metadata = dataset.described(xr.open_zarr(store, chunks={}, consolidated=False))
    # Plain types: a NumPy scalar in it would leave an empty catalog file.
    reader = XArrayDatasetReader(
        Zarr(url), engine="zarr", chunks={}, consolidated=False, metadata=plain(metadata)
    )
    _add(input_path("catalog", catalog), name, url, reader, overwrite=overwrite, timeout=timeout)


def link(
    catalog: PathLike,
    name: str,
    other: PathLike,
    metadata: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    timeout: float = LOCK_SECONDS,
) -> None:
    """Add another catalog to a catalog, as an entry that is read when it is opened.

    Parameters
    ----------
    catalog, name, overwrite, timeout
        As of `append`.
    other
        Path of the other YAML file.
    metadata
        Description of the other catalog.

    Raises
    ------
    CatalogError
        As of `append`; or the other file is not an intake 2 catalog.
    """
    from intake.readers.datatypes import YAMLFile
    from intake.readers.readers import YAMLCatalogReader

    other = input_path("other", other)
    _read(other)  # a file that is not a catalog is refused now, not when it is opened
    url = _url_of(input_path("catalog", catalog), other)
    reader = YAMLCatalogReader(YAMLFile(url), metadata=plain(metadata or {}))
    _add(input_path("catalog", catalog), name, url, reader, overwrite=overwrite, timeout=timeout)


def remove(catalog: PathLike, name: str, *, timeout: float = LOCK_SECONDS) -> None:
    """Remove an entry from a catalog; its store stays on the disk.

    Parameters
    ----------
    catalog, name
        The entry; ``"inner/prior64"`` for one of a catalog in the catalog.
    timeout
        Seconds to wait for another process that changes the catalog.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, or another process keeps it locked.
    """
    path, _, own = _find(input_path("catalog", catalog), name)
    with _changed(path, timeout) as entries:
        _check_known(entries, path, own)
        _delete(entries, own)


def prune(catalog: PathLike, *, timeout: float = LOCK_SECONDS) -> list[str]:
    """Remove the entries of local stores and catalogs that do not exist any more.

    Parameters
    ----------
    catalog
        Path of the YAML file.
    timeout
        Seconds to wait for another process that changes the catalog.

    Returns
    -------
    list of str
        Names of the removed entries, sorted.

    Raises
    ------
    CatalogError
        The catalog cannot be read, or another process keeps it locked.
    """
    path = input_path("catalog", catalog)
    _read(path)  # one that does not exist gets no lock
    with _changed(path, timeout) as entries:
        gone = sorted(name for name in map(str, entries.aliases) if _is_gone(entries, path, name))
        for name in gone:
            _delete(entries, name)
    return gone


def _is_gone(entries: Catalog, path: Path, name: str) -> bool:
    """Tell if an entry refers to local files, and none of them exists."""
    urls = [entries.data[token].kwargs.get("url") for token in _tokens_of(entries, name)]
    folder = str(path.resolve().parent)
    files = [str(url).replace("{CATALOG_DIR}", folder).removeprefix("file://") for url in urls]
    local = [file for file in files if not is_url(file) and not set("{*?") & set(file)]
    return bool(local) and len(local) == len(urls) and not any(Path(f).exists() for f in local)


def check_name(catalog: PathLike, name: str, store: PathLike) -> None:
    """Make sure that :func:`append` will take this name, before hours are spent on the store.

    Raises
    ------
    CatalogError
        As :func:`append` raises it.
    """
    path, url = input_path("catalog", catalog), _url_of(input_path("catalog", catalog), store)
    _check_unused(_read(path, new=True), path, name, url, overwrite=False)


def names(catalog: PathLike) -> list[str]:
    """Return the names of the entries of a catalog, sorted.

    Raises
    ------
    CatalogError
        There is no such file, or it is not an intake 2 catalog.
    """
    return sorted(str(name) for name in _read(input_path("catalog", catalog)).aliases)


def is_catalog(path: PathLike) -> bool:
    """Tell if a file is an intake 2 catalog."""
    try:
        content = yaml.safe_load(Path(path).read_bytes())
    except (OSError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and {"entries", "data", "aliases"} <= content.keys()


def lists_catalog(catalog: PathLike, name: str) -> bool:
    """Tell if an entry of a catalog is another catalog."""
    _, entries, own = _find(input_path("catalog", catalog), name)
    return _is_catalog(entries, own)


def search(
    catalog: PathLike, *, model: str | None = None, mode: str | None = None, seed: int | None = None
) -> list[str]:
    """Find ensembles in a catalog and in the catalogs that it lists.

    Parameters
    ----------
    catalog
        Path of the YAML file.
    model
        SHA-256 of the model, or its first digits.
    mode, seed
        Mode of the draw, ``"prior"`` or ``"posterior"``, and seed of the noise.

    Returns
    -------
    list of str
        Names of the entries that agree with all given values, sorted, as `open_entry` takes them.

    Raises
    ------
    CatalogError
        One of the catalogs cannot be read.
    """
    wanted = {key: v for key, v in (("mode", mode), ("seed", seed)) if v is not None}
    return sorted(
        name
        for name, metadata in _walk(input_path("catalog", catalog), "", set())
        if wanted.items() <= metadata.items()
        and str(metadata.get("model_sha256", "")).startswith(model or "")
    )


def open_entry(catalog: PathLike, name: str, *, trust: bool = False) -> xr.Dataset:
    """Open an entry as a lazy Dataset, chunked as it is stored.

    Parameters
    ----------
    catalog, name
        The entry.
    trust
        Open it with whatever reader it names. The default accepts those that read arrays, and
        refuses all that run code of their own.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, its data cannot be opened, or opening it may run code.
    """
    check_flags(trust=trust)
    path, entries, own = _find(input_path("catalog", catalog), name, trust=trust)
    subject = f"entry '{name}' of {catalog}"
    options = {}
    if not trust:
        check_entry(entries.to_dict(), own, str(path))
        if _is_grib(entries, own):
            options = {"indexpath": ""}  # the index that cfgrib keeps next to a file is a pickle
    try:
        opened = entries[own].read(**options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise CatalogError.of(
            subject,
            expected="data that xarray can open",
            got=f"{type(error).__name__}: {error}",
            remedy="Was the store moved without the catalog, or deleted? Move it back, or list "
            "it again.",
        ) from error
    if isinstance(opened, xr.Dataset):
        return opened
    raise CatalogError.of(
        subject,
        expected="an xarray.Dataset",
        got=type(opened).__name__,
        remedy="Choose an entry that intake reads with xarray.",
    )


def annotate(
    catalog: PathLike,
    name: str,
    card: xr.Dataset | Mapping[str, Any],
    *,
    timeout: float = LOCK_SECONDS,
) -> None:
    """Add headline scores to the metadata of an entry, under the key ``scores``, in one step.

    Parameters
    ----------
    catalog, name
        The entry.
    card
        Scorecard of `xcvae.evaluate` (the scores of xcvae are taken, without intervals and
        groups), or scores by name. Scores with other names stay.
    timeout
        Seconds to wait for another process that changes the catalog.

    Raises
    ------
    CatalogError
        There is no such catalog or entry, or no score in the card.
    """
    scores = _headline_scores(card) if isinstance(card, xr.Dataset) else card
    path, _, own = _find(input_path("catalog", catalog), name)
    with _changed(path, timeout) as entries:
        _check_known(entries, path, own)
        described = entries.get_entity(own).metadata
        described["scores"] = {**described.get("scores", {}), **plain(scores)}


def metadata_of(catalog: PathLike, name: str) -> dict[str, Any]:
    """Return the description of a store in its entry.

    Raises
    ------
    CatalogError
        There is no such catalog or entry.
    """
    _, entries, own = _find(input_path("catalog", catalog), name)
    return dict(entries.get_entity(own).metadata)


def _is_grib(entries: Catalog, name: str) -> bool:
    engine = entries.get_entity(name).kwargs.get("engine")
    kinds = (entries.data[token].datatype for token in _tokens_of(entries, name))
    return engine == "cfgrib" or any(kind.endswith(":GRIB2") for kind in kinds)


def _headline_scores(card: xr.Dataset) -> dict[str, float]:
    """Return the scores of xcvae in a scorecard, without intervals."""
    own = card.sel(source="xcvae") if "xcvae" in card.get("source", ()) else card
    scores = {n: da for n, da in own.data_vars.items() if da.ndim == 0 and "better" in da.attrs}
    if not scores:
        raise CatalogError.of(
            "card",
            expected="a scorecard with the source 'xcvae', not by groups",
            got=f"variables with the dims {dict(own.sizes)}",
            remedy="Give the Dataset that xcvae.evaluate(ds, ensemble) returns.",
        )
    return {str(name): round(float(da), 6) for name, da in scores.items()}


def _find(path: Path, name: str, *, trust: bool = False) -> tuple[Path, Catalog, str]:
    """Follow 'inner/prior64' to the catalog that has 'prior64' itself."""
    entries = _read(path, trust=trust)
    while "/" in name and name not in entries.aliases and name not in entries.entries:
        first, _, name = name.partition("/")
        _check_known(entries, path, first)
        path = _inner_path(entries, path, first)
        entries = _read(path, trust=trust)
    _check_known(entries, path, name)
    return path, entries, name


def _is_catalog(entries: Catalog, name: str) -> bool:
    # By its reader: what an entry says of its output does not bind it.
    return bool(entries.get_entity(name).reader == CATALOG_READER)


def _inner_path(entries: Catalog, path: Path, name: str) -> Path:
    """Return the path of a catalog that is an entry."""
    if not _is_catalog(entries, name):
        raise CatalogError.of(
            f"entry '{name}' of {path}",
            expected="a catalog",
            got="data",
            remedy="Give the name of the entry alone, without anything after a '/'.",
        )
    check_entry(entries.to_dict(), name, str(path))
    return Path(str(entries[name].data.url).removeprefix("file://"))


def _walk(path: Path, prefix: str, seen: set[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all names and metadata, of each catalog once even if they list each other."""
    seen.add(path.resolve())
    entries = _read(path)
    for name in entries.aliases:
        if not _is_catalog(entries, name):
            yield f"{prefix}{name}", entries.get_entity(name).metadata
        elif (inner := _inner_path(entries, path, name)).resolve() not in seen:
            yield from _walk(inner, f"{prefix}{name}/", seen)


def _check_known(entries: Catalog, catalog: Path, name: str) -> None:
    if name not in entries.aliases and name not in entries.entries:
        raise CatalogError.of(
            f"catalog '{catalog}'",
            expected="the name of an entry",
            got=repr(name),
            remedy=nearest(name, entries.aliases),
        )


def _read(path: Path, *, new: bool = False, trust: bool = False) -> Catalog:
    """Read a catalog; with ``new``, one that does not exist is empty."""
    from intake.readers.entry import Catalog

    if new and not is_taken(path):
        return Catalog()
    try:
        content = path.read_bytes()
        if not content.strip():
            raise CatalogError.of(
                f"catalog '{path}'",
                expected="an intake 2 catalog file",
                got="an empty file",
                remedy="Remove it to begin a new catalog, or choose another path.",
            )
        if not trust:
            check_classes(yaml.safe_load(content), str(path))
        # Stores are named relative to the catalog, not to a link to it.
        return Catalog.from_yaml_file(str(path.resolve()))
    except CatalogError:
        raise
    # A damaged catalog fails in many ways inside intake: wrong types, missing keys, broken YAML.
    except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CatalogError.of(
            f"catalog '{path}'",
            expected="an intake 2 catalog file",
            got=f"{type(error).__name__}: {error}",
            remedy="Check the path; catalogs of intake 1 are not read.",
        ) from error


@contextmanager
def _changed(path: Path, timeout: float, *, new: bool = False) -> Iterator[Catalog]:
    """Read a catalog to be changed, and write it; without the lock, others lose their changes.

    The file is replaced in one step: a reader sees the old catalog or the new one, never half.
    """
    busy = CatalogError.of(
        f"catalog '{path}'",
        expected=f"the lock of the catalog within {timeout:g} s",
        got="a lock held by another process",
        remedy="Wait until that process ends, then repeat the call.",
    )
    # A link to a catalog has the lock of the catalog.
    file = path.resolve() if path.exists() else path.absolute()
    check_writable("catalog", file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file, timeout=timeout, busy=busy):
        entries = _read(path, new=new)
        before = _text(entries)
        yield entries
        text = _text(entries)
        if text != before:
            target = path.resolve()  # a link to a catalog stays a link
            remove_stale(target)
            write_text(target, text, sync=True)


def _text(entries: Catalog) -> str:
    """Return the content of a catalog file."""
    content = entries.to_dict()
    # Intake adds these on opening; written back, they would pin the catalog to its present folder.
    for key in ("CATALOG_DIR", "CATALOG_PATH", "STORAGE_OPTIONS"):
        content["user_parameters"].pop(key, None)
    return yaml.safe_dump(content, sort_keys=True)


def _add(
    catalog: Path, name: str, url: str, reader: Any, *, overwrite: bool, timeout: float
) -> None:
    with _changed(catalog, timeout, new=True) as entries:
        _check_unused(entries, catalog, name, url, overwrite=overwrite)
        _delete(entries, name)
        entries[name] = reader
        entries.aliases[name] = name


def _url_of(catalog: Path, listed: PathLike) -> str:
    """Return the URL of a store or another catalog, relative to this catalog."""
    relative = Path(os.path.relpath(Path(listed).resolve(), catalog.resolve().parent)).as_posix()
    if "{" in relative or "}" in relative:
        raise CatalogError.of(
            f"store '{listed}'",
            expected="a path without braces",
            got=repr(relative),
            remedy="Rename the folder: intake reads braces in paths as parameters.",
        )
    return "{CATALOG_DIR}/" + relative


def _check_unused(
    entries: Catalog, catalog: Path, name: object, url: str, *, overwrite: bool
) -> None:
    """Refuse a name that intake would misread, or that another entry has."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise CatalogError.of(
            "name",
            expected="letters, digits, '_', '-' or '.'",
            got=repr(name),
            remedy="Choose a name such as 'prior64'.",
        )
    if overwrite or (name not in entries.aliases and name not in entries.entries):
        return
    used = [entries.data[token].kwargs.get("url") for token in _tokens_of(entries, name)]
    if used != [url]:
        raise CatalogError.of(
            f"name '{name}' in {catalog}",
            expected="a name that is not used yet",
            got=f"an entry for {', '.join(map(str, used)) or 'other data'}",
            remedy="Choose another name or catalog, or remove the entry first, which leaves its "
            f"data: xcvae.catalog.remove({str(catalog)!r}, {name!r}).",
        )


def _delete(entries: Catalog, name: str) -> None:
    """Delete an entry, and the data descriptions that no other entry reads."""
    tokens = set(_tokens_of(entries, name))
    if name in entries.aliases or name in entries.entries:
        del entries[name]
    used = {token for other in entries.entries for token in _tokens_of(entries, other)}
    for token in tokens - used:
        del entries.data[token]


def _tokens_of(entries: Catalog, name: str) -> list[str]:
    """Return the tokens of the data descriptions that an entry reads."""
    token = entries.aliases.get(name, name)
    text = str(entries.entries[token].kwargs) if token in entries.entries else ""
    return [found for found in _REFERENCE.findall(text) if found in entries.data]

"""Files, stores and addresses that a configuration names, opened one by one and joined.

Files of one pattern must agree in all but the dimension along which they follow each other: an
outer join would fill days of a file on another grid with NaN. Each file that differs is named.
"""

from __future__ import annotations

import glob
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import xarray as xr

from xcvae.config.joins import joined, merged
from xcvae.config.schema import DataSection, SourceSection
from xcvae.errors import ConfigError, MissingVariableError, nearest
from xcvae.files import expanded, is_url

_GRIB = (".grib", ".grb", ".grib2", ".grb2", ".grib1")
_ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")


def opened(section: DataSection, folder: Path) -> xr.Dataset:
    """Open the source of a section, with its new names.

    Parameters
    ----------
    section
        Section of a configuration.
    folder
        Folder that relative paths refer to.

    Raises
    ------
    ConfigError
        A file cannot be opened, or differs from the others that it is to be joined with.
    MissingVariableError
        A name to be replaced is not in the data.
    CatalogError
        The entry of a catalog cannot be opened.
    """
    if section.sources is not None:
        parts = {
            f"data.sources[{i}]": _one_source(one, folder, f"data.sources[{i}]")
            for i, one in enumerate(section.sources)
        }
        ds = merged(parts)
    elif section.tutorial is not None:
        from xcvae.tutorial import open_dataset

        ds = open_dataset(section.tutorial)
    elif section.intake is not None:
        from xcvae.ensemble.catalog import open_entry

        entry = section.intake
        ds = open_entry(folder / expanded(entry.catalog), entry.name, trust=entry.trust)
    else:
        ds = open_paths(section, folder, "data")
    return _renamed(ds, section.rename, "data.rename")


def _one_source(source: SourceSection, folder: Path, where: str) -> xr.Dataset:
    return _renamed(open_paths(source, folder, where), source.rename, f"{where}.rename")


def open_paths(source: DataSection | SourceSection, folder: Path, where: str) -> xr.Dataset:
    """Open the files, stores or addresses of a source and join them.

    Parameters
    ----------
    source
        Section with ``path``, ``engine``, ``group`` and ``storage_options``.
    folder
        Folder that relative paths refer to.
    where
        Name of the section in messages.
    """
    _check_engine(source.engine, where)
    given = [source.path] if isinstance(source.path, str) else list(source.path or ())
    names = [name for one in given for name in _found(one, source, folder, where)]
    parts = {name: _one_file(name, source, where) for name in dict.fromkeys(names)}
    return next(iter(parts.values())) if len(parts) == 1 else joined(parts, f"{where}.path")


def _found(
    path: str, source: DataSection | SourceSection, folder: Path, where: str
) -> Sequence[str]:
    """Return the files that a path or a pattern names, sorted."""
    if is_url(path):
        return _matching(path, source, where) if "*" in path else [path]
    if source.storage_options:
        raise ConfigError.of(
            f"{where}.storage_options",
            expected="an address such as s3://bucket/rain.zarr as the path",
            got=f"the local path {path!r}",
            remedy="Leave storage_options out: they are for remote data.",
        )
    pattern = str(folder / expanded(path))
    found = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not found:
        raise ConfigError.of(
            f"{where}.path",
            expected="a file, a Zarr store, or a pattern that matches some",
            got=f"{pattern}, which matches nothing",
            remedy="Paths are relative to the folder of the configuration.",
        )
    return found


def _matching(pattern: str, source: DataSection | SourceSection, where: str) -> Sequence[str]:
    """Return the addresses that match a pattern."""
    try:
        fs, _, paths = fsspec.get_fs_token_paths(
            pattern, storage_options=source.storage_options or None
        )
    except Exception as error:
        raise _not_opened(pattern, error, where) from error
    if not paths:
        raise ConfigError.of(
            f"{where}.path",
            expected="an address, or a pattern that matches some",
            got=f"{pattern}, which matches nothing",
            remedy="Servers of files over HTTP list none: name each file.",
        )
    return [str(fs.unstrip_protocol(path)) for path in sorted(paths)]


def _check_engine(engine: str | None, where: str) -> None:
    known = {*xr.backends.list_engines(), "kerchunk"}
    if engine is not None and engine not in known:
        raise ConfigError.of(
            f"{where}.engine",
            expected="an engine of xarray that is installed",
            got=repr(engine),
            remedy=f"{nearest(engine, known)} Others: pip install 'xcvae[netcdf]', 'xcvae[grib]' "
            "or the package of the engine.",
        )


def _is_zarr(path: str, source: DataSection | SourceSection) -> bool:
    return source.engine == "zarr" or (source.engine is None and ".zarr" in path)


def _one_file(name: str, source: DataSection | SourceSection, where: str) -> xr.Dataset:
    """Open one file, store or address; errors name it."""
    options: dict[str, Any] = {"chunks": {}, "engine": source.engine, "group": source.group}
    remote = is_url(name)
    if not remote and Path(name).is_dir() and source.engine in (None, "zarr"):
        _check_store(Path(name), where)
        options |= {"engine": "zarr", "consolidated": False}
    try:
        with warnings.catch_warnings():
            # Stores without consolidated metadata are read all the same.
            warnings.filterwarnings("ignore", "Failed to open Zarr store", RuntimeWarning)
            ds = _read(name, options, source)
    except Exception as error:
        raise _not_opened(name, error, where) from error
    if not ds.data_vars:
        raise _without_variables(name, options, where)
    return ds


def _read(name: str, options: dict[str, Any], source: DataSection | SourceSection) -> xr.Dataset:
    given = {key: value for key, value in options.items() if value is not None}
    storage = source.storage_options or {}
    if source.engine == "kerchunk":
        # References to chunks in other files, by Kerchunk or VirtualiZarr.
        reference = {"storage_options": {"fo": name, **storage}, "consolidated": False}
        return xr.open_dataset("reference://", **{**given, "engine": "zarr", **reference})
    if not is_url(name):
        return xr.open_dataset(name, **given)
    if _is_zarr(name, source):
        remote = {"storage_options": storage} if storage else {}
        return xr.open_dataset(name, **{**given, "engine": "zarr", **remote})
    if source.engine == "pydap" or "/dodsC/" in name:  # served by OPeNDAP, not a file
        return xr.open_dataset(name, **given)
    # The libraries of NetCDF and GRIB read local files: a copy, deleted with this process.
    protocol = name.partition("://")[0].rpartition("::")[2]
    local = fsspec.open_local(f"simplecache::{name}", **{protocol: storage} if storage else {})
    return xr.open_dataset(str(local), **given)


def _check_store(folder: Path, where: str) -> None:
    """Refuse a folder of files."""
    if any((folder / name).exists() for name in _ZARR_FILES):
        return
    kinds = sorted({p.suffix for p in folder.iterdir() if p.suffix and not p.name.startswith(".")})
    raise ConfigError.of(
        f"{where}.path",
        expected="a file, a Zarr store, or a pattern that matches some",
        got=f"the folder {folder}, which is no Zarr store",
        remedy=f"Write a pattern such as {folder / ('*' + (kinds or ['.nc'])[0])}.",
    )


def _without_variables(name: str, options: Mapping[str, Any], where: str) -> ConfigError:
    """Return the refusal of a file whose variables are in a group that is not named."""
    given = {key: value for key, value in options.items() if value is not None}
    given.pop("group", None)
    try:
        groups = xr.open_groups(name, **given)
        found = [group for group, ds in groups.items() if ds.data_vars]
    except Exception:  # noqa: BLE001  this only improves the message
        found = []
    return ConfigError.of(
        f"{where}.group",
        expected=f"variables in {name}",
        got=f"none in the group {options['group'] or '/'!r}; groups with some: "
        f"{', '.join(found) or '(none)'}",
        remedy=f"Add `group: {found[0]}`." if found else "Choose another file.",
    )


def _not_opened(name: str, error: Exception, where: str) -> ConfigError:
    needed = "netCDF-4 files need one more package: pip install 'xcvae[netcdf]'"
    if name.lower().endswith(_GRIB):
        needed = "GRIB files need one more package: pip install 'xcvae[grib]'"
    elif is_url(name):
        needed = "remote data may need packages (pip install 'xcvae[cloud]') and storage_options"
    return ConfigError.of(
        f"{where}.path",
        expected="data that xarray can open",
        got=f"{name}: {type(error).__name__}: {error}",
        remedy=f"Try it with xarray.open_dataset; {needed}.",
    )


def _renamed(ds: xr.Dataset, names: Mapping[str, str], where: str) -> xr.Dataset:
    known = {str(name) for name in (*ds.variables, *ds.dims)}
    for old in names:
        if old not in known:
            raise MissingVariableError.of(
                where, expected="names in the data", got=repr(old), remedy=nearest(old, known)
            )
    try:
        renamed: xr.Dataset = ds.rename(names)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    return renamed

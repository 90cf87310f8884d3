"""Files, stores and addresses that a configuration names, opened one by one and joined.

Files of one pattern must agree in all but the dimension along which they follow each other: an
outer join would fill days of a file on another grid with NaN. Each file that differs is named.
"""

from __future__ import annotations

import glob
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import xarray as xr

from xcvae.config.schema import DataSection, SourceSection
from xcvae.errors import ConfigError, MissingVariableError, UnitsError, nearest
from xcvae.fields.units import affine
from xcvae.files import GRIB, NETCDF, expanded, is_url

Parts = dict[str, xr.Dataset]
#: Name, in place of a section, for data that a command was given as arguments.
ARGUMENT = "DATA"
#: Coordinates that differ by less than this share of their spacing are those of one grid: float32
#: keeps seven digits.
TOLERANCE = 0.01
#: Attributes with the name of the bounds of a coordinate.
LINKS = ("bounds", "climatology")


def joined(parts: Mapping[str, xr.Dataset], where: str) -> xr.Dataset:
    """Join files that follow each other, or that have different variables.

    Parameters
    ----------
    parts
        Datasets by the names of their files.
    where
        Name of the setting in messages.

    Raises
    ------
    ConfigError
        A file differs from most others: other variables, units or coordinates, another calendar,
        samples that another file has too. The message names it.
    """
    groups: dict[frozenset[Hashable], Parts] = {}
    for name, ds in parts.items():
        groups.setdefault(fields_of(ds), {})[name] = ds
    series = {names: _series(group, where) for names, group in groups.items()}
    if len(series) == 1:
        return next(iter(series.values()))
    _check_variables(groups, series, where)
    names = [" and ".join(_short(group)) for group in groups.values()]
    return merged(dict(zip(names, series.values(), strict=True)), where, inner=False)


def _check_variables(
    groups: Mapping[frozenset[Hashable], Parts],
    series: Mapping[frozenset[Hashable], xr.Dataset],
    where: str,
) -> None:
    """Refuse files without the variables of the others, unless they are for the same samples."""
    usual = max(groups, key=lambda names: (len(groups[names]), len(names)))
    for names, group in groups.items():
        lengths = {
            str(dim): (series[usual].sizes[dim], ds.sizes[dim])
            for ds in (series[names],)
            for dim in ds.dims
            if dim in series[usual].dims
        }
        shared = sorted(map(str, usual & names))
        odd = {dim: sizes for dim, sizes in lengths.items() if sizes[0] != sizes[1]}
        if names == usual or not (odd or shared):
            continue
        raise _odd(
            where, group, expected=f"the variables {', '.join(sorted(map(str, usual)))}",
            got=f"{', '.join(sorted(map(str, names)))}"
            + "".join(f", with {b} of {a} labels along '{d}'" for d, (a, b) in odd.items()),
            remedy="Leave it out of the pattern, rename its variables, or list files with other "
            "variables as `sources:`, each with a `rename:`.",
        )  # fmt: skip


def fields_of(ds: xr.Dataset) -> frozenset[Hashable]:
    """Return the names of the variables, without the bounds of coordinates."""
    return frozenset(ds.data_vars) - bounds_of(ds)


def bounds_of(ds: xr.Dataset) -> set[Hashable]:
    """Return the names of the bounds of coordinates, such as ``time_bnds``."""
    named = {
        found.get(link)
        for coordinate in ds.coords.values()
        for found in (coordinate.attrs, coordinate.encoding)
        for link in LINKS
    }
    return {name for name in named if name in ds.variables}


def _series(parts: Parts, where: str) -> xr.Dataset:
    """Join files with the same variables along the dimensions in which their labels follow."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    parts = _same_units(parts, where)
    for dim in sorted({dim for ds in parts.values() for dim in ds.dims}, key=str):
        parts = _same_labels(parts, dim, where)
    try:
        found = xr.combine_by_coords(
            list(parts.values()), combine_attrs="drop_conflicts", data_vars="minimal",
            coords="minimal", compat="no_conflicts", join="exact",
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise _odd(
            where, parts, expected="files that xarray can join along their coordinates",
            got=f"{type(error).__name__}: {error}", remedy=_join_remedy(next(iter(parts.values()))),
        ) from error  # fmt: skip
    assert isinstance(found, xr.Dataset)  # combine_by_coords returns an array for arrays
    return found


def _join_remedy(ds: xr.Dataset) -> str:
    """Return how to join files by hand; those of WRF have times, but no labels along ``Time``."""
    for name, one in ds.variables.items():
        if one.ndim == 1 and one.dims[0] not in ds.indexes and one.dtype.kind == "M":
            (dim,) = one.dims
            return (
                f"'{dim}' has no labels. Join them with xarray.open_mfdataset(files, "
                f"combine='nested', concat_dim='{dim}').swap_dims({dim}='{name}'), and write one "
                "file."
            )
    return "Join them with xarray.open_mfdataset(..., join='exact'), and write one file."


def _same_units(parts: Parts, where: str) -> Parts:
    """Refuse files in other units; other spellings of the same units become one."""
    changed = dict(parts)
    for variable in next(iter(parts.values())).data_vars:
        units = {name: ds[variable].attrs.get("units") for name, ds in parts.items()}
        usual = Counter(map(str, units.values())).most_common(1)[0][0]
        odd = {name: parts[name] for name, text in units.items() if not _equal(text, usual)}
        if odd:
            got = ", ".join(sorted({str(units[name]) for name in odd}))
            raise _odd(
                where, odd, expected=f"'{variable}' in the units of the other files, {usual}",
                got=f"the units {got}", remedy="Convert the file with xcvae.fields.units.to_units, "
                "or correct its attribute `units`, and write it again.",
            )  # fmt: skip
        for name, text in units.items():
            if text is not None and str(text) != usual:
                one = changed[name][variable].assign_attrs(units=usual)
                changed[name] = changed[name].assign({variable: one})
    return changed


def _equal(units: object, usual: str) -> bool:
    if str(units) == usual:
        return True
    try:
        return affine(str(units), usual, "units") == (1.0, 0.0)
    except UnitsError:
        return False


def _same_labels(parts: Parts, dim: Hashable, where: str) -> Parts:
    """Give all files the same labels along a dimension, or labels that follow each other."""
    empty = {name: ds for name, ds in parts.items() if ds.sizes.get(dim) == 0}
    if empty:
        raise _odd(where, empty, expected=f"a label along '{dim}' at least", got="none",
                   remedy="Leave it out of the pattern: there are no data in it.")  # fmt: skip
    kinds = {name: _kind(ds, dim) for name, ds in parts.items()}
    usual_kind = Counter(kinds.values()).most_common(1)[0][0]
    odd = {name: parts[name] for name, kind in kinds.items() if kind != usual_kind}
    if odd:
        got = ", ".join(sorted({kinds[name] for name in odd}))
        raise _odd(where, odd, expected=f"'{dim}' with {usual_kind}, as in other files",
                   got=got, remedy="Write the file again in the form of the others.")  # fmt: skip
    if usual_kind == "no labels" or usual_kind.startswith("no such"):
        return _of_one_size(parts, dim, where)
    clusters: list[Parts] = []
    changed = dict(parts)
    for name, ds in parts.items():
        for cluster in clusters:
            same = with_labels_of(ds, next(iter(cluster.values())), dim)
            if same is not None:
                cluster[name] = changed[name] = same
                break
        else:
            clusters.append({name: ds})
    if len(clusters) > 1:
        _check_follow(clusters, dim, where, times=usual_kind.startswith("calendar"))
    return changed


def _kind(ds: xr.Dataset, dim: Hashable) -> str:
    if dim not in ds.dims:
        return f"no such dimension as '{dim}'"
    if dim not in ds.indexes:
        return "no labels"
    labels = ds[dim]
    if np.issubdtype(labels.dtype, np.datetime64) or hasattr(labels.values.flat[0], "calendar"):
        return f"calendar {labels.dt.calendar}"
    return "numbers" if np.issubdtype(labels.dtype, np.number) else f"labels of {labels.dtype}"


def _of_one_size(parts: Parts, dim: Hashable, where: str) -> Parts:
    sizes = {name: ds.sizes.get(dim, 0) for name, ds in parts.items()}
    usual = Counter(sizes.values()).most_common(1)[0][0]
    odd = {name: parts[name] for name, size in sizes.items() if size != usual}
    if odd:
        got = ", ".join(sorted({str(sizes[name]) for name in odd}))
        raise _odd(where, odd, expected=f"{usual} along '{dim}', as in the other files", got=got,
                   remedy="The dimension has no labels to join along: give it some.")  # fmt: skip
    return parts


def with_labels_of(ds: xr.Dataset, other: xr.Dataset, dim: Hashable) -> xr.Dataset | None:
    """Return a Dataset with the labels of another; None if they are not the same ones."""
    ours, theirs = ds[dim].values, other[dim].values
    if ours.shape != theirs.shape:
        return None
    if np.array_equal(ours, theirs):
        return ds
    if not np.issubdtype(ours.dtype, np.number) or not np.issubdtype(theirs.dtype, np.number):
        return None
    limit = TOLERANCE * float(np.abs(np.diff(theirs)).min()) if len(theirs) > 1 else 0.0
    for turned in (ds, ds.isel({dim: slice(None, None, -1)})):
        if np.allclose(turned[dim].values, theirs, rtol=0, atol=limit):
            return turned.assign_coords({dim: other[dim]})
    return None


def _check_follow(clusters: list[Parts], dim: Hashable, where: str, *, times: bool) -> None:
    """Refuse labels that overlap, and labels of another grid."""
    # Sorted, not min and max, which texts do not have.
    labels = [np.sort(next(iter(cluster.values()))[dim].values) for cluster in clusters]
    found = sorted(zip(labels, clusters, strict=True), key=lambda one: one[0][0])
    for (earlier, before), (later, after) in pairwise(found):
        if later[0] > earlier[-1]:
            continue
        odd = min((before, after), key=len) if not times else {**before, **after}
        raise _odd(
            where, odd, expected=f"labels along '{dim}' that do not overlap" if times else
            f"the same labels along '{dim}' as in the other files, or labels beyond theirs",
            got=" and ".join(map(_extent, (earlier, later))),
            remedy="Leave one of the files out, or select the labels of each and write it again."
            if times else "Regrid the file, or leave it out of the pattern.",
        )  # fmt: skip


def merged(
    parts: Mapping[str, xr.Dataset], where: str = "data.sources", *, inner: bool = True
) -> xr.Dataset:
    """Merge the variables of several sources.

    Parameters
    ----------
    parts
        Datasets by name, each with its own variables.
    where
        Name of the setting in messages.
    inner
        Keep only the samples (times) that all sources have; else they must be the same.

    Raises
    ------
    ConfigError
        A variable is in several sources, or a dimension has one name for different labels.
    """
    (first, ds), *others = parts.items()
    for name, given in others:
        other = _without_bounds(given, bounds_of(ds))
        twice = in_both(ds, other)
        if twice:
            got, remedy = ", ".join(twice), "Rename them: `rename: {old: new}`."
            expected = "variables that no other source has"
            raise _odd(where, {name: other}, expected=expected, got=got, remedy=remedy)
        both = _on_common_labels(ds, other, (first, name), where, inner=inner)
        try:
            ds = xr.merge(both, join="exact", compat="override",
                          combine_attrs="drop_conflicts")  # fmt: skip
        except ValueError as error:
            raise _odd(where, {name: other}, expected="data that fit those of the others",
                       got=str(error), remedy="Rename what differs.") from error  # fmt: skip
    return ds


def _without_bounds(ds: xr.Dataset, names: set[Hashable]) -> xr.Dataset:
    """Leave out bounds that another source has too: each coordinate needs one, and none is read."""
    dropped = names & bounds_of(ds)
    ds = ds.drop_vars(dropped).copy()  # attributes of the input stay
    for name, coordinate in ds.coords.items():
        links = [link for link in LINKS if coordinate.attrs.get(link) in dropped]
        if links:
            ds[name].attrs = {k: v for k, v in coordinate.attrs.items() if k not in links}
    return ds


def in_both(ds: xr.Dataset, other: xr.Dataset) -> list[str]:
    """Return the names of different variables and coordinates that are the same."""
    found = []
    shared = ds.variables.keys() & other.variables.keys()
    for name in shared - (ds.sizes.keys() & other.sizes.keys()):
        one, two = ds[name], other[name]
        is_field = name in ds.data_vars and one.ndim > 0
        # Of two grid mappings, or two 2-D latitudes, a merge would keep the first without a word.
        if is_field or one.dims != two.dims or (one.ndim == 0 and not _same_attrs(one, two)):
            found.append(str(name))
    return sorted(found)


def _same_attrs(one: xr.DataArray, two: xr.DataArray) -> bool:
    """Compare attributes, some of which may be arrays (`standard_parallel`)."""
    return xr.DataArray(0, attrs=one.attrs).identical(xr.DataArray(0, attrs=two.attrs))


def _on_common_labels(
    ds: xr.Dataset, other: xr.Dataset, names: tuple[str, str], where: str, *, inner: bool
) -> tuple[xr.Dataset, xr.Dataset]:
    for dim in [dim for dim in other.dims if dim in ds.dims]:
        kinds = _kind(ds, dim), _kind(other, dim)
        if "no labels" in kinds and ds.sizes[dim] == other.sizes[dim]:
            continue
        same = with_labels_of(other, ds, dim) if kinds[0] == kinds[1] != "no labels" else None
        if same is not None:
            other = same
            continue
        common = np.intersect1d(ds[dim], other[dim]) if kinds[0] == kinds[1] else np.array([])
        is_time = kinds[0].startswith("calendar") and inner
        if not (is_time and len(common) and _step(ds[dim]) == _step(other[dim])):
            first, second = (_extent(one[dim].values) for one in (ds, other))
            raise _odd(where, {names[1]: other},
                       expected=f"the labels of {names[0]} along '{dim}', {first}",
                       got=f"{other.sizes[dim]} others, {second} ({kinds[1]})",
                       remedy=_label_remedy(ds, other, dim, kinds))  # fmt: skip
        for name, one in zip(names, (ds, other), strict=True):
            _check_unique(one, dim, name, where)
        ds, other = ds.sel({dim: common}), other.sel({dim: common})
    return ds, other


def _check_unique(ds: xr.Dataset, dim: Hashable, name: str, where: str) -> None:
    """Refuse labels that repeat, of which none can be selected."""
    index = ds.indexes[dim]
    if not index.is_unique:
        repeated = index[index.duplicated()]
        raise _odd(where, {name: ds}, expected=f"each label along '{dim}' once",
                   got=f"{len(repeated)} repeated, first {repeated[0]}",
                   remedy=f"Write it again without them: ds.drop_duplicates('{dim}').")  # fmt: skip


def _label_remedy(ds: xr.Dataset, other: xr.Dataset, dim: Hashable, kinds: tuple[str, str]) -> str:
    """Return what helps with labels that differ, by their kinds."""
    if not kinds[0].startswith("calendar"):
        return f"If it is another grid, rename it: `rename: {{{dim}: {dim}_2}}`."
    if kinds[0] != kinds[1] and kinds[1].startswith("calendar"):
        calendar = kinds[0].removeprefix("calendar ")
        return f"Write it again with ds.convert_calendar('{calendar}', align_on='date')."
    if kinds[0] == kinds[1] and not ds.indexes[dim].isin(other.indexes[dim]).any():
        days = ds[dim].dt.floor("D").to_index(), other[dim].dt.floor("D").to_index()
        if days[0].is_unique and days[1].is_unique and days[0].isin(days[1]).any():
            return (
                "The same days have other times of day: write one of them again with "
                f"ds['{dim}'] = ds['{dim}'].dt.floor('D')."
            )
    return "Give all files the same samples, or aggregate them to one step."


def _extent(labels: np.ndarray) -> str:
    """Name the first and the last label."""
    if not labels.size:
        return "none"
    cut = 16 if labels.dtype.kind in "MO" else None  # times to the minute
    return " to ".join(str(value)[:cut] for value in labels[[0, -1]])


def _step(labels: xr.DataArray) -> Any:
    steps = np.sort(np.diff(np.sort(labels.values)))
    return steps[len(steps) // 2] if len(steps) else None


def _short(parts: Mapping[str, object]) -> list[str]:
    return [name if "://" in name else Path(name).name for name in parts]


def _odd(
    where: str, parts: Mapping[str, object], *, expected: str, got: str, remedy: str
) -> ConfigError:
    """Return the refusal of files, by their names."""
    names = _short(parts)
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return ConfigError.of(f"{where}, {shown}", expected=expected, got=got, remedy=remedy)


def _setting(where: str, key: str) -> str:
    """Return how a message names a key of a section, or the argument of a command."""
    return where if where == ARGUMENT else f"{where}.{key}"


#: Files of which a Zarr store or group has one.
ZARR_FILES = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")


def opened(section: DataSection, folder: Path, where: str = "data") -> xr.Dataset:
    """Open the source of a section, with its new names.

    Parameters
    ----------
    section
        Section of a configuration.
    folder
        Folder that relative paths refer to.
    where
        Name of the section in messages; `ARGUMENT` for files that a command was given.

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
        ds = open_paths(section, folder, where)
    return _renamed(ds, section.rename, "data.rename")


def _one_source(source: SourceSection, folder: Path, where: str) -> xr.Dataset:
    return _renamed(open_paths(source, folder, where), source.rename, f"{where}.rename")


def open_paths(source: DataSection | SourceSection, folder: Path, where: str) -> xr.Dataset:
    """Open the files, stores or addresses of a source and join them.

    Parameters
    ----------
    source
        Section with ``path``, ``engine``, ``group``, ``storage_options`` and ``backend_kwargs``.
    folder
        Folder that relative paths refer to.
    where
        Name of the section in messages.
    """
    _check_engine(source.engine, where)
    given = [source.path] if isinstance(source.path, str) else list(source.path or ())
    if not given:
        raise ConfigError.of(
            _setting(where, "path"),
            expected="a file, or a list of files",
            got=repr(source.path),
            remedy="Name one, such as rain.nc, or a pattern, such as rain-*.nc.",
        )
    names = [name for one in given for name in _found(one, source, folder, where)]
    parts = {name: _one_file(name, source, where) for name in dict.fromkeys(names)}
    return next(iter(parts.values())) if len(parts) == 1 else joined(parts, _setting(where, "path"))


def _found(
    path: str, source: DataSection | SourceSection, folder: Path, where: str
) -> Sequence[str]:
    """Return the files that a path or a pattern names, sorted."""
    if is_url(path):
        return _matching(path, source, where) if "*" in path else [path]
    if source.storage_options:
        raise ConfigError.of(
            _setting(where, "storage_options"),
            expected="an address such as s3://bucket/rain.zarr as the path",
            got=f"the local path {path!r}",
            remedy="Leave storage_options out: they are for remote data.",
        )
    pattern = str(folder / expanded(path))
    # Brackets in the name of the folder are no pattern.
    sought = str(Path(glob.escape(str(folder))) / expanded(path))
    found = [pattern] if Path(pattern).exists() else sorted(glob.glob(sought, recursive=True))  # noqa: PTH207
    if not found:
        remedy = "Paths are relative to the folder of the configuration."
        if where == ARGUMENT:
            remedy = "Check the path, and quote a pattern: 'rain/*.nc'."
        raise _no_match(pattern, "a file, a Zarr store", remedy, where)
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
        remedy = "Servers of files over HTTP list none: name each file."
        raise _no_match(pattern, "an address", remedy, where)
    return [str(fs.unstrip_protocol(path)) for path in sorted(paths)]


def _no_match(pattern: str, what: str, remedy: str, where: str) -> ConfigError:
    expected, got = f"{what}, or a pattern that matches some", f"{pattern}, which matches nothing"
    return ConfigError.of(_setting(where, "path"), expected=expected, got=got, remedy=remedy)


def _check_engine(engine: str | None, where: str) -> None:
    known = {*xr.backends.list_engines(), "kerchunk"}
    if engine is not None and engine not in known:
        raise ConfigError.of(
            _setting(where, "engine"),
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
    options["backend_kwargs"] = source.backend_kwargs
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
    if any((folder / name).exists() for name in ZARR_FILES):
        return
    kinds = {p.suffix.lower() for p in folder.iterdir() if not p.name.startswith(".")}
    data = sorted(kinds & {*NETCDF, *GRIB})
    raise ConfigError.of(
        _setting(where, "path"),
        expected="a file, a Zarr store, or a pattern that matches some",
        got=f"the folder {folder}, which is " + ("not a Zarr store" if kinds else "empty"),
        remedy=f"Write a pattern such as {folder / ('*' + (data or ['.nc'])[0])}.",
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
        _setting(where, "group"),
        expected=f"variables in {name}",
        got=f"none in the group {options['group'] or '/'!r}; groups with some: "
        f"{', '.join(found) or '(none)'}",
        remedy=f"Add `group: {found[0]}` to the configuration, under `data:`."
        if found
        else "Choose another file.",
    )


def _not_opened(name: str, error: Exception, where: str) -> ConfigError:
    got = f"{name}: {type(error).__name__}: {str(error).partition(' Consider ')[0]}"
    remedy = "Try it with xarray.open_dataset"
    if is_url(name):
        remedy += "; remote data may need packages (pip install 'xcvae[cloud]') and storage_options"
    elif name.lower().endswith(GRIB):
        remedy += "; GRIB files need one more package: pip install 'xcvae[grib]'"
    elif (begin := _foreign(Path(name))) is not None:
        got = f"{name}, which begins with {begin!r}: neither NetCDF nor HDF5" if begin else (
            f"{name}, a file of 0 bytes")  # fmt: skip
        remedy = "Get or write the file again: it may be what a failed download left, or a text"
    elif not {"netcdf4", "h5netcdf"} & xr.backends.list_engines().keys():
        remedy += "; NetCDF-4 files need one more package: pip install 'xcvae[netcdf]'"
    return ConfigError.of(
        _setting(where, "path"),
        expected="data that xarray can open",
        got=got,
        remedy=f"{remedy}.",
    )


#: First bytes of NetCDF-3, NetCDF-4 (HDF5), GRIB, gzip and bzip2, which xarray or an engine reads.
_MAGIC = (b"CDF", b"\x89HDF", b"GRIB", b"\x1f\x8b", b"BZh")


def _foreign(file: Path) -> bytes | None:
    """Return the first bytes of a file under the name of a NetCDF file that are another kind's."""
    if file.suffix.lower() not in NETCDF:
        return None
    try:
        with file.open("rb") as opened_file:
            begin = opened_file.read(20)
    except OSError:
        return None
    return None if begin.startswith(_MAGIC) else begin


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
    return _with_links(renamed, names)


def _with_links(ds: xr.Dataset, names: Mapping[str, str]) -> xr.Dataset:
    """Give attributes that name variables the new names: another source may have the old ones."""
    for name in ds.variables:
        for link in ("grid_mapping", "bounds", "climatology"):
            for found in (ds[name].attrs, ds[name].encoding):
                # A grid mapping may be followed by coordinates, as in "crs: x y".
                first, *rest = str(found.get(link, "")).split(":", maxsplit=1)
                if first.strip() in names:
                    found[link] = ":".join([names[first.strip()], *rest])
        for found in (ds[name].attrs, ds[name].encoding):
            words = str(found.get("cell_measures", "")).split()  # as in "area: cell_area"
            if names.keys() & set(words):
                found["cell_measures"] = " ".join(names.get(word, word) for word in words)
    return ds

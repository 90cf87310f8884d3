"""Ensembles as NetCDF files: CF, compressed, packed safely, and read back to prove it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.indexes import PandasMultiIndex

from xcvae.errors import (
    ConfigError,
    DataError,
    OutputExistsError,
    StoreError,
    UnitsError,
    check_flags,
    warn_user,
)
from xcvae.fields.cf import check_name, check_values, find_layout
from xcvae.fields.dataspec import plain
from xcvae.fields.samples import labels_of
from xcvae.fields.units import BOUNDS, default_wet_threshold, with_duration
from xcvae.fields.validation import refuse_packed
from xcvae.files import (
    check_writable,
    expanded,
    hidden_folder,
    is_taken,
    is_url,
    local_path,
    locked,
    rename_new,
    write_text,
)

CODES = 32767
"""Largest code of a packed value; -32768 stands for missing values."""
MISSING = -32768
STEPS_OF_WET = 10
"""Packing keeps at least this many steps below the wet threshold."""
LEVEL = 4
GREGORIAN = "1582-10-15"
"""First day of the Gregorian calendar."""
MEMBER, README = "realization", "README.txt"
FIRST_LINE = re.compile(r"\d+ NetCDF files, (.+) to (.+), written by xcvae\.")
"""Beginning of the description of some files: the first and the last of them."""


def to_netcdf(
    ds: xr.Dataset, folder: object, *, by: str | None = None, pack: bool = True
) -> list[Path]:
    """Write an ensemble to NetCDF files in a folder.

    Files are CF with units on all coordinates, compressed where netCDF4 or h5netcdf is installed.
    Each is read back and compared before any of them gets its name.

    Parameters
    ----------
    ds
        An ensemble, or other samples with a rain variable.
    folder
        Folder of the files, new or without files of their names.
    by
        None: one file. ``"realization"``: one for each member. ``"time"`` or the name of the sample
        dimension: one for each sample.
    pack
        Store rain as 16-bit integers. The step is chosen for each file from its own largest value,
        zero stays zero, and a file whose step would be above a tenth of the wet threshold keeps
        float32, with a warning.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of members or samples.

    Raises
    ------
    ConfigError
        ``by`` is not a dimension that files can be made of, ``pack`` is not a bool, or the folder
        cannot be written to.
    OutputExistsError
        A file of that name exists; nothing is written then.
    DataError
        There are no values, or infinite, packed ones, or some of a type that no file can hold, or
        labels give two files one name.
    StoreError
        A file cannot be written, such as on a full disk, or does not read back as it was written.
    """
    check_flags(pack=pack)
    target = _folder(folder)
    if is_taken(target) and not target.is_dir():
        raise OutputExistsError.of(
            f"folder '{target}'",
            expected="a folder, or a free name",
            got="something else of that name",
            remedy="Give the folder that the files are to be written to.",
        )
    variable = _main_variable(ds)
    refuse_packed(ds[variable])
    for each, values in ds.variables.items():
        check_values(values, str(each), what="to_netcdf, variable")
    dim = _dim_of(ds[variable], by)
    names = _names(ds, variable, dim)
    taken = [name for name in names if is_taken(target / name)]
    if taken:
        raise OutputExistsError.of(
            str(target / taken[0]),
            expected="a free name",
            got=f"{len(taken)} files that exist" if len(taken) > 1 else "a file that exists",
            remedy="Choose another folder, or remove them yourself: nothing is replaced.",
        )
    _write_files(ds, target, names, (variable, dim), pack=pack)
    return [target / name for name in names]


def _write_files(
    ds: xr.Dataset, target: Path, names: list[str], of: tuple[str, str | None], *, pack: bool
) -> None:
    """Write and compare all files of a variable, by a dim, before any of them gets its name."""
    variable, dim = of
    target.parent.mkdir(parents=True, exist_ok=True)
    # A folder that exists may be another disk than its parent, or the only one to write to.
    inside = target / "files"
    base, also = (inside, target) if target.is_dir() else (target, inside)
    with hidden_folder(base, also=also) as new:
        for name, part in zip(names, _parts(ds, dim), strict=True):
            _write(part, variable, new / name, pack=pack)
        target.mkdir(exist_ok=True)
        for name in names:
            rename_new(new / name, target / name)
        readme = target / README
        busy = StoreError(
            f"{readme}: another process does not end its work on it. The files are complete."
        )
        with locked(readme, timeout=60, busy=busy):
            _describe(readme, _readme(ds, variable, names, pack=pack), names)


def _folder(folder: object) -> Path:
    """Return the absolute path of a folder that exists, or can be made."""
    text = os.fspath(folder) if isinstance(folder, str | os.PathLike) else ""
    if text and not is_url(text) and expanded(text).is_dir():
        target = expanded(text).absolute()
        check_writable("folder", target / README)
        return target
    found = local_path("folder", folder)
    if found is None:
        raise ConfigError("folder: expected the path of a folder, got None. Give one.")
    return found


def _readme(ds: xr.Dataset, variable: str, names: list[str], *, pack: bool) -> str:
    """Describe the files of a folder, in words."""
    field = ds[variable]
    sizes = ", ".join(f"{dim} {size}" for dim, size in field.sizes.items())
    labels = labels_of(ds, _sample_of(field))
    packed = "16-bit integers with scale_factor, which readers unpack" if pack else "float32"
    about = {
        name: " ".join(str(ds.attrs.get(name, other)).split())
        for name, other in (("title", ""), ("license", "see the source"), ("source", ""))
    }
    lines = [
        f"{len(names)} NetCDF files, {names[0]} to {names[-1]}, written by xcvae.",
        f"Title: {about['title']}",
        f"Variable: {variable} [{field.attrs.get('units', '')}], {sizes}, as {packed}",
        f"Period: {labels[0]} to {labels[-1]}",
        f"Licence: {about['license']}",
        f"Source: {about['source']}",
        f"Open: python -c \"import xarray; print(xarray.open_dataset('{names[0]}'))\"",
    ]
    return "\n".join(lines) + "\n"


def _describe(readme: Path, text: str, names: list[str]) -> None:
    """Add the description of new files to that of earlier ones; a text of others stays."""
    earlier: list[str] = []
    if is_taken(readme):
        try:
            earlier = readme.read_text(encoding="utf-8").strip("\n").split("\n\n")
        except (OSError, UnicodeDecodeError):
            return
        if not FIRST_LINE.match(earlier[0]):
            return
    # The files of a description with a name that was free now are gone.
    known = [(FIRST_LINE.match(one), one) for one in earlier]
    current = [one for match, one in known if match is None or match[1] not in names]
    write_text(readme, "\n\n".join([*current, text]))


def _main_variable(ds: xr.Dataset) -> str:
    """Return the variable with maps: that of an ensemble, or the one with most dims."""
    fields = [str(name) for name, da in ds.data_vars.items() if da.ndim >= 3]
    if not fields:
        raise DataError.of(
            "to_netcdf",
            expected="an ensemble: a variable with dims (realization, sample, y, x)",
            got=f"variables {', '.join(map(str, ds.data_vars)) or 'none'}",
            remedy="Call it on what xcvae.sample or xcvae.open_store returns.",
        )
    found = max(fields, key=lambda name: ds[name].size)
    check_name(found, what="variable of the ensemble")
    if ds[found].size == 0:
        raise DataError.of(
            "to_netcdf",
            expected="at least one value",
            got=", ".join(f"{dim} {size}" for dim, size in ds[found].sizes.items()),
            remedy="Check the selection: no member, sample or pixel met its condition.",
        )
    stacked = [str(d) for d in ds.dims if isinstance(ds.xindexes.get(d), PandasMultiIndex)]
    if stacked:
        raise DataError.of(
            f"to_netcdf, dimension '{stacked[0]}'",
            expected="samples with one label each: NetCDF cannot store stacked ones",
            got=f"samples stacked from {', '.join(map(str, ds.indexes[stacked[0]].names))}",
            remedy=f"Give them positions instead: ensemble.reset_index({stacked[0]!r}).",
        )
    return found


def _sample_of(field: xr.DataArray) -> str:
    one = field.isel({MEMBER: 0}, drop=True) if MEMBER in field.dims else field
    return find_layout(one, spatial_dims=tuple(str(d) for d in one.dims[-2:])).sample


def _dim_of(field: xr.DataArray, by: str | None) -> str | None:
    """Return the dimension with one file for each element."""
    sample = _sample_of(field)
    known = {MEMBER: MEMBER, sample: sample, "time": sample}
    if by is None:
        return None
    if str(by) not in known or known[by] not in field.dims:
        raise ConfigError.of(
            "by",
            expected=f"None, 'realization' or '{sample}'",
            got=repr(by),
            remedy="Leave it out for one file.",
        )
    return known[by]


def _names(ds: xr.Dataset, variable: str, dim: str | None) -> list[str]:
    """Return the name of each file: variable, and number of the member or label of the sample."""
    if dim is None:
        return [f"{variable}.nc"]
    if dim == MEMBER:
        numbers = ds[MEMBER].values if MEMBER in ds.coords else np.arange(ds.sizes[MEMBER])
        width = max(3, len(str(int(max(numbers)))))
        found = [f"{variable}_r{int(number):0{width}d}.nc" for number in numbers]
    else:
        labels = labels_of(ds, dim)
        safe = ["".join(c if c.isalnum() or c in "-_." else "" for c in one) for one in labels]
        found = [f"{variable}_{label}.nc" for label in safe]
    if len(set(found)) < len(found):
        raise DataError.of(
            "to_netcdf",
            expected=f"a different label along '{dim}' for every file",
            got="labels that repeat",
            remedy="Write by='realization' or in one file, or select samples first.",
        )
    return found


def _parts(ds: xr.Dataset, dim: str | None) -> Iterator[xr.Dataset]:
    if dim is None:
        yield ds
        return
    for position in range(ds.sizes[dim]):
        yield ds.isel({dim: [position]})


def _write(ds: xr.Dataset, variable: str, file: Path, *, pack: bool) -> None:
    """Write one file and compare what is read back."""
    ds = ds.drop_encoding()
    if variable in ds and ds[variable].nbytes <= 1_000_000_000:
        ds = ds.load()  # it is read several times
    field = ds[variable]
    low, high, gaps = _extremes(field)
    if np.isinf([low, high]).any():
        raise DataError.of(
            f"{file.name}: {variable}",
            expected="finite values, or NaN for missing ones",
            got="infinite ones",
            remedy="Correct them before writing.",
        )
    depth = with_duration(ds, field, _sample_of(field))
    step = _step(depth, max(abs(low), abs(high)), file) if pack else None
    engine = next((name for name in ("netCDF4", "h5netcdf") if find_spec(name)), None)
    encoding: dict[str, Any] = {str(name): {"_FillValue": None} for name in ds.variables}
    if step is None:
        encoding[variable] = {"_FillValue": field.dtype.type(np.nan) if gaps else None}
    else:
        # Not by xarray, which warns of codes without a fill value.
        del encoding[variable]["_FillValue"]
        ds = ds.assign({variable: _packed(field, step, gaps > 0)})
    if engine is not None:
        sizes = tuple(
            1 if dim in (MEMBER, _sample_of(field)) else n for dim, n in field.sizes.items()
        )
        compressed = {"zlib": True, "complevel": LEVEL, "shuffle": True, "chunksizes": sizes}
        encoding[variable] |= compressed
    for names in _with_their_bounds(ds):
        if all(ds[name].dtype.kind == "M" for name in names):
            times = np.concatenate([ds[name].values.ravel() for name in names])
            for name in names:
                encoding[name] |= _time_encoding(xr.DataArray(times, dims="time"))
    chosen: Any = engine.lower() if engine else "scipy"
    with _writing(file):
        _writable(_with_units(ds)).to_netcdf(file, engine=chosen, encoding=encoding)
    _compare(field, file, step, chosen)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Explain errors of the system, which the netCDF library does not: 'NetCDF: HDF error'."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("NetCDF"):
            raise  # of what draws lazy members
        free = shutil.disk_usage(file.parent).free / 1e6
        raise StoreError.of(
            file.name,
            expected=f"a disk that can be written to ({file.parent.parent})",
            got=f"{error}, with {free:.3g} MB of free space",
            remedy="No file was given its name. Make space, or choose another folder, and repeat "
            "the call.",
        ) from error


def _extremes(field: xr.DataArray) -> tuple[float, float, int]:
    """Return least and largest value (0 if all are missing), and the number of missing ones."""
    import dask

    low, high, gaps = dask.compute(  # type: ignore[attr-defined, no-untyped-call]
        field.min(), field.max(), field.isnull().sum()
    )
    ends = (0.0 if np.isnan(end) else float(end) for end in (low, high))
    return (*ends, int(gaps))  # type: ignore[return-value]


def _step(field: xr.DataArray, largest: float, file: Path) -> np.float32 | None:
    """Return the step of packed values; None if it would be too coarse."""
    if largest == 0.0:
        return np.float32(1.0)
    step = np.float32(largest / CODES)
    if CODES * float(step) < largest:  # rounded down: the largest value would not fit
        step = np.nextafter(step, np.float32(np.inf))
    try:
        finest = default_wet_threshold(field, _sample_of(field)) / STEPS_OF_WET
    except UnitsError:
        finest = np.inf
    if step <= finest:
        return step
    warn_user(
        f"{file.name}: values up to {largest:.4g} {field.attrs.get('units', '')} would be packed "
        f"in steps of {step:.3g}, above {finest:.3g}, a tenth of the wet threshold. The file has "
        "float32 instead.",
    )
    return None


def _packed(field: xr.DataArray, step: np.float32, gaps: bool) -> xr.DataArray:
    """Return codes with the attributes that unpack them; a fill value only for missing values."""
    codes = (field / step).round().clip(-CODES, CODES).fillna(MISSING).astype("int16")
    # Limits would be those of the codes: readers take what is beyond them as missing.
    attrs = {key: value for key, value in field.attrs.items() if key not in BOUNDS}
    attrs["scale_factor"] = step
    codes.attrs = {**attrs, "_FillValue": np.int16(MISSING)} if gaps else attrs
    return codes


def _with_their_bounds(ds: xr.Dataset) -> list[list[str]]:
    """Return the names of coordinates, each alone or with its bounds: they have the same units."""
    links = {str(name): str(coord.attrs.get("bounds", "")) for name, coord in ds.coords.items()}
    return [
        [name, link] if link in ds.coords else [name]
        for name, link in links.items()
        if name not in links.values()
    ]


def _time_encoding(times: xr.DataArray) -> dict[str, Any]:
    """Return units of times that hold them exactly: hours, or seconds where needed."""
    times = xr.DataArray(times.values[times.notnull().values], dims="time")
    if not times.size:  # of a calendar named, xarray encodes no missing times
        return {"units": "hours since 1970-01-01 00:00:00", "dtype": "float64"}
    first = times.min().dt.strftime("%Y-%m-%d").item()
    whole = bool((times == times.dt.floor("h")).all())
    units = f"{'hours' if whole else 'seconds'} since {first} 00:00:00"
    # The standard calendar is the Julian one before, and that of NumPy is not.
    old = bool((times < np.datetime64(GREGORIAN)).any())
    calendar = "proleptic_gregorian" if old else "standard"
    return {"units": units, "calendar": calendar, "dtype": "float64"}


_DEGREES = {"lat": "degrees_north", "latitude": "degrees_north"}
_DEGREES |= {"lon": "degrees_east", "longitude": "degrees_east"}


def _with_units(ds: xr.Dataset) -> xr.Dataset:
    """Add units to numeric coordinates that have none; bounds have those of their coordinate."""
    found = {}
    for (name, *_), coord in ((names, ds[names[0]]) for names in _with_their_bounds(ds)):
        if coord.dtype.kind in "iuf" and coord.ndim and "units" not in coord.attrs:
            found[name] = coord.assign_attrs(units=_DEGREES.get(str(name).lower(), "1"))
    return ds.assign_coords(found)


def _writable(ds: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with values and attributes that NetCDF has types for."""
    half = {name: one.astype("float32") for name, one in ds.variables.items() if one.dtype == "f2"}
    found = ds.assign({name: one for name, one in half.items() if name not in ds.coords})
    found = found.assign_coords({name: one for name, one in half.items() if name in ds.coords})
    found.attrs = _attributes(found.attrs)
    for variable in found.variables.values():
        variable.attrs = _attributes(variable.attrs)
    return found


def _attributes(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    found = {str(key): _attribute(value) for key, value in attrs.items()}
    return {key: value for key, value in found.items() if value is not None}


def _attribute(value: Any) -> Any:
    """Return the value of an attribute as a number, a text or an array; None for one to leave out.

    Examples
    --------
    >>> _attribute("mm"), _attribute(None), _attribute({"a": [1, None]}), _attribute([1, 2])
    ('mm', None, '{"a": [1, null]}', [1, 2])
    """
    if value is None or isinstance(value, str | bytes):
        return value
    try:
        kind = np.asarray(value).dtype.kind
    except ValueError:  # a list of lists of several lengths
        kind = "O"
    if kind == "b":  # True and False, for which NetCDF has no type
        return np.asarray(value).astype("int8")[()]
    return value if kind in "iufSU" else json.dumps(plain(value))


def _compare(field: xr.DataArray, file: Path, step: np.float32 | None, engine: Any) -> None:
    """Read a file back, and compare it with what was written."""
    allowed = 0.0 if step is None else 0.5001 * float(step)
    sample = _sample_of(field)
    with xr.open_dataset(file, engine=engine, decode_times=False) as again:
        stored = again[str(field.name)]
        for start in range(0, field.sizes[sample], 64):
            rows = {sample: slice(start, start + 64)}
            want, got = field.isel(rows).values, stored.isel(rows).values
            same_gaps = np.array_equal(np.isnan(want), np.isnan(got))
            error = float(np.nanmax(np.abs(want.astype("f8") - got), initial=0.0))
            # Zero must stay zero; rounding of float32 comes on top of half a step.
            rounding = 2e-7 * float(np.nanmax(np.abs(want), initial=0.0))
            dry = not (got[want == 0] != 0).any()
            if not (same_gaps and dry and error <= allowed + rounding * (step is not None)):
                raise StoreError.of(
                    str(file.name),
                    expected=f"values as they were written, within {allowed:.3g}",
                    got=f"differences up to {error:.3g}",
                    remedy="Write with pack=False, and report this.",
                )

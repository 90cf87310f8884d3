"""First configuration for data: what they are, in comments, and what could not be decided."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import escape, glob
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.config.load import parse
from xcvae.config.schema import DataSection, IntakeEntry, SourceSection
from xcvae.config.sources import (
    ARGUMENT,
    ZARR_FILES,
    bounds_of,
    fields_of,
    in_both,
    open_paths,
    opened,
    with_labels_of,
)
from xcvae.ensemble import catalog as catalogs
from xcvae.errors import ConfigError, DataError, XcvaeError
from xcvae.fields.cf import Layout, find_layout, find_target, is_rain, outline
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import describe
from xcvae.fields.grids import warn_of_uneven
from xcvae.fields.units import DEPTH, exponents_of
from xcvae.files import GRIB, NETCDF, expanded, is_url
from xcvae.metrics.pairs import area_name
from xcvae.pipeline.check import check, reason_of
from xcvae.verify.plots.text import label_of

SMALL_BYTES = 1_000_000_000  # data up to this size are read and checked as a whole
TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
KEYS = {
    "target": "the rain to be generated",
    "conditions": "known at every sample, each on its own grid",
    "coarsen": "the condition is the mean of blocks of so many pixels of the target",
    "statics": "maps on the target's grid",
}
#: Kinds of files in a folder; those of the first kind that it has are read.
FILES = (NETCDF, GRIB, (".zarr",))
USUAL_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
BLOCKS = 3  # blocks of a derived condition along the shorter side, at least
WIDEST_BLOCK = 12


@dataclass
class Proposal:
    """Answers found so far.

    Attributes
    ----------
    source, train
        Keys of the sections ``data`` (without the splits) and ``train``.
    notes
        Properties of the data, as comments.
    undecided
        Questions for the user, each with what was assumed.
    """

    source: dict[str, Any]
    train: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)


def propose(data: Sequence[str], folder: Path) -> str:
    """Look at data and return a commented configuration as YAML.

    Parameters
    ----------
    data
        Files, Zarr stores, addresses, patterns, or one catalog (``catalog.yaml``, or
        ``catalog.yaml:entry``).
    folder
        Folder of the configuration: paths are written relative to it.

    Raises
    ------
    XcvaeError
        The data cannot be opened, or no variable of them can be the target.
    """
    found = _source(data, folder)
    ds = opened(_section(found.source), folder, ARGUMENT)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", UserWarning)
        target = _target(ds, found)
        layout = find_layout(ds[target])
        _describe_target(ds, target, layout, found)
        _choose_conditions(ds, target, layout, found)
        splits = _splits(ds, layout.sample, found)
        problem = _problem(_text(found, splits), ds, folder)
    texts = dict.fromkeys(str(doubt.message) for doubt in doubts)
    found.undecided += [text for text in texts if text.partition(":")[0] in ds.variables]
    if problem:
        found.undecided.append(f"xcvae run --check refuses this file: {problem}")
    return _text(found, splits)


def _section(source: Mapping[str, Any]) -> DataSection:
    entry, several = source.get("intake"), source.get("sources")
    return DataSection(
        path=source.get("path"),
        intake=None if entry is None else IntakeEntry(**entry),
        sources=None if several is None else [SourceSection(**one) for one in several],
    )


def _source(data: Sequence[str], folder: Path) -> Proposal:
    """Find how the data are to be opened."""
    first, _, entry = data[0].rpartition(":") if ".yaml:" in data[0] else (data[0], "", "")
    if first.endswith((".yaml", ".yml")):
        return _catalog(first, entry, data, folder)
    listed = {name: _files(name) for name in data}
    names = [_relative(file, folder) for files in listed.values() for file in files]
    if len(names) == 1:
        return Proposal({"path": names[0]})
    groups: dict[frozenset[Hashable], dict[str, xr.Dataset]] = {}
    for name in names:
        ds = open_paths(SourceSection(name), folder, ARGUMENT)
        groups.setdefault(fields_of(ds), {})[name] = ds
    apart = [part for group in groups.values() for part in _by_grid(group)]
    within = folder if any(files != [name] for name, files in listed.items()) else None
    sources = [(_pattern(list(part), within), next(iter(part.values()))) for part in apart]
    return Proposal({"path": sources[0][0]}) if len(sources) == 1 else _several(sources)


def _files(name: str) -> list[str]:
    """Return the files in a folder, those of one kind; the name itself if it is something else."""
    path = Path() if is_url(name) else expanded(name)
    if is_url(name) or not path.is_dir() or any((path / file).exists() for file in ZARR_FILES):
        return [name]
    files = [one for one in sorted(path.iterdir()) if not one.name.startswith(".")]
    for kinds in FILES:
        if found := [str(one) for one in files if one.suffix.lower() in kinds]:
            return found
    return [name]


def _pattern(names: list[str], folder: Path | None) -> str | list[str]:
    """Return a pattern that fits some files of a folder and no others; else their names."""
    if len(names) == 1:
        return names[0]
    beginning = os.path.commonprefix(names).rstrip("0123456789")  # noqa: RUF071  of file names
    pattern = f"{beginning}*{Path(names[0]).suffix}"
    sought = str(Path(escape(str(folder))) / pattern)
    found = set() if folder is None else set(glob(sought))  # noqa: PTH207
    return pattern if found == {str((folder or Path()) / name) for name in names} else names


def _by_grid(parts: Mapping[str, xr.Dataset]) -> list[dict[str, xr.Dataset]]:
    """Take files with the same variables on other grids apart, if they share times."""
    grids: dict[frozenset[tuple[Hashable, int]], dict[str, xr.Dataset]] = {}
    for name, ds in parts.items():
        sizes = frozenset((dim, size) for dim, size in ds.sizes.items() if not _has_times(ds, dim))
        grids.setdefault(sizes, {})[name] = ds
    times: set[tuple[str, Any]] = set()  # with calendars: dates of two cannot be compared
    for group in grids.values():
        here = {
            (ds[d].dt.calendar, t)
            for ds in group.values()
            for d in ds.dims
            if _has_times(ds, d)
            for t in ds.indexes[d]
        }
        one_calendar = {first for first, _ in times} & {first for first, _ in here}
        if one_calendar and not times & here:  # they follow each other: the odd one is refused
            return [dict(parts)]
        times |= here
    return list(grids.values())


def _has_times(ds: xr.Dataset, dim: Hashable) -> bool:
    return dim in ds.indexes and ds[dim].dtype.kind in "MO"


def _several(sources: Sequence[tuple[str | list[str], xr.Dataset]]) -> Proposal:
    """Describe files with different variables, with new names for what differs under one name."""
    found = Proposal({"sources": []})
    known: dict[Hashable, dict[str, xr.Dataset]] = {}
    for i, (path, given) in enumerate(sources):
        times = _renamed_times(given, sources[0][1])
        ds = given.rename(times)
        grids = _renames(ds, ds.dims, known, i + 1)
        # Maps of latitude and longitude on another grid have its new dims.
        others = [name for name in ds.variables if name not in ds.dims]
        fields = _renames(ds.rename(grids), others, known, i + 1)
        first = path if isinstance(path, str) else path[0]
        for name, new in (times | grids | fields).items():
            why = "another field" if name in ds.data_vars else "another grid"
            why = f"its samples are along {name}" if name in times else why
            found.notes.append(f"{first}: {why}, so {name} is renamed {new}")
        rename = times | grids | fields
        found.source["sources"].append({"path": path} | ({"rename": rename} if rename else {}))
    return found


def _renamed_times(ds: xr.Dataset, first: xr.Dataset) -> dict[str, str]:
    """Return the name of the times of the first source for those of another: valid_time, time."""
    own, wanted = ([str(d) for d in one.dims if _has_times(one, d)] for one in (ds, first))
    if len(own) != 1 or len(wanted) != 1 or wanted[0] in {*ds.variables, *ds.dims}:
        return {}
    # A climatology has times of its own.
    here, there = (one.indexes[name] for one, name in ((ds, own[0]), (first, wanted[0])))
    common = ds[own[0]].dt.calendar == first[wanted[0]].dt.calendar and here.isin(there).any()
    return {own[0]: wanted[0]} if common else {}


def _renames(
    ds: xr.Dataset,
    names: Iterable[Hashable],
    known: dict[Hashable, dict[str, xr.Dataset]],
    number: int,
) -> dict[str, str]:
    """Return new names for what other sources have under the same name; adds all to ``known``."""
    rename = {}
    for name in names:
        others = known.setdefault(name, {})
        new = next((key for key, other in others.items() if _agree(ds, other, name)), None)
        if new is None:
            new = f"{name}_{number}" if others else str(name)
            others[new] = ds
        if new != name:
            rename[str(name)] = new
    return rename


def _agree(ds: xr.Dataset, other: xr.Dataset, name: Hashable) -> bool:
    """Return True if a name can stand for the same in two sources."""
    if _has_times(ds, name) or name in bounds_of(ds) & bounds_of(other):
        return True
    if name in ds.dims and name in other.dims:
        return with_labels_of(ds, other, name) is not None
    return str(name) not in in_both(other, ds)


def _catalog(file: str, entry: str, data: Sequence[str], folder: Path) -> Proposal:
    path = _relative(file, folder)
    names = catalogs.names(folder / expanded(path))
    if len(data) > 1 or not names or (entry and entry not in names):
        raise ConfigError.of(
            "DATA",
            expected=f"one catalog, or one of its entries ({', '.join(names) or 'none'})",
            got=" ".join(data),
            remedy=f"Write `{file}:{(names or ['ENTRY'])[0]}`.",
        )
    found = Proposal({"intake": {"catalog": path, "name": entry or names[0]}})
    if not entry and len(names) > 1:
        found.undecided.append(f"entry of the catalog: took {names[0]}; others: {names[1:]}")
    return found


def _relative(name: str, folder: Path) -> str:
    """Return a path as the configuration should name it."""
    if is_url(name):
        return name
    path = expanded(name).absolute()
    below = path.is_relative_to(folder.absolute())
    return os.path.relpath(path, folder.absolute()) if below else str(path)


def _target(ds: xr.Dataset, found: Proposal) -> str:
    """Return the rain variable on the finest grid; the first of several."""
    try:
        return find_target(ds, None)
    except XcvaeError as error:
        fields = [da for da in ds.data_vars.values() if da.ndim == 3]
        rain = [str(da.name) for da in fields if is_rain(da, by_rate=True)]
        if not rain:
            raise DataError.of(
                "target",
                expected="a variable of rain with the dims (sample, y, x) and units",
                got=", ".join(outline(da) for da in ds.data_vars.values()) or "no variables",
                remedy="Give rain its units (such as mm h-1), rename what is called otherwise, and "
                "select one level of further dims.",
            ) from error
        found.undecided.append(f"target: took {rain[0]}; {', '.join(rain[1:])} would do as well")
        return rain[0]


def _sizes(da: xr.DataArray) -> str:
    return " x ".join(str(size) for size in da.shape)


def _choose_conditions(ds: xr.Dataset, target: str, layout: Layout, found: Proposal) -> None:
    """Choose conditions and statics that the target can be described with."""
    conditions: list[str] = []
    statics: list[str] = []
    block = _block(ds.sizes[layout.y], ds.sizes[layout.x])
    spec: DataSpec | None = None
    area = area_name(ds[target])
    if area in ds.data_vars:
        found.notes.append(f"{area}: areas of cells, by which scores are weighted")
    for key, da in ds.data_vars.items():
        name = str(key)
        if name in (target, area) or da.ndim == 0 or da.dtype.kind not in "fiu":
            continue
        is_static = set(da.dims) == {layout.y, layout.x}
        if layout.sample not in da.dims and not is_static:
            found.undecided += [
                f"{name}: left out; its samples are along {dim}, those of {target} along "
                f"{layout.sample}"
                for dim in da.dims
                if _has_times(ds, dim)
            ]
            continue
        if not is_static and set(da.dims) == set(ds[target].dims) and is_rain(da, by_rate=True):
            found.undecided.append(f"{name}: left out; as rain on the target's grid it may hold it")
            continue
        chosen = statics if is_static else conditions
        chosen.append(name)
        try:
            spec = _described(ds, target, conditions, statics, block)
        except XcvaeError as error:
            chosen.remove(name)
            found.undecided.append(f"{name}: left out; {error}")
    found.train = {"target": target, "conditions": conditions}
    if not conditions:
        found.notes.append("condition: none in the data, so coarse rain is made from the target")
        found.train = {"target": target, "coarsen": block}
    if statics:
        found.train["statics"] = statics
    if spec is not None:
        found.notes += [f"{v.name} [{v.units}]: {reason_of(v, spec)}" for v in spec.variables]


def _block(height: int, width: int) -> int:
    """Return the side of blocks of pixels; one without partial blocks at the edges, if possible.

    Examples
    --------
    >>> _block(156, 132), _block(20, 24), _block(35, 53)
    (12, 4, 11)
    """
    block = max(2, min(WIDEST_BLOCK, min(height, width) // BLOCKS))
    whole = [n for n in range(block // 2 + 1, block) if height % n == width % n == 0]
    fits = height % block == width % block == 0
    return block if fits or not whole else whole[-1]


def _described(
    ds: xr.Dataset, target: str, conditions: list[str], statics: list[str], block: int
) -> DataSpec:
    coarsen = None if conditions else block
    named = conditions or None
    return describe(ds, target=target, conditions=named, statics=statics, coarsen=coarsen)


def _describe_target(ds: xr.Dataset, target: str, layout: Layout, found: Proposal) -> None:
    """Add units, grid and step of the target to the notes."""
    da = ds[target]
    warn_of_uneven(ds, (layout.y, layout.x))
    depth = exponents_of(str(da.attrs.get("units", ""))) == DEPTH
    amounts = "amounts per step" if depth else "rates"
    found.notes.insert(0, f"{outline(da)}, {amounts}, {_sizes(da)}")
    for dim in (layout.y, layout.x):
        if dim in da.indexes and da.sizes[dim] > 1:
            labels = da[dim].values
            step = (labels[-1] - labels[0]) / (len(labels) - 1)
            units = da[dim].attrs.get("units", "without units")
            found.notes.insert(1, f"{dim}: {labels[0]:g} to {labels[-1]:g}, step {step:g} {units}")
        else:
            found.undecided.append(f"{dim}: no coordinates; grids are laid edge to edge")
    steps = _steps(da, layout.sample)
    if steps is None:
        found.undecided.append(f"step: {layout.sample} has no times; units are taken as they are")
    else:
        usual, irregular = steps
        times = da[layout.sample]
        first, last = (label_of(times.values[i], days=usual.endswith(" d")) for i in (0, -1))
        calendar = times.dt.calendar
        note = f"{layout.sample}: {first} to {last}, step {usual}" + (
            ", with gaps" if irregular else ""
        )
        note += "" if calendar in USUAL_CALENDARS else f", calendar {calendar}"
        found.notes.insert(1, note)


def _steps(da: xr.DataArray, sample: str) -> tuple[str, bool] | None:
    if not _is_time(da, sample) or da.sizes[sample] < 2:
        return None
    steps = np.diff(np.unique(da[sample].values))
    usual = np.sort(steps)[len(steps) // 2]
    seconds = usual / np.timedelta64(1, "s") if steps.dtype.kind == "m" else usual.total_seconds()
    for name, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {name}", bool((steps != usual).any())
    return f"{seconds:g} s", bool((steps != usual).any())


def _is_time(da: xr.DataArray | xr.Dataset, sample: str) -> bool:
    index = da.indexes.get(sample)
    return index is not None and hasattr(index, "year")


def _splits(ds: xr.Dataset, sample: str, found: Proposal) -> dict[str, Any]:
    """Divide the samples: the first for training, the last for the test, whole years if enough."""
    count = ds.sizes[sample]
    tests, validations = (max(1, round(count * s)) for s in (TEST_SHARE, VALIDATION_SHARE))
    if sample not in ds.indexes or count < 3:
        found.undecided.append(
            f"splits: {sample} has no labels, so all samples are trained on and tested; add labels"
        )
        return {"train": {}, "test": {}}
    labels = ds.indexes[sample]
    if not labels.is_monotonic_increasing:
        found.undecided.append(f"splits: {sample} does not rise; sort with ds.sortby('{sample}')")
    ends = [count - tests - validations, count - tests]
    years = np.unique(np.asarray(labels.year)) if _is_time(ds, sample) else np.array([])
    if len(years) >= 10:
        first = years[-max(1, round(len(years) * TEST_SHARE))]
        before = first - max(1, round(len(years) * VALIDATION_SHARE))
        return {
            "train": {sample: {"stop": str(before - 1)}},
            "validation": {sample: [str(before), str(first - 1)]},
            "test": {sample: {"start": str(first)}},
        }
    written = [_label(labels[i]) for i in (ends[0] - 1, ends[0], ends[1] - 1, ends[1])]
    return {
        "train": {sample: {"stop": written[0]}},
        "validation": {sample: {"start": written[1], "stop": written[2]}},
        "test": {sample: {"start": written[3]}},
    }


def _label(value: Any) -> Any:
    if hasattr(value, "strftime"):
        text = value.strftime("%Y-%m-%dT%H:%M:%S")
        return text.removesuffix("T00:00:00")
    return value.item() if isinstance(value, np.generic) else value


def _text(found: Proposal, splits: Mapping[str, Any]) -> str:
    """Return the configuration as text; JSON on one line is YAML too."""
    lines = ["# Written by `xcvae init`. Check: xcvae run FILE --check. Run: xcvae run FILE.", "#"]
    lines += ["# Found in the data:", *(f"#   {_line(note)}" for note in found.notes), "#"]
    lines += ["# To decide:"] if found.undecided else ["# To decide: nothing."]
    lines += [f"#   {_line(note)}" for note in found.undecided]
    lines += ["", "data:"]
    lines += [f"  {key}: {json.dumps(value)}" for key, value in found.source.items()]
    lines += ["  # By labels, in order of time, so that no test sample resembles a training one."]
    lines += [f"  {part}: {json.dumps(selection)}" for part, selection in splits.items()]
    lines += ["", "output: run  # folder of all results", "", "train:"]
    lines += [f"  {key}: {json.dumps(value)}  # {KEYS[key]}" for key, value in found.train.items()]
    if "validation" not in splits:
        lines += ["  validation: 0.15  # share of the training samples"]
    lines += [
        "  generator: {preset: small}  # fast, small, base, large",
        "  fit: {max_minutes: 30}",
        "",
    ]
    lines += ["sample:", "  - {name: prior, mode: prior, members: 16}", ""]
    return "\n".join(lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _problem(text: str, ds: xr.Dataset, folder: Path) -> str:
    """Return what `check` says against a configuration; empty if it is fine."""
    import yaml

    if ds.nbytes > SMALL_BYTES:
        return ""
    try:
        check(parse(yaml.safe_load(text), folder=folder))
    except XcvaeError as error:
        return str(error)
    return ""

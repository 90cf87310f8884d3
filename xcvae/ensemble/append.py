"""Append members and samples to a finished store.

The extended ensemble is written next to the finished one, which keeps its name and stays readable
until the last step. Chunks that both have are shared. A chunk at the end of the finished ensemble
that was not full is written anew, from its stored values and the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.dataset import attributes_of, template_of
from xcvae.ensemble.postprocess import ChangeStats
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sampler import EnsembleSampler, SpreadSolution, parts_of
from xcvae.ensemble.store.base import (
    EnsembleSpec,
    EnsembleStore,
    Entry,
    Region,
    RegionSource,
    RegionStats,
    StoredEnsemble,
    differences,
    regions_of,
)
from xcvae.ensemble.store.write import Base
from xcvae.errors import DataError, MismatchError, OutputExistsError, StoreError
from xcvae.fields.samples import check_samples, label_keys, labels_of
from xcvae.fields.units import factor
from xcvae.registry.discovery import version_of

#: Kinds of numbers, which NumPy joins as they are.
_PLAIN = "iufb"
_TIMES, _TEXT = "times", "texts"
ROUNDING = 1e-9
"""Difference from 1 of a factor between two spellings of the same units."""


@dataclass(frozen=True, eq=False)
class Extension:
    """An ensemble that extends a finished one by members or by samples.

    Attributes
    ----------
    sampler
        Draws the new part. Its members have the positions that they get in the store.
    ds
        The data of the new part.
    spec, template
        Of the extended ensemble.
    stored
        The finished ensemble, opened.
    shape
        Number of its members and samples.
    base
        Regions that are shared, and all calls.
    partial
        Entries of regions that get more members or samples, by number in the extended ensemble.
    """

    sampler: EnsembleSampler
    ds: xr.Dataset
    spec: EnsembleSpec
    template: xr.Dataset
    stored: xr.Dataset
    shape: tuple[int, int]
    base: Base
    partial: Mapping[int, Entry]

    def source(self, subset: Callable[[Region], RegionSource], region: Region) -> RegionSource:
        """Return the source of a region, which joins stored and new values.

        Parameters
        ----------
        subset
            Returns the source of new members and samples.
        region
            The region.
        """
        members, samples = self.shape
        first = (region.realizations[0], region.samples[0])
        if self.template[self.spec.variable].shape[0] > members:  # new members of all samples
            first = (max(first[0], members), first[1])
        else:
            first = (first[0], max(first[1], samples))
        part = replace(
            region,
            realizations=(first[0], region.realizations[1]),
            samples=(first[1], region.samples[1]),
        )
        number = len(self.base.calls) - 1
        entry = self.partial.get(region.number)
        if entry is None:
            return ExtendedRegion(subset(part), part, (number,))
        calls = (*entry["calls"], number)
        variable = self.stored[self.spec.variable]
        values = variable[slice(*entry["realizations"]), slice(*entry["samples"])].values
        return ExtendedRegion(subset(part), part, calls, values, entry["counts"])

    def attributes(self, stats: Sequence[RegionStats]) -> Mapping[str, str]:
        """Return the final attributes, from the statistics of all regions."""
        before = json.loads(self.stored.attrs["xcvae"]) if self.sampler.start else None
        found = attributes_of(self.sampler, self.ds, stats, self.spec.identity, before)
        return {**found, "history": self.template.attrs["history"]}


@dataclass(frozen=True)
class ExtendedRegion:
    """Draws the new part of a region and joins it with the part that is stored.

    Attributes
    ----------
    source, part
        Draws the new part.
    calls
        Numbers of the calls that drew the region.
    values, stats
        Of the stored part, if there is one.
    """

    source: RegionSource
    part: Region
    calls: tuple[int, ...]
    values: np.ndarray | None = None
    stats: RegionStats | None = None

    def draw_region(self, region: Region) -> tuple[np.ndarray, RegionStats]:
        """Return the values of the whole region, and its statistics."""
        values, stats = self.source.draw_region(self.part)
        calls = list(self.calls)
        if self.values is None or self.stats is None:
            return values, {**stats, "calls": calls}
        axis = 0 if self.part.samples == region.samples else 1
        removed = [
            vars(ChangeStats(**old) + ChangeStats(**new))
            for old, new in zip(self.stats["removed"], stats["removed"], strict=True)
        ]
        rejected = self.stats["rejected"] + stats["rejected"]
        joined = {**stats, "removed": removed, "rejected": rejected, "calls": calls}
        return np.concatenate([self.values, values], axis=axis), joined


@dataclass(frozen=True, eq=False)
class _Finished:
    """A finished store that is to be extended.

    Attributes
    ----------
    store, found
        The store, and its content.
    dataset
        The ensemble, opened.
    sample
        Name of the sample dim.
    """

    store: EnsembleStore
    found: StoredEnsemble
    dataset: xr.Dataset
    sample: str

    @property
    def run(self) -> Mapping[str, Any]:
        """Identity, chunks and environment, common to all regions."""
        run: Mapping[str, Any] = self.found.metadata["run"]
        return run

    @property
    def shape(self) -> tuple[int, int]:
        """Number of members and samples."""
        return self.dataset.sizes["realization"], self.dataset.sizes[self.sample]

    def described(self, what: str) -> str:
        """Name the store in messages."""
        return f"{what}, store '{self.found.name}'"


def extension_of(
    store: EnsembleStore, ds: xr.Dataset, sampler: EnsembleSampler, request: SampleRequest
) -> Extension | None:
    """Compare a request with a finished store; return what it adds, None if it has it all.

    New samples come first; if a request adds members too, they are the next extension.

    Parameters
    ----------
    store
        Store with a finished ensemble, locked by the caller.
    ds, sampler, request
        The request.

    Raises
    ------
    OutputExistsError
        The store holds an ensemble of another model, seed or setting: the message names the keys.
    MismatchError
        Members or samples of the request do not continue those of the store.
    StoreError
        Files of the store have changed: it has to be repaired first.
    """
    complete, sample = store.status().complete, sampler.model.spec.sample
    run = complete.metadata.get("run")
    if complete.ledger is None or run is None:
        raise _other(complete, ["no xcvae ensemble with a ledger"])
    finished = _Finished(store, complete, store.open(), sample)
    _check_variable(finished, sampler)
    _check_grid(finished, ds, sampler)
    old = replace(request, members=run["members"]).numbers
    numbers = _continued(finished, old, request.numbers)
    # A store returns some times in another form than they were given: compare what they mean.
    known, given = label_keys(finished.dataset, sample), label_keys(ds, sample)
    _check_form(sample, known, given)
    stored, position = set(known), {key: i for i, key in enumerate(given)}
    new = [i for i, key in enumerate(given) if key not in stored]
    texts = labels_of(finished.dataset, sample)
    lacking = [text for text, key in zip(texts, known, strict=True) if key not in position]
    # Positions of the data of stored samples, in the order of the store.
    rows = [position.get(key) for key in known]
    chunks = dict(zip(("realization", sample), run["chunks"], strict=True))
    request_here = replace(sampler.request, chunks=chunks)
    sampler = replace(sampler, request=request_here, seam=run.get("seam", 0))
    _check_same(finished, sampler, request, rows)
    if new:
        _check_members(finished, old, request.numbers, len(new))
    if numbers != old and lacking:
        raise _samples_missing(finished, lacking)
    if new:
        part = replace(sampler.at(new), start=finished.shape[1])
        return _extension(finished, _with_numbers(part, old), ds.isel({sample: new}))
    if numbers == old:
        return None
    every = [row for row in rows if row is not None]
    return _extension(finished, _with_numbers(sampler.at(every), numbers), ds.isel({sample: every}))


def requested_part(
    store: EnsembleStore, ensemble: xr.Dataset, ds: xr.Dataset, request: SampleRequest, sample: str
) -> xr.Dataset:
    """Select the members and samples of a request that a finished store has all of.

    A call that appended and is repeated returns the whole ensemble, as it did the first time.

    Parameters
    ----------
    store, ensemble
        The finished store, and its content.
    ds, request
        The request, which `extension_of` has nothing to add for.
    sample
        Name of the sample dim.
    """
    metadata = store.status().complete.metadata
    position = {key: i for i, key in enumerate(label_keys(ensemble, sample))}
    rows = [position[key] for key in label_keys(ds, sample)]
    first = int(ensemble["realization"][0])
    members = [request.numbers.start - first, request.numbers.stop - first]
    for call in metadata.get("calls") or []:
        if "appended" not in call:
            continue
        both = call["samples"][0] == 0  # new members, which are requested alone or with the others
        starts = (0, call["realizations"][0]) if both else (0,)
        repeated = [[start, call["realizations"][1]] for start in starts]
        if members in repeated and rows == list(range(*call["samples"])):
            return ensemble
    return ensemble.isel({"realization": slice(*members), sample: _as_slice(rows)})


def _as_slice(rows: list[int]) -> slice | list[int]:
    """Return positions in a row as a slice, which keeps the chunks."""
    ends = slice(rows[0], rows[-1] + 1)
    return ends if rows == list(range(ends.start, ends.stop)) else rows


def _with_numbers(sampler: EnsembleSampler, numbers: range) -> EnsembleSampler:
    return replace(sampler, request=replace(sampler.request, members=numbers))


def _continued(finished: _Finished, old: range, wanted: range) -> range:
    """Return the numbers of all members; refuse a gap, and numbers before the first one."""
    if wanted.start < old.start or wanted.start > old.stop:
        raise MismatchError.of(
            finished.described("members"),
            expected=f"numbers that continue its members {old.start} to {old.stop - 1}",
            got=f"{wanted.start} to {wanted.stop - 1}",
            remedy=f"Ask for members=range({old.stop}, {old.stop + len(wanted)}).",
        )
    return range(old.start, max(old.stop, wanted.stop))


def _check_members(finished: _Finished, old: range, wanted: range, new: int) -> None:
    """Refuse new samples without the first members of the store."""
    if wanted.start > old.start:
        raise MismatchError.of(
            finished.described("samples"),
            expected=f"its members {old.start} to {old.stop - 1} of the {new} new samples",
            got=f"members {wanted.start} to {wanted.stop - 1}",
            remedy="Append the samples first, then the members.",
        )


def _samples_missing(finished: _Finished, lacking: Sequence[str]) -> MismatchError:
    return MismatchError.of(
        finished.described("members"),
        expected=f"new members of all its {finished.shape[1]} samples",
        got=f"data without {len(lacking)} of them, such as {lacking[0]}",
        remedy="Give the data of all samples of the store.",
    )


def _check_same(
    finished: _Finished,
    sampler: EnsembleSampler,
    request: SampleRequest,
    rows: Sequence[int | None],
) -> None:
    """Refuse another model, seed, setting or environment, and other data of stored samples."""
    run = finished.run
    identity = {**sampler.identity(), "members": run["members"], "data": run["data"]}
    dims = ("realization", finished.sample)
    asked = request.chunks or {}
    chunks = [asked.get(dim, size) for dim, size in zip(dims, sampler.chunks, strict=True)]
    differing = differences(run, {**identity, "chunks": chunks, **sampler.environment()})
    differing += _other_data(finished, sampler, rows)
    if differing:
        raise _other(finished.found, differing)


def _other_data(
    finished: _Finished, sampler: EnsembleSampler, rows: Sequence[int | None]
) -> list[str]:
    """Describe stored samples whose data are others now.

    A store has one fingerprint for all samples of a call. They are compared if all are given.

    Parameters
    ----------
    finished, sampler
        The store, and the sampler of the given data.
    rows
        Position in the given data of each stored sample, None for those that are not given.
    """
    run, texts = finished.run, labels_of(finished.dataset, finished.sample)
    parts = run["data"] if parts_of(run) else [[len(rows), run["data"]]]
    found, end = [], 0
    for count, stored in parts:
        start, end = end, end + count
        given = [row for row in rows[start:end] if row is not None]
        requested = sampler.at(given).fingerprint() if len(given) == count else stored
        if requested != stored:
            which = f"of {texts[start]} to {texts[end - 1]}, " if len(parts) > 1 else ""
            found.append(f"data ({which}stored: {stored!r}, requested: {requested!r})")
    return found


def _other(found: StoredEnsemble, differing: Sequence[str]) -> OutputExistsError:
    return OutputExistsError.of(
        f"store '{found.name}'",
        expected="the same ensemble with fewer members or samples, to append to",
        got="; ".join(differing),
        remedy="Choose another name, or take the settings of the store with like=ensemble.",
    )


def _check_variable(finished: _Finished, sampler: EnsembleSampler) -> None:
    """Refuse rain under another name or in other units, as of a model by name for other data."""
    spec = sampler.model.spec
    if spec.target not in finished.dataset.data_vars:
        (name,) = finished.dataset.data_vars
        raise MismatchError.of(
            finished.described("rain"),
            expected=f"the name of the store, '{name}'",
            got=f"'{spec.target}'",
            remedy=f"Rename it: ds.rename({{{spec.target!r}: {str(name)!r}}}).",
        )
    stored = str(finished.dataset[spec.target].attrs["units"])
    scale = 1.0 if stored == spec.units else factor(spec.units, stored, what="rain")
    if abs(scale - 1.0) > ROUNDING:
        raise MismatchError.of(
            finished.described(f"units of '{spec.target}'"),
            expected=f"those of the store, '{stored}'",
            got=f"'{spec.units}'",
            remedy=f"Convert the rain, {scale:.6g} * ds[{spec.target!r}], and set its units.",
        )


def _check_grid(finished: _Finished, ds: xr.Dataset, sampler: EnsembleSampler) -> None:
    """Refuse maps of another size, and coordinates common to all samples with other values."""
    stored = finished.dataset
    size = tuple(stored[sampler.model.spec.target].shape[2:])
    got = "" if size == sampler.size else f"{sampler.size[0]} x {sampler.size[1]} pixels"
    for name, coord in stored.coords.items():
        fixed = finished.sample not in coord.dims and name != "realization"
        if not fixed or name not in ds.coords or _same_values(coord.variable, ds[name].variable):
            continue
        if coord.ndim == 0:
            raise MismatchError.of(
                finished.described(f"coordinate '{name}'"),
                expected=f"{coord.values}, as of all its samples",
                got=str(ds[name].values),
                remedy=f"Leave it out, ds.drop_vars('{name}'), or write the samples to a store of "
                "their own.",
            )
        got = got or f"other values of '{name}'"
    if got:
        raise MismatchError.of(
            finished.described("grid of the data"),
            expected=f"that of the store, {size[0]} x {size[1]} pixels",
            got=got,
            remedy="Append samples on the grid of the store.",
        )


def _extension(finished: _Finished, sampler: EnsembleSampler, ds: xr.Dataset) -> Extension:
    """Return an extension: new samples if the sampler starts behind the first, else new members.

    Parameters
    ----------
    finished
        The store.
    sampler
        Draws the stored members of new samples, or all members of the stored samples.
    ds
        Its data.
    """
    finished.store.check_replaceable()
    metadata, run, shape = finished.found.metadata, finished.run, finished.shape
    notes, data = metadata.get("notes") or {}, run["data"]
    if notes.get("dial"):
        sampler = replace(sampler, solution=SpreadSolution(**notes["dial"]))
    sizes = (sampler.shape[0], sampler.start + len(sampler.labels))
    if sampler.start:
        before = data if parts_of(run) else [[shape[1], data]]
        data = [*before, [len(sampler.labels), sampler.fingerprint()]]
        text = f"{len(sampler.labels)} samples, {sampler.labels[0]} to {sampler.labels[-1]}"
    else:
        numbers = sampler.request.numbers
        text = f"members {numbers.start + shape[0]} to {numbers.stop - 1}"
    members = sampler.request.identity()["members"]
    identity = {key: run[key] for key in sampler.identity()} | {"members": members, "data": data}
    spec = EnsembleSpec(
        sampler.model.spec.target, identity, sampler.chunks, sampler.environment(), notes
    )
    part = template_of(sampler, ds, identity)
    template = _template(finished, part, sizes, text)
    _check_order(finished, template, sampler)
    shared, partial = _entries(finished, sampler.chunks, sizes)
    calls = metadata.get("calls") or [_first_call(shape, run)]
    base = Base(shared, [*calls, _new_call(shape, sizes, text)])
    return Extension(sampler, ds, spec, template, finished.dataset, shape, base, partial)


def _check_order(finished: _Finished, template: xr.Dataset, sampler: EnsembleSampler) -> None:
    """Refuse times or numbers before the last one of the store: data must be in order."""
    try:
        check_samples(template, finished.sample)
    except DataError as error:
        stored = labels_of(finished.dataset, finished.sample)
        raise MismatchError.of(
            finished.described("samples"),
            expected=f"new samples after its last one, {stored[-1]}",
            got=f"samples from {sampler.labels[0]} to {sampler.labels[-1]}, not in order with it",
            remedy="Write them to a store of their own, or all samples in order to a new one.",
        ) from error


def _entries(
    finished: _Finished, chunks: tuple[int, int], new: tuple[int, int]
) -> tuple[dict[int, Entry], dict[int, Entry]]:
    """Return the entries of shared and of partial regions, by number in the extended ensemble."""
    found, old = finished.found, finished.shape
    assert found.ledger is not None
    intact = found.ledger.intact()
    count = len(list(regions_of(chunks, old)))
    if len(intact) != count or found.ledger.changed():
        raise StoreError.of(
            f"store '{found.name}'",
            expected="files as they were written, to append to",
            got=f"{count - len(intact)} of {count} regions, or metadata, that have changed",
            remedy='Repair it first: the call that wrote it, with resume="repair".',
        )
    by_start = {(e["realizations"][0], e["samples"][0]): e for e in intact.values()}
    shared: dict[int, Entry] = {}
    partial: dict[int, Entry] = {}
    for region in regions_of(chunks, new):
        entry = by_start.get((region.realizations[0], region.samples[0]))
        if entry is not None:
            entry = {**entry, "region": region.number, "calls": entry.get("calls", [0])}
            extents = (tuple(entry["realizations"]), tuple(entry["samples"]))
            same = extents == (region.realizations, region.samples)
            (shared if same else partial)[region.number] = entry
    return shared, partial


def _new_call(old: tuple[int, int], new: tuple[int, int], text: str) -> dict[str, Any]:
    """Describe a call that appended, by the positions of its members and samples."""
    if new[0] > old[0]:
        return _call((old[0], new[0]), (0, new[1]), text)
    return _call((0, new[0]), (old[1], new[1]), text)


def _first_call(shape: tuple[int, int], run: Mapping[str, Any]) -> dict[str, Any]:
    extent = {"realizations": [0, shape[0]], "samples": [0, shape[1]]}
    return {**extent, "version": run.get("xcvae version")}


def _call(realizations: tuple[int, int], samples: tuple[int, int], text: str) -> dict[str, Any]:
    return {
        "realizations": list(realizations),
        "samples": list(samples),
        "appended": text,
        "version": version_of("xcvae"),
        "time": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _template(
    finished: _Finished, part: xr.Dataset, sizes: tuple[int, int], text: str
) -> xr.Dataset:
    """Return coordinates and attributes of the extended ensemble, without values.

    Parameters
    ----------
    finished, part
        The finished ensemble, and one of the new samples or of all members.
    sizes
        Members and samples of the extended ensemble.
    text
        Description of what is appended.
    """
    stored, sample = finished.dataset, finished.sample
    (name,) = part.data_vars
    variable = stored[name].variable
    values = np.broadcast_to(np.float32(np.nan), (*sizes, *variable.shape[2:]))
    coords: dict[Any, xr.Variable] = {}
    for key, coord in stored.coords.items():
        old = coord.variable.drop_encoding()
        if "realization" in old.dims:
            old = part.coords[key].variable
        elif sample in old.dims and stored.sizes[sample] != sizes[1]:
            old = _joined(str(key), old, part, sample)
        coords[key] = old
    attrs = dict(stored.attrs)
    attrs["history"] = f"{attrs.get('history', '')}\n{_now()}: xcvae {version_of('xcvae')} " + (
        f"appended {text}"
    )
    attrs["xcvae"] = part.attrs["xcvae"]
    field = xr.Variable(variable.dims, values, variable.attrs)
    return xr.Dataset({name: field}, coords=coords, attrs=attrs)


def _joined(name: str, old: xr.Variable, part: xr.Dataset, sample: str) -> xr.Variable:
    """Append the values of a coordinate of new samples, in the form of the store."""
    if name not in part.coords:
        raise MismatchError.of(
            f"coordinate '{name}'",
            expected=f"one value for each new sample, along '{sample}', as in the store",
            got="data without it",
            remedy=f"Add it: ds.assign_coords({name}=...).",
        )
    new = part.coords[name].variable
    kinds = old.dtype.kind, new.dtype.kind
    if not set(kinds) <= set(_PLAIN):
        keys = _keys(old), _keys(new)
        _check_form(name, *keys)
        if _form(keys[0]) == _TIMES and kinds != ("M", "M"):
            old, new = (
                xr.Variable(one.dims, np.reshape(key, one.shape), one.attrs)
                for one, key in zip((old, new), keys, strict=True)
            )
    joined: xr.Variable = xr.Variable.concat([old, new], dim=sample)  # type: ignore[no-untyped-call]
    joined.attrs = dict(old.attrs)
    return joined


def _check_form(name: str, old: Any, new: Any) -> None:
    """Refuse values that cannot follow those of the store, such as dates of another calendar."""
    if _form(old) != _form(new):
        raise MismatchError.of(
            f"coordinate '{name}'",
            expected=f"{_form(old)}, as in the store",
            got=_form(new),
            remedy="Convert them, ds.convert_calendar(...) or xr.decode_cf(ds), or write the "
            "samples to a store of their own.",
        )


def _same_values(old: xr.Variable, new: xr.Variable) -> bool:
    """Return if two coordinates have the same values, in whatever form a store returns them."""
    if old.shape != new.shape:
        return False
    if old.dtype.kind in _PLAIN and new.dtype.kind in _PLAIN:
        floats = "f" in (old.dtype.kind, new.dtype.kind)
        return np.array_equal(old.values, new.values, equal_nan=floats)
    keys = [_keys(one) for one in (old, new)]
    forms = set(map(_form, keys))
    # A store keeps a missing text as an empty one.
    if forms == {_TEXT}:
        keys = [[str(text) for text in one.fillna("")] for one in keys]
    return len(forms) == 1 and list(keys[0]) == list(keys[1])


def _keys(coord: xr.Variable) -> Any:
    values = xr.Variable("value", np.ravel(coord.values), coord.attrs)
    keys = label_keys(xr.Dataset(coords={"value": values}), "value")
    return keys.infer_objects()  # numbers as objects, which a store has written as numbers


def _form(keys: Any) -> str:
    """Name what labels are: numbers, times, dates of a calendar, durations or texts."""
    calendar = getattr(keys, "calendar", None)
    if calendar is not None:
        return f"dates of the calendar '{calendar}'"
    return {"M": _TIMES, "m": "durations", **dict.fromkeys(_PLAIN, "numbers")}.get(
        keys.dtype.kind, _TEXT
    )

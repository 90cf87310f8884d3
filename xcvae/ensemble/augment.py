"""Real and synthetic samples in one Dataset, for the training of other networks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import INHERITED, check_storable, record_of, without_observed
from xcvae.ensemble.request import check_listing
from xcvae.ensemble.store.base import lock_folder, refuse_netcdf
from xcvae.ensemble.store.samples import (
    AUGMENTED,
    rain_shares,
    refuse_taken,
    samples_metadata,
    without_encoding,
    write_samples,
)
from xcvae.ensemble.storms import FLAG, DrawnStorms, flags_of
from xcvae.errors import ConfigError, EmptySelectionError, MismatchError, whole_number
from xcvae.fields.axes import same_axis
from xcvae.fields.cf import require
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.samples import index_of, label_keys, of_pandas
from xcvae.fields.units import to_units
from xcvae.fields.validation import check_dataset, refuse_packed
from xcvae.files import local_path
from xcvae.metrics.pairs import same_places
from xcvae.registry.discovery import version_of

MEMBER = "realization"
REAL = "real samples: "
"""Beginning of attributes about the origin and the terms of use of the real part."""

Select = xr.DataArray | Callable[[xr.Dataset], xr.DataArray] | Iterable[Any] | None


def augment(
    ds: xr.Dataset,
    ensemble: xr.Dataset | Sequence[xr.Dataset],
    *,
    select: Select = None,
    fraction: float | None = None,
    seed: int = 0,
    borrowed: xr.Dataset | None = None,
    store: str | os.PathLike[str] | None = None,
    catalog: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> xr.Dataset:
    """Append synthetic samples to real ones.

    A synthetic sample has the target of one member and everything else of the real sample that
    the member was drawn for: conditions, statics, coordinates and the label along the sample
    dimension, which is therefore repeated: the pair of label and ``realization`` is unique. If the
    ensemble was drawn for amplified or moved conditions (``storms`` of `xcvae.sample`), the sample
    has these. Read the result by position (``isel``), as training loops do. :func:`xcvae.train`
    takes it too; its validation samples are real, and synthetic variants of them are left out.

    Parameters
    ----------
    ds
        Real samples: the target and all that goes with it, dims (sample, y, x) and others.
    ensemble
        From :func:`xcvae.sample`, drawn for some or all of these samples; or several.
    select
        Samples to take synthetic members of: a boolean array along the sample dimension (such
        as ``xcvae.heavy(ds)``), a function of ``ds`` that returns one, or labels.
        Default: every sample of the ensemble.
    fraction
        Share of synthetic samples in the result, 0 to less than 1; they are chosen with
        ``seed``. Default: all members of the selected samples.
    seed
        Seed of the choice.
    borrowed
        The data that ensembles with borrowed conditions were drawn for; it has all variables of
        ``ds`` but the target.
    store
        Write the result to this new Zarr store, a local folder, and return it, opened lazily.
    catalog, name
        List the store in this intake catalog (YAML), under this name (default: the store's).

    Returns
    -------
    xarray.Dataset
        First the real samples, then the synthetic ones by ensemble and realization. Along the
        sample dimension, ``synthetic`` (bool) and ``realization`` (-1 for real; numbers of a
        second ensemble follow those of the first) are new, the coordinates that say what was done
        to a sample (``amplified``, ...), and labels (the positions in ``ds``) where there were
        none. The target is in the units of ``ds``, and lazy where the ensemble is. Nothing keeps
        the encoding of the file that ``ds`` was read from. Title, source, licence and comment say
        what is real and what was drawn, by which model.

    Raises
    ------
    MismatchError
        The ensemble was not drawn by xcvae, its samples or grid are not those of ``ds``, or ``ds``
        has maps that would not move with the storms, or synthetic samples already.
    MissingVariableError
        The target is not in ``ds``, or ``borrowed`` lacks a variable.
    DataError
        The samples are stacked from several dimensions, and are to be written.
    EmptySelectionError
        No sample is selected.
    ConfigError
        ``fraction`` is out of range, there are too few members to reach it, or a catalog is given
        without a store.
    OutputExistsError
        The store exists.
    StoreError
        Another process is writing it.
    CatalogError
        The name is used in the catalog for another store.
    """
    ensembles = _listed(ensemble)
    seed = whole_number("seed", seed, least=0, remedy="Leave it out for seed 0.")
    spec = DataSpec.from_json(record_of(ensembles[0])["spec"])
    if store is not None or catalog is not None or name is not None:
        target = _Output.of(store, catalog, name)
        check_storable(ds, spec.sample)
        options: dict[str, Any] = {"select": select, "fraction": fraction, "seed": seed}
        return target.write(augment(ds, ensembles, borrowed=borrowed, **options), spec)
    ds = _labelled(ds, spec.sample)
    _refuse_augmented(ds, spec.sample)
    real = require(ds, spec.target, what="augment")
    refuse_packed(real)
    real = real.copy(deep=False)
    real.attrs = without_observed(real.attrs)
    ds = ds.assign({spec.target: real})
    pools = [_Pool.of(one, ds, real, select, borrowed) for one in ensembles]
    if not any(pool.columns.size for pool in pools):
        raise EmptySelectionError.of(
            "select",
            expected="at least one sample of the ensemble",
            got="none",
            remedy="Check the selection, and that the ensemble was drawn for these samples.",
        )
    counts = [(pool.members.sizes["realization"], pool.columns) for pool in pools]
    taken = _choose(len(ds[spec.sample]), counts, fraction, seed)
    parts, first = [_flagged(ds, spec.sample, -1)], 0
    for pool, chosen in zip(pools, taken, strict=True):
        parts += [pool.samples(number, rows, real, first) for number, rows in chosen]
        first += int(pool.members["realization"].values.max()) + 1
    both = xr.concat(
        _equally_flagged(parts, spec.sample), dim=spec.sample, data_vars="minimal",
        coords="minimal", compat="override", join="override", combine_attrs="override",
    )  # fmt: skip
    # The packing and chunks of the file that the real samples came from do not fit the members:
    # an int16 range that ends at the largest observation would wrap heavier synthetic rain.
    both = _evenly_chunked(without_encoding(both))
    both[spec.target].attrs = _of_real(real.attrs)
    return both.assign_attrs(_provenance(both, spec, [record_of(one) for one in ensembles]))


def _listed(ensemble: object) -> list[xr.Dataset]:
    """Return one ensemble or several as a list."""
    alone = isinstance(ensemble, xr.Dataset | str) or not isinstance(ensemble, Iterable)
    listed: list[Any] = [ensemble] if alone else list(ensemble)  # type: ignore[call-overload]
    for one in listed:
        if not isinstance(one, xr.Dataset | xr.DataArray):
            raise ConfigError.of(
                "ensemble",
                expected="an ensemble, or several in a list",
                got=repr(one),
                remedy="Open a store first: xcvae.open_store(path).",
            )
    if not listed:
        raise ConfigError.of(
            "ensemble", expected="an ensemble, or several", got="none", remedy="Draw one first."
        )
    # A selected member has its number, and no dim.
    return [
        one.expand_dims(MEMBER) if MEMBER in one.coords and MEMBER not in one.dims else one
        for one in listed
    ]


def _of_real(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Say of attributes about origin and terms of use that they are those of real samples."""
    return {
        key: f"{REAL}{value}" if key in INHERITED and not str(value).startswith(REAL) else value
        for key, value in attrs.items()
    }


def _provenance(
    both: xr.Dataset, spec: DataSpec, records: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the attributes of real and synthetic samples together."""
    total, synthetic = both.sizes[spec.sample], int(both["synthetic"].sum())
    version, real = version_of("xcvae"), total - synthetic
    drawn = " and ".join(
        f"drawn by xcvae {one.get('version', version)}, model {str(one['model_sha256'])[:12]} "
        f"({one.get('mode', 'unknown')}, seed {one.get('seed', 'unknown')})"
        for one in records
    )
    attrs = _of_real(both.attrs)
    notes = [
        f"{synthetic} of {total} samples are synthetic, {drawn}: no observations. The coordinate "
        "'synthetic' marks them.",
        str(attrs.get("comment", "")),
    ]
    sources = [attrs.get("source"), f"synthetic samples: {drawn}"]
    history = (
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: xcvae {version} appended {synthetic} synthetic "
        f"samples, {drawn}, to {real} real ones"
    )
    models = [str(one["model_sha256"]) for one in records]
    content: dict[str, Any] = {"version": version, "model_sha256": models[0]}
    content["variable"] = spec.target
    content |= {"models": models} if len(models) > 1 else {}
    title = str(both.attrs.get("title", ""))
    return {
        **attrs,
        "title": f"{spec.target}: {real} real samples"
        + (f" ({title})" if title else "")
        + f" and {synthetic} synthetic ones drawn by xcvae",
        "source": "; ".join(str(part) for part in sources if part is not None),
        "comment": " ".join(note for note in notes if note),
        "history": f"{attrs.get('history', '')}\n{history}".lstrip("\n"),
        AUGMENTED: json.dumps({**content, "synthetic_samples": synthetic}),
    }


@dataclass(frozen=True)
class _Output:
    """Store and catalog entry of an augmented Dataset."""

    store: Path
    catalog: Path | None
    name: str

    @classmethod
    def of(cls, store: object, catalog: object, name: str | None) -> _Output:
        """Check the arguments before anything is computed."""
        folder = local_path("store", store)
        listed = local_path("catalog", catalog)
        check_listing(folder, listed, name)
        assert folder is not None
        refuse_netcdf(folder, "augment(...).to_netcdf(path)")
        refuse_taken(folder)
        found = cls(folder, listed, name or folder.stem)
        if listed is not None:
            catalogs.check_name(listed, found.name, folder)
        return found

    def write(self, ds: xr.Dataset, spec: DataSpec) -> xr.Dataset:
        """Write and list the samples; return them opened."""
        with lock_folder(self.store):  # which removes what a killed process left behind
            write_samples(ds, self.store, spec.sample)
        opened: xr.Dataset = xr.open_zarr(self.store, chunks={})
        if self.catalog is not None:
            count = int(ds["synthetic"].sum())
            about = samples_metadata(opened, spec.target, spec.sample, synthetic_samples=count)
            about |= rain_shares(opened[spec.target], spec.sample, spec.step)
            catalogs.append(self.catalog, self.name, self.store, about)
        return opened


@dataclass(frozen=True, eq=False)
class _Pool:
    """Members of one ensemble that can be chosen, and the samples that they were drawn for.

    Attributes
    ----------
    base
        The samples.
    members
        The members, in the units of the data.
    rows
        For each sample of the ensemble, its position in ``base``.
    columns
        Selected samples of the ensemble, by position.
    storms
        What was done to the conditions.
    spec
        Description of the data in the model.
    """

    base: xr.Dataset
    members: xr.DataArray
    rows: np.ndarray
    columns: np.ndarray
    storms: DrawnStorms
    spec: DataSpec

    @classmethod
    def of(
        cls,
        ensemble: xr.Dataset,
        ds: xr.Dataset,
        real: xr.DataArray,
        select: Select,
        borrowed: xr.Dataset | None,
    ) -> _Pool:
        """Match an ensemble with the samples that it was drawn for."""
        record = record_of(ensemble)
        spec = DataSpec.from_json(record["spec"])
        storms = DrawnStorms.of(ensemble, record)
        base = _borrowed(ds, borrowed, spec) if storms.borrowed else ds
        members = to_units(ensemble[spec.target], str(real.attrs.get("units", spec.units)))
        _check_grid(real, members, spec)
        rows = rows_in(base, members, spec.sample)
        columns = np.flatnonzero(_selected(base, members, select, spec))
        return cls(base, members, rows, columns, storms, spec)

    def samples(
        self, number: int, chosen: np.ndarray, real: xr.DataArray, first: int
    ) -> xr.Dataset:
        """Return the chosen samples of a realization, whose numbers start from ``first``."""
        spec = self.spec
        synthetic = self.base.isel({spec.sample: self.rows[chosen]})
        if self.storms:
            bare = synthetic.drop_vars(spec.target, errors="ignore")
            synthetic = self.storms.applied(bare, chosen)
        member = self.members.isel({"realization": number, spec.sample: chosen}).variable
        member = member.transpose(*(d for d in real.dims if d in member.dims))
        synthetic[spec.target] = real.dims, member.data, real.attrs
        realization = first + int(self.members["realization"].values[number])
        return _flagged(synthetic, spec.sample, realization)


def _refuse_augmented(ds: xr.Dataset, sample: str) -> None:
    """Refuse synthetic samples among those that are to be flagged as real."""
    if "synthetic" in ds.coords and bool(ds["synthetic"].any()):
        raise MismatchError.of(
            "augment",
            expected="real samples",
            got="real and synthetic ones, which an earlier call joined",
            remedy="Give all ensembles in one call, xcvae.augment(real, [first, second]), or the "
            f"real samples only, ds.isel({sample}=~ds.synthetic).",
        )


def _labelled(ds: xr.Dataset, sample: str) -> xr.Dataset:
    """Give samples without labels their positions."""
    check_dataset(ds)
    if sample in ds.dims and sample not in ds.coords:
        return ds.assign_coords({sample: np.arange(ds.sizes[sample])})
    return ds


def _borrowed(ds: xr.Dataset, borrowed: xr.Dataset | None, spec: DataSpec) -> xr.Dataset:
    """Return the borrowed samples with the variables and coordinates that the real ones have."""
    if borrowed is None:
        raise MismatchError.of(
            "augment",
            expected="the data that the borrowed storms were drawn for, for their conditions",
            got="real samples only",
            remedy="Give them: xcvae.augment(ds, ensemble, borrowed=other).",
        )
    borrowed = _labelled(borrowed, spec.sample)
    found = {}
    for name in ds.data_vars:
        if name != spec.target:
            own = require(borrowed, str(name), what="borrowed")
            known = ds[name]
            found[name] = to_units(own, known.attrs["units"]) if "units" in known.attrs else own
            found[name] = found[name].transpose(*known.dims).assign_attrs(known.attrs)
    chosen = xr.Dataset(found, coords={spec.sample: borrowed[spec.sample]})
    lacking = {
        name: (spec.sample, np.full(chosen.sizes[spec.sample], _neutral(coord)), coord.attrs)
        for name, coord in ds.coords.items()
        if coord.dims == (spec.sample,) and name not in chosen.coords
    }
    return chosen.assign_coords(lacking)


def _equally_flagged(parts: list[xr.Dataset], sample: str) -> list[xr.Dataset]:
    """Give all samples the coordinates that some have: nothing was done to the others."""
    flags: dict[str, xr.DataArray] = {}
    for part in parts:
        flags |= flags_of(part, sample)
    return [
        part.assign_coords(
            {
                name: (sample, np.full(part.sizes[sample], _neutral(flag)), flag.attrs)
                for name, flag in flags.items()
                if name not in part.coords
            }
        )
        for part in parts
    ]


def _neutral(coord: xr.DataArray) -> Any:
    """Return the value that stands for nothing, of the type of a coordinate."""
    if coord.attrs.get(FLAG) == "amplify":
        return coord.dtype.type(1)
    empty = {"M": "NaT", "m": "NaT", "f": np.nan, "O": None, "U": "", "S": b""}
    return np.array(empty.get(coord.dtype.kind, 0), coord.dtype)[()]


def _evenly_chunked(ds: xr.Dataset) -> xr.Dataset:
    """Give lazy variables chunks of one size per dimension, as Zarr wants them."""
    even = {
        name: variable.chunk({dim: max(sizes) for dim, sizes in variable.chunksizes.items()})
        for name, variable in ds.variables.items()
        if variable.chunks is not None
    }
    return ds.assign(even) if even else ds


def _flagged(ds: xr.Dataset, sample: str, realization: int) -> xr.Dataset:
    n = ds.sizes[sample]
    meanings = {
        "synthetic": (
            np.full(n, realization >= 0),
            {"long_name": "drawn by a model, not observed"},
        ),
        "realization": (
            np.full(n, realization, "int32"),
            {"long_name": "member of the ensemble, -1 for real samples", "units": "1"},
        ),
    }
    return ds.assign_coords(
        {name: (sample, values, attrs) for name, (values, attrs) in meanings.items()}
    )


def _check_grid(real: xr.DataArray, members: xr.DataArray, spec: DataSpec) -> None:
    for dim in (spec.sample, spec.y, spec.x):
        if dim not in real.dims or dim not in members.dims:
            raise MismatchError.of(
                f"dimension '{dim}'",
                expected=f"it in both, the target {real.dims} and the ensemble {members.dims}",
                got="it in one of them only",
                remedy="Keep the dimensions of the ensemble as xcvae.sample returns them.",
            )
    for dim in (spec.y, spec.x):
        same = real.sizes[dim] == members.sizes[dim]
        if same and dim in real.coords and dim in members.coords:
            same = same_axis(real[dim].values, members[dim].values)
        if not same:
            raise MismatchError.of(
                f"grid of the ensemble along '{dim}'",
                expected=f"that of the data, {real.sizes[dim]} pixels",
                got=f"{members.sizes[dim]} pixels or other coordinates",
                remedy="Draw the ensemble on the grid of this Dataset.",
            )
    if not same_places(real, members):
        raise MismatchError.of(
            "grid of the ensemble",
            expected="latitudes and longitudes of the data",
            got="others, or in another order of rows and columns",
            remedy="Draw the ensemble on the grid of this Dataset.",
        )


def rows_in(ds: xr.Dataset, members: xr.DataArray, sample: str) -> np.ndarray:
    """Return, for each sample of an ensemble, its position in the data it was drawn for.

    Raises
    ------
    MismatchError
        The ensemble has other samples too.
    """
    if sample not in members.coords and ds.sizes[sample] != members.sizes[sample]:
        raise MismatchError.of(
            f"ensemble, dimension '{sample}'",
            expected=f"as many samples as the Dataset, {ds.sizes[sample]}, as they have no labels",
            got=str(members.sizes[sample]),
            remedy="Give the samples that it was drawn for, or label all samples before the draw: "
            f"ds.assign_coords({sample}=...).",
        )
    known, labels = label_keys(ds, sample), label_keys(members, sample)
    # Of a repeated label the last one.
    position = {label: i for i, label in enumerate(known)}
    try:
        rows = np.array([position.get(label, -1) for label in labels], np.int64)
    except TypeError:  # dates of two calendars cannot be compared
        rows = np.full(len(labels), -1)
    missing = labels[rows < 0]
    if missing.size:
        raise MismatchError.of(
            "ensemble",
            expected="samples of the Dataset only, for their conditions are needed",
            got=f"{missing.size} others, the first of them {missing[0]}",
            remedy=f"Select them: ensemble.sel({sample}=ds.{sample}) or the like.",
        )
    return rows


def _selected(ds: xr.Dataset, members: xr.DataArray, select: Select, spec: DataSpec) -> np.ndarray:
    """Return a mask of the selected samples of the ensemble."""
    labels = label_keys(members, spec.sample)
    if select is None:
        return np.ones(labels.size, bool)
    if callable(select):
        select = select(ds)
    select = of_pandas("select", select, ds.indexes.get(spec.sample))
    if isinstance(select, list | tuple) and {*map(type, select)} in ({bool}, {np.bool_}):
        select = np.array(select)
    if isinstance(select, np.ndarray) and select.dtype == bool and select.ndim == 1:
        select = xr.DataArray(select, dims=spec.sample)
    if isinstance(select, xr.DataArray) and select.dtype == bool:
        return _by_mask(ds, members, select, spec.sample)
    if isinstance(select, str) or not isinstance(select, Iterable):
        select = [select]
    whole = isinstance(select, xr.DataArray | np.ndarray)
    given = np.asarray(select if whole else [*select])
    if given.ndim > 1:
        raise MismatchError.of(
            "select",
            expected="labels of samples, or a mask of True and False for each",
            got=f"an array of the shape {given.shape}",
            remedy=f"Reduce it to '{spec.sample}': (ds.pr.max(('y', 'x')) > 20), for example.",
        )
    wanted = label_keys(xr.Dataset(coords={spec.sample: np.atleast_1d(given)}), spec.sample)
    if labels.dtype.kind == "M" and wanted.dtype.kind != "M":
        wanted = _as_times(wanted)
    unknown = wanted[~wanted.isin(labels)]
    if unknown.size:
        raise MismatchError.of(
            "select",
            expected="labels of the ensemble's samples",
            got=f"{unknown.size} others, the first of them {unknown[0]}",
            remedy="Leave them out, or draw members for them.",
        )
    return np.asarray(labels.isin(wanted))


def _by_mask(ds: xr.Dataset, members: xr.DataArray, mask: xr.DataArray, sample: str) -> np.ndarray:
    """Return a mask of the samples of the ensemble from one of the data, or of the ensemble."""
    labels = label_keys(members, sample)
    whole = mask.sizes.get(sample) == ds.sizes[sample]
    if mask.dims != (sample,) or not (whole or mask.sizes[sample] == labels.size):
        raise MismatchError.of(
            "select",
            expected=f"one value per sample, dims ('{sample}',)",
            got=f"dims {dict(mask.sizes)}",
            remedy="xcvae.heavy(ds) makes such a selection.",
        )
    if sample not in mask.coords:  # by position, in the data before the ensemble
        mask = mask.assign_coords({sample: (ds if whole else members)[sample]})
    return np.asarray(labels.isin(label_keys(mask, sample)[mask.values]))


def _as_times(labels: Any) -> Any:
    """Return labels as times."""
    try:
        return index_of(labels)
    except ValueError as error:
        raise MismatchError.of(
            "select",
            expected="a mask, or labels of the ensemble's samples",
            got=", ".join(map(repr, labels[:3])),
            remedy="Write times as 2005-03-01T12:00.",
        ) from error


def _is_share(value: object) -> bool:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return bool(number and 0 <= value < 1)  # type: ignore[operator]


def _choose(
    real: int,
    pools: Sequence[tuple[int, np.ndarray]],
    fraction: float | None,
    seed: int,
) -> list[list[tuple[int, np.ndarray]]]:
    """Return for each pool and realization the chosen samples, by position, in order.

    A pool is the number of its realizations, and its samples.
    """
    sizes = [members * columns.size for members, columns in pools]
    available = sum(sizes)
    if fraction is None:
        return [[(number, columns) for number in range(n)] for n, columns in pools]
    if not _is_share(fraction):
        expected = "a share from 0 to less than 1"
        remedy = "Give 0.5 for as many synthetic samples as real ones."
        raise ConfigError.of("fraction", expected=expected, got=repr(fraction), remedy=remedy)
    wanted = round(fraction / (1.0 - fraction) * real)
    if wanted > available:
        raise ConfigError.of(
            "fraction",
            expected=f"at most {available / (available + real):.3f}, for there are "
            f"{available} members to choose from and {real} real samples",
            got=f"{fraction:g}",
            remedy="Draw more members, select more samples, or lower the fraction.",
        )
    picked = np.sort(np.random.default_rng(seed).permutation(available)[:wanted])
    found, start = [], 0
    for (_, columns), size in zip(pools, sizes, strict=True):
        own = picked[(picked >= start) & (picked < start + size)] - start
        number, column = np.divmod(own, max(columns.size, 1))
        found.append([(int(m), columns[column[number == m]]) for m in np.unique(number)])
        start += size
    return found

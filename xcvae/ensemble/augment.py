"""Real and synthetic samples in one Dataset, for the training of other networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import record_of, without_observed
from xcvae.ensemble.store.samples import (
    rain_shares,
    refuse_taken,
    samples_metadata,
    write_samples,
)
from xcvae.errors import ConfigError, EmptySelectionError, MismatchError
from xcvae.fields.cf import require
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.samples import index_of, label_keys
from xcvae.fields.units import to_units
from xcvae.fields.validation import refuse_packed
from xcvae.files import local_path

Select = xr.DataArray | Callable[[xr.Dataset], xr.DataArray] | Iterable[Any] | None


def augment(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    select: Select = None,
    fraction: float | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = None,
    catalog: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> xr.Dataset:
    """Append synthetic samples to real ones.

    A synthetic sample has the target of one member and everything else of the real sample that
    the member was drawn for: conditions, statics, coordinates and the label along the sample
    dimension, which is therefore repeated: the pair of label and ``realization`` is unique. Read
    the result by position (``isel``), as training loops do. :func:`xcvae.train` takes it too; its
    validation samples are real, and synthetic variants of them are left out.

    Parameters
    ----------
    ds
        Real samples: the target and all that goes with it, dims (sample, y, x) and others.
    ensemble
        From :func:`xcvae.sample`, drawn for some or all of these samples.
    select
        Samples to take synthetic members of: a boolean DataArray along the sample dimension
        (such as ``xcvae.heavy(ds)``), a function of ``ds`` that returns one, or labels.
        Default: every sample of the ensemble.
    fraction
        Share of synthetic samples in the result, 0 to less than 1; they are chosen with
        ``seed``. Default: all members of the selected samples.
    seed
        Seed of the choice.
    store
        Write the result to this new Zarr store, a local folder, and return it, opened lazily.
    catalog, name
        List the store in this intake catalog (YAML), under this name (default: the store's).

    Returns
    -------
    xarray.Dataset
        First the real samples, then the synthetic ones by realization. Along the sample
        dimension, ``synthetic`` (bool) and ``realization`` (-1 for real) are new, and labels (the
        positions in ``ds``) where there were none. The target is in the units of ``ds``, and lazy
        where the ensemble is. Nothing keeps the encoding of the file that ``ds`` was read from.

    Raises
    ------
    MismatchError
        The ensemble was not drawn by xcvae, or its samples or grid are not those of ``ds``.
    MissingVariableError
        The target is not in ``ds``.
    EmptySelectionError
        No sample is selected.
    ConfigError
        ``fraction`` is out of range, there are too few members to reach it, or a catalog is given
        without a store.
    OutputExistsError
        The store exists.
    CatalogError
        The name is used in the catalog for another store.
    """
    if store is not None or catalog is not None:
        target = _Output.of(store, catalog, name)
        both = augment(ds, ensemble, select=select, fraction=fraction, seed=seed)
        return target.write(both, DataSpec.from_json(record_of(ensemble)["spec"]))
    spec = DataSpec.from_json(record_of(ensemble)["spec"])
    if spec.sample in ds.dims and spec.sample not in ds.coords:
        ds = ds.assign_coords({spec.sample: np.arange(ds.sizes[spec.sample])})
    real = require(ds, spec.target, what="augment")
    refuse_packed(real)
    real = real.copy(deep=False)
    real.attrs = without_observed(real.attrs)
    ds = ds.assign({spec.target: real})
    members = to_units(ensemble[spec.target], str(real.attrs.get("units", spec.units)))
    _check_grid(real, members, spec)
    rows = rows_in(ds, members, spec.sample)
    columns = np.flatnonzero(_selected(ds, members, select, spec))
    if columns.size == 0:
        raise EmptySelectionError.of(
            "select",
            expected="at least one sample of the ensemble",
            got="none",
            remedy="Check the selection, and that the ensemble was drawn for these samples.",
        )
    taken = _choose(len(ds[spec.sample]), members.sizes["realization"], columns, fraction, seed)
    parts = [_flagged(ds, spec.sample, -1)]
    for number, chosen in taken:
        synthetic = ds.isel({spec.sample: rows[chosen]})
        member = members.isel({"realization": number, spec.sample: chosen}).variable
        member = member.transpose(*(d for d in real.dims if d in member.dims))
        synthetic[spec.target] = real.dims, member.data, real.attrs
        realization = int(members["realization"].values[number])
        parts.append(_flagged(synthetic, spec.sample, realization))
    both = xr.concat(
        parts, dim=spec.sample, data_vars="minimal", coords="minimal", compat="override",
        join="override", combine_attrs="override",
    )  # fmt: skip
    # The packing and chunks of the file that the real samples came from do not fit the members:
    # an int16 range that ends at the largest observation would wrap heavier synthetic rain.
    return _evenly_chunked(both.drop_encoding())


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
        if folder is None:
            raise ConfigError.of(
                "catalog",
                expected="a store to list",
                got="store=None",
                remedy="Give store='....zarr': only what is written can be listed.",
            )
        refuse_taken(folder)
        found = cls(folder, listed, name or folder.stem)
        if listed is not None:
            catalogs.check_name(listed, found.name, folder)
        return found

    def write(self, ds: xr.Dataset, spec: DataSpec) -> xr.Dataset:
        """Write and list the samples; return them opened."""
        write_samples(ds, self.store, spec.sample)
        opened: xr.Dataset = xr.open_zarr(self.store, chunks={})
        if self.catalog is not None:
            count = int(ds["synthetic"].sum())
            about = samples_metadata(opened, spec.target, spec.sample, synthetic_samples=count)
            about |= rain_shares(opened[spec.target], spec.sample)
            catalogs.append(self.catalog, self.name, self.store, about)
        return opened


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
            same = bool(np.allclose(real[dim].values, members[dim].values))
        if not same:
            raise MismatchError.of(
                f"grid of the ensemble along '{dim}'",
                expected=f"that of the data, {real.sizes[dim]} pixels",
                got=f"{members.sizes[dim]} pixels or other coordinates",
                remedy="Draw the ensemble on the grid of this Dataset.",
            )


def rows_in(ds: xr.Dataset, members: xr.DataArray, sample: str) -> np.ndarray:
    """Return, for each sample of an ensemble, its position in the data it was drawn for.

    Raises
    ------
    MismatchError
        The ensemble has other samples too.
    """
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
    if isinstance(select, xr.DataArray) and select.dtype == bool:
        if select.dims != (spec.sample,) or select.sizes[spec.sample] not in (
            ds.sizes[spec.sample], labels.size,
        ):  # fmt: skip
            raise MismatchError.of(
                "select",
                expected=f"one value per sample, dims ('{spec.sample}',)",
                got=f"dims {dict(select.sizes)}",
                remedy="xcvae.heavy(ds) makes such a selection.",
            )
        return np.asarray(labels.isin(label_keys(select, spec.sample)[select.values]))
    if not isinstance(select, xr.DataArray):
        select = xr.DataArray(np.asarray(list(select)), dims=spec.sample)
    wanted = label_keys(xr.Dataset(coords={spec.sample: select.values}), spec.sample)
    if labels.dtype.kind == "M" and wanted.dtype.kind != "M":
        wanted = index_of(wanted)
    unknown = wanted[~wanted.isin(labels)]
    if unknown.size:
        raise MismatchError.of(
            "select",
            expected="labels of the ensemble's samples",
            got=f"{unknown.size} others, the first of them {unknown[0]}",
            remedy="Leave them out, or draw members for them.",
        )
    return np.asarray(labels.isin(wanted))


def _choose(
    real: int, members: int, columns: np.ndarray, fraction: float | None, seed: int
) -> list[tuple[int, np.ndarray]]:
    """Return for each realization the chosen samples of the ensemble, by position, in order."""
    available = members * columns.size
    if fraction is None:
        return [(number, columns) for number in range(members)]
    if isinstance(fraction, bool) or not 0.0 <= fraction < 1.0:
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
    number, column = np.divmod(picked, columns.size)
    return [(int(m), columns[column[number == m]]) for m in np.unique(number)]

"""Real and synthetic samples in one Dataset, for the training of other networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.dataset import INHERITED, record_of, without_observed
from xcvae.errors import ConfigError, EmptySelectionError, MismatchError
from xcvae.fields.cf import require
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.samples import index_of, label_keys
from xcvae.fields.units import to_units
from xcvae.fields.validation import refuse_packed
from xcvae.registry.discovery import version_of

REAL = "real samples: "
"""Beginning of attributes about the origin and the terms of use of the real part."""

Select = xr.DataArray | Callable[[xr.Dataset], xr.DataArray] | Iterable[Any] | None


def augment(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    select: Select = None,
    fraction: float | None = None,
    seed: int = 0,
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

    Returns
    -------
    xarray.Dataset
        First the real samples, then the synthetic ones by realization. Along the sample
        dimension, ``synthetic`` (bool) and ``realization`` (-1 for real) are new, and labels (the
        positions in ``ds``) where there were none. The target is in the units of ``ds``, and lazy
        where the ensemble is. Nothing keeps the encoding of the file that ``ds`` was read from.
        Title, source, licence and comment say what is real and what was drawn, by which model;
        the attribute ``xcvae`` (JSON) has the hash of the model and the numbers of samples.

    Raises
    ------
    MismatchError
        The ensemble was not drawn by xcvae, or its samples or grid are not those of ``ds``.
    MissingVariableError
        The target is not in ``ds``.
    EmptySelectionError
        No sample is selected.
    ConfigError
        ``fraction`` is out of range, or there are too few members to reach it.
    """
    record = record_of(ensemble)
    spec = DataSpec.from_json(record["spec"])
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
    both = _evenly_chunked(both.drop_encoding())
    both[spec.target].attrs = _of_real(real.attrs)
    return both.assign_attrs(_provenance(both, spec, record))


def _of_real(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Say of attributes about origin and terms of use that they are those of real samples."""
    return {
        key: f"{REAL}{value}" if key in INHERITED and not str(value).startswith(REAL) else value
        for key, value in attrs.items()
    }


def _provenance(both: xr.Dataset, spec: DataSpec, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of real and synthetic samples together."""
    total, synthetic = both.sizes[spec.sample], int(both["synthetic"].sum())
    sha, version = str(record["model_sha256"]), version_of("xcvae")
    mode, seed = record.get("mode", "unknown"), record.get("seed", "unknown")
    drawn = f"drawn by xcvae {record.get('version', version)}, model {sha[:12]}"
    attrs = _of_real(both.attrs)
    notes = [
        f"{synthetic} of {total} samples are synthetic, {drawn} ({mode}, seed {seed}): no "
        "observations. The coordinate 'synthetic' marks them.",
        str(attrs.get("comment", "")),
    ]
    history = (
        f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}: xcvae {version} appended {synthetic} synthetic "
        f"samples, {drawn}, to {total - synthetic} real ones"
    )
    content = {
        "version": version,
        "model_sha256": sha,
        **{key: record[key] for key in ("mode", "seed", "spread") if key in record},
        "variable": spec.target,
        "samples": total,
        "synthetic": synthetic,
    }
    title = str(both.attrs.get("title", ""))
    return {
        **attrs,
        "title": f"{spec.target}: {total - synthetic} real samples"
        + (f" ({title})" if title else "")
        + f" and {synthetic} synthetic ones drawn by xcvae",
        "source": "; ".join(
            part
            for part in (attrs.get("source"), f"synthetic samples: {drawn}")
            if part is not None
        ),
        "comment": " ".join(note for note in notes if note),
        "history": f"{attrs.get('history', '')}\n{history}".lstrip("\n"),
        "xcvae": json.dumps(content),
    }


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

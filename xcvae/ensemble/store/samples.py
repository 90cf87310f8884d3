"""Real and augmented samples as a plain Zarr store, and their description for a catalog."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.store.base import CHUNK_BYTES
from xcvae.ensemble.store.zarr_format import quiet_zarr
from xcvae.errors import OutputExistsError, UnitsError
from xcvae.fields.cf import check_name, check_values
from xcvae.fields.dataspec import json_attribute, plain
from xcvae.fields.sample_blocks import evenly_spaced, join_chunks
from xcvae.fields.samples import labels_of
from xcvae.fields.units import STEP, default_wet_threshold, is_daily, time_bounds
from xcvae.files import hidden_sibling, is_taken, remove

FIELDS, PIXELS = 256, 200_000_000
"""Maps, and their pixels, at most that the shares of wet and heavy pixels are taken from."""
BLOCK = 8_000_000
"""Pixels that are counted at a time, at least those of a chunk."""
LICENCES = ("license", "licence")
AUGMENTED = "xcvae_augmented"
"""Attribute of real and synthetic samples together (JSON): by which model, and how many."""


def write_samples(
    ds: xr.Dataset,
    store: Path,
    sample: str,
    *,
    when_complete: Callable[[Path], None] | None = None,
) -> None:
    """Write a Dataset as a Zarr store with chunks of whole maps, in one step.

    Parameters
    ----------
    ds
        Samples: in memory, or lazy and then streamed.
    store
        A folder that does not exist yet.
    sample
        Name of the sample dim, the only one that is cut.
    when_complete
        Called with the folder that has all files, before it gets its name.

    Raises
    ------
    OutputExistsError
        Something has this name.
    DataError
        A variable has a name that would be a path, or values that cannot be written.
    """
    for name, variable in ds.variables.items():
        check_name(str(name), what=f"variable {name!r}")
        check_values(variable, str(name), what="store, variable")
    refuse_taken(store)
    store.parent.mkdir(parents=True, exist_ok=True)
    new = hidden_sibling(store, "new")
    try:
        with quiet_zarr():
            _chunked(without_encoding(ds), sample).to_zarr(new, consolidated=True, zarr_format=3)
        if when_complete is not None:
            when_complete(new)
        new.rename(store)
    finally:
        remove(new)


def refuse_taken(path: Path) -> None:
    """Refuse the name of a file or folder that exists.

    Raises
    ------
    OutputExistsError
        It does.
    """
    if is_taken(path):
        raise OutputExistsError.of(
            str(path),
            expected="a name that is free",
            got="a file or folder",
            remedy="Choose another name, or remove it yourself: nothing is replaced.",
        )


def without_encoding(ds: xr.Dataset) -> xr.Dataset:
    """Drop encodings, but for names of other variables, which xarray may move there."""
    bare = ds.drop_encoding()
    for name, variable in ds.variables.items():
        for key in ("bounds", "grid_mapping"):
            if key in variable.encoding:
                bare[name].attrs.setdefault(key, variable.encoding[key])
    return bare


def _chunked(ds: xr.Dataset, sample: str) -> xr.Dataset:
    """Give variables with maps chunks of about 8 MB, of one size along the sample dim."""
    found = {}
    for name, variable in ds.variables.items():
        if sample not in variable.dims or variable.ndim < 2:
            continue
        fields = math.prod(n for dim, n in variable.sizes.items() if dim != sample)
        step = max(1, CHUNK_BYTES // max(1, variable.dtype.itemsize * fields))
        sizes = {**variable.sizes, sample: min(step, variable.sizes[sample])}
        if variable.chunks is None:
            chunked = variable.copy(deep=False)
            chunked.encoding = {"chunks": tuple(sizes.values())}
        else:
            chunked = variable.chunk(sizes)
        found[name] = chunked
    return ds.assign({n: v for n, v in found.items() if n in ds.data_vars}).assign_coords(
        {n: v for n, v in found.items() if n in ds.coords}
    )


def samples_metadata(ds: xr.Dataset, target: str, sample: str, **others: Any) -> dict[str, Any]:
    """Return the metadata of a catalog entry of samples, as JSON types.

    Parameters
    ----------
    ds
        The samples.
    target, sample
        Names of the rain variable and of the sample dim.
    others
        Further metadata, such as ``split``.
    """
    field = ds[target]
    return {
        "title": str(ds.attrs.get("title", "")),
        "variable": target,
        "units": str(field.attrs.get("units", "")),
        "dims": [str(dim) for dim in field.dims],
        "sizes": {str(dim): int(size) for dim, size in field.sizes.items()},
        "conditions": {
            str(name): str(da.attrs.get("units", ""))
            for name, da in ds.data_vars.items()
            if name not in (target, time_bounds(ds, sample))
        },
        **plain(others),
        **origin_of(ds, sample),
        **_augmentation(ds),
    }


def _augmentation(ds: xr.Dataset) -> dict[str, Any]:
    """Return what `xcvae.augment` has noted of synthetic samples; {} for real ones."""
    content = json_attribute(ds, AUGMENTED)
    if not content:
        return {}
    return {**content, **{key: str(ds.attrs.get(key, "")) for key in ("comment", "history")}}


def origin_of(ds: xr.Dataset, sample: str) -> dict[str, Any]:
    """Return period, number of samples, source and licence of a Dataset, as JSON types."""
    labels = labels_of(ds, sample)
    licence = next((str(ds.attrs[key]) for key in LICENCES if ds.attrs.get(key)), "")
    return {
        "period": [labels[0], labels[-1]],
        "samples": len(labels),
        "source": str(ds.attrs.get("source", "")),
        "license": licence,
    }


def rain_shares(field: xr.DataArray, sample: str, step: float | None = None) -> dict[str, float]:
    """Return the shares of wet and of heavy pixels, by the thresholds of the scores.

    They are those of some maps, evenly spaced, where there are many; empty for anything but rain.

    Parameters
    ----------
    field
        Rain, dims (sample, y, x) or (realization, sample, y, x).
    sample
        Name of the sample dim.
    step
        Seconds of the record that the samples are of; None for their own distance.
    """
    if step is not None:
        field = field.assign_attrs({STEP: step})
    members = min(4, field.sizes.get("realization", 1))
    pixels = field.size // max(1, field.sizes[sample] * field.sizes.get("realization", 1))
    most = max(1, min(FIELDS, PIXELS // max(1, pixels)) // members)
    if "realization" in field.dims:
        field = field.isel(realization=slice(members))
    try:
        wet = default_wet_threshold(field, sample)
    except UnitsError:
        return {}
    heavy = (20.0 if is_daily(field, sample) else 50.0) * wet
    counts = np.zeros(3, np.int64)
    rows = evenly_spaced(field.sizes[sample], most)
    chunks = field.variable.chunksizes.get(sample, (1,) * field.sizes[sample])
    # A chunk is read once; of small ones, several at a time.
    for block in join_chunks(chunks, max(1, BLOCK // max(1, pixels * members))):
        some = rows[(rows >= block.start) & (rows < block.stop)]
        if not some.size:
            continue
        values = field.isel({sample: some}).values
        counts += [np.isfinite(values).sum(), (values >= wet).sum(), (values >= heavy).sum()]
    shares = counts[1:] / max(1, counts[0])
    return dict(zip(("wet_share", "heavy_share"), shares.round(6).tolist(), strict=True))

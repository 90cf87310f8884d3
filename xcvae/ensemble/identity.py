"""Identity of an ensemble: the fingerprint of its data, and differences between two identities."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import block_slices
from xcvae.fields.samples import labels_of

SAMPLES_AT_ONCE = 64


def fingerprint(prepared: xr.Dataset, spec: DataSpec, *, target_values: bool) -> str:
    """Return a hash of everything in the data that an ensemble depends on.

    Parameters
    ----------
    prepared
        From :func:`xcvae.fields.describe.prepare`: labels, grid, conditions, perhaps the target.
        Values of Dask arrays are read in blocks of samples.
    spec
        What the model knows about the data.
    target_values
        Include the values of the target; otherwise only its missing pixels count.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    digest.update("\n".join(labels_of(prepared, spec.sample)).encode())
    for name in sorted(map(str, prepared.coords)):
        if prepared[name].dtype.kind in "iuf" and spec.sample not in prepared[name].dims:
            _update(digest, name, prepared[name].values)
    for name in sorted(map(str, prepared.data_vars)):
        for number, values in enumerate(_blocks(prepared[name], spec.sample)):
            if name != spec.target or target_values:
                _update(digest, name, values)
            elif np.isnan(values).any():
                # Without missing pixels the hash is that of data without the target.
                _update(digest, f"{name} {number}", np.packbits(np.isnan(values)))
    return digest.hexdigest()[:32]


def _blocks(variable: xr.DataArray, sample: str) -> Iterator[np.ndarray]:
    if sample not in variable.dims:
        yield np.asarray(variable.values)
        return
    for block in block_slices(variable.sizes[sample], SAMPLES_AT_ONCE):
        yield np.asarray(variable.isel({sample: block}).values)


def _update(digest: Any, name: str, values: np.ndarray) -> None:
    digest.update(f"{name} {values.shape} {values.dtype}".encode())
    digest.update(np.ascontiguousarray(values).tobytes())


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any]) -> list[str]:
    """Describe each key in which two identities differ.

    Examples
    --------
    >>> differences({"seed": 1, "mode": "prior"}, {"seed": 2, "mode": "prior"})
    ['seed (stored: 1, requested: 2)']
    """
    keys = [*requested, *(key for key in stored if key not in requested)]
    return [
        f"{key} (stored: {stored.get(key)!r}, requested: {requested.get(key)!r})"
        for key in keys
        if stored.get(key) != requested.get(key)
    ]

"""The labels of samples: as text, and as numbers that tell them apart."""

from __future__ import annotations

import hashlib

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["label_codes", "labels_of"]


def labels_of(ds: xr.Dataset | xr.DataArray, sample: str) -> list[str]:
    """Return the text of each sample label: the address of its noise.

    Times are written to the second in ISO format, everything else as ``str``. A dimension without
    a coordinate has its positions as labels.

    Parameters
    ----------
    ds
        Anything with the sample dimension.
    sample
        Its name.

    Examples
    --------
    >>> labels_of(xr.Dataset(coords={"day": ["a", "b"]}), "day")
    ['a', 'b']
    """
    # Indexing by name gives 0, 1, 2, ... where there is no coordinate.
    values = ds[sample].values
    if np.issubdtype(values.dtype, np.datetime64):
        return [str(text) for text in np.datetime_as_string(values, unit="s")]
    return [
        value.isoformat() if hasattr(value, "isoformat") else str(value)
        for value in values.tolist()
    ]


def label_codes(ds: xr.Dataset | xr.DataArray, sample: str) -> NDArray[np.int64]:
    """Return a number for every label that stays the same in any Dataset; it cannot be read back.

    Empty where the dimension has no coordinate, or one that only counts: positions say nothing
    about which sample it is.

    Examples
    --------
    >>> days = xr.Dataset(coords={"day": ["a", "b"]})
    >>> bool((label_codes(days, "day")[1:] == label_codes(days.isel(day=[1]), "day")).all())
    True
    >>> label_codes(xr.Dataset(coords={"day": [0, 1]}), "day")
    array([], dtype=int64)
    """
    if sample not in ds.coords or ds[sample].dtype.kind in "iu":
        return np.empty(0, np.int64)
    texts = (text.encode() for text in labels_of(ds, sample))
    digests = (hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.int64)

"""One region as one chunk file of Zarr v3: encoded, hashed and put in place in the same breath.

Zarr could write it too, but would not tell what it wrote: the file would have to be read again for
its checksum. The bytes are those that Zarr itself would write.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from xcvae.ensemble.regions import Region
from xcvae.errors import MismatchError, explain

__all__ = ["encoding_of", "put_chunk"]

ZSTD_LEVEL = 1


def encoding_of(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return how xarray has to describe an array whose chunks of this shape are put here."""
    from zarr.codecs import ZstdCodec

    return {
        "chunks": shape,
        "compressors": (ZstdCodec(level=ZSTD_LEVEL),),
        # What is not there yet must not look like a dry day.
        "fill_value": np.float32(np.nan),
    }


def put_chunk(
    array: Path, region: Region, chunks: tuple[int, int], values: np.ndarray
) -> tuple[str, int, str]:
    """Write a region; its file is there as a whole or not at all.

    Parameters
    ----------
    array
        Folder of the array.
    region
        Which chunk.
    chunks
        Realizations and samples per chunk; the last ones of the ensemble may hold less.
    values
        Physical, (realization, sample, y, x).

    Returns
    -------
    file, bytes, sha256
        Name of the file within ``array``, its size and its checksum.

    Raises
    ------
    MismatchError
        The values are not of the size of the region.
    OSError
        They cannot be written.
    """
    content = _encoded(_filled(region, chunks, values))
    first = (region.realizations[0] // chunks[0], region.samples[0] // chunks[1])
    file = f"c/{first[0]}/{first[1]}/0/0"
    path = array / file
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is its own: a worker that was given up may still be writing the same one.
    temporary = path.with_name(f"0.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return file, len(content), hashlib.sha256(content).hexdigest()


def _filled(region: Region, chunks: tuple[int, int], values: np.ndarray) -> np.ndarray:
    """Return a whole chunk, NaN beyond the end of the ensemble."""
    size = tuple(last - first for first, last in (region.realizations, region.samples))
    if values.ndim != 4 or values.shape[:2] != size:
        raise MismatchError(
            explain(
                f"region {region.number}",
                expected=f"{size[0]} realizations of {size[1]} samples",
                got=f"values of shape {values.shape}",
                remedy="What draws a region returns (realization, sample, y, x).",
            )
        )
    if size == chunks:
        return np.ascontiguousarray(values, "<f4")
    whole = np.full((*chunks, *values.shape[2:]), np.nan, "<f4")
    whole[: size[0], : size[1]] = values
    return whole


def _encoded(values: np.ndarray) -> bytes:
    from numcodecs.zstd import Zstd

    content: bytes = Zstd(level=ZSTD_LEVEL).encode(values)
    return content

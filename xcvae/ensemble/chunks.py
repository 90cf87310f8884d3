"""One region as one chunk of Zarr v3: encoded here, and perhaps put in place as a file.

Zarr could write it too, but would not tell what it wrote: the file would have to be read again for
its checksum. The bytes are those that Zarr itself would write.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from xcvae.ensemble.regions import Region
from xcvae.errors import MismatchError, explain

__all__ = ["encoded", "encoding_of", "put_chunk"]

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


def encoded(region: Region, chunks: tuple[int, int], values: np.ndarray) -> tuple[str, bytes]:
    """Encode a region as the chunk that it is.

    Parameters
    ----------
    region
        Which chunk.
    chunks
        Realizations and samples per chunk; the last ones of the ensemble may hold less.
    values
        Physical, (realization, sample, y, x).

    Returns
    -------
    name, content
        Name of the chunk within its array, and its bytes.

    Raises
    ------
    MismatchError
        The values are not of the size of the region.
    """
    from numcodecs.zstd import Zstd

    content: bytes = Zstd(level=ZSTD_LEVEL).encode(_filled(region, chunks, values))
    first = (region.realizations[0] // chunks[0], region.samples[0] // chunks[1])
    return f"c/{first[0]}/{first[1]}/0/0", content


def put_chunk(path: Path, content: bytes) -> None:
    """Write a chunk file; it is there as a whole or not at all.

    Raises
    ------
    OSError
        It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name is its own: a worker that was given up may still be writing the same one.
    temporary = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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

"""An ensemble before anything is drawn: its metadata and coordinates, in Zarr v3."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.store.base import Region
from xcvae.errors import MismatchError, explain
from xcvae.files import write_bytes

__all__ = ["encoded", "encoding_of", "identity_in", "put_chunk", "write_template"]


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
    write_bytes(path, content)


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


def write_template(
    template: xr.Dataset, variable: str, chunks: tuple[int, int], store: Path | Any
) -> None:
    """Write metadata and coordinates, no chunk of the ensemble variable.

    Parameters
    ----------
    template
        Coordinates and attributes, and the variable as an array of the right shape: its values do
        not matter.
    variable
        Name of the ensemble variable.
    chunks
        Realizations and samples per chunk.
    store
        A folder, or a store of Zarr; what is there is replaced.
    """
    shape = (*chunks, *template[variable].shape[2:])
    with warnings.catch_warnings():
        # Text labels: the type is stable in practice, its place in the Zarr v3 standard is not.
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", category=_unstable())
        _in_one_piece(template, variable).to_zarr(
            store, mode="w", compute=False, consolidated=False, zarr_format=3,
            encoding={variable: encoding_of(shape)},
        )  # fmt: skip


def _in_one_piece(template: xr.Dataset, variable: str) -> xr.Dataset:
    """Make the values of a variable one lazy block: nothing grows with the number of chunks."""
    import dask.array as da

    shape = template[variable].shape
    values = da.full(shape, np.nan, dtype="float32", chunks=shape)  # type: ignore[no-untyped-call]
    return template.assign({variable: template[variable].variable.copy(data=values)})


def _unstable() -> type[Warning]:
    from zarr import errors

    found = getattr(errors, "UnstableSpecificationWarning", FutureWarning)
    return found if isinstance(found, type) and issubclass(found, Warning) else FutureWarning


def identity_in(group: str | bytes) -> dict[str, Any] | None:
    """Read the identity of an ensemble out of the ``zarr.json`` of its group; None if none is."""
    try:
        identity = json.loads(json.loads(group)["attributes"]["xcvae"])["identity"]
    except (KeyError, TypeError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None

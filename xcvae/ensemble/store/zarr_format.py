"""The Zarr v3 format of an ensemble: metadata and coordinates first, then one file per chunk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.store.base import EnsembleSpec, Region
from xcvae.errors import MismatchError
from xcvae.files import sha256, write_bytes

ZSTD_LEVEL = 1


def array_encoding(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the encoding for xarray of an array whose chunks :func:`encode_chunk` makes."""
    from zarr.codecs import ZstdCodec

    return {
        "chunks": shape,
        "compressors": (ZstdCodec(level=ZSTD_LEVEL),),
        # A region that is not written yet must not look like a dry day.
        "fill_value": np.float32(np.nan),
    }


def encode_chunk(region: Region, chunks: tuple[int, int], values: np.ndarray) -> tuple[str, bytes]:
    """Encode a region as a chunk, with the bytes that Zarr would write.

    Parameters
    ----------
    region
        The region.
    chunks
        Realizations and samples per chunk; the last ones of the ensemble may hold less.
    values
        Physical values, (realization, sample, y, x).

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

    content: bytes = Zstd(level=ZSTD_LEVEL).encode(_fill_chunk(region, chunks, values))
    first = (region.realizations[0] // chunks[0], region.samples[0] // chunks[1])
    return f"c/{first[0]}/{first[1]}/0/0", content


def _fill_chunk(region: Region, chunks: tuple[int, int], values: np.ndarray) -> np.ndarray:
    """Return a whole chunk, NaN beyond the end of the ensemble."""
    size = tuple(last - first for first, last in (region.realizations, region.samples))
    if values.ndim != 4 or values.shape[:2] != size:
        raise MismatchError.of(
            f"region {region.number}",
            expected=f"{size[0]} realizations of {size[1]} samples",
            got=f"values of shape {values.shape}",
            remedy="Return (realization, sample, y, x) from draw_region.",
        )
    if size == chunks:
        return np.ascontiguousarray(values, "<f4")
    whole = np.full((*chunks, *values.shape[2:]), np.nan, "<f4")
    whole[: size[0], : size[1]] = values
    return whole


def write_chunk(array: Path, name: str, content: bytes) -> None:
    """Write a chunk file in one step.

    Parameters
    ----------
    array
        Folder of the array, which exists.
    name
        Name of the chunk within the array.
    content
        Bytes of the chunk.

    Raises
    ------
    OSError
        The file cannot be written, or the array does not exist.
    """
    path = array / name
    if not path.parent.is_dir():
        # One level at a time, and never the array itself: a worker that was given up may get here
        # after its store was renamed or removed, and must not make a folder of the old name.
        for folder in reversed(path.relative_to(array).parents[:-1]):
            # Not exist_ok, which reports a folder that is renamed meanwhile as a file.
            with suppress(FileExistsError):
                (array / folder).mkdir()
    write_bytes(path, content)


def write_template(template: xr.Dataset, spec: EnsembleSpec, store: Path | Any) -> None:
    """Write metadata and coordinates, no chunk of the ensemble variable.

    Parameters
    ----------
    template
        Coordinates and attributes, and the variable as an array of the right shape: its values do
        not matter.
    spec
        Variable and chunks.
    store
        A folder, or a store of Zarr; existing content is replaced.
    """
    shape = (*spec.chunks, *template[spec.variable].shape[2:])
    with quiet_zarr():
        _as_one_block(template, spec.variable).to_zarr(
            store, mode="w", compute=False, consolidated=False, zarr_format=3,
            encoding={spec.variable: array_encoding(shape)},
        )  # fmt: skip


@contextmanager
def quiet_zarr() -> Iterator[None]:
    """Leave out warnings of Zarr about text labels and consolidated metadata.

    Both are stable in practice, but not yet in the Zarr v3 standard.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a Zarr V3 specification.*")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part.*")
        warnings.filterwarnings("ignore", category=_unstable_specification())
        yield


def consolidate(store: Path) -> None:
    """Repeat all metadata in the root of a store: plain ``xr.open_zarr`` wants that."""
    import zarr

    with quiet_zarr():
        zarr.consolidate_metadata(store, zarr_format=3)


def _as_one_block(template: xr.Dataset, variable: str) -> xr.Dataset:
    """Make the values of a variable one lazy block: nothing grows with the number of chunks."""
    import dask.array as da

    shape = template[variable].shape
    values = da.full(shape, np.nan, dtype="float32", chunks=shape)  # type: ignore[no-untyped-call]
    return template.assign({variable: template[variable].variable.copy(data=values)})


def _unstable_specification() -> type[Warning]:
    """Return the category of Zarr's warning, which older versions do not have."""
    from zarr import errors

    found = getattr(errors, "UnstableSpecificationWarning", FutureWarning)
    return found if isinstance(found, type) and issubclass(found, Warning) else FutureWarning


def identity_in(group: str | bytes) -> dict[str, Any] | None:
    """Read the identity of an ensemble from the ``zarr.json`` of its group; None without one."""
    try:
        identity = json.loads(json.loads(group)["attributes"]["xcvae"])["identity"]
    except (KeyError, TypeError, ValueError):
        return None
    return identity if isinstance(identity, dict) else None


def get_key(store: Any, key: str) -> bytes | None:
    """Return the content of a key of a store of Zarr; None if there is none."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else bytes(found.to_bytes())


def put_key(store: Any, key: str, content: bytes) -> None:
    """Set the content of a key of a store of Zarr."""
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def checksum(store: Any, key: str) -> list[Any]:
    """Return size and SHA-256 of the content of a key, as in a ledger."""
    content = get_key(store, key) or b""
    return [len(content), sha256(content)]

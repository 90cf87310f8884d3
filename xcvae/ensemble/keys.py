"""A store of Zarr key by key, for stores that are no folders."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import xarray as xr

from xcvae.ensemble.template import write_template

__all__ = ["checksums", "copy_template", "get", "put"]

T = TypeVar("T")


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    from zarr.core.sync import sync

    return sync(coroutine)


def get(store: Any, key: str) -> bytes | None:
    """Return what is under a key; None if nothing is."""
    from zarr.core.buffer import default_buffer_prototype

    found = _now(store.get(key, default_buffer_prototype()))
    return None if found is None else bytes(found.to_bytes())


def put(store: Any, key: str, content: bytes) -> None:
    """Put something under a key."""
    from zarr.core.buffer import default_buffer_prototype

    _now(store.set(key, default_buffer_prototype().buffer.from_bytes(content)))


def _listed(keys: AsyncIterator[str]) -> list[str]:
    async def gathered() -> list[str]:
        return [key async for key in keys]

    return sorted(_now(gathered()))


def checksums(store: Any, variable: str) -> dict[str, list[Any]]:
    """Return size and SHA-256 of all metadata and coordinates, by key; no chunk is looked at.

    Parameters
    ----------
    store
        Of Zarr v3.
    variable
        Name of the ensemble variable, whose chunks are left out.
    """
    keys = []
    for node in _listed(store.list_dir("")):
        if node == "zarr.json":
            keys.append(node)
        elif node == variable:
            keys.append(f"{node}/zarr.json")
        else:
            keys += _listed(store.list_prefix(f"{node}/"))
    contents = {key: get(store, key) or b"" for key in keys}
    return {key: [len(one), hashlib.sha256(one).hexdigest()] for key, one in contents.items()}


def copy_template(template: xr.Dataset, variable: str, chunks: tuple[int, int], store: Any) -> None:
    """Write metadata and coordinates over those that are there; chunks stay.

    Parameters
    ----------
    template, variable, chunks
        As of :func:`write_template`.
    store
        Of Zarr v3.
    """
    from zarr.storage import MemoryStore

    made = MemoryStore()
    write_template(template, variable, chunks, made)
    # An array has to be there before its chunks.
    for key in sorted(_listed(made.list()), key=lambda key: not key.endswith("zarr.json")):
        put(store, key, get(made, key) or b"")

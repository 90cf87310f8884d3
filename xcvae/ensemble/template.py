"""An ensemble before anything is drawn: its metadata and coordinates, in Zarr v3."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.ensemble.chunks import encoding_of

__all__ = ["identity_in", "write_template"]


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

"""Maps as plain arrays: parameters in their units, block means, restored mass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.plugins import Context, parse_quantity, physical_units

__all__ = [
    "Array",
    "amount_in",
    "apply_to_maps",
    "block_means",
    "coordinate_of",
    "restoring_factor",
]

Array = npt.NDArray[Any]


def amount_in(field: xr.DataArray, value: str | float, what: str) -> float:
    """Return a quantity such as "0.1 mm h-1" as a number above zero in the units of a field."""
    amount = parse_quantity(value, units=physical_units(field), what=what)
    if amount <= 0:
        raise ComponentError(
            explain(what, expected="more than 0", got=repr(value), remedy="Give a wet amount.")
        )
    return amount


def coordinate_of(dim: str, field: xr.DataArray, context: Context) -> xr.DataArray | None:
    """Return the coordinate along a dim, of the field or of the conditions; None without one.

    The field has none in the dry run of the post-processors on an empty field before sampling.
    """
    for source in (field, context.inputs):
        if dim in source.coords and source.sizes.get(dim) == field.sizes[dim]:
            return source[dim]
    return None


def apply_to_maps(
    function: Callable[..., Array], field: xr.DataArray, *others: xr.DataArray
) -> xr.DataArray:
    """Apply a function to whole maps, lazily where the field is lazy; NaN stays NaN.

    Parameters
    ----------
    function
        Receives maps (..., y, x) as float64, and the others with their own last dims; returns maps
        (..., y, x).
    field
        Dims (realization, sample, y, x).
    others
        Dims (sample, ...); only their values are used.
    """
    y, x = field.dims[-2:]

    def keep_nan(maps: Array, *rest: Array) -> Array:
        # Dask calls the function on empty arrays first.
        if maps.size == 0:
            return maps
        new = function(maps.astype(np.float64), *rest)
        return np.where(np.isnan(maps), maps, new).astype(maps.dtype)

    found: xr.DataArray = xr.apply_ufunc(
        keep_nan,
        field,
        *(one.drop_vars(list(one.coords)) for one in others),
        input_core_dims=[[y, x], *(list(one.dims[1:]) for one in others)],
        output_core_dims=[[y, x]],
        dask="parallelized",
        output_dtypes=[field.dtype],
        dask_gufunc_kwargs={"allow_rechunk": True},
        keep_attrs=True,
    )
    return found.transpose(*field.dims).assign_attrs(field.attrs)


def block_means(maps: Array, rows: Array, columns: Array) -> Array:
    """Average the valid pixels of blocks, (..., y, x) to (..., rows, columns); NaN if none.

    Parameters
    ----------
    maps
        NaN is ignored.
    rows, columns
        First pixel of every block along y and x.
    """
    valid = np.isfinite(maps)
    sums = [
        np.add.reduceat(np.add.reduceat(part, rows, axis=-2), columns, axis=-1)
        for part in (np.where(valid, maps, 0.0), valid.astype(np.float64))
    ]
    out = np.full(sums[0].shape, np.nan)
    np.divide(sums[0], sums[1], out=out, where=sums[1] > 0)
    return out


def restoring_factor(wanted: Array, left: Array, limit: float) -> Array:
    """Return the factor that restores the mass, at most ``limit``; 1 where no rain is left."""
    ratio = np.ones_like(left)
    np.divide(wanted, left, out=ratio, where=(left > 0) & np.isfinite(wanted))
    return np.minimum(ratio, limit)

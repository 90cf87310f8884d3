"""Bring conditions of other grids to that of the target, lazily where they are lazy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import MismatchError
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.regridding.cells import Cells, cells_of
from xcvae.fields.regridding.projections import grid_mapping
from xcvae.fields.regridding.weights import Method, weights
from xcvae.fields.units import is_precipitation
from xcvae.fields.validation import refuse_fills

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: A grid with cells of less than this share of a pixel is averaged over the pixel.
FINER = 0.8
#: Least share of a pixel, by weight, that must be known for its value to be known.
KNOWN = 0.5
#: Largest ratio between the sides of cells in training and in use.
RESOLUTION = 1.5


def method_for(da: xr.DataArray, own: Cells, target: Cells) -> Method:
    """Choose means over areas for rain and for finer grids, interpolation for all others."""
    rain = is_precipitation(str(da.attrs.get("units", "")).strip() or "?")
    return "conservative" if rain or own.side < FINER * target.side else "bilinear"


def regridded(
    ds: xr.Dataset,
    field: xr.DataArray,
    variable: VariableSpec,
    spec: DataSpec,
    fine: xr.DataArray,
) -> xr.DataArray:
    """Bring a condition to the grid of the target, as in training.

    Parameters
    ----------
    ds
        Has the condition with its coordinates, and grid mappings.
    field
        Values of the condition, dims (sample, its y, its x), in the units of ``variable``.
    variable, spec
        Description of the condition and of the training data.
    fine
        Anything on the target's grid, with its coordinates.

    Returns
    -------
    xarray.DataArray
        float32, dims (sample, y, x). Lazy if ``field`` is; a sample has the same bits whatever
        chunk it is in.

    Raises
    ------
    MismatchError
        A grid has no places, another resolution than in training, or does not cover the target.
    """
    assert variable.regrid is not None
    own = _known_cells(ds, ds[variable.name], variable.dims, {}, what=variable.name)
    target = _known_cells(ds, fine, (spec.y, spec.x), spec.mapping, what=f"grid of {spec.target!r}")
    if variable.side and not 1 / RESOLUTION < own.side / variable.side < RESOLUTION:
        raise MismatchError.of(
            variable.name,
            expected=f"cells of about {variable.side:.3g} km, as in training",
            got=f"{own.side:.3g} km",
            remedy="Give the condition on the grid that it was trained with.",
        )
    matrix = weights(own, target, variable.regrid)
    empty = int((np.diff(matrix.indptr) == 0).sum())
    if empty:
        raise MismatchError.of(
            variable.name,
            expected="a condition that covers the target",
            got=f"{empty} of {matrix.shape[0]} pixels without it",
            remedy="Cut the target to the area that the condition covers.",
        )
    return _applied(field, matrix, variable, (spec.y, spec.x), target.shape)


def _known_cells(
    ds: xr.Dataset, da: xr.DataArray, dims: tuple[str, ...], mapping: dict[str, Any], *, what: str
) -> Cells:
    y, x = dims
    found = cells_of(da, (y, x), grid_mapping(ds, da) or mapping)
    if isinstance(found, Cells):
        return found
    raise MismatchError.of(
        what,
        expected="coordinates with places on the earth, as in training: the model regrids",
        got=found,
        remedy=f"Give its latitudes and longitudes: ds.assign_coords(lat=(({y!r}, {x!r}), ...), "
        f"lon=(({y!r}, {x!r}), ...)), or a grid mapping.",
    )


def _applied(
    field: xr.DataArray,
    matrix: csr_array,
    variable: VariableSpec,
    fine: tuple[str, str],
    shape: tuple[int, int],
) -> xr.DataArray:
    own = list(variable.dims)
    other = [name for name in field.coords if set(own) & set(field[name].dims)]
    result: xr.DataArray = xr.apply_ufunc(
        _apply,
        field.chunk(dict.fromkeys(own, -1)) if field.chunks else field,
        kwargs={"matrix": matrix, "variable": variable, "shape": shape},
        input_core_dims=[own],
        output_core_dims=[list(fine)],
        exclude_dims=set(own),
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": dict(zip(fine, shape, strict=True))},
        keep_attrs=True,
    )
    return result.drop_vars([name for name in other if name in result.coords])


def _apply(
    values: NDArray[Any], matrix: csr_array, variable: VariableSpec, shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Multiply samples (..., y, x) by the weights, one by one: chunks must not change digits."""
    flat = values.reshape(-1, matrix.shape[1])
    refuse_fills(flat, variable.name, rain=variable.precipitation)
    result = np.empty((len(flat), matrix.shape[0]), np.float32)
    for row, sample in zip(result, flat.astype(np.float64), strict=True):
        row[:] = _filled(sample, matrix) if variable.gaps else matrix @ sample
    return result.reshape(*values.shape[:-2], *shape)


def _filled(sample: NDArray[np.float64], matrix: csr_array) -> NDArray[np.float64]:
    """Average what is known; NaN where less than half of a pixel is."""
    known = ~np.isnan(sample)
    share = matrix @ known.astype(np.float64)
    total = matrix @ np.where(known, sample, 0.0)
    result = np.full(len(total), np.nan)
    np.divide(total, share, out=result, where=share >= KNOWN)
    return result

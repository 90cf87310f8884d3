"""Bring a Dataset into the form that a model was trained on."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xcvae.errors import MismatchError, UnitsError
from xcvae.fields.axes import in_frame_of
from xcvae.fields.dataspec import DataSpec, VariableSpec
from xcvae.fields.grids import axis_in, check_match, fine_coords
from xcvae.fields.units import to_units, units_of
from xcvae.fields.validation import check_dataset, check_numeric, check_samples

__all__ = ["prepare"]


def prepare(
    ds: xr.Dataset, spec: DataSpec, *, need_target: bool, augmented: bool = False
) -> xr.Dataset:
    """Check a Dataset against a spec and bring it into its form. Lazy where ``ds`` is.

    Parameters
    ----------
    ds : xarray.Dataset
        Has what ``spec`` names. The condition that ``coarsen`` derives is made from the target;
        where that is not there, it is taken from ``ds``.
    spec : DataSpec
        From `xcvae.fields.describe.describe`, usually by way of a model.
    need_target : bool
        Whether the target must be there. If not, it is used if it is there.
    augmented : bool
        Whether samples may share a label, as in what `xcvae.augment` returns.

    Returns
    -------
    xarray.Dataset
        Target (sample, y, x), conditions (sample, their y, their x) or (sample,), statics (y, x)
        or (sample, y, x), each in the units of ``spec``. An aligned condition has coordinates,
        in the units of the target's, where it is to be stretched by them; it has none where it
        is laid on the target edge to edge.

    Raises
    ------
    MismatchError
        The Dataset does not belong to ``spec``: variables, dims, grid or units.
    UnitsError
        A variable has no units, or unknown ones.
    DataError, EmptySelectionError
        Samples that are unsorted, repeated, or not there.
    """
    check_dataset(ds)
    check_match(ds, spec, need_target=need_target)
    check_samples(ds, spec.sample, augmented=augmented)
    fields: dict[str, xr.DataArray] = {}
    ds = _as_variables(ds, spec)
    if spec.target in ds.variables:
        fields[spec.target] = _field(ds, spec.target, spec.units, (spec.sample, spec.y, spec.x))
    derive = spec.target in fields and spec.coarsen is not None
    for variable in spec.variables:
        if derive and variable.name == spec.derived:
            continue
        dims = (spec.sample, *variable.dims) if variable.sampled else variable.dims
        fields[variable.name] = _field(ds, variable.name, variable.units, dims)
    prepared = xr.Dataset(fields, attrs=ds.attrs)
    if spec.target not in fields:
        prepared = prepared.assign_coords(fine_coords(ds, spec))
    given = [v for v in spec.variables if v.name in fields and v.role == "condition" and v.aligned]
    prepared = _in_frame(prepared, spec, given)
    return _with_block_means(prepared, spec) if derive else prepared


def _as_variables(ds: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Make coordinates that the model uses (an index along time) variables like all others."""
    used = [spec.target, *(variable.name for variable in spec.variables)]
    return ds.reset_coords([name for name in used if name in ds.coords and name not in ds.dims])


def _field(ds: xr.Dataset, name: str, units: str, dims: tuple[str, ...]) -> xr.DataArray:
    da = ds[name]
    check_numeric(da)
    units_of(da)
    try:
        da = to_units(da, units)
    except UnitsError as error:
        raise MismatchError(f"The Dataset does not belong to the model. {error}") from error
    return da.transpose(*dims)


def _in_frame(prepared: xr.Dataset, spec: DataSpec, conditions: list[VariableSpec]) -> xr.Dataset:
    """Give the grids of aligned conditions the target's units, or no coordinates."""
    pairs = {
        own: fine
        for variable in conditions
        for own, fine in zip(variable.dims, (spec.y, spec.x), strict=True)
        if own not in (spec.y, spec.x) and own in prepared.coords
    }
    for own, fine in pairs.items():
        values = in_frame_of(axis_in(prepared, own), axis_in(prepared, fine))
        if values is None:
            prepared = prepared.drop_vars(own)
            continue
        attrs = {k: v for k, v in prepared[own].attrs.items() if k != "units"}
        attrs |= {k: v for k, v in prepared[fine].attrs.items() if k == "units"}
        prepared = prepared.assign_coords({own: (own, values, attrs)})
    return prepared


def _with_block_means(prepared: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Derive the coarse condition from the target: NaN-skipping means over blocks of pixels.

    A partial block at an odd edge averages what it has, and so does its coordinate. A block
    without any valid pixel (sea) gets the mean of the sample's other blocks, a sample without
    any gets zero: a condition has no gaps, and these pixels are masked in the target.
    """
    assert spec.coarsen is not None
    assert spec.derived is not None
    counted = {
        dim: np.arange(prepared.sizes[dim])
        for dim in (spec.y, spec.x)
        # Laid edge to edge, a partial block would count as a whole one.
        if dim not in prepared.coords and prepared.sizes[dim] % spec.coarsen
    }
    prepared = prepared.assign_coords(counted)
    target = prepared[spec.target]
    # The labels of samples are those of the Dataset; stacked ones can only go as a whole.
    other = [name for name in target.coords if name not in (spec.y, spec.x)]
    target = target.drop_vars(other).astype(np.result_type(target.dtype, np.float32), copy=False)
    blocks = target.coarsen({spec.y: spec.coarsen, spec.x: spec.coarsen}, boundary="pad")
    count = blocks.count()
    coarse = blocks.sum() / count.where(count > 0)
    coarse = coarse.fillna(coarse.mean((spec.y, spec.x))).fillna(0.0).astype(target.dtype)
    coarse = coarse.rename({dim: f"{dim}_coarse" for dim in (spec.y, spec.x)})
    attrs = {key: target.attrs[key] for key in ("standard_name", "units") if key in target.attrs}
    text = f"means of {spec.target} over blocks of {spec.coarsen} x {spec.coarsen} pixels"
    return prepared.assign({spec.derived: coarse.assign_attrs(attrs, long_name=text)})

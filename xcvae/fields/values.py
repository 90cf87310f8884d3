"""Checks of the values of a prepared Dataset: what a model must never be fed."""

from __future__ import annotations

import numpy as np
import xarray as xr

from xcvae.errors import DataError, explain
from xcvae.fields.checks import check_complete, check_rain
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.units import default_wet_threshold

__all__ = ["check_observed", "check_values", "is_placeholder"]

#: A heavy shower is so many times the wet threshold; a dry block still has its rounding errors.
SHOWER = 1000.0


def check_values(prepared: xr.Dataset, spec: DataSpec, *, masked: bool = False) -> None:
    """Check that conditions and statics are complete, and that rain can be rain.

    One pass or two over each variable; lazy data is streamed.

    Parameters
    ----------
    prepared : xarray.Dataset
        From `xcvae.fields.spec.prepare`, or some of its variables.
    spec : DataSpec
        The one it was prepared for.
    masked : bool
        The target may be NaN throughout, as in a block of samples that all lie in a mask.

    Raises
    ------
    DataError
        A condition or static that is NaN or infinite somewhere; rain (target or condition) that
        is negative or infinite; a target that is all NaN. Says how many, and where the first is.
    """
    for variable in spec.variables:
        # Block means of the target are complete by construction.
        if variable.name not in prepared or (
            variable.name == spec.derived and spec.target in prepared
        ):
            continue
        field = prepared[variable.name]
        check_complete(field)
        if variable.precipitation:
            check_rain(field, usual=SHOWER * default_wet_threshold(field, spec.sample))
    if spec.target in prepared:
        check_rain(prepared[spec.target], masked=masked, usual=SHOWER * spec.wet_threshold)


def check_observed(prepared: xr.Dataset, spec: DataSpec) -> None:
    """Check that every sample has a valid pixel of the target.

    Raises
    ------
    DataError
        A sample without any. Names the first.
    """
    empty = ~prepared[spec.target].notnull().any((spec.y, spec.x)).values
    if not empty.any():
        return
    label = prepared[spec.sample].values[int(np.argmax(empty))]
    raise DataError(
        explain(
            f"{spec.target}, {spec.sample} {label}",
            expected="an observed field: a valid pixel in every sample",
            got=f"NaN throughout in {int(empty.sum())} of {empty.size} samples",
            remedy="Leave these samples out, or draw them with mode='prior', which needs no "
            "observation.",
        )
    )


def is_placeholder(target: xr.DataArray, spec: DataSpec) -> bool:
    """Whether a target is NaN throughout: no observation, only a name.

    Reads no further than to the first valid pixel, chunk by chunk.
    """
    if bool(target.isel({spec.sample: 0}).notnull().any()):
        return False
    start = 0
    for length in target.chunksizes.get(spec.sample, (1,) * target.sizes[spec.sample]):
        block = target.isel({spec.sample: slice(start, start + length)})
        if bool(block.notnull().any()):
            return False
        start += length
    return True

"""What members are drawn from: a Dataset in the form of the model, its values checked."""

from __future__ import annotations

import xarray as xr

from xcvae.fields.spec import DataSpec, prepare
from xcvae.fields.values import check_observed, check_values, is_placeholder

__all__ = ["inputs_of", "load_block"]


def inputs_of(ds: xr.Dataset, spec: DataSpec, mode: str) -> xr.Dataset:
    """Prepare a Dataset for sampling; values that are in memory are checked.

    Parameters
    ----------
    ds
        The conditions, perhaps the target. In prior mode a target that is NaN throughout is no
        observation, and no mask either: it is left out.
    spec
        What the model knows about the data.
    mode
        ``"prior"`` or ``"posterior"``.

    Raises
    ------
    XcvaeError
        The Dataset does not fit the model, or its values are not what they should be.
    """
    prepared = prepare(ds, spec, need_target=mode == "posterior")
    optional = mode == "prior" and spec.target in prepared
    if optional and is_placeholder(prepared[spec.target], spec):
        prepared = prepare(ds.drop_vars(spec.target), spec, need_target=False)
    _check(prepared[_names(prepared, lazy=False)], spec, mode)
    return prepared


def load_block(prepared: xr.Dataset, spec: DataSpec, mode: str) -> xr.Dataset:
    """Bring samples into memory; values that were lazy are checked now.

    Raises
    ------
    DataError
        Their values are not what they should be.
    """
    # The scheduler is named: inside a task of another scheduler the default could be that one.
    block = prepared.compute(scheduler="synchronous")
    _check(block[_names(prepared, lazy=True)], spec, mode)
    return block


def _names(prepared: xr.Dataset, *, lazy: bool) -> list[str]:
    return [str(n) for n, da in prepared.data_vars.items() if (da.chunks is not None) == lazy]


def _check(part: xr.Dataset, spec: DataSpec, mode: str) -> None:
    check_values(part, spec, masked=True)
    if mode == "posterior" and spec.target in part:
        check_observed(part, spec)

"""What members are drawn from: a Dataset in the form of the model, its values checked."""

from __future__ import annotations

from pathlib import Path

import xarray as xr

from xcvae.errors import ConfigError, explain
from xcvae.fields.spec import DataSpec, prepare
from xcvae.fields.values import check_observed, check_values, is_placeholder

__all__ = ["check_apart", "inputs_of", "load_block"]


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


def check_apart(ds: xr.Dataset, store: Path) -> None:
    """Refuse a store that is one of the files the data are read from, around one or in one.

    Parameters
    ----------
    ds
        The data; xarray notes in their ``encoding`` where they were opened.
    store
        Folder of an ensemble.

    Raises
    ------
    ConfigError
        The store and the data are not apart.
    """
    place = store.resolve()
    for source in sorted(_sources(ds)):
        if place == source or place in source.parents or source in place.parents:
            raise ConfigError(
                explain(
                    "store",
                    expected="a folder apart from the data that the ensemble is drawn for",
                    got=f"{store}, and data read from {source}",
                    remedy="Choose another name: input files are never written to or replaced.",
                )
            )


def _sources(ds: xr.Dataset) -> set[Path]:
    """Return the local files and folders that a Dataset and its variables were opened from."""
    encodings = [ds.encoding, *(variable.encoding for variable in ds.variables.values())]
    found = {str(encoding["source"]) for encoding in encodings if encoding.get("source")}
    local = (source.removeprefix("file://") for source in found)
    return {Path(source).resolve() for source in local if "://" not in source}


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

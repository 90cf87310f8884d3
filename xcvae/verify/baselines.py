"""What an ensemble has to beat: cheap fields from the coarse condition or from other samples.

A baseline is a component ``(dataset, members, seed) -> DataArray`` that returns dims
(realization, sample, y, x) with ``units``. The dataset has the observed target and, where there
is one, the aligned coarse precipitation condition, both with dims in the order (sample, y, x),
whatever their names; its attributes ``target`` and ``condition`` name the two. A baseline must
not look at the target of the sample it is for; only its missing pixels may be used as a mask.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.errors import DataError, explain
from xcvae.fields.alignment import stretch_weights
from xcvae.metrics.maps import REALIZATION, Array
from xcvae.registry import Component

__all__ = ["Bilinear", "Block", "Shuffled", "as_members", "coarse_condition", "stream"]


@dataclass(frozen=True)
class Bilinear(Component):
    """The coarse condition, stretched bilinearly onto the grid of the target: one member."""

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return one member, whatever number is asked for."""
        return _stretched(dataset, nearest=False)


@dataclass(frozen=True)
class Block(Component):
    """The coarse condition as it is, every cell a block of equal pixels: one member."""

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return one member, whatever number is asked for."""
        return _stretched(dataset, nearest=True)


@dataclass(frozen=True)
class Shuffled(Component):
    """The observed fields of other samples: real rain at the wrong time.

    Member m is the observed series moved by a random number of samples, around its end, so that
    no sample gets its own field.
    """

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return the members, lazy if the target is."""
        observed = dataset[dataset.attrs["target"]]
        sample, count = observed.dims[0], observed.shape[0]
        if count < 2:
            raise DataError(
                explain(
                    "baseline 'shuffled'",
                    expected="at least two samples",
                    got=count,
                    remedy="Evaluate more samples, or leave this baseline out.",
                )
            )
        random = np.random.default_rng(seed)
        shifts = random.permutation(np.arange(1, count))[:members]
        if members > shifts.size:
            shifts = np.concatenate([shifts, random.integers(1, count, members - shifts.size)])
        moved = [observed.roll({sample: int(shift)}, roll_coords=False) for shift in shifts]
        fields: xr.DataArray = xr.concat(moved, dim=REALIZATION, combine_attrs="override")
        return fields


def coarse_condition(dataset: xr.Dataset) -> xr.DataArray:
    """Return the coarse precipitation condition, dims (sample, y, x).

    Raises
    ------
    DataError
        There is none.
    """
    if "condition" not in dataset.attrs:
        raise DataError(
            explain(
                "baseline",
                expected="an aligned coarse precipitation condition with units in the Dataset",
                got=f"variables {', '.join(map(str, dataset.data_vars))}",
                remedy="Leave out the baseline and crps_skill, add the condition, or keep the "
                "attributes of the ensemble, which tell how it was coarsened.",
            )
        )
    coarse: xr.DataArray = dataset[dataset.attrs["condition"]]
    return coarse


def as_members(fields: xr.DataArray, observed: xr.DataArray, *, units: str) -> xr.DataArray:
    """Give fields the order of dims, the labels and the name of what was observed.

    Parameters
    ----------
    fields
        Has the dims of `observed` and ``realization``, in any order.
    observed
        Dims (sample, y, x).
    units
        Of the fields.
    """
    members: xr.DataArray = fields.transpose(REALIZATION, *observed.dims).rename(observed.name)
    coords = {k: c for k, c in observed.coords.items() if k not in members.coords}
    return members.assign_coords(coords).assign_attrs(units=units)


def stream(seed: int, name: str, label: str, member: int = 0) -> np.random.Generator:
    """Random numbers of one member of one sample: the same whatever else is drawn.

    Parameters
    ----------
    seed
        Any integer.
    name
        Of the baseline, so that two of them do not share numbers.
    label
        Of the sample, as text.
    member
        Number of the realization, >= 0.

    Examples
    --------
    >>> bool(stream(0, "a", "2018", 1).random() == stream(0, "a", "2018", 1).random())
    True
    """
    text = f"{seed}\x1f{name}\x1f{label}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    # The lowest word of the counter advances as numbers are drawn.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, member, 0]))


def _stretched(dataset: xr.Dataset, *, nearest: bool) -> xr.DataArray:
    """Stretch the condition onto the target's grid, lazily if it is lazy."""
    observed = dataset[dataset.attrs["target"]]
    coarse = coarse_condition(dataset)
    _, *fine = (str(dim) for dim in observed.dims)
    _, *own = (str(dim) for dim in coarse.dims)
    rows, columns = (
        _weights(dataset, source, target, nearest=nearest)
        for source, target in zip(own, fine, strict=True)
    )
    field = xr.apply_ufunc(
        _apply,
        coarse.chunk(dict.fromkeys(own, -1)) if coarse.chunks else coarse,
        kwargs={"rows": rows, "columns": columns},
        input_core_dims=[own],
        output_core_dims=[fine],
        exclude_dims=set(own),
        dask="parallelized",
        output_dtypes=[np.float32],
        dask_gufunc_kwargs={"output_sizes": {dim: observed.sizes[dim] for dim in fine}},
    )
    one = field.expand_dims(REALIZATION)
    return as_members(one, observed, units=str(coarse.attrs["units"]))


def _weights(dataset: xr.Dataset, source: str, target: str, *, nearest: bool) -> Array:
    both = source in dataset.coords and target in dataset.coords
    weights = stretch_weights(
        dataset[source].values if both else None,
        dataset.sizes[source],
        dataset[target].values if both else None,
        dataset.sizes[target],
    )
    if not nearest:
        return weights
    # The nearest cell is the one to which interpolation gives the largest weight.
    cells: Array = np.eye(weights.shape[1], dtype=weights.dtype)
    chosen: Array = cells[weights.argmax(axis=1)]
    return chosen


def _apply(coarse: Array, rows: Array, columns: Array) -> Array:
    """Apply weights along both axes; missing cells leave their weight to the others."""
    valid = np.isfinite(coarse)
    filled = np.where(valid, coarse, 0.0).astype(np.float32)
    stretched = rows @ filled @ columns.T
    if valid.all():
        return np.asarray(stretched, dtype=np.float32)
    weight = rows @ valid.astype(np.float32) @ columns.T
    out = np.full(stretched.shape, np.nan, dtype=np.float32)
    np.divide(stretched, weight, out=out, where=weight > 1e-6)
    return out

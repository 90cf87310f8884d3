"""Baselines from the coarse condition or from the members, and helpers of all baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.axes import stretch_weights
from xcvae.fields.samples import labels_of
from xcvae.metrics.pairs import REALIZATION
from xcvae.metrics.sample import Array
from xcvae.registry import Component

MEMBERS = "members of the ensemble"
"""Name of the members' variable in a dataset for baselines."""


@dataclass(frozen=True)
class Bilinear(Component):
    """The coarse condition, interpolated bilinearly to the grid of the target: one member."""

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return one member, whatever `members` is."""
        return _interpolated(dataset, nearest=False)


@dataclass(frozen=True)
class Block(Component):
    """The coarse condition as it is, every cell a block of equal pixels: one member."""

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return one member, whatever `members` is."""
        return _interpolated(dataset, nearest=True)


@dataclass(frozen=True)
class Shuffled(Component):
    """The members of the evaluated ensemble, permuted at random at every pixel.

    Each pixel keeps its set of values but loses its relation to its neighbours: scores of single
    pixels are unchanged, and scores of spatial structure have to get worse.
    """

    of_members: ClassVar[bool] = True

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return as many members as the ensemble has, lazy if it is.

        Raises
        ------
        DataError
            The dataset has no ensemble, or one of a single member.
        """
        return reordered(dataset, _permuted, "shuffled", seed)


def reordered(
    dataset: xr.Dataset, order: Callable[..., Array], name: str, seed: int
) -> xr.DataArray:
    """Return the members of the ensemble, reordered sample by sample."""
    observed = dataset[dataset.attrs["target"]]
    sample, *fine = (str(dim) for dim in observed.dims)
    whole = members_of(dataset, name)
    fields = xr.apply_ufunc(
        order,
        xr.DataArray(np.array(labels_of(observed, sample)), dims=sample),
        whole.chunk(dict.fromkeys((REALIZATION, *fine), -1)) if whole.chunks else whole,
        kwargs={"seed": seed},
        input_core_dims=[[], [REALIZATION, *fine]],
        output_core_dims=[[REALIZATION, *fine]],
        join="override",
        dask="parallelized",
        output_dtypes=[whole.dtype],
    )
    return as_members(fields, observed, units=str(whole.attrs["units"]))


def members_of(dataset: xr.Dataset, baseline: str) -> xr.DataArray:
    """Return the members of the evaluated ensemble, for a baseline that is made from them.

    Raises
    ------
    DataError
        The dataset has no ensemble, or one of a single member.
    """
    name = dataset.attrs.get("members")
    whole: xr.DataArray | None = None if name is None else dataset[name]
    if whole is None or whole.sizes[REALIZATION] < 2:
        raise DataError.of(
            f"baseline '{baseline}'",
            expected="an ensemble of at least two members",
            got="none" if whole is None else "one member",
            remedy="Draw more members, or leave this baseline out. To call it by itself, "
            "name the variable with the members in the attribute 'members'.",
        )
    return whole


def _permuted(labels: Array, members: Array, *, seed: int) -> Array:
    """Rotate the members by a random number at every pixel; labels (n,), members (n, M, y, x)."""
    out = np.empty_like(members)
    for index in np.ndindex(labels.shape):
        field = members[index]
        random = random_stream(seed, "shuffled", str(labels[index]))
        shift = random.integers(0, len(field), field.shape[1:])
        # A rotation is enough: each pixel of a member comes from a random member, and the order of
        # members has no meaning.
        chosen = (np.arange(len(field))[:, None, None] + shift) % len(field)
        out[index] = np.take_along_axis(field, chosen, axis=0)
    return out


def coarse_condition(dataset: xr.Dataset) -> xr.DataArray:
    """Return the coarse precipitation condition, dims (sample, y, x).

    Raises
    ------
    DataError
        The dataset has none.
    """
    if "condition" not in dataset.attrs:
        raise DataError.of(
            "baseline",
            expected="an aligned coarse precipitation condition with units in the Dataset",
            got=f"variables {', '.join(map(str, dataset.data_vars))}",
            remedy="Leave out the baseline and crps_skill, add the condition, or keep the "
            "attributes of the ensemble, which record how it was coarsened.",
        )
    coarse: xr.DataArray = dataset[dataset.attrs["condition"]]
    return coarse


def as_members(fields: xr.DataArray, observed: xr.DataArray, *, units: str) -> xr.DataArray:
    """Give fields the order of dims, the coordinates and the name of the observation.

    Parameters
    ----------
    fields
        Has the dims of `observed` and ``realization``, in any order.
    observed
        Dims (sample, y, x).
    units
        Units of the fields.
    """
    members: xr.DataArray = fields.transpose(REALIZATION, *observed.dims).rename(observed.name)
    coords = {k: c for k, c in observed.coords.items() if k not in members.coords}
    return members.assign_coords(coords).assign_attrs(units=units)


def random_stream(seed: int, name: str, label: str, member: int = 0) -> np.random.Generator:
    """Return the random generator of one member of one sample, independent of all others.

    Parameters
    ----------
    seed
        Any integer.
    name
        Name of the baseline, so that two baselines do not share numbers.
    label
        Label of the sample, as text.
    member
        Number of the realization, >= 0.

    Examples
    --------
    >>> first, again = (random_stream(0, "a", "2018", 1) for _ in range(2))
    >>> bool(first.random() == again.random())
    True
    """
    text = f"{seed}\x1f{name}\x1f{label}".encode()
    key = int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")
    # The lowest word of the counter advances as numbers are drawn.
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, member, 0]))


def _interpolated(dataset: xr.Dataset, *, nearest: bool) -> xr.DataArray:
    """Interpolate the condition to the target's grid, lazily if it is lazy."""
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
    """Apply weights along both axes; missing cells pass their weight to the others."""
    valid = np.isfinite(coarse)
    filled = np.where(valid, coarse, 0.0).astype(np.float32)
    stretched = rows @ filled @ columns.T
    if valid.all():
        return np.asarray(stretched, dtype=np.float32)
    weight = rows @ valid.astype(np.float32) @ columns.T
    out = np.full(stretched.shape, np.nan, dtype=np.float32)
    np.divide(stretched, weight, out=out, where=weight > 1e-6)
    return out

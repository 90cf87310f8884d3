"""Baselines in time, from the members of the evaluated ensemble: without and with all memory.

Members of one time are exchangeable, so another order of them leaves every score of single times
as it is, and decides on the spread of what is added up over times.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.metrics.sample import Array
from xcvae.registry import Component
from xcvae.verify.baselines.interpolation import random_stream, reordered


@dataclass(frozen=True)
class Independent(Component):
    """The members of the evaluated ensemble in random order, another one at every time.

    Members that evolve in time lose their memory; sums over times have too little spread.
    """

    of_members: ClassVar[bool] = True

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return as many members as the ensemble has."""
        return reordered(dataset, _shuffled, "independent", seed)


@dataclass(frozen=True)
class Frozen(Component):
    """The members of the evaluated ensemble, sorted at every pixel: a member keeps its rank.

    Sums over times have the largest spread that members with these values can have.
    """

    of_members: ClassVar[bool] = True

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Return as many members as the ensemble has."""
        return reordered(dataset, _sorted, "frozen", seed)


def _shuffled(labels: Array, members: Array, *, seed: int) -> Array:
    """Permute members, (n, M, y, x), with a permutation for every label, (n,)."""
    out = np.empty_like(members)
    for index in np.ndindex(labels.shape):
        random = random_stream(seed, "independent", str(labels[index]))
        out[index] = members[index][random.permutation(len(members[index]))]
    return out


def _sorted(labels: Array, members: Array, *, seed: int) -> Array:  # noqa: ARG001
    """Sort members, (n, M, y, x), at every pixel; the seed decides which member has which rank."""
    ranks = random_stream(seed, "frozen", "").permutation(members.shape[-3])
    return np.asarray(np.sort(members, axis=-3)[..., ranks, :, :])

"""Baselines as sources of a scorecard: block by block, beside the ensemble that is judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from xcvae.metrics.pairs import REALIZATION, Pair, matched
from xcvae.registry import call
from xcvae.verify.accumulate import blocks
from xcvae.verify.baselines.interpolation import MEMBERS
from xcvae.verify.pairing import MatchedPair

__all__ = ["Rivals"]


class Rivals:
    """Baselines of one ensemble.

    Parameters
    ----------
    task
        What is judged.
    baselines
        Components by name.
    seed
        Of those that draw.
    """

    def __init__(self, task: MatchedPair, baselines: Mapping[str, Any], seed: int) -> None:
        self.task, self.seed = task, seed
        self.members: dict[str, int] = {}
        self.baselines = dict(baselines)
        # Without baselines it does not matter whether the condition fits, or is there at all.
        self.dataset = self._cut(task.for_baselines()) if baselines else xr.Dataset()

    def loaders(self) -> dict[str, Callable[[slice, Pair], Pair]]:
        """Return by name what reads a block of samples, given that block of the ensemble."""
        return {name: self._loader(name, make) for name, make in self.baselines.items()}

    def _cut(self, dataset: xr.Dataset) -> xr.Dataset:
        """Cut chunks where blocks of the ensemble end, so that none is made twice."""
        sample = self.task.pair.sample
        ends = {block.stop for block in blocks(self.task.pair.forecast, sample)}
        edges = sorted(ends | set(np.cumsum(dataset.chunksizes[sample]).tolist()))
        return dataset.chunk({sample: tuple(np.diff([0, *edges]).tolist())})

    def _loader(self, name: str, make: Any) -> Callable[[slice, Pair], Pair]:
        count, sample = self.task.pair.forecast.shape[0], self.task.pair.sample
        if getattr(make, "of_members", False):
            self.members[name] = count

            def made(block: slice, own: Pair) -> Pair:
                part = self.dataset.isel({sample: block})
                part = part.assign({MEMBERS: own.forecast}).assign_attrs(members=MEMBERS)
                drawn = call("baseline", make, part, count, self.seed)
                spatial = [str(dim) for dim in own.observed.dims[1:]]
                return matched(drawn, own.observed, spatial_dims=spatial)

            return made
        pair = self.task.against(call("baseline", make, self.dataset, count, self.seed))
        self.members[name] = pair.forecast.sizes[REALIZATION]
        return lambda block, own: Pair(pair.forecast.isel({sample: block}).compute(), own.observed)

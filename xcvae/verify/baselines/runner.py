"""Run baselines for a scorecard or a figure, block by block like the evaluated ensemble."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from xcvae.metrics.pairs import REALIZATION, Pair, matched
from xcvae.registry import call, wrong_result
from xcvae.verify.accumulate import BLOCK_BYTES, blocks
from xcvae.verify.baselines.interpolation import MEMBERS
from xcvae.verify.pairing import MatchedPair


class BaselineRunner:
    """Baselines of one ensemble.

    Parameters
    ----------
    match
        The evaluated ensemble and its observation.
    baselines
        Components by name.
    seed
        Seed of baselines that draw random members.
    block_bytes
        Size of a block of samples in memory.

    Attributes
    ----------
    members
        Number of members by name, once `loaders` was called.
    """

    def __init__(
        self,
        match: MatchedPair,
        baselines: Mapping[str, Any],
        seed: int,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.match, self.seed, self.block_bytes = match, seed, block_bytes
        self.members: dict[str, int] = {}
        self._pairs: dict[str, Pair] = {}
        self.baselines = dict(baselines)
        # Without baselines the condition is not looked at: it may be absent, or not fit.
        self.dataset = self._dataset() if baselines else xr.Dataset()

    def loaders(self) -> dict[str, Callable[[slice, Pair], Pair]]:
        """Return by name functions that read a block of samples, given that of the ensemble."""
        return {name: self._loader(name, make) for name, make in self.baselines.items()}

    def _dataset(self) -> xr.Dataset:
        """Chunk the data at the ends of the ensemble's blocks, so that no chunk is drawn twice."""
        # Those of xcvae need no more than the coarse condition.
        third_party = any(
            type(one).__module__.partition(".")[0] != "xcvae" for one in self.baselines.values()
        )
        dataset = self.match.for_baselines(self.block_bytes, everything=third_party)
        sample = self.match.pair.sample
        own = blocks(self.match.pair.forecast, sample, self.block_bytes)
        ends = {block.stop for block in own}
        edges = sorted(ends | set(np.cumsum(dataset.chunksizes[sample]).tolist()))
        return dataset.chunk({sample: tuple(np.diff([0, *edges]).tolist())})

    def _loader(self, name: str, make: Any) -> Callable[[slice, Pair], Pair]:
        sample = self.match.pair.sample
        if getattr(make, "of_members", False):
            self.members[name] = self.match.pair.forecast.shape[0]
            return lambda block, own: self._of_members(make, own, {sample: block})
        pair = self._pairs[name] = self.match.against(self._called(make, self.dataset))
        self.members[name] = pair.forecast.sizes[REALIZATION]
        return lambda block, own: Pair(pair.forecast.isel({sample: block}).compute(), own.observed)

    def whole(self, name: str) -> Pair:
        """Return all samples of a baseline, once `loaders` was called; lazy where the data are."""
        if name in self._pairs:
            return self._pairs[name]
        return self._of_members(self.baselines[name], self.match.pair, {})

    def _of_members(self, make: Any, own: Pair, block: Mapping[str, slice]) -> Pair:
        part = self.dataset.isel(block).assign({MEMBERS: own.forecast})
        drawn = self._called(make, part.assign_attrs(members=MEMBERS))
        spatial = [str(dim) for dim in own.observed.dims[1:]]
        return matched(drawn, own.observed, spatial_dims=spatial)

    def _called(self, make: Any, dataset: xr.Dataset) -> xr.DataArray:
        count = self.match.pair.forecast.shape[0]
        drawn = call("baseline", make, dataset, count, self.seed)
        if isinstance(drawn, xr.DataArray):
            return drawn
        got = type(drawn).__name__
        raise wrong_result("baseline", make, expected="a DataArray of members", got=got)

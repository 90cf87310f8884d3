"""What travels to a worker: that which draws one region, with the data of its samples only."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
from dask.base import optimize

from xcvae.ensemble.drawing import Source
from xcvae.ensemble.identity import differences
from xcvae.ensemble.inputs import load_block
from xcvae.ensemble.regions import Counts, Region
from xcvae.ensemble.scheduling import side_by_side
from xcvae.ensemble.workers import last_digits
from xcvae.errors import DataError, MismatchError, explain

__all__ = ["Part", "Parts"]


@dataclass(frozen=True)
class Part:
    """Draws one region.

    Parameters
    ----------
    source
        Holds the samples of the region, and no others.
    made_with
        What :func:`last_digits` returned where the run was begun.
    """

    source: Source
    made_with: Mapping[str, str]

    def draw_region(self, region: Region) -> tuple[np.ndarray, Counts]:
        """Draw the region; its counts also say on what device.

        Raises
        ------
        MismatchError
            This process computes with something else than the one that began the run.
        DataError
            The data are not what they should be, no member has enough rain, or the model made
            values that are not numbers.
        """
        differing = differences(self.made_with, last_digits(self.source.model.device))
        if differing:
            raise MismatchError(
                explain(
                    f"worker on {socket.gethostname()}",
                    expected="the packages and the precision of the run",
                    got="; ".join(differing),
                    remedy="Last digits would differ within one ensemble: use workers alike.",
                )
            )
        first, last = region.samples
        values, counts = self.source.draw_region(replace(region, samples=(0, last - first)))
        self._check(values, region)
        return values, {**counts, "device": self.source.model.device.type}

    def _check(self, values: np.ndarray, region: Region) -> None:
        """Only what is masked in the data may be NaN in the members, and nothing infinite."""
        bad = ~np.isfinite(values)
        if not bad.any():
            return
        source = self.source
        block = load_block(source.prepared, source.model.spec, source.settings.mode)
        masked = ~source.model.batches(block).load(slice(None)).mask[:, 0].cpu().numpy()
        bad &= ~(masked[None] & np.isnan(values))
        if bad.any():
            member, sample = (int(axis[0]) for axis in np.nonzero(bad.any(axis=(2, 3))))
            raise DataError(
                explain(
                    f"realization {region.realizations[0] + member} of sample "
                    f"{source.labels[sample]}",
                    expected="numbers wherever the data have them",
                    got=f"{int(bad[member, sample].sum())} pixels that are NaN or infinite",
                    remedy="Look at the data of this sample and at the model: "
                    "xcvae.diagnose(ds, model).",
                )
            )


class Parts:
    """Cuts parts out of a source, region by region.

    Parameters
    ----------
    source
        Holds all samples.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._samples: tuple[int, int] | None = None
        self._cut = source

    def __call__(self, region: Region) -> Part:
        """Return what draws a region; regions of the same samples in a row share their cut."""
        if region.samples != self._samples:
            self._samples, self._cut = region.samples, self._of(slice(*region.samples))
        return Part(self._cut, last_digits(self.source.model.device))

    def _of(self, chosen: slice) -> Source:
        source = self.source
        prepared = source.prepared.isel({source.model.spec.sample: chosen})
        if any(variable.chunks is not None for variable in prepared.variables.values()):
            # Lazy data: without this, the graph of the whole would travel with every part.
            (prepared,) = optimize(prepared)  # type: ignore[no-untyped-call]
        cut = replace(source, prepared=prepared, labels=source.labels[chosen])
        # On a CPU a draw per core makes more than one draw on all cores; in tiles, which are there
        # to save memory, and on a GPU it is one after the other.
        alone = source.settings.tile is not None or source.model.device.type != "cpu"
        return cut if alone or not side_by_side() else replace(cut, lock=nullcontext())

"""All pictures by name, and the helpers behind ``ens.cvae.plot`` and ``card.cvae.plot``.

Every function takes physical fields only and returns a figure of matplotlib that belongs to no
window: show it in a notebook, or save it with ``figure.savefig("maps.png", bbox_inches="tight")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.verify.criteria import Criterion, Verdict
from xcvae.verify.plots.amounts import intensity, quantiles
from xcvae.verify.plots.bias_map import bias
from xcvae.verify.plots.curves import rank_histogram, spectra
from xcvae.verify.plots.member_maps import members
from xcvae.verify.plots.reliability import reliability
from xcvae.verify.plots.score_table import summary
from xcvae.verify.plots.training_curve import training_curve
from xcvae.verify.score_text import score_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Plots",
    "bias",
    "intensity",
    "members",
    "quantiles",
    "rank_histogram",
    "reliability",
    "score_names",
    "spectra",
    "summary",
    "training_curve",
]


@dataclass(frozen=True)
class Plots:
    """Pictures of one Dataset: an ensemble, a scorecard or a training log.

    Attributes
    ----------
    ds
        The Dataset behind ``.cvae.plot``.
    """

    ds: xr.Dataset

    def members(
        self,
        ds: xr.Dataset | None = None,
        *,
        sample: Any = None,
        members: int | Sequence[int] = 4,
        conditions: Sequence[str] | str | None = None,
    ) -> Figure:
        """Draw maps of members, beside condition and observation where `ds` is given.

        See `xcvae.verify.plots.accessor.members`.
        """
        return _members(ds, self.ds, sample=sample, members=members, conditions=conditions)

    def spectra(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw power spectra of observation and members. See :func:`spectra`."""
        return spectra(ds, self.ds, baselines=baselines)

    def rank_histogram(self, ds: xr.Dataset) -> Figure:
        """Draw the rank histogram. See `xcvae.verify.plots.accessor.rank_histogram`."""
        return rank_histogram(ds, self.ds)

    def reliability(self, ds: xr.Dataset) -> Figure:
        """Draw the reliability diagram. See `xcvae.verify.plots.accessor.reliability`."""
        return reliability(ds, self.ds)

    def quantiles(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw quantile against quantile. See `xcvae.verify.plots.accessor.quantiles`."""
        return quantiles(ds, self.ds, baselines=baselines)

    def intensity(self, ds: xr.Dataset, *, baselines: Sequence[object] | None = None) -> Figure:
        """Draw the CRPS by amounts. See `xcvae.verify.plots.accessor.intensity`."""
        return intensity(ds, self.ds, baselines=baselines)

    def bias(self, ds: xr.Dataset) -> Figure:
        """Draw maps of the mean bias. See `xcvae.verify.plots.accessor.bias`."""
        return bias(ds, self.ds)

    def summary(
        self, criteria: Sequence[Criterion | Verdict] | None = None, *, title: str = ""
    ) -> Figure:
        """Draw a scorecard as a table. See `xcvae.verify.plots.accessor.summary`."""
        return summary(self.ds, criteria, title=title)

    def training_curve(self) -> Figure:
        """Draw a training log. See `xcvae.verify.plots.accessor.training_curve`."""
        return training_curve(self.ds)


# Inside the class the name stands for its argument.
_members = members

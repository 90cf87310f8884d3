"""What all metrics of this package have in common."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import xarray as xr

from xcvae.plugins import Component, Pair, matched

__all__ = ["MEMBERS", "ScoresMetric"]

MEMBERS = "realization"
"""The member dimension of every ensemble of xcvae."""


@dataclass(frozen=True)
class ScoresMetric(Component):
    """A function of the package scores, called with an ensemble and what was observed.

    The result is lazy where the input is. `xcvae.evaluate` calls it sample by sample and averages
    over samples: for means over pixels that is the mean over all of them, for others (roots,
    ratios, correlations) it is the average score of a map.

    Attributes
    ----------
    long_name, better
        What it measures; "lower", "higher" or the ideal value.
    units
        Of the score; None stands for those of the data.
    """

    long_name: ClassVar[str]
    better: ClassVar[str | float]
    units: ClassVar[str | None] = "1"

    @abstractmethod
    def score(self, pair: Pair) -> xr.DataArray:
        """Return the score of a matched pair, a scalar.

        Parameters
        ----------
        pair
            ``forecast``, dims (realization, sample, y, x), and ``observed``, dims (sample, y, x),
            in the same units. NaN wherever one of them or of the members is NaN.
        """

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        """Return the score with units, long_name and better.

        Parameters
        ----------
        forecast
            Dims (realization, sample, y, x), with ``units``.
        observed
            Dims (sample, y, x), with ``units``.

        Raises
        ------
        UnitsError, MismatchError
            Both are not physical, or do not belong together.
        """
        pair = matched(forecast, observed)
        valid = pair.observed.notnull() & pair.forecast.notnull().all(MEMBERS)
        members = pair.forecast.where(valid)
        if members.chunks:
            # scores compares members with each other: they must lie in one chunk.
            members = members.chunk({MEMBERS: -1})
        score = self.score(Pair(members, pair.observed.where(valid)))
        attrs = {
            "units": pair.units if self.units is None else self.units,
            "long_name": self.long_name,
            "better": self.better,
        }
        return score.drop_vars(list(score.coords)).drop_attrs().assign_attrs(attrs)

"""Threshold-weighted scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.plugins import Maps, Statistic, Stats, ratio
from xcvae_extremes.thresholds import Array, TailMetric

__all__ = ["ThresholdWeightedCRPS"]


@dataclass(frozen=True)
class _Sums:
    """Sum over pixels of the fair CRPS of the rain above the threshold."""

    threshold: float

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Return the sums of one sample."""
        members = np.maximum(maps.members - self.threshold, 0.0)
        truth = np.maximum(maps.truth - self.threshold, 0.0)
        # Most pixels are below the threshold everywhere: their score is exactly zero.
        active = (truth > 0) | (members > 0).any(axis=0)
        members, truth = members[:, active], truth[active]
        weights = np.ones(truth.size) if maps.weights is None else maps.weights[active]
        total = np.abs(members - truth).sum(axis=0, dtype=np.float64) @ weights / len(members)
        m = len(members)
        if m > 1:
            # sum over i < j of |x_i - x_j| = sum of (2 i - m - 1) x_(i), x_(i) ascending.
            by_rank = np.sort(members, axis=0).astype(np.float64) @ weights
            total -= (2.0 * np.arange(1, m + 1) - m - 1) @ by_rank / (m * (m - 1))
        return {"tw_crps": np.asarray(total), "pixels": maps.pixels}


@dataclass(frozen=True)
class ThresholdWeightedCRPS(TailMetric):
    """CRPS of the rain above a threshold t, fair to the number of members.

    The CRPS of max(x, t) for members and observation; max(x, t) is the chaining function of the
    weight 1(z >= t). This score is proper; a CRPS of selected observations is not. See Gneiting and
    Ranjan 2011, https://doi.org/10.1198/jbes.2010.08110, and Allen et al. 2023,
    https://doi.org/10.1137/22M1532184.

    Parameters
    ----------
    threshold, quantile, model
        As for `TailMetric`: an amount, or a quantile of wet pixels of the observations or of the
        training record in a model file.
    """

    long_name: ClassVar[str] = "threshold-weighted CRPS (fair)"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = None

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Sums(self.limit(observed))

    def finish(self, stats: Stats) -> Array:
        """Return the sum divided by the number of pixels."""
        return ratio(stats["tw_crps"], stats["pixels"])

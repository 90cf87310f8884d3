"""What can be measured on fields alone: draws against observations, and exchanged latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.metrics.calibration import spread_skill
from xcvae.metrics.distribution import mass_bias, p99_ratio, wet_fraction
from xcvae.metrics.spatial import diversity, spatial_correlation

__all__ = ["Draws", "Swap", "draws_of", "floor_of", "swap_of"]

#: Members of a pixel that differ by less than this share lie at the same value.
SAME = 1e-3


@dataclass(frozen=True)
class Swap:
    """What happens to reconstructions that get the latents of another sample.

    Attributes
    ----------
    error_own, error_swapped
        Mean absolute error with the sample's own latents and with another's, in the target's
        units.
    change
        Mean absolute difference of both reconstructions, as a share of the mean observed rain.
    """

    error_own: float
    error_swapped: float
    change: float


@dataclass(frozen=True)
class Draws:
    """Members against the observation.

    Attributes
    ----------
    wet_fraction
        Share of wet pixels.
    mass_bias
        Relative bias of the total amount.
    p99_ratio
        Ratio of the 99th percentiles; NaN if the observed one is zero.
    variance_ratio
        Spatial variance of members over that of the observation.
    diversity
        1 - mean pairwise cosine similarity between members.
    spread_skill
        Spread over error of the ensemble mean.
    correlation
        Spatial correlation of members with the observation.
    texture_ratio
        Mean squared difference of neighbouring pixels over that of the observation: smooth maps
        have little of it, however strong they are.
    floor, floor_share
        Median of the smallest values of pixels, in the target's units, and the share of values
        that lie at the smallest one of their pixel although it is not zero: see `floor_of`.
    """

    wet_fraction: float
    mass_bias: float
    p99_ratio: float
    variance_ratio: float
    diversity: float
    spread_skill: float
    correlation: float
    texture_ratio: float = float("nan")
    floor: float = 0.0
    floor_share: float = 0.0


def swap_of(own: NDArray[Any], swapped: NDArray[Any], observed: NDArray[Any]) -> Swap:
    """Compare reconstructions with own and with other latents; arrays (sample, y, x)."""
    mean = float(np.nanmean(observed))
    return Swap(
        error_own=float(np.nanmean(np.abs(own - observed))),
        error_swapped=float(np.nanmean(np.abs(swapped - observed))),
        change=float(np.nanmean(np.abs(own - swapped))) / mean if mean > 0 else float("nan"),
    )


def draws_of(
    members: NDArray[Any], observed: NDArray[Any], *, units: str, wet_threshold: float
) -> Draws:
    """Score members (realization, sample, y, x) against (sample, y, x), both physical."""
    dims = ("realization", "sample", "y", "x")
    forecast = xr.DataArray(members, dims=dims, attrs={"units": units})
    truth = xr.DataArray(observed, dims=dims[1:], attrs={"units": units})
    spatial = (dims[2], dims[3])
    scatter = float(truth.var(spatial).sum())
    pattern = float(forecast.var(spatial).sum()) / len(members)
    grain = _roughness(observed)
    floor, floor_share = floor_of(members)
    return Draws(
        wet_fraction=float(wet_fraction(forecast, truth, threshold=wet_threshold)),
        mass_bias=float(mass_bias(forecast, truth)),
        p99_ratio=float(p99_ratio(forecast, truth)),
        variance_ratio=pattern / scatter if scatter > 0 else float("nan"),
        diversity=float(diversity(forecast, truth)),
        spread_skill=float(spread_skill(forecast, truth)),
        correlation=float(spatial_correlation(forecast, truth)),
        texture_ratio=_roughness(members) / grain if grain > 0 else float("nan"),
        floor=floor,
        floor_share=floor_share,
    )


def _roughness(maps: NDArray[Any]) -> float:
    """Mean squared difference of neighbouring pixels, (..., y, x)."""
    # In float64: the squares of a billion small steps.
    steps = [np.diff(maps, axis=axis) for axis in (-2, -1)]
    count = sum(int(np.isfinite(step).sum()) for step in steps)
    total = sum(float(np.nansum(step**2, dtype=np.float64)) for step in steps)
    return total / count if count else float("nan")


def floor_of(members: NDArray[Any]) -> tuple[float, float]:
    """Look for a floor above zero that members (realization, sample, y, x) do not fall below.

    Rain has its floor at zero. A threshold that acts on z-scores sets what is below it to the mean
    of its pixel: a large share of the values of a pixel is then one and the same positive number.

    Returns
    -------
    floor, share
        Median over pixels of the smallest value, and the share of all values that equal the
        smallest of their pixel where that is not zero. The smallest itself does not count: it
        equals itself in every field.

    Examples
    --------
    >>> members = np.array([0.0, 0.0, 3.0, 1.0]).reshape(2, 2, 1, 1)
    >>> floor_of(members), floor_of(np.maximum(members, 0.5))
    ((0.0, 0.0), (0.5, 0.333...))
    """
    flat = members.reshape(-1, *members.shape[2:])
    lowest = np.fmin.reduce(flat, axis=0)
    valid = np.isfinite(lowest)
    if not valid.any() or len(flat) < 2:
        return 0.0, 0.0
    at = (flat <= lowest * (1 + SAME)) & (lowest > 0)
    share = (at.sum(axis=0)[valid] - (lowest[valid] > 0)).mean() / (len(flat) - 1)
    return float(np.median(lowest[valid])), float(share)

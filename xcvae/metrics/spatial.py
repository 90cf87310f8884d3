"""Scores of maps as patterns: where the rain is, at which scales, how different members are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.fields.cf import find_axes
from xcvae.metrics.maps import Array, Maps
from xcvae.metrics.metric import Metric, Statistic, Stats, ratio

__all__ = [
    "Diversity",
    "SpatialCorrelation",
    "SpectralDistance",
    "diversity",
    "radial_spectrum",
    "spatial_correlation",
    "spectral_distance",
]

FLOOR = 1e-12
"""Share of the largest observed power below which power counts as none: at most 120 dB."""


def _ring_power(maps: Array) -> Array:
    """Mean power over rings of equal wavenumber, (..., y, x) to (..., wavenumber).

    Wavenumber k has k waves along the shorter side, k = 0, ..., half of that side; what is
    beyond, in the corners of the Fourier plane, belongs to no ring. Pixels are taken to be
    square. Missing pixels count as zero. There is no window: members and observation have the
    same edges.
    """
    ny, nx = maps.shape[-2:]
    shorter = min(ny, nx)
    power = np.abs(np.fft.rfft2(np.nan_to_num(maps.astype(np.float64)))) ** 2 / (ny * nx)
    rows, columns = np.fft.fftfreq(ny), np.fft.rfftfreq(nx)
    ring = np.rint(np.hypot(rows[:, None], columns) * shorter).astype(int)
    # rfft2 keeps half of the plane: every column but the first, and the last if nx is even,
    # stands for itself and its mirror image.
    mirrored = (columns > 0) & ~np.isclose(columns, 0.5)
    weight = np.broadcast_to(1.0 + mirrored, ring.shape)
    inside = ring <= shorter // 2
    flat = power.reshape(-1, *ring.shape)[:, inside] * weight[inside]
    rings = ring[inside]
    sums = np.stack([np.bincount(rings, weights=one) for one in flat])
    means = sums / np.bincount(rings, weights=weight[inside])
    return means.reshape(*maps.shape[:-2], -1)


@dataclass(frozen=True)
class _Spectra:
    """Radial spectra of the observation and, averaged, of the members."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        generated = _ring_power(np.where(maps.valid, maps.forecast, 0.0)).mean(axis=0)
        return {
            "generated": generated,
            "observed": _ring_power(np.where(maps.valid, maps.observed, 0.0)),
        }


@dataclass(frozen=True)
class SpectralDistance(Metric):
    """Mean distance of radial power spectra in decibels.

    Mean over wavenumbers >= 1 of ``|10 log10(P_gen / P_obs)|``, with P averaged over samples
    and members (the power of every member, never that of the mean field).
    """

    long_name: ClassVar[str] = "mean log distance of radial power spectra"
    better: ClassVar[str | float] = "lower"
    units: ClassVar[str | None] = "dB"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Spectra()

    def finish(self, stats: Stats) -> Array:
        """Compare the spectra."""
        generated, observed = (np.asarray(stats[k])[..., 1:] for k in ("generated", "observed"))
        floor = FLOOR * observed.max(axis=-1, keepdims=True)
        # An observation that is dry everywhere has no spectrum to compare with.
        decibels = 10 * np.log10(ratio(np.maximum(generated, floor), np.maximum(observed, floor)))
        return np.asarray(np.abs(decibels).mean(axis=-1))


@dataclass(frozen=True)
class _Correlations:
    """Mean over members of the correlation with the observation."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Score one sample."""
        truth = maps.truth.astype(np.float64)
        if truth.size == 0 or np.ptp(truth) == 0:
            return {"correlation": np.asarray(0.0), "samples": np.asarray(0.0)}
        truth = truth - truth.mean()
        members = maps.members.astype(np.float64)
        members -= members.mean(axis=1, keepdims=True)
        size = np.sqrt((members**2).sum(axis=1) * (truth**2).sum())
        # Rounding must not turn a constant member into a pattern.
        flat = np.ptp(maps.members, axis=1) == 0
        product = np.where(flat, 0.0, members @ truth)
        correlation = ratio(product, np.where(flat, 1.0, size)).mean()
        return {"correlation": correlation, "samples": np.asarray(1.0)}


@dataclass(frozen=True)
class SpatialCorrelation(Metric):
    """Mean over samples and members of the Pearson correlation of the maps.

    A member without any pattern (all dry) has correlation zero; samples whose observation has
    none do not count.
    """

    long_name: ClassVar[str] = "spatial correlation of members with the observation"
    better: ClassVar[str | float] = "higher"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Correlations()

    def finish(self, stats: Stats) -> Array:
        """Average over samples."""
        return ratio(stats["correlation"], stats["samples"])


@dataclass(frozen=True)
class _Dissimilarity:
    """One minus the mean cosine similarity of pairs of members."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Score one sample."""
        members = maps.members.astype(np.float64)
        m = len(members)
        counts = np.asarray(maps.truth.size > 0, dtype=np.float64)
        if m == 1:
            return {"diversity": np.asarray(0.0), "samples": counts}
        norms = np.sqrt((members**2).sum(axis=1))
        dry = int((norms == 0).sum())
        directions = members / np.where(norms == 0, 1.0, norms)[:, None]
        # The sum over pairs i != j of u_i . u_j is |sum of u_i|^2 less the M - dry unit norms.
        # Two dry members are equal; a dry and a wet one have nothing in common.
        similarity = (directions.sum(axis=0) ** 2).sum() - (m - dry) + dry * (dry - 1)
        return {"diversity": (1.0 - similarity / (m * (m - 1))) * counts, "samples": counts}


@dataclass(frozen=True)
class Diversity(Metric):
    """Mean over samples of 1 - mean pairwise cosine similarity between members."""

    long_name: ClassVar[str] = "diversity of members (1 - mean pairwise cosine similarity)"
    better: ClassVar[str | float] = "higher"

    def bind(self, observed: xr.DataArray) -> Statistic:
        """Return the sums."""
        return _Dissimilarity()

    def finish(self, stats: Stats) -> Array:
        """Average over samples."""
        return ratio(stats["diversity"], stats["samples"])


def spectral_distance(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `SpectralDistance`: dims (realization, sample, y, x) against (sample, y, x)."""
    return SpectralDistance()(forecast, observed)


def spatial_correlation(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `SpatialCorrelation`: dims (realization, sample, y, x) against (sample, y, x)."""
    return SpatialCorrelation()(forecast, observed)


def diversity(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Score with `Diversity`: dims (realization, sample, y, x) against (sample, y, x)."""
    return Diversity()(forecast, observed)


def radial_spectrum(
    field: xr.DataArray, *, spatial_dims: Sequence[str] | None = None
) -> xr.DataArray:
    """Return the radial power spectrum of maps, averaged over all other dimensions.

    Parameters
    ----------
    field
        Any dims besides (y, x), for example (realization, sample, y, x). NaN counts as zero.
    spatial_dims
        The names of (y, x) where attributes and names do not tell.

    Returns
    -------
    DataArray
        Dims (wavenumber,): waves along the shorter side of the grid, from 1 to half of its
        pixels, with the coordinate ``wavelength`` in pixels. Units: those of the field, squared.
    """
    y, x = find_axes(field, spatial_dims=spatial_dims)
    others = [dim for dim in field.dims if dim not in (y, x)]
    stacked = field.transpose(*others, y, x)
    shorter = min(field.sizes[y], field.sizes[x])
    total = np.zeros(shorter // 2 + 1)
    count = int(np.prod([field.sizes[dim] for dim in others], dtype=int))
    # Map after map along the last other dimension, so that nothing large is in memory at once.
    steps = stacked.sizes[others[-1]] if others else 1
    for i in range(steps):
        block = stacked.isel({others[-1]: i}) if others else stacked
        power = _ring_power(np.asarray(block.values))
        total += power.reshape(-1, power.shape[-1]).sum(axis=0)
    wavenumber = np.arange(1, total.size)
    return xr.DataArray(
        total[1:] / count,
        dims="wavenumber",
        coords={
            "wavenumber": ("wavenumber", wavenumber, {"units": "1"}),
            "wavelength": ("wavenumber", shorter / wavenumber, {"units": "pixels"}),
        },
        attrs={
            "units": f"({field.attrs.get('units', '1')})2",
            "long_name": "radial power spectrum",
        },
    )

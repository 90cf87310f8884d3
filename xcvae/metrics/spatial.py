"""Scores of maps as patterns: where the rain is, at which scales, how different members are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import xarray as xr

from xcvae.fields.cf import find_axes
from xcvae.metrics.metric import Metric, Statistic, Stats, ratio
from xcvae.metrics.pairs import Array, Maps

__all__ = [
    "Diversity",
    "SpatialCorrelation",
    "SpectralDistance",
    "diversity",
    "radial_spectrum",
    "ring_powers",
    "spatial_correlation",
    "spectral_distance",
]

AT_ONCE = 16
"""Maps whose Fourier transforms are in memory together."""
FLOOR = 1e-12
"""Share of the largest observed power below which power counts as none: at most 120 dB."""


def _power(maps: Array) -> Array:
    """Mean power of maps (n, y, x) in the half plane of `rfft2`, (y, x // 2 + 1)."""
    from scipy.fft import rfft2

    ny, nx = maps.shape[-2:]
    total = np.zeros((ny, nx // 2 + 1))
    for start in range(0, len(maps), AT_ONCE):
        # In the precision of the maps: that of float32 is 30 dB below the floor.
        some = rfft2(maps[start : start + AT_ONCE], overwrite_x=False)
        power = some.real**2
        power += some.imag**2
        total += power.sum(axis=0, dtype=np.float64)
    return np.asarray(total / (ny * nx * max(len(maps), 1)))


@lru_cache(maxsize=8)
def _rings(shape: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Where rings are in the half plane, the ring of each such place, its weight, their sums."""
    shorter = min(shape)
    rows, columns = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    ring = np.rint(np.hypot(rows[:, None], columns) * shorter).astype(int)
    # rfft2 keeps half of the plane: every column but the first, and the last if nx is even,
    # stands for itself and its mirror image.
    mirrored = (columns > 0) & ~np.isclose(columns, 0.5)
    weight = np.broadcast_to(1.0 + mirrored, ring.shape)
    inside = ring <= shorter // 2
    return inside, ring[inside], weight[inside], np.bincount(ring[inside], weight[inside])


def _over_rings(power: Array, shape: tuple[int, int]) -> Array:
    """Mean over rings of equal wavenumber of the power of maps of a shape, (wavenumber,).

    Wavenumber k has k waves along the shorter side, k = 0, ..., half of that side; what is
    beyond, in the corners of the Fourier plane, belongs to no ring. Pixels are taken to be
    square. There is no window: members and observation have the same edges.
    """
    inside, rings, weights, sums = _rings(shape)
    return np.asarray(np.bincount(rings, power[inside] * weights) / sums)


def ring_powers(maps: Array) -> Array:
    """Power by wavenumber from 1 of each of some maps, (n, y, x) to (n, wavenumber)."""
    shape = (maps.shape[-2], maps.shape[-1])
    return np.stack([_over_rings(_power(one[None]), shape)[1:] for one in maps])


@dataclass(frozen=True)
class _Spectra:
    """Radial spectra of the observation and, averaged, of the members."""

    def __call__(self, maps: Maps) -> dict[str, Array]:
        """Add up one sample."""
        shape, valid = maps.observed.shape, maps.valid
        sides = {"generated": maps.forecast, "observed": maps.observed[None]}
        if not valid.all():  # missing pixels count as zero
            sides = {name: np.where(valid, values, 0.0) for name, values in sides.items()}
        return {
            name: _over_rings(_power(values), (shape[0], shape[1]))
            for name, values in sides.items()
        }


@dataclass(frozen=True)
class SpectralDistance(Metric):
    """Mean distance of radial power spectra in decibels.

    Mean over wavenumbers >= 1 of ``|10 log10(P_gen / P_obs)|``, with P averaged over samples
    and members (the power of every member, never that of the mean field).
    """

    long_name: ClassVar[str] = "mean log distance of radial power spectra"
    better: ClassVar[str | float] = "lower"
    limits: ClassVar[tuple[float, float]] = (0.0, np.inf)
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
        if maps.truth.size == 0 or np.ptp(maps.truth) == 0:
            return {"correlation": np.asarray(0.0), "samples": np.asarray(0.0)}
        products, sums = maps.wet.products, maps.wet.sums
        covariance = products[:-1, -1] - sums[:-1] * sums[-1] / maps.pixels
        squares = np.diag(products)
        variance = squares - sums**2 / maps.pixels
        # Rounding must not turn a constant member into a pattern.
        flat = variance[:-1] <= 1e-13 * squares[:-1]
        size = np.sqrt(np.where(flat, 1.0, variance[:-1]) * variance[-1])
        correlation = ratio(np.where(flat, 0.0, covariance), size).mean()
        return {"correlation": correlation, "samples": np.asarray(1.0)}


@dataclass(frozen=True)
class SpatialCorrelation(Metric):
    """Mean over samples and members of the Pearson correlation of the maps.

    A member without any pattern (all dry) has correlation zero; samples whose observation has
    none do not count.
    """

    long_name: ClassVar[str] = "spatial correlation of members with the observation"
    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (-1.0, 1.0)

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
        products = maps.wet.products[:-1, :-1]
        m = len(products)
        counts = np.asarray(maps.truth.size > 0, dtype=np.float64)
        if m == 1:
            return {"diversity": np.asarray(0.0), "samples": counts}
        norms = np.sqrt(np.diag(products))
        dry = int((norms == 0).sum())
        scale = np.where(norms == 0, 1.0, norms)
        # Less the M - dry products of members with themselves. Two dry members are equal; a dry
        # and a wet one have nothing in common.
        similarity = (products / np.outer(scale, scale)).sum() - (m - dry) + dry * (dry - 1)
        return {"diversity": (1.0 - similarity / (m * (m - 1))) * counts, "samples": counts}


@dataclass(frozen=True)
class Diversity(Metric):
    """Mean over samples of 1 - mean pairwise cosine similarity between members."""

    long_name: ClassVar[str] = "diversity of members (1 - mean pairwise cosine similarity)"
    better: ClassVar[str | float] = "higher"
    limits: ClassVar[tuple[float, float]] = (0.0, 2.0)

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
    shape = (field.sizes[y], field.sizes[x])
    power = np.zeros((shape[0], shape[1] // 2 + 1))
    # Map after map along the last other dimension, so that nothing large is in memory at once.
    steps = stacked.sizes[others[-1]] if others else 1
    for i in range(steps):
        block = stacked.isel({others[-1]: i}) if others else stacked
        power += _power(np.nan_to_num(np.asarray(block.values)).reshape(-1, *shape)) / steps
    total = _over_rings(power, shape)
    wavenumber = np.arange(1, total.size)
    return xr.DataArray(
        total[1:],
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

"""Scores of spatial patterns: spectra, correlation with the observation, diversity of members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xarray as xr

from xcvae.fields.cf import find_axes
from xcvae.fields.sample_blocks import block_slices
from xcvae.metrics.metric import Metric, SampleSums, Stats, ratio
from xcvae.metrics.sample import Array, SampleFields

AT_ONCE = 16
"""Number of maps whose Fourier transforms are in memory together."""
FLOOR = 1e-12
"""Share of the largest observed power below which power counts as zero: at most 120 dB."""


def decibels(generated: Array, observed: Array) -> Array:
    """Return the mean distance of spectra (..., wavenumber) in dB; NaN for a dry observation."""
    floor = FLOOR * observed.max(axis=-1, keepdims=True)
    apart = 10 * np.log10(ratio(np.maximum(generated, floor), np.maximum(observed, floor)))
    return np.asarray(np.abs(apart).mean(axis=-1))


def _power(maps: Array) -> Array:
    """Return the mean power of maps (n, y, x) in the half plane of `rfft2`, (y, x // 2 + 1)."""
    from scipy.fft import rfft2

    ny, nx = maps.shape[-2:]
    total = np.zeros((ny, nx // 2 + 1))
    for some in block_slices(len(maps), AT_ONCE):
        # In the precision of the maps: that of float32 is 30 dB below the floor.
        modes = rfft2(maps[some], overwrite_x=False)
        power = modes.real**2
        power += modes.imag**2
        total += power.sum(axis=0, dtype=np.float64)
    return np.asarray(total / (ny * nx * max(len(maps), 1)))


@lru_cache(maxsize=8)
def _rings(shape: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Return the mask of the half plane in rings, and of each mode there ring and weight; sums."""
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
    """Average the power of maps of a shape over rings of equal wavenumber, (wavenumber,).

    Wavenumber k has k waves along the shorter side, k = 0, ..., half of that side; modes beyond,
    in the corners of the Fourier plane, are in no ring. Pixels are assumed to be square. No
    window is applied: members and observation have the same edges.
    """
    inside, rings, weights, sums = _rings(shape)
    return np.asarray(np.bincount(rings, power[inside] * weights) / sums)


def ring_powers(maps: Array) -> Array:
    """Return the power by wavenumber, from 1, of each of some maps: (n, wavenumber)."""
    shape = (maps.shape[-2], maps.shape[-1])
    return np.stack([_over_rings(_power(one[None]), shape)[1:] for one in maps])


def spectra(sample: SampleFields) -> dict[str, Array]:
    """Return the radial spectra of the members, averaged, and of the observation."""
    shape, valid = sample.observed.shape, sample.valid
    sides = {"generated": sample.forecast, "observed": sample.observed[None]}
    if not valid.all():  # missing pixels count as zero
        sides = {name: np.where(valid, values, 0.0) for name, values in sides.items()}
    return {
        name: _over_rings(_power(values), (shape[0], shape[1])) for name, values in sides.items()
    }


def correlations(sample: SampleFields) -> dict[str, Array]:
    """Average over members the correlation with the observation; 0 samples if that is flat."""
    nothing = {"correlation": np.asarray(0.0), "samples": np.asarray(0.0)}
    if sample.pixels == 0:
        return nothing
    products, sums = sample.wet.products, sample.wet.sums
    covariance = products[:-1, -1] - sums[:-1] * sums[-1] / sample.pixels
    squares = np.diag(products)
    variance = squares - sums**2 / sample.pixels
    # Rounding must not turn a constant map into a pattern.
    *flat, no_pattern = variance <= 1e-13 * squares
    if no_pattern or np.ptp(sample.observed_pixels) == 0:
        return nothing
    size = np.sqrt(np.where(flat, 1.0, variance[:-1]) * variance[-1])
    correlation = ratio(np.where(flat, 0.0, covariance), size).mean()
    return {"correlation": correlation, "samples": np.asarray(1.0)}


def dissimilarity(sample: SampleFields) -> dict[str, Array]:
    """Return one minus the mean cosine similarity of pairs of members."""
    products = sample.wet.products[:-1, :-1]
    m = len(products)
    counts = np.asarray(sample.observed_pixels.size > 0, dtype=np.float64)
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
class SpectralDistance(Metric):
    """Mean distance of radial power spectra in decibels.

    Mean over wavenumbers >= 1 of ``|10 log10(P_gen / P_obs)|``, with P averaged over samples
    and members (the power of every member, never that of the mean field).
    """

    long_name = "mean log distance of radial power spectra"
    better = "lower"
    limits = (0.0, np.inf)
    units = "dB"
    sums = SampleSums(spectra)

    def finish(self, stats: Stats) -> Array:
        """Compare the spectra."""
        generated, observed = (np.asarray(stats[k])[..., 1:] for k in ("generated", "observed"))
        if observed.shape[-1] == 0:  # a single row of pixels has no wavenumber in both directions
            return np.full(observed.shape[:-1], np.nan)
        return decibels(generated, observed)


@dataclass(frozen=True)
class SpatialCorrelation(Metric):
    """Mean over samples and members of the Pearson correlation of the maps.

    A member without any pattern (all dry) has correlation zero; samples whose observation has
    none do not count.
    """

    long_name = "spatial correlation of members with the observation"
    better = "higher"
    limits = (-1.0, 1.0)
    sums = SampleSums(correlations)
    quotient = ("correlation", "samples")


@dataclass(frozen=True)
class Diversity(Metric):
    """Mean over samples of 1 - mean pairwise cosine similarity between members."""

    long_name = "diversity of members (1 - mean pairwise cosine similarity)"
    better = "higher"
    limits = (0.0, 2.0)
    sums = SampleSums(dissimilarity)
    quotient = ("diversity", "samples")


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
        The names of (y, x), if attributes and names do not identify them.

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
    # One map after the other along the last other dimension: only these are in memory.
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

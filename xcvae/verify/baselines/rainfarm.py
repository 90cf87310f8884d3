"""RainFARM: noise with the slope of the coarse field's spectrum, scaled to its block means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.samples import labels_of
from xcvae.fields.units import parse_quantity
from xcvae.metrics.pairs import REALIZATION
from xcvae.metrics.sample import Array
from xcvae.registry import Component, Range
from xcvae.verify.baselines.interpolation import as_members, coarse_condition, random_stream

#: Slope of fields that are too small or too smooth to estimate it; typical of 10 to 1000 km.
DEFAULT_SLOPE = 2.0
#: Range that estimated slopes are clipped to: from white noise to very smooth.
SLOPES = (0.0, 6.0)
#: Power below this share of the largest is a rounding error.
ROUNDING = 1e-12


@dataclass(frozen=True)
class RainFARM(Component):
    """Stochastic downscaling of the coarse condition (RainFARM), any number of members.

    A Gaussian field with a power-law spectrum is normalised, exponentiated, and scaled in each
    block so that its mean over the valid pixels equals the coarse value. The slope is that of
    the coarse field itself, sample by sample. After Rebora et al. 2006 (doi:10.1175/JHM517.1) and
    D'Onofrio et al. 2014 (doi:10.1175/JHM-D-13-096.1), in space only and without their smoothing.

    A member is a function of seed, sample label and realization: it does not depend on chunks, on
    the other samples, or on how many members are drawn.

    Parameters
    ----------
    slope
        Exponent a of the power spectral density k^-a of the Gaussian field; None estimates it.
    threshold
        Rain below this becomes 0 ("0.1 mm h-1", or a number in the units of the condition), at the
        cost of the block means; None keeps all rain.

    Notes
    -----
    A block of the condition has to be a square of whole pixels of the target; blocks in the last
    row or column may be smaller, as with ``coarsen``.
    """

    slope: Annotated[float | None, Range(0, 6)] = None
    threshold: float | str | None = None

    def __call__(self, dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """Draw members: dims (realization, sample, y, x), NaN where the target is; lazy if it is.

        Raises
        ------
        DataError
            The data have no coarse precipitation condition, or its cells are not blocks of pixels.
        """
        observed = dataset[dataset.attrs["target"]]
        coarse = coarse_condition(dataset)
        sample, *fine = (str(dim) for dim in observed.dims)
        own = [str(dim) for dim in coarse.dims[1:]]
        limit = 0.0
        if self.threshold is not None:
            units = str(coarse.attrs["units"])
            limit = parse_quantity(self.threshold, units=units, what="baseline rainfarm, threshold")
        if coarse.chunks:
            coarse = coarse.chunk(dict.fromkeys(own, -1))
        valid = observed.notnull()
        fields = xr.apply_ufunc(
            _draw,
            xr.DataArray(np.array(labels_of(observed, sample)), dims=sample),
            coarse,
            valid.chunk(dict.fromkeys(fine, -1)) if valid.chunks else valid,
            kwargs={
                "side": block_side(dataset, coarse, observed),
                "members": members,
                "seed": seed,
                "slope": self.slope,
                "limit": limit,
            },
            input_core_dims=[[], own, fine],
            output_core_dims=[[REALIZATION, *fine]],
            exclude_dims=set(own),
            join="override",
            dask="parallelized",
            output_dtypes=[np.float32],
            dask_gufunc_kwargs={"output_sizes": {REALIZATION: members}},
        )
        return as_members(fields, observed, units=str(coarse.attrs["units"]))


def block_side(dataset: xr.Dataset, coarse: xr.DataArray, observed: xr.DataArray) -> int:
    """Return the side, in pixels, of the square blocks that the cells of the condition cover.

    It is the attribute ``block`` of a Dataset with a derived condition, else it follows from sizes
    and coordinates.

    Raises
    ------
    DataError
        The cells are not such blocks: no side fits sizes and coordinates, or several do.
    """
    if "block" in dataset.attrs:
        return int(dataset.attrs["block"])
    pairs = list(zip(coarse.dims[1:], observed.dims[1:], strict=True))
    sizes = [(coarse.sizes[own], observed.sizes[fine]) for own, fine in pairs]
    sides = [
        side
        for side in range(2, max(fine for _, fine in sizes) + 1)
        if all(-(-fine // side) == cells for cells, fine in sizes)
        and all(_blocks_of(dataset, str(a), str(b), side) for a, b in pairs)
    ]
    # If several sides fit, prefer the one that divides the grid without remainder.
    whole = [side for side in sides if all(side * cells == fine for cells, fine in sizes)]
    if len(sides) == 1 or whole:
        return (whole or sides)[0]
    if sides:
        raise DataError.of(
            "baseline 'rainfarm'",
            expected="coordinates of the condition, or cells of whole blocks of pixels",
            got=f"{_size(sizes, 0)} cells for {_size(sizes, 1)} pixels: blocks of "
            f"{', '.join(map(str, sides))} pixels would fit",
            remedy="Give both grids coordinates, derive the condition by block means "
            "(coarsen=8), or leave out this baseline.",
        )
    raise DataError.of(
        "baseline 'rainfarm'",
        expected="a condition whose cells are square blocks of the target's pixels",
        got=f"{_size(sizes, 0)} cells for {_size(sizes, 1)} pixels"
        + (", or coordinates that lie elsewhere" if _labelled(dataset, pairs) else ""),
        remedy="Derive it by block means (coarsen=8), or leave out this baseline.",
    )


def _size(sizes: Sequence[tuple[int, int]], which: int) -> str:
    return " x ".join(str(pair[which]) for pair in sizes)


def _labelled(dataset: xr.Dataset, pairs: Sequence[tuple[object, object]]) -> bool:
    return any(own in dataset.coords and fine in dataset.coords for own, fine in pairs)


def _blocks_of(dataset: xr.Dataset, own: str, fine: str, side: int) -> bool:
    """Return True if coarse coordinates, if any, are the centres of blocks of fine ones."""
    if own not in dataset.coords or fine not in dataset.coords:
        return True
    pixels = np.asarray(dataset[fine].values, np.float64)
    cells = np.asarray(dataset[own].values, np.float64)
    middles = [pixels[i : i + side].mean() for i in range(0, pixels.size, side)]
    pixel = np.abs(np.diff(pixels)).max(initial=0.0) or 1.0
    # Half a pixel of tolerance: some data sets label a cell by its pixel next to the centre.
    whole = pixels.size // side
    return bool(np.all(np.abs(cells - middles)[:whole] <= 0.51 * pixel))


def _draw(
    labels: Array,
    coarse: Array,
    valid: Array,
    *,
    side: int,
    members: int,
    seed: int,
    slope: float | None,
    limit: float,
) -> Array:
    """Draw members of each sample of a chunk; labels (n,) to (n, members, y, x)."""
    height, width = valid.shape[-2:]
    out = np.empty((*labels.shape, members, height, width), np.float32)
    for index in np.ndindex(labels.shape):
        field = np.asarray(coarse[index], np.float64)
        steep = spectral_slope(field) if slope is None else slope
        size = (side * field.shape[0], side * field.shape[1])
        noise = _noise(size, steep, members, seed, str(labels[index]))[:, :height, :width]
        rain = _to_block_means(np.exp(noise), field, valid[index], side)
        rain[rain < limit] = 0.0
        out[index] = rain
    return out


def _noise(size: tuple[int, int], slope: float, members: int, seed: int, label: str) -> Array:
    """Draw Gaussian fields (members, y, x) of power density k^-slope, mean 0 and variance 1."""
    from scipy import fft

    wavenumber = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])[None])
    wavenumber[0, 0] = np.inf  # mean 0
    amplitude = wavenumber ** (-slope / 2)
    white = np.stack(
        [
            random_stream(seed, "rainfarm", label, member).standard_normal(size)
            for member in range(members)
        ]
    )
    fields: Array = fft.irfft2(fft.rfft2(white) * amplitude, s=size)
    spread = fields.std((-2, -1), keepdims=True)
    return fields / np.where(spread > 0, spread, 1.0)


def _to_block_means(weights: Array, coarse: Array, valid: Array, side: int) -> Array:
    """Scale positive fields (..., y, x) so that their means over blocks are those of `coarse`."""
    starts = [np.arange(0, size, side) for size in valid.shape]

    def summed(maps: Array) -> Array:
        rows = np.add.reduceat(maps, starts[0], axis=-2)
        return np.asarray(np.add.reduceat(rows, starts[1], axis=-1))

    total, count = summed(weights * valid), summed(valid.astype(np.float64))
    factor = np.full(total.shape, np.nan)
    np.divide(coarse * count, total, out=factor, where=total > 0)
    spread = factor.repeat(side, -2).repeat(side, -1)[..., : valid.shape[0], : valid.shape[1]]
    return np.asarray(np.where(valid, weights * spread, np.nan))


def spectral_slope(field: Array) -> float:
    """Return the exponent a of the power law k^-a fitted to the power spectrum of a field (y, x).

    The line is fitted to all Fourier modes within the middle two thirds of the range of log k, as
    pysteps does (Pulkkinen et al. 2019, doi:10.5194/gmd-12-4185-2019), and clipped to 0 to 6.

    Examples
    --------
    >>> spectral_slope(np.ones((4, 4)))
    2.0
    """
    filled = np.where(np.isfinite(field), field, 0.0)
    power = np.abs(np.fft.fft2(filled)) ** 2
    wavenumber = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, field.shape), indexing="ij"))
    valid = (wavenumber > 0) & (power > ROUNDING * power.max())
    if not valid.any():
        return DEFAULT_SLOPE
    k, log_power = np.log(wavenumber[valid]), np.log(power[valid])
    margin = (k.max() - k.min()) / 6
    middle = (k >= k.min() + margin) & (k <= k.max() - margin)
    if middle.sum() < 2 or np.ptp(k[middle]) < 1e-6:
        return DEFAULT_SLOPE
    slope = -np.polyfit(k[middle], log_power[middle], 1)[0]
    return float(np.clip(slope, *SLOPES))

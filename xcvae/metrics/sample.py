"""The members and the observation of one sample, and the quantities that its scores share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]

CACHED = 131072
"""Values in a block: 512 KiB of float32, with what is made of them about a core's cache."""


@dataclass(frozen=True, eq=False)
class SampleFields:
    """The members and the observation of one sample.

    Attributes
    ----------
    forecast
        Members, (M, y, x), in physical units.
    observed
        The observation, (y, x), same units.
    area
        Weight of each pixel, (y, x), one on average; None where all are equal.
    """

    forecast: Array
    observed: Array
    area: Array | None = None
    _pooled: dict[int, SampleFields] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def valid(self) -> Array:
        """The mask of the pixels that count, (y, x): observed and all members are finite."""
        counts: Array = np.isfinite(self.observed) & np.isfinite(self.forecast).all(axis=0)
        return counts

    @cached_property
    def members(self) -> Array:
        """The valid pixels of every member, (M, P)."""
        flat = self.forecast.reshape(len(self.forecast), -1)
        return flat if self.valid.all() else flat.compress(self.valid.ravel(), axis=1)

    @cached_property
    def observed_pixels(self) -> Array:
        """The valid pixels of the observation, (P,)."""
        return self.observed[self.valid]

    @cached_property
    def weights(self) -> Array | None:
        """The weights of the valid pixels, (P,); None where all are equal."""
        return None if self.area is None else self.area[self.valid]

    @cached_property
    def pixels(self) -> Array:
        """The number of valid pixels; with weights, their sum."""
        return np.asarray(
            float(self.observed_pixels.size) if self.weights is None else self.weights.sum()
        )

    @cached_property
    def all_pixels(self) -> Pixels:
        """All valid pixels."""
        return Pixels(self.members, self.observed_pixels, self.weights)

    @cached_property
    def wet(self) -> Pixels:
        """The valid pixels with rain in any member or in the observation.

        All others have no error, no spread and no event, and are most of a rain field.
        """
        rains = self._rains
        if rains.all():
            return self.all_pixels
        weights = None if self.weights is None else self.weights[rains]
        dry = float(self.pixels) - float(rains.sum() if weights is None else weights.sum())
        return Pixels(
            self.members.compress(rains, axis=1), self.observed_pixels[rains], weights, dry
        )

    def pooled(self, side: int) -> SampleFields:
        """Return means over blocks of side x side pixels, those at the far edges cut off.

        A block is the mean of its valid pixels, and weighs as much as they do together.
        """
        if side not in self._pooled:
            starts = [np.arange(0, size, side) for size in self.observed.shape]

            def summed(maps: Array) -> Array:
                rows = np.add.reduceat(maps, starts[0], axis=-2, dtype=np.float64)
                return np.asarray(np.add.reduceat(rows, starts[1], axis=-1))

            weight = np.where(self.valid, 1.0 if self.area is None else self.area, 0.0)
            area = summed(weight)
            some = np.where(area > 0, area, np.nan)
            forecast, observed = (
                summed(np.where(self.valid, maps, 0.0) * weight) / some
                for maps in (self.forecast, self.observed)
            )
            self._pooled[side] = SampleFields(forecast, observed, area)
        return self._pooled[side]

    def with_events(self, threshold: float) -> Pixels:
        """Return all pixels that may have rain at or above a threshold."""
        return self.wet if threshold > 0 else self.all_pixels

    def as_map(self, pixels: Pixels, values: Array) -> Array:
        """Put values of `wet` or of all valid pixels in their places, (y, x), zero elsewhere."""
        at = self.valid.copy()
        if pixels is not self.all_pixels:
            at[at] = self._rains
        out = np.zeros(self.observed.shape)
        out[at] = values
        return out

    # `truth` and `everywhere` are the names that plugins know.

    @property
    def truth(self) -> Array:
        """The valid pixels of the observation, (P,); the same as `observed_pixels`."""
        return self.observed_pixels

    @property
    def everywhere(self) -> Pixels:
        """All valid pixels; the same as `all_pixels`."""
        return self.all_pixels

    @cached_property
    def _rains(self) -> Array:
        rains: Array = (self.members > 0).any(axis=0) | (self.observed_pixels > 0)
        return rains


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some pixels of one sample.

    Attributes
    ----------
    members
        Dims (member, pixel), all finite.
    observed
        Dims (pixel,), all finite.
    weights
        Area of each pixel, one on average over the grid; None where all are equal.
    dry
        Weight of the pixels that were left out because all members and the observation are dry.
    """

    members: Floats
    observed: Floats
    weights: Floats | None = None
    dry: float = 0.0
    _events: dict[float, Floats] = field(default_factory=dict, init=False, repr=False)

    def total(self, values: Array) -> Array:
        """Add up values by pixel, (pixel,), each with its weight."""
        if self.weights is None:
            return np.asarray(values.sum(dtype=np.float64))
        return np.asarray(values @ self.weights)

    @property
    def truth(self) -> Floats:
        """The observation, (pixel,); the name that plugins know."""
        return self.observed

    @cached_property
    def scores(self) -> PixelScores:
        """Scores by pixel."""
        return pixel_scores(self.members, self.observed)

    def events(self, threshold: float) -> Floats:
        """Return how many members are at or above a threshold, (pixel,)."""
        if threshold not in self._events:
            self._events[threshold] = _count(self.members >= threshold).astype(np.float64)
        return self._events[threshold]

    @cached_property
    def sums(self) -> Floats:
        """Sums over the pixels: of every member, then of the observation, (M + 1,)."""
        return np.asarray(self._maps @ self._weights)

    @cached_property
    def products(self) -> Floats:
        """Sums over the pixels of the products of two maps, (M + 1, M + 1), ordered as `sums`."""
        maps = self._maps
        return np.asarray((maps if self.weights is None else maps * self.weights) @ maps.T)

    @cached_property
    def _maps(self) -> Floats:
        maps = np.empty((len(self.members) + 1, self.observed.size))
        maps[:-1], maps[-1] = self.members, self.observed
        return maps

    @property
    def _weights(self) -> Floats:
        return np.ones(self.observed.size) if self.weights is None else self.weights


@dataclass(frozen=True, eq=False)
class PixelScores:
    """Scores of every pixel, dims (pixel,), in float64; the counts are integers.

    Attributes
    ----------
    mean, variance
        Of the members; the variance has M - 1 in the denominator and is zero for one member.
    median
        Of the members.
    error
        Mean over members of ``|x_i - y|``.
    difference
        Mean over pairs of members of ``|x_i - x_j|``, i != j; zero for one member.
    below, ties
        How many members are below the observation, and equal to it.
    """

    mean: Floats
    variance: Floats
    median: Floats
    error: Floats
    difference: Floats
    below: Counts
    ties: Counts

    @property
    def crps(self) -> Floats:
        """The fair CRPS, see https://doi.org/10.1002/qj.2270."""
        return self.error - 0.5 * self.difference


def pixel_scores(members: Floats, observed: Floats) -> PixelScores:
    """Compare members with the observation, pixel by pixel.

    Parameters
    ----------
    members, observed
        As in `Pixels`.
    """
    count, pixels = members.shape
    mean, variance, median, error, difference = (np.empty(pixels) for _ in range(5))
    below, ties = (np.empty(pixels, np.int64) for _ in range(2))
    for part in _parts(count, pixels):
        x, y = np.ascontiguousarray(members[:, part]), observed[part]
        mean[part], variance[part] = _moments(x)
        median[part], difference[part] = _of_sorted(x)
        error[part] = np.abs(x - y).sum(axis=0) / count
        below[part], ties[part] = _count(x < y), _count(x == y)
    return PixelScores(mean, variance, median, error, difference, below, ties)


def _parts(count: int, pixels: int) -> Iterator[slice]:
    # Odd, so that members of a pixel do not compete for the same lines of the cache.
    width = max(64, CACHED // count) | 1
    for start in range(0, pixels, width):
        yield slice(start, min(start + width, pixels))


def _moments(x: Floats) -> tuple[Floats, Floats]:
    """Return mean and variance of the members."""
    count = len(x)
    # Deviations from a mean of float32 are small, so that their squares lose no digits; the rest
    # of the mean is added in float64.
    near = x.sum(axis=0) / x.dtype.type(count)
    apart = x - near
    rest = apart.sum(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", apart, apart).astype(np.float64) - rest**2 / count
    return near + rest / count, np.maximum(squares, 0.0) / max(count - 1, 1)


def _of_sorted(x: Floats) -> tuple[Floats, Floats]:
    """Return the median and the mean difference of pairs of members.

    In ascending order the i-th of M members is the larger one in i - 1 pairs and the smaller
    one in M - i, hence sum_{i<j} |x_i - x_j| = sum_i (2i - M - 1) x_(i): no M x M array.
    """
    count = len(x)
    # Rows of one pixel each: NumPy sorts what is contiguous with vector instructions.
    rows = np.ascontiguousarray(x.T)
    rows.sort(axis=1)
    middle = 0.5 * (rows[:, (count - 1) // 2].astype(np.float64) + rows[:, count // 2])
    if count == 1:
        return middle, np.zeros(len(rows))
    weights = (2.0 * np.arange(1, count + 1) - count - 1.0) * (2.0 / (count * (count - 1)))
    return middle, rows.astype(np.float64) @ weights


def _count(flags: npt.NDArray[np.bool_]) -> Counts:
    """Count along the members; in bytes where they suffice, which is several times faster."""
    # A byte counts to 255: one member more would wrap round to zero.
    kind = np.uint8 if len(flags) < 256 else np.int64
    return np.asarray(flags.view(np.uint8).sum(axis=0, dtype=kind))

"""The members and the observation of one sample, and what all scores of it share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Maps", "PixelScores", "Pixels", "pixel_scores"]


Array = npt.NDArray[Any]
Floats = npt.NDArray[np.floating]
Counts = npt.NDArray[np.integer]

CACHED = 131072
"""Values in a block: 512 KiB of float32, with what is made of them about a core's cache."""


@dataclass(frozen=True, eq=False)
class PixelScores:
    """Of every pixel, dims (pixel,), in float64 but for the counts.

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


@dataclass(frozen=True, eq=False)
class Pixels:
    """Some pixels of one sample.

    Parameters
    ----------
    members
        Dims (member, pixel), all finite.
    truth
        Dims (pixel,), all finite.
    weights
        Area of each pixel, one on average over the grid; None where all are equal.
    dry
        Weight of the pixels that were left out because all members and the observation are dry.
    """

    members: Floats
    truth: Floats
    weights: Floats | None = None
    dry: float = 0.0
    _events: dict[float, Floats] = field(default_factory=dict, init=False, repr=False)

    def total(self, values: Array) -> Array:
        """Add up values by pixel, (pixel,), each with its weight."""
        if self.weights is None:
            return np.asarray(values.sum(dtype=np.float64))
        return np.asarray(values @ self.weights)

    @cached_property
    def scores(self) -> PixelScores:
        """Scores by pixel."""
        return pixel_scores(self.members, self.truth)

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
        maps = np.empty((len(self.members) + 1, self.truth.size))
        maps[:-1], maps[-1] = self.members, self.truth
        return maps

    @property
    def _weights(self) -> Floats:
        return np.ones(self.truth.size) if self.weights is None else self.weights


def pixel_scores(members: Floats, truth: Floats) -> PixelScores:
    """Compare members with the observation, pixel by pixel.

    Parameters
    ----------
    members
        Dims (member, pixel), all finite.
    truth
        Dims (pixel,), all finite.
    """
    count, pixels = members.shape
    mean, variance, median, error, difference = (np.empty(pixels) for _ in range(5))
    below, ties = (np.empty(pixels, np.int64) for _ in range(2))
    for part in _parts(count, pixels):
        x, y = np.ascontiguousarray(members[:, part]), truth[part]
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
    """Mean and variance, about a mean that is good enough: so float32 loses nothing."""
    count = len(x)
    near = x.sum(axis=0) / x.dtype.type(count)
    apart = x - near
    rest = apart.sum(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", apart, apart).astype(np.float64) - rest**2 / count
    return near + rest / count, np.maximum(squares, 0.0) / max(count - 1, 1)


def _of_sorted(x: Floats) -> tuple[Floats, Floats]:
    """Median and mean difference of pairs.

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


def _count(truths: npt.NDArray[np.bool_]) -> Counts:
    """Count along the members; in bytes where they suffice, which is several times faster."""
    kind = np.uint8 if len(truths) < 256 else np.int64
    return np.asarray(truths.view(np.uint8).sum(axis=0, dtype=kind))


@dataclass(frozen=True, eq=False)
class Maps:
    """The members and the observation of one sample.

    Parameters
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
    _pooled: dict[int, Maps] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def valid(self) -> Array:
        """Where a pixel counts, (y, x): observed and all members are finite."""
        counts: Array = np.isfinite(self.observed) & np.isfinite(self.forecast).all(axis=0)
        return counts

    @cached_property
    def members(self) -> Array:
        """The valid pixels of every member, (M, P)."""
        flat = self.forecast.reshape(len(self.forecast), -1)
        return flat if self.valid.all() else flat.compress(self.valid.ravel(), axis=1)

    @cached_property
    def truth(self) -> Array:
        """The valid pixels of the observation, (P,)."""
        return self.observed[self.valid]

    @cached_property
    def weights(self) -> Array | None:
        """The weights of the valid pixels, (P,); None where all are equal."""
        return None if self.area is None else self.area[self.valid]

    @cached_property
    def pixels(self) -> Array:
        """The number of valid pixels; with weights, their sum."""
        return np.asarray(float(self.truth.size) if self.weights is None else self.weights.sum())

    @cached_property
    def everywhere(self) -> Pixels:
        """All valid pixels."""
        return Pixels(self.members, self.truth, self.weights)

    @cached_property
    def wet(self) -> Pixels:
        """The valid pixels where it rains in any member or in the observation.

        All others have no error, no spread and no event, and are most of a rain field.
        """
        rains = self._rains
        if rains.all():
            return self.everywhere
        weights = None if self.weights is None else self.weights[rains]
        dry = float(self.pixels) - float(rains.sum() if weights is None else weights.sum())
        return Pixels(self.members.compress(rains, axis=1), self.truth[rains], weights, dry)

    def pooled(self, side: int) -> Maps:
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
            self._pooled[side] = Maps(forecast, observed, area)
        return self._pooled[side]

    def with_events(self, threshold: float) -> Pixels:
        """Return all pixels that may have rain at or above a threshold."""
        return self.wet if threshold > 0 else self.everywhere

    def as_map(self, pixels: Pixels, values: Array) -> Array:
        """Put values of `wet` or of all valid pixels in their places, (y, x), zero elsewhere."""
        at = self.valid.copy()
        if pixels is not self.everywhere:
            at[at] = self._rains
        out = np.zeros(self.observed.shape)
        out[at] = values
        return out

    @cached_property
    def _rains(self) -> Array:
        rains: Array = (self.members > 0).any(axis=0) | (self.truth > 0)
        return rains

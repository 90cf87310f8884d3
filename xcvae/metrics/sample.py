"""The members and the observation of one sample, and what all scores of it share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from xcvae.metrics.pixels import Array, Pixels

__all__ = ["Maps"]


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

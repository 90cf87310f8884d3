"""Sharp edges between wet and dry, without smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.plugins import Component, Context, in_range
from xcvae_physics.fields import Array, amount_in, apply_to_maps, restoring_factor

__all__ = ["SharpEdge"]


@dataclass(frozen=True)
class SharpEdge(Component):
    """Remove the faint fringe around rain, and add its mass to the rain it surrounds.

    Pixels below ``value`` are set to zero if they touch a dry pixel, directly or through other
    such pixels (eight neighbours count); light rain inside a storm stays. The removed mass goes
    to the remaining wet pixels of the same connected area, by one factor for each area. No pixel is
    averaged with another, so peaks and gradients inside stay sharp. An area that consists of fringe
    only is removed with its mass.

    Parameters
    ----------
    value
        Smallest rain of an edge pixel, "0.1 mm h-1", or a number in the units of the field.
    rescale
        Add the removed mass to the remaining rain.
    limit
        Largest factor.
    """

    value: str | float
    rescale: bool = True
    limit: float = 10.0

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "value", above=0)
        in_range(self, "limit", 1)

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the field with sharp edges; NaN stays NaN and is neither wet nor dry.

        Raises
        ------
        UnitsError
            The units of field and value do not convert into each other.
        """
        limit = amount_in(field, self.value, "sharp_edge, parameter 'value'")

        def sharpen(maps: Array) -> Array:
            flat = maps.reshape(-1, *maps.shape[-2:])
            return np.stack([self._sharpen(one, limit) for one in flat]).reshape(maps.shape)

        return apply_to_maps(sharpen, field)

    def _sharpen(self, rain: Array, limit: float) -> Array:
        from scipy.ndimage import binary_propagation, label

        around = np.ones((3, 3), bool)
        dry, faint = rain <= 0, (rain > 0) & (rain < limit)
        reached = binary_propagation(dry, structure=around, mask=dry | faint)
        sharp = np.where(reached, 0.0, rain)
        if not self.rescale:
            return sharp
        areas, count = label(rain > 0, structure=around)
        before, after = (
            np.bincount(areas.ravel(), np.nan_to_num(part).ravel(), count + 1)
            for part in (rain, sharp)
        )
        factor: Array = restoring_factor(before, after, self.limit)[areas]
        return np.asarray(sharp * factor)

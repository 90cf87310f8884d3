"""The edge between wet and dry, made sharp again without any smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from xcvae.plugins import Component, Context, in_range
from xcvae_physics.fields import Array, amount_in, grown, mapped

__all__ = ["SharpEdge"]


@dataclass(frozen=True)
class SharpEdge(Component):
    """Remove the faint fringe around rain, and give its mass back to the rain it surrounds.

    Pixels below ``value`` are set to zero if they touch a dry pixel, directly or through other
    such pixels (eight neighbours count); light rain inside a storm stays. The removed mass goes
    to the wet pixels that are left in the same connected area, by one factor each. No pixel is
    averaged with another, so that peaks and gradients inside stay as sharp as they were. An area
    that is fringe throughout vanishes with its mass.

    Parameters
    ----------
    value
        Rain that an edge pixel must have, "0.1 mm h-1", or a number in the units of the field.
    rescale
        Give the mass back.
    limit
        Largest factor.
    """

    value: str | float
    rescale: bool = True
    limit: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
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

        def sharpened(maps: Array) -> Array:
            flat = maps.reshape(-1, *maps.shape[-2:])
            return np.stack([self._sharpened(one, limit) for one in flat]).reshape(maps.shape)

        return mapped(sharpened, field)

    def _sharpened(self, rain: Array, limit: float) -> Array:
        from scipy.ndimage import binary_propagation, label

        around = np.ones((3, 3), bool)
        dry, faint = rain <= 0, (rain > 0) & (rain < limit)
        reached = binary_propagation(dry, structure=around, mask=dry | faint)
        kept = np.where(reached, 0.0, rain)
        if not self.rescale:
            return kept
        areas, count = label(rain > 0, structure=around)
        before, after = (
            np.bincount(areas.ravel(), np.nan_to_num(part).ravel(), count + 1)
            for part in (rain, kept)
        )
        factor: Array = grown(before, after, self.limit)[areas]
        return np.asarray(kept * factor)

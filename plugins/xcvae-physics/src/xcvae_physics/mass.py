"""A threshold that restores the mass it removes, block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.plugins import Component, Context, in_range, parse_quantity, physical_units
from xcvae_physics.fields import (
    Array,
    amount_in,
    apply_to_maps,
    block_means,
    coordinate_of,
    restoring_factor,
)

__all__ = ["MassThreshold"]


@dataclass(frozen=True)
class MassThreshold(Component):
    """Set drizzle to zero and add its mass to the remaining rain of the same block.

    In every block of every member the rain at or above the threshold is multiplied by one
    factor that restores the mass of the block: that of the member before the threshold, or
    that of the coarse condition. Use it instead of ``threshold``. A block without any rain at
    the threshold becomes dry and its mass is lost; so is the mass beyond ``limit``. With
    ``member``, blocks without drizzle are unchanged.

    Parameters
    ----------
    value
        The threshold, "0.1 mm h-1", or a number in the units of the field.
    reference
        "member": the member's own mass; "condition": that of the coarse precipitation.
    block
        Side of a block in pixels, for "member". Blocks at the far edges may be smaller.
    condition
        Name of the condition; by default the first one that is precipitation and has a grid. Its
        cells must be whole numbers of pixels, in the order of the pixels.
    limit
        Largest factor.
    """

    value: str | float
    reference: Literal["member", "condition"] = "member"
    block: int = 12
    condition: str | None = None
    limit: float = 10.0

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "value", above=0)
        in_range(self, "block", 1)
        in_range(self, "limit", 1)

    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the thresholded and rescaled field; NaN stays NaN.

        Raises
        ------
        UnitsError
            Units of field, threshold and condition do not convert into each other.
        ComponentError
            The condition does not exist, or its cells are not the blocks of pixels.
        """
        limit = amount_in(field, self.value, "mass_threshold, parameter 'value'")
        if self.reference == "member":
            return apply_to_maps(
                lambda maps: self._restore(maps, limit, self.block, self.block), field
            )
        coarse = self._coarse(field, context)
        high, wide = (_side(field, coarse, context, axis) for axis in (-2, -1))
        return apply_to_maps(
            lambda maps, wanted: self._restore(maps, limit, high, wide, wanted), field, coarse
        )

    def _restore(
        self, maps: Array, limit: float, high: int, wide: int, wanted: Array | None = None
    ) -> Array:
        """Threshold maps, and restore the means of their blocks."""
        height, width = maps.shape[-2:]
        rows, columns = np.arange(0, height, high), np.arange(0, width, wide)
        # NaN compares as False, so that masked pixels stay NaN and out of the means.
        thresholded = np.where(maps < limit, 0.0, maps)
        if wanted is None:
            wanted = block_means(maps, rows, columns)
        factor = restoring_factor(wanted, block_means(thresholded, rows, columns), self.limit)
        factor = factor.repeat(high, axis=-2).repeat(wide, axis=-1)
        return np.asarray(thresholded * factor[..., :height, :width])

    def _coarse(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        """Return the condition in the units of the field, (sample, rows, columns)."""
        known = {v.name: v for v in context.spec.variables if v.name in context.inputs}
        rain = [n for n, v in known.items() if v.precipitation and v.sampled and len(v.shape) == 2]
        name = self.condition if self.condition is not None else (rain[0] if rain else None)
        if name not in rain:
            raise ComponentError(
                explain(
                    "mass_threshold, reference 'condition'",
                    expected="a condition that is precipitation on a grid",
                    got=f"'{name}'" if name else "none in this model",
                    remedy=f"There are: {', '.join(rain) or 'none'}. Or use reference 'member'.",
                )
            )
        variable = known[name]
        coarse = context.inputs[name].transpose(context.spec.sample, *variable.dims)
        source = str(coarse.attrs.get("units", variable.units))
        units = physical_units(field)
        scaled: xr.DataArray = coarse * parse_quantity(f"1 {source}", units=units, what=name)
        return scaled


def _side(field: xr.DataArray, coarse: xr.DataArray, context: Context, axis: int) -> int:
    """Return the pixels of a cell along one axis; ComponentError unless cells are blocks."""
    pixels, cells = field.shape[axis], coarse.shape[axis]
    side, rest = divmod(pixels, cells)
    if rest or side == 0:
        raise _unfit("cells of a whole number of pixels", f"{pixels} pixels over {cells} cells")
    fine = coordinate_of(str(field.dims[axis]), field, context)
    own = str(coarse.dims[axis])
    # A condition that is aligned with the target edge to edge has no coordinates.
    if fine is None or own not in coarse.coords or pixels < 2:
        return side
    places = np.asarray(fine.values, np.float64)
    width = side * float(np.median(np.abs(np.diff(places))))
    away = np.asarray(coarse[own].values, np.float64) - places.reshape(cells, side).mean(1)
    if not (np.abs(away) < width / 2).all():
        raise _unfit(
            f"cells along '{own}' where the blocks of pixels are, in the same order",
            f"centres up to {np.abs(away).max() / width:.3g} cells away",
        )
    return side


def _unfit(expected: str, got: str) -> ComponentError:
    return ComponentError(
        explain(
            "mass_threshold, reference 'condition'",
            expected=expected,
            got=got,
            remedy="Use reference 'member' for this condition.",
        )
    )

"""Constraint on block means: members keep the coarse rain that they were drawn for.

For super-resolution, where the condition is the block mean of the target. The correction is
multiplicative, in physical space, as the last step of the network, so that training sees it.

Reference: Harder et al. 2023, https://www.jmlr.org/papers/v24/23-0158.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xcvae.fields.scaling import RainScaling

#: Below zero, the output measures how dry a pixel is. A block that is dry although its mean is not
#: gets its rain where it is least dry, within about this distance in normalised space.
SOFTNESS = 0.06
#: Mean rain of a block, as a share of the wet threshold, below which the block counts as dry.
TRACE = 1e-3
#: Room for more rain in a block, as a share of the wet threshold, by which at least is divided.
NO_ROOM = 1e-11
#: Output of pixels that are certain to be dry.
DRY = -1.0


@dataclass(frozen=True)
class BlockMeans:
    """Scale the pixels of every block so that their mean is that of the coarse field.

    Attributes
    ----------
    scaling
        Of the target.
    side
        Pixels along a side of a block, unless a batch has another.
    ceiling
        Largest value of a pixel in normalised space. What exceeds it goes to the other wet pixels
        of the block. A block with a larger mean has that everywhere.
    """

    scaling: RainScaling
    side: int
    ceiling: float = math.inf

    def __call__(
        self, output: Tensor, coarse: Tensor, side: int = 0, ceilings: Tensor | None = None
    ) -> Tensor:
        """Correct an output.

        Parameters
        ----------
        output
            In normalised space, below zero means dry; (batch, 1, y, x).
        coarse
            Block means in the same space, repeated over their pixels; (batch, 1, y, x).
        side
            Pixels along a side of a block of this batch; 0 for `side` of the constraint.
        ceilings
            Ceiling of each field, (batch,); by default that of the constraint for all.

        Returns
        -------
        Tensor
            The output with the block means of ``coarse``; in blocks with a wet pixel, dry pixels
            stay dry.
        """
        side = side or self.side
        wanted = self.scaling.physical(coarse)
        rain = self.scaling.physical(output)
        trace = TRACE * self.scaling.eps
        wet = _means(rain, side) > trace
        # In a block that is dry but should not be, the least dry pixels take all the rain. The
        # largest of these weights is 1, whatever the units: their mean is never near zero.
        spare = torch.exp((output - _largest(output, side)).clamp(min=-60 * SOFTNESS) / SOFTNESS)
        rain = torch.where(wet, rain, spare)
        corrected = rain * wanted / _means(rain, side)
        lifted = (output > 0) | ~wet
        if ceilings is None and self.ceiling < math.inf:
            ceilings = rain.new_full((1,), self.ceiling)
        if ceilings is not None:
            highest = self.scaling.physical(ceilings)[:, None, None, None]
            limit = torch.maximum(wanted, highest)
            least = NO_ROOM * self.scaling.eps
            corrected, lifted = _capped(corrected, limit, lifted, side, least=least)
        normal = torch.log1p(corrected / self.scaling.eps) / self.scaling.divisor
        result = torch.where(lifted, normal, output)
        # A block without rain in the condition is dry for certain.
        return torch.where(wanted > trace, result, output.clamp(max=DRY))


def _capped(
    rain: Tensor, limit: Tensor, lifted: Tensor, side: int, *, least: float
) -> tuple[Tensor, Tensor]:
    """Cap pixels at a limit, and give the excess to the block; also return wet pixels."""
    capped = torch.minimum(rain, limit)
    excess = _means(rain - capped, side)
    room = (limit - capped) * lifted
    # Where the wet pixels are full, the dry ones get it, too.
    full = (_means(room, side) <= excess) & (excess > 0)
    room = torch.where(full, limit - capped, room)
    shared = capped + room * excess / _means(room, side).clamp(min=least)
    return torch.where(excess > 0, shared, rain), lifted | full


def _means(rain: Tensor, side: int) -> Tensor:
    return _repeated(F.avg_pool2d(rain, side), side)


def _largest(output: Tensor, side: int) -> Tensor:
    return _repeated(F.max_pool2d(output, side), side)


def _repeated(blocks: Tensor, side: int) -> Tensor:
    return F.interpolate(blocks, scale_factor=side, mode="nearest")

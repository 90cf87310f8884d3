"""Steps whose gradient is far out of the ordinary, which are skipped.

The KL divergence of a hierarchical VAE has spikes: single batches for which the posterior of a few
latents is far from the prior, with gradients thousands of times the usual ones. Clipping bounds
their length and keeps their direction, and AdamW follows it for many steps; one of them can destroy
a training. Such updates are skipped (Child 2021, arXiv:2011.10650).
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Name of the guards' state in checkpoints; those of earlier versions lack it.
SPIKES = "spikes"
#: Gradients of more than this many times the usual norm are spikes.
LIMIT = 30.0
#: Steps before a norm counts as usual, and those that the usual norm is a mean over.
FIRST, MEMORY = 20, 100
#: A spike counts as so many times the usual norm: lasting growth becomes usual in the end.
GROWTH = 3.0
#: Spikes in a row after which the weights themselves are at fault.
PATIENCE = 20


class SpikeGuard:
    """Usual norm of the gradient, and the number of spikes; all on the device, without waiting.

    Attributes
    ----------
    state
        Tensors without dimensions, which checkpoints keep: ``square`` (mean square of the norm),
        ``steps`` and ``in_a_row``.
    """

    def __init__(self, device: torch.device) -> None:
        self.state = {
            name: torch.zeros((), dtype=torch.float32, device=device)
            for name in ("square", "steps", "in_a_row")
        }

    def judge(self, norm: Tensor) -> Tensor:
        """Return 1 for a spike and 0 for a usual step, and learn from the norm.

        Parameters
        ----------
        norm
            Of the gradient of a step, before clipping, without dimensions; may be infinite or NaN.
        """
        square, steps, in_a_row = self.state.values()
        usual = square.sqrt()
        # Written so that NaN is a spike, too.
        normal = torch.where(steps < FIRST, norm.isfinite(), norm <= LIMIT * usual)
        counted = torch.where(normal, norm, GROWTH * usual)
        rate = (1 / (steps + 1)).clamp(min=1 / MEMORY)
        square.lerp_(counted.square(), rate)
        steps += 1
        in_a_row.copy_(torch.where(normal, 0.0, in_a_row + 1))
        return (~normal).float()

    def lasts(self) -> bool:
        """Return True if the last steps were all spikes; waits for the device."""
        return float(self.state["in_a_row"]) >= PATIENCE

    def reset(self) -> None:
        """Forget what is usual: another loss has other gradients."""
        for value in self.state.values():
            value.zero_()

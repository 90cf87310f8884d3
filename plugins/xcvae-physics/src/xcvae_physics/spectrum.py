"""A loss on the slope of the power spectrum of rain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from xcvae.plugins import Component, LossState, Range, in_range

__all__ = ["SpectralSlope"]

FLOOR = 1e-6
"""Lower bound of power, as a share of the largest observed power: 60 dB below it."""


@dataclass(frozen=True)
class SpectralSlope(Component):
    """Absolute difference of the slopes of radial power spectra, generated and observed.

    The slope is that of the straight line through log power over log wavenumber, by least squares
    over the rings from ``longest`` to ``shortest``; power is averaged over the batch first, in
    physical units. The spectrum of a field that is too smooth is too steep. Masked pixels are dry
    on both sides; no window is applied, since both sides have the same edges. Zero for a batch
    without rain and for crops with fewer than three rings.

    Parameters
    ----------
    of
        "reconstruction", or "prior" for one prior draw of each sample.
    longest, shortest
        Wavelengths in pixels: the range in which the line is fitted.
    weight
        Factor of the term.
    """

    of: Literal["reconstruction", "prior"] = "reconstruction"
    longest: float = 64.0
    shortest: float = 3.0
    weight: Annotated[float, Range(0)] = 0.1

    def __post_init__(self) -> None:
        """Refuse parameters out of range."""
        in_range(self, "shortest", 2, self.longest)
        in_range(self, "weight", 0)

    def __call__(self, state: LossState) -> Tensor:
        """Return the loss, a scalar."""
        if self.of == "prior":
            generated = state.scaling.physical(state.prior_draws(1)[0])
        else:
            generated = state.reconstructed
        used = self._rings_used(min(generated.shape[-2:]))
        if len(used) < 3:
            return generated.sum() * 0.0
        rings = slice(used[0], used[-1] + 1)
        powers = [_rings(fields * state.mask) for fields in (generated, state.observed)]
        # Tensors only: a Python number would make the host wait for the device.
        floor = FLOOR * powers[1][1:].max()
        wet = floor > 0
        floor = torch.where(wet, floor, 1.0)
        abscissa = torch.arange(used[0], used[-1] + 1, device=generated.device).to(generated).log()
        slopes = [_slope(abscissa, power[rings].clamp(min=floor).log()) for power in powers]
        distance: Tensor = torch.where(wet, (slopes[0] - slopes[1]).abs(), 0.0)
        return self.weight * distance

    def _rings_used(self, shorter: int) -> list[int]:
        """Return the wavenumbers in the range of the fit, without gaps."""
        waves = range(1, shorter // 2 + 1)
        return [wave for wave in waves if self.shortest <= shorter / wave <= self.longest]


def _rings(maps: Tensor) -> Tensor:
    """Average power over rings of equal wavenumber, (batch, 1, y, x) to (wavenumber,).

    Wavenumber k has k waves along the shorter side, up to half of its pixels.
    """
    height, width = maps.shape[-2:]
    shorter = min(height, width)
    modes = torch.fft.fft2(maps)
    power = (modes.real.square() + modes.imag.square()).mean(dim=(0, 1)) / (height * width)
    # In double precision, to round half waves as the metrics of xcvae do.
    rows = torch.fft.fftfreq(height, dtype=torch.float64, device=maps.device)
    columns = torch.fft.fftfreq(width, dtype=torch.float64, device=maps.device)
    ring = torch.round(torch.hypot(rows[:, None], columns) * shorter).long()
    # The corners beyond the last ring go into one extra ring, which is dropped.
    last = shorter // 2
    ring = ring.clamp(max=last + 1).flatten()
    sums, counts = (
        power.new_zeros(last + 2).index_add(0, ring, values)[: last + 1]
        for values in (power.flatten(), torch.ones_like(power).flatten())
    )
    means: Tensor = sums / counts.clamp(min=1)
    return means


def _slope(x: Tensor, y: Tensor) -> Tensor:
    centred = x - x.mean()
    return (centred * (y - y.mean())).sum() / (centred**2).sum()

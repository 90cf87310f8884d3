"""Spectral loss: power at each scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from xcvae.generator.losses.state import LossState, Space
from xcvae.registry.components import Component, Range


@dataclass(frozen=True)
class Spectral(Component):
    """Mean distance of the log of radial power spectra, generated against observed.

    Power is averaged over batch and draws and over rings of equal wavenumber, as for the metric
    `SpectralDistance` (radially averaged spectra of rain: Harris et al. 2001,
    doi:10.1175/1525-7541(2001)002<0406:MPOAQP>2.0.CO;2): the mean over wavenumbers >= 1 of
    ``|log(P_gen / P_obs)|``, where 1 is 4.34 dB. Masked pixels count as zero in both. It compares
    averages and is blind to the position of a pattern: use it beside `CRPS`.

    Parameters
    ----------
    of
        "prior" compares prior draws, "reconstruction" the reconstruction.
    draws
        Prior draws per step.
    space
        "physical" or "normalised", as in `CRPS`.
    floor
        Amplitude, as a share of the record's mean, whose power is added to both spectra, so that a
        batch without rain is not at an infinite distance.
    weight
        Factor of the term.
    """

    of: Literal["prior", "reconstruction"] = "prior"
    draws: Annotated[int, Range(1)] = 2
    space: Space = "physical"
    floor: Annotated[float, Range(1e-6)] = 0.01
    weight: Annotated[float, Range(0)] = 0.1

    def __call__(self, state: LossState) -> Tensor:
        if self.of == "prior":
            generated = state.members(self.draws, self.space)
        else:
            generated = state.reconstruction(self.space)
        least = (self.floor * state.typical(self.space)) ** 2
        powers = [_power(fields * state.mask) for fields in (generated, state.target(self.space))]
        rings = _ring_means(torch.stack(powers), generated.shape[-1])
        if rings.shape[-1] == 0:  # a map that is one pixel across has no waves
            return generated.sum() * 0.0
        logs = (rings + least).log()
        return self.weight * (logs[0] - logs[1]).abs().mean()


def _power(fields: Tensor) -> Tensor:
    """Power per mode, averaged over all leading dims: (..., y, x) to (y, x // 2 + 1)."""
    modes = torch.fft.rfft2(fields)
    power = (modes.real.square() + modes.imag.square()) / fields.shape[-2:].numel()
    averaged: Tensor = power.flatten(0, -3).mean(0)
    return averaged


def _ring_means(power: Tensor, nx: int) -> Tensor:
    """Mean of power over rings of equal wavenumber, 1 to half of the shorter side: (n, rings).

    Wavenumber k has k waves along the shorter side; pixels are taken to be square.
    """
    ny, device = power.shape[-2], power.device
    count = min(ny, nx) // 2
    rows = torch.fft.fftfreq(ny, dtype=torch.float64, device=device)
    columns = torch.fft.rfftfreq(nx, dtype=torch.float64, device=device)
    waves = torch.hypot(rows[:, None], columns[None]) * min(ny, nx)
    # The corners beyond the last ring go into an extra ring, which is dropped below.
    ring = waves.round().long().clamp(max=count + 1).flatten()
    # rfft2 returns half of the plane: every column except the first, and the last if nx is even,
    # counts twice, for itself and its mirror image.
    last = columns.shape[0] - 1
    weight = torch.full_like(power[0], 2.0)
    weight[:, 0] = 1.0
    if nx % 2 == 0:
        weight[:, last] = 1.0
    weight = weight.flatten()
    sums = power.new_zeros((power.shape[0], count + 2))
    sums = sums.index_add(1, ring, power.flatten(1) * weight)
    total = power.new_zeros(count + 2).index_add(0, ring, weight)
    return sums[:, 1 : count + 1] / total[1 : count + 1]

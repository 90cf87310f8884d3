"""A conditional diffusion model: EDM in the space of log rain, CorrDiff-like.

Denoises the residual over the interpolated condition, given the condition; preconditioning,
log-normal noise levels and the deterministic second-order (Heun) sampler of Karras et al. 2022
(arXiv:2206.00364), here 18 steps, as CorrDiff (Mardani et al., arXiv:2309.15214) draws rain.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import (
    WET,
    RecordSplits,
    Split,
    block_means,
    from_log,
    stretch_bilinear,
    to_log,
)
from benchmarks.models.drawing import DrawBatch, draw_members, fair_crps
from benchmarks.models.training import TrainingBatches, autocast, compiled
from benchmarks.models.unet import UNet

__all__ = ["EDM", "Settings", "Tuned"]

#: Standard deviation that the residual is scaled to, for which EDM's defaults are made.
SIGMA_DATA = 0.5
SIGMA_MIN, RHO = 0.002, 7.0
#: What is tried for drawing, each on top of the best so far. From 80, EDM's own, 18 Heun steps
#: widen even a Gaussian of SIGMA_DATA by 5.5 %; from 20 by 3.1 %.
CHANGES: tuple[dict[str, float], ...] = (
    {},
    {"sigma_max": 20.0},
    {"sigma_max": 5.0},
    {"temperature": 0.95},
    {"temperature": 0.9},
)
#: Smallest and largest factor by which a block is brought to its mean.
FACTORS = (0.1, 10.0)


@dataclass(frozen=True)
class Settings:
    """Size and training of the reference.

    Attributes
    ----------
    channels, blocks
        Features and residual blocks per level, finest first.
    batch_size, crop
        Samples per step, and side of the windows trained on (None: whole fields).
    rate, dropout
        Learning rate at its peak; dropout inside residual blocks.
    noise_mean, noise_std
        Of the logarithm of the noise levels trained on.
    steps
        Heun steps of the sampler.
    draw_batch
        Fields drawn at once.
    validation, tune
        Validation samples for the loss; and for trying samplers, 8 members each. 0: no trying.
    """

    channels: tuple[int, ...] = (32, 64, 128, 128)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    batch_size: int = 64
    crop: int | None = 128
    rate: float = 1e-3
    dropout: float = 0.05
    noise_mean: float = -1.2
    noise_std: float = 1.2
    steps: int = 18
    draw_batch: int = 256
    validation: int = 593
    tune: int = 64

    @classmethod
    def of(cls, options: Mapping[str, Any], *, small: bool) -> Settings:
        """Take the settings for a GPU or for a small run on a CPU, and change some."""
        base = cls()
        if small:
            base = replace(
                base,
                channels=(16, 32, 64, 96),
                blocks=(1, 1, 2, 2),
                batch_size=8,
                crop=64,
                draw_batch=16,
                validation=24,
                tune=0,
            )
        known = [f.name for f in fields(cls)]
        for key in options:
            if key not in known:
                raise SystemExit(f"--edm: unknown key '{key}'; there are {', '.join(known)}")
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        return replace(base, **tuples)


@dataclass(frozen=True)
class Tuned:
    """Settings of drawing, chosen on validation samples.

    Attributes
    ----------
    sigma_max
        Noise level that the sampler starts from.
    temperature
        Factor on its initial noise.
    rescaled
        True to scale the blocks of a member to their known means.
    dry
        Rain below this becomes 0; from here to 0.1 mm h-1, a gap of the record, 0.1.
    """

    sigma_max: float = 80.0
    temperature: float = 1.0
    rescaled: bool = False
    dry: float = WET


class EDM:
    """The diffusion model as `benchmarks.models.training.train` trains it.

    Parameters
    ----------
    splits
        The data.
    settings
        Size and training.
    device
        Device of the network.
    seed
        Of weights and batches.
    """

    averages = (17.0, 7.0)
    validations = 20

    def __init__(
        self, splits: RecordSplits, settings: Settings, device: torch.device, *, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.splits, self.settings, self.device = splits, settings, device
        self.rate, self.side = settings.rate, splits.side
        network = UNet(3, settings.channels, settings.blocks, settings.dropout)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.apply = compiled(self.network, device)
        self.pool = TrainingBatches(splits.train, device)
        self.scale = float((self.pool.x - self.pool.base).std()) / SIGMA_DATA
        validation = splits.validation.take(splits.validation.spaced(settings.validation))
        self.validation = (to_log(validation.fine), *self.condition(validation))

    def identity(self) -> dict[str, Any]:
        """Return the settings that must equal those of a checkpoint."""
        settings = asdict(self.settings)
        drawing = ("draw_batch", "tune", "steps")
        return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()
                if k not in drawing}  # fmt: skip

    def condition(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return interpolated condition and blocks, (n, y, x) in log space, on the host."""
        blocks = split.coarse.repeat_interleave(self.side, -1).repeat_interleave(self.side, -2)
        return to_log(stretch_bilinear(split.coarse, self.side)), to_log(blocks)

    def denoised(
        self, apply: Callable[..., Tensor], noisy: Tensor, sigma: Tensor, known: Tensor
    ) -> Tensor:
        """Estimate the residual (n, 1, y, x) from the residual with noise of level (n,)."""
        level = sigma[:, None, None, None]
        total = (level**2 + SIGMA_DATA**2).sqrt()
        maps = torch.cat([noisy / total, known], dim=1)
        maps = maps.contiguous(memory_format=torch.channels_last)
        with autocast(self.device):
            raw = apply(maps, sigma.log() / 4)
        keep, gain = SIGMA_DATA**2 / total**2, level * SIGMA_DATA / total
        return keep * noisy + gain * raw.float()

    def loss(self) -> Tensor:
        """Score the denoising of a batch."""
        batch = self.pool.batch(self.settings.batch_size, self.settings.crop)
        normal = torch.randn(len(batch[0]), device=self.device)
        return self._score(batch, normal, None)

    def validate(self) -> float:
        """Score the denoising of validation samples, with the same noise each time."""
        random = torch.Generator(self.device).manual_seed(0)
        total, count = 0.0, len(self.validation[0])
        size = min(64, count)
        # Spread evenly over the levels that training draws at random.
        places = (torch.arange(count) * 0.618034 + 0.5) % 1
        normals = torch.special.ndtri(places.clamp(1e-3, 1 - 1e-3)).to(self.device)
        for start in range(0, count - size + 1, size):
            part = slice(start, start + size)
            batch = tuple(maps[part].to(self.device) for maps in self.validation)
            total += float(self._score(batch, normals[part], random)) * size
        return total / (count // size * size)

    def _score(
        self, batch: tuple[Tensor, ...], normal: Tensor, random: torch.Generator | None
    ) -> Tensor:
        x, base, blocks = (maps[:, None] for maps in batch)
        residual = (x - base) / self.scale
        sigma = (self.settings.noise_mean + self.settings.noise_std * normal).exp()
        noise = torch.randn(residual.shape, generator=random, device=self.device)
        level = sigma[:, None, None, None]
        known = torch.cat([base, blocks], dim=1)
        found = self.denoised(self.apply, residual + level * noise, sigma, known)
        weight = (level**2 + SIGMA_DATA**2) / (level * SIGMA_DATA) ** 2
        return (weight * (found - residual) ** 2).mean()

    def sampled(
        self, apply: Callable[..., Tensor], known: Tensor, noise: Tensor, tuned: Tuned
    ) -> Tensor:
        """Draw one field per row of the condition (n, 2, y, x): rain (n, y, x) in mm h-1."""
        count = self.settings.steps
        ramp = torch.arange(count, dtype=torch.float64) / (count - 1)
        high, low = tuned.sigma_max ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
        levels = [*((high + ramp * (low - high)) ** RHO).tolist(), 0.0]
        x = noise * (levels[0] * tuned.temperature)
        ones = torch.ones(len(x), device=x.device)
        for now, then in pairwise(levels):
            slope = (x - self.denoised(apply, x, ones * now, known)) / now
            moved = x + (then - now) * slope
            if then > 0:
                again = (moved - self.denoised(apply, moved, ones * then, known)) / then
                moved = x + (then - now) * (slope + again) / 2
            x = moved
        return from_log(known[:, 0] + self.scale * x[:, 0])

    def drawer(
        self,
        split: Split,
        tuned: Tuned,
        *,
        apply: Callable[..., Tensor] | None = None,
        plain: bool = False,
    ) -> DrawBatch:
        """Return a function that draws members of samples; ``plain`` leaves out post-processing."""
        known = torch.stack(self.condition(split), dim=1).to(self.device)
        coarse = split.coarse.to(self.device)
        apply = self.apply if apply is None else apply

        def draw(rows: np.ndarray, random: torch.Generator) -> Tensor:
            index = torch.as_tensor(rows, device=self.device)
            shape = (len(rows), 1, *known.shape[2:])
            noise = torch.randn(shape, generator=random, device=self.device)
            with torch.no_grad():
                rain = self.sampled(apply, known[index], noise, tuned)
                if plain:
                    return rain
                if tuned.rescaled:
                    rain = match_block_means(rain, coarse[index])
                return close_dry_gap(rain, tuned.dry)

        return draw

    def tune(self, deadline: Deadline, *, seconds: float, seed: int) -> tuple[Tuned, list[Any]]:
        """Choose settings of drawing by the CRPS of validation samples, one after the other.

        Returns
        -------
        Tuned, list
            The choice, and all that was tried.
        """
        best, tried = (float("inf"), Tuned()), []
        if not self.settings.tune:
            return best[1], tried
        split = self.splits.validation
        split = split.take(split.spaced(self.settings.tune))
        end, size = time.monotonic() + seconds, self.settings.draw_batch
        for change in CHANGES:
            start = replace(best[1], **change, rescaled=False)
            draw = self.drawer(split, start, plain=True)
            raw = torch.from_numpy(
                draw_members(
                    draw, split, 8, batch=size, device=self.device, seed=seed, deadline=deadline
                )
            )
            for rescaled in (False, True):
                rain = match_block_means(raw, split.coarse) if rescaled else raw
                dry = _dry_limit(rain, split.fine)
                candidate = replace(start, rescaled=rescaled, dry=dry)
                score = fair_crps(close_dry_gap(rain, dry), split.fine)
                tried.append({**asdict(candidate), "crps": score})
                if score < best[0]:
                    best = (score, candidate)
            if time.monotonic() > end:
                break
        return best[1], tried


def match_block_means(rain: Tensor, coarse: Tensor) -> Tensor:
    """Scale the blocks of rain (..., n, y, x) to their known means (n, y_coarse, x_coarse)."""
    side = rain.shape[-1] // coarse.shape[-1]
    means = block_means(rain, side)
    factor = torch.where(means > 0, coarse / means.clamp(min=1e-6), torch.ones_like(means))
    factor = torch.where(coarse > 0, factor.clamp(*FACTORS), torch.zeros_like(factor))
    return rain * factor.repeat_interleave(side, -1).repeat_interleave(side, -2)


def close_dry_gap(rain: Tensor, dry: float) -> Tensor:
    """Set rain below a limit to 0, and from there to 0.1 mm h-1, a gap of the record, to 0.1."""
    return torch.where(rain < dry, torch.zeros_like(rain), rain.clamp(min=WET))


def _dry_limit(rain: Tensor, observed: Tensor) -> float:
    """Return the limit that gives the observed wet fraction, from 0.02 to 0.1 mm h-1."""
    wet = float((observed >= WET).float().mean())
    ordered = rain.flatten().sort(descending=True).values
    limit = float(ordered[min(len(ordered) - 1, round(wet * len(ordered)))])
    return min(WET, max(0.2 * WET, limit))

"""The model of the scripts that xcvae replaces: one flat latent vector and no trained prior.

A vector z of 128 numbers, a fully connected decoder from z and the coarse field, prior N(0, I)
for every condition, Gaussian likelihood on z-scores of log1p(rain) per pixel, KL to N(0, I):
Sohn et al. 2015 (NeurIPS) in its plainest form. No dropout and no reweighting: those are diseases
of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import RecordSplits, Split, block_means, from_log, to_log
from benchmarks.models.drawing import DrawBatch, draw_members, fair_crps
from benchmarks.models.training import TrainingBatches, autocast

__all__ = ["Flat", "FlatCVAE"]

LATENT = 128
WIDTHS = (2048, 4096)
BATCH, SMALL_BATCH = 64, 16
#: Validation samples, and members drawn for each.
VALIDATION, MEMBERS = 64, 4
CLIP = 8.0


class Flat(nn.Module):
    """Encoder and decoder.

    Parameters
    ----------
    coarse, fine
        Rows and columns of condition and target.
    """

    def __init__(self, coarse: tuple[int, int], fine: tuple[int, int]) -> None:
        super().__init__()
        self.fine = fine
        known, pixels = coarse[0] * coarse[1], fine[0] * fine[1]
        self.see = nn.Sequential(
            nn.Conv2d(1, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(32, 64, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(64, 128, 4, 2, 1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(8),
            nn.Flatten(),
        )
        self.summarise = nn.Sequential(nn.Linear(128 * 64 + known, 512), nn.SiLU())
        self.posterior = nn.Linear(512, 2 * LATENT)
        sizes = (LATENT + known, *WIDTHS)
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.SiLU())]
        self.decoder = nn.Sequential(*layers, nn.Linear(WIDTHS[-1], pixels))

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-sigma of z from z-scores of target and condition."""
        seen = torch.cat([self.see(x[:, None]), c.flatten(1)], dim=1)
        mu, log_sigma = self.posterior(self.summarise(seen)).chunk(2, dim=1)
        return mu, log_sigma.clamp(-6, 3)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Return z-scores of the field, (batch, y, x)."""
        return self.decoder(torch.cat([z, c.flatten(1)], dim=1)).reshape(-1, *self.fine)


class FlatCVAE:
    """The flat model as `benchmarks.models.training.train` trains it.

    Parameters
    ----------
    splits
        The data.
    device
        Device of the network.
    small
        True for a run on a CPU: smaller batches.
    seed
        Of weights and batches.
    """

    averages = (17.0,)
    validations = 20
    rate = 5e-4

    def __init__(
        self, splits: RecordSplits, device: torch.device, *, small: bool, seed: int
    ) -> None:
        torch.manual_seed(seed)
        self.device, self.side = device, splits.side
        self.batch = SMALL_BATCH if small else BATCH
        size = tuple(splits.train.coarse.shape[1:])
        self.network = Flat(size, splits.train.size).to(device)
        self.pool = TrainingBatches(splits.train, device)
        self.mean = self.pool.x.mean(0)
        self.std = self.pool.x.std(0).clamp(min=1e-3)
        coarse = to_log(splits.train.coarse)
        self.centre, self.spread = float(coarse.mean()), float(coarse.std())
        self.validation = splits.validation.take(splits.validation.spaced(VALIDATION))

    def identity(self) -> dict[str, Any]:
        """Return the settings that must equal those of a checkpoint."""
        return {"latent": LATENT, "widths": list(WIDTHS), "batch_size": self.batch}

    def _condition(self, coarse: Tensor) -> Tensor:
        return (to_log(coarse) - self.centre) / self.spread

    def loss(self) -> Tensor:
        """Return the negative ELBO of a batch, in nats per pixel: a decoder of unit variance."""
        x, _, _ = self.pool.batch(self.batch, max(self.network.fine))
        c = self._condition(block_means(from_log(x), self.side))
        x = (x - self.mean) / self.std
        with autocast(self.device):
            mu, log_sigma = self.network.encode(x, c)
            z = mu + log_sigma.exp() * torch.randn_like(mu)
            found = self.network.decode(z, c).float()
        mu, log_sigma = mu.float(), log_sigma.float()
        kl = 0.5 * (mu**2 + (2 * log_sigma).exp() - 1) - log_sigma
        pixels = x.shape[1] * x.shape[2]
        return 0.5 * F.mse_loss(found, x) + kl.sum(1).mean() / pixels

    def validate(self) -> float:
        """Return the CRPS of prior draws of validation samples."""
        draw = self.drawer(self.validation)
        options = {"batch": len(self.validation), "device": self.device, "deadline": Deadline(None)}
        members = draw_members(draw, self.validation, MEMBERS, seed=0, **options)
        return fair_crps(torch.from_numpy(members), self.validation.fine)

    def drawer(self, split: Split, *, decode: Callable[..., Tensor] | None = None) -> DrawBatch:
        """Return a function that draws members of samples from the prior."""
        known = self._condition(split.coarse).to(self.device)
        decode = self.network.decode if decode is None else decode

        def draw(rows: np.ndarray, random: torch.Generator) -> Tensor:
            index = torch.as_tensor(rows, device=self.device)
            z = torch.randn(len(rows), LATENT, generator=random, device=self.device)
            with torch.no_grad(), autocast(self.device):
                scores = decode(z, known[index]).float().clamp(-CLIP, CLIP)
            return from_log(scores * self.std + self.mean)

        return draw

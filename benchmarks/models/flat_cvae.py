"""The model of the scripts that xcvae replaces: one flat latent vector and no trained prior.

A vector z of 128 numbers, a fully connected decoder from z and the coarse field, prior N(0, I)
whatever the condition, Gaussian likelihood on z-scores of log1p(rain) per pixel, KL to N(0, I):
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

from references.clock import Deadline
from references.data import Arena, Split, block_means, from_log, to_log
from references.drawing import Draw, drawn, fair_crps
from references.learning import Pool, autocast

__all__ = ["Flat", "FlatCVAE"]

LATENT = 128
WIDTHS = (2048, 4096)
BATCH, SMALL_BATCH = 64, 16
#: Validation samples, and members drawn for each.
HELD, MEMBERS = 64, 4
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
        """Mean and log-sigma of z, given z-scores of target and condition."""
        seen = torch.cat([self.see(x[:, None]), c.flatten(1)], dim=1)
        mu, log_sigma = self.posterior(self.summarise(seen)).chunk(2, dim=1)
        return mu, log_sigma.clamp(-6, 3)

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """z-scores of the field, (batch, y, x)."""
        return self.decoder(torch.cat([z, c.flatten(1)], dim=1)).reshape(-1, *self.fine)


class FlatCVAE:
    """The flat model as `references.learning.learn` trains it.

    Parameters
    ----------
    arena
        The data.
    device
        Where it computes.
    small
        Whether it has to do on a CPU.
    seed
        Of weights and batches.
    """

    averages = (17.0,)
    validations = 20
    rate = 5e-4

    def __init__(self, arena: Arena, device: torch.device, *, small: bool, seed: int) -> None:
        torch.manual_seed(seed)
        self.device, self.side = device, arena.side
        self.batch = SMALL_BATCH if small else BATCH
        size = tuple(arena.train.coarse.shape[1:])
        self.network = Flat(size, arena.train.size).to(device)
        self.pool = Pool(arena.train, device)
        self.mean = self.pool.x.mean(0)
        self.std = self.pool.x.std(0).clamp(min=1e-3)
        coarse = to_log(arena.train.coarse)
        self.centre, self.spread = float(coarse.mean()), float(coarse.std())
        self.held = arena.validation.take(arena.validation.spaced(HELD))

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        return {"latent": LATENT, "widths": list(WIDTHS), "batch_size": self.batch}

    def _condition(self, coarse: Tensor) -> Tensor:
        return (to_log(coarse) - self.centre) / self.spread

    def loss(self) -> Tensor:
        """Negative ELBO of a batch, in nats per pixel: a decoder of unit variance."""
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

    def judge(self) -> float:
        """CRPS of prior draws of validation samples."""
        draw = self.drawer(self.held)
        options = {"batch": len(self.held), "device": self.device, "deadline": Deadline(None)}
        members = drawn(draw, self.held, MEMBERS, seed=0, **options)
        return fair_crps(torch.from_numpy(members), self.held.fine)

    def drawer(self, split: Split, *, decode: Callable[..., Tensor] | None = None) -> Draw:
        """Prepare to draw members of samples from the prior."""
        known = self._condition(split.coarse).to(self.device)
        decode = self.network.decode if decode is None else decode

        def draw(rows: np.ndarray, random: torch.Generator) -> Tensor:
            index = torch.as_tensor(rows, device=self.device)
            z = torch.randn(len(rows), LATENT, generator=random, device=self.device)
            with torch.no_grad(), autocast(self.device):
                scores = decode(z, known[index]).float().clamp(-CLIP, CLIP)
            return from_log(scores * self.std + self.mean)

        return draw

"""Validation scores of a network, from a few held-back samples and members."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xcvae.fields.batches import Batch, Batches, ScaledView
from xcvae.fields.record import Record
from xcvae.fields.sample_blocks import evenly_spaced
from xcvae.fields.scaling import Scaling
from xcvae.generator.device import autocast
from xcvae.generator.losses import Laplace, LossState
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.network.networks import Networks

#: Held-back pixels that are scored, within limits of samples; members drawn for each sample;
#: samples per batch.
PIXELS, SAMPLES, MEMBERS, BATCH = 300_000, (16, 256), 4, 8
#: The upper limit of samples is higher, up to this number, while all maps together have at most so
#: many pixels. Few days have heavy rain: on 256 of 730 days of an island, the weights that seemed
#: best had a CRPS on all 730 that was 4 % above that of the last ones.
MOST_SAMPLES, MAP_PIXELS = 1024, 2_000_000
#: The same for each of the scales of a model for any of them.
VIEW_PIXELS, VIEW_SAMPLES = 50_000, (8, 64)


def pick_samples(
    batches: Batches | ScaledView, record: Record, pixels: int, limits: tuple[int, int]
) -> NDArray[np.int64]:
    """Pick samples with about ``pixels`` pixels in total, spread over all samples.

    Parameters
    ----------
    batches
        Held-back samples.
    record
        Record of the training data, for its pixels per sample.
    pixels
        Number of valid pixels to reach.
    limits
        Smallest and largest number of samples; the latter is higher for small maps.
    """
    per_sample = max(1, record.pixels // record.samples)
    if isinstance(batches, ScaledView):
        per_sample = batches.pixels
    most = max(limits[1], min(MOST_SAMPLES, MAP_PIXELS // batches.pixels))
    count = min(max(pixels // per_sample, limits[0]), most, len(batches))
    # Truncated, not rounded: the weights of a model file depend on these samples.
    return evenly_spaced(len(batches), count, down=True)


@dataclass
class Validation:
    """Scores networks on the same held-back samples and noise each time.

    A model of any factor is scored at factors and pixel sizes spread over its ranges.

    Attributes
    ----------
    batches
        Held-back samples.
    scaling, record
        Scaling and training record of the model.
    device
        Device of the network.
    """

    batches: Batches
    scaling: Scaling
    record: Record
    device: torch.device

    def __call__(self, networks: Networks) -> dict[str, float]:
        """Score the networks: reconstructions of the first, and members of all of them.

        Returns
        -------
        dict
            ``val_crps`` (prior draws, fair, physical), ``val_negative_elbo`` (nats per sample,
            Laplace likelihood at beta 1), ``val_kl`` (nats per sample), ``val_mae_tail``
            (reconstructions, physical) and ``val_wet_fraction`` (prior draws).
        """
        networks.train(False)
        generator = torch.Generator(self.device).manual_seed(0)
        parts = [self._score(networks, batch, generator) for batch in self._samples()]
        networks.train()
        totals = {key: sum(part[key] for part in parts) for key in parts[0]}
        pixels, samples = max(totals["pixels"], 1.0), totals["samples"]
        return {
            "val_crps": totals["crps"] / pixels,
            "val_negative_elbo": totals["negative_elbo"] / samples,
            "val_kl": totals["kl"] / samples,
            "val_mae_tail": totals["tail_error"] / max(totals["tail_pixels"], 1.0),
            "val_wet_fraction": totals["wet"] / pixels,
        }

    def _samples(self) -> Iterator[Batch]:
        views = self.batches.views()
        pixels, limits = (PIXELS, SAMPLES) if len(views) == 1 else (VIEW_PIXELS, VIEW_SAMPLES)
        for view in views:
            picks = pick_samples(view, self.record, pixels, limits)
            for start in range(0, len(picks), BATCH):
                yield view.load(picks[start : start + BATCH]).to(self.device)

    def _score(
        self, networks: Networks, batch: Batch, generator: torch.Generator
    ) -> dict[str, float]:
        assert batch.x is not None
        network, count = networks[0], max(MEMBERS, len(networks))
        noise = network.noise(len(batch), batch.c, generator)
        with torch.inference_mode(), autocast(self.device):
            drawn = network(batch.c, batch.pooled, noise, x=batch.x, side=batch.side)
            members = [
                self._member(networks[m % len(networks)], batch, generator) for m in range(count)
            ]
        kl = [level.float() for level in drawn.kl()]
        state = LossState(
            x=batch.x,
            output=drawn.output.float(),
            mask=batch.mask,
            kl=kl,
            step=0,
            progress=1.0,
            scaling=self.scaling,
            record=self.record,
            draw=lambda: members[0],
        )
        pixels = float(batch.mask.sum())
        nll = float(Laplace()(state)) * pixels
        nats = float(torch.stack(kl).sum())
        physical = torch.stack([self.scaling.physical(m) for m in members])
        tail = batch.mask & (state.observed > self.record.quantile(0.95, wet=True))
        wet = (physical >= self.record.wet_threshold) * batch.mask
        return {
            "samples": float(len(batch)),
            "pixels": pixels,
            "crps": float((fair_crps(physical, state.observed) * batch.mask).sum()),
            "negative_elbo": nll + nats,
            "kl": nats,
            "tail_error": float(((state.reconstructed - state.observed).abs() * tail).sum()),
            "tail_pixels": float(tail.sum()),
            "wet": float(wet.sum()) / count,
        }

    def _member(self, network: Ladder, batch: Batch, generator: torch.Generator) -> Tensor:
        noise = network.noise(len(batch), batch.c, generator)
        output: Tensor = network(batch.c, batch.pooled, noise, side=batch.side).output
        return output.float()


def fair_crps(members: Tensor, observed: Tensor) -> Tensor:
    """Compute the fair CRPS per pixel (Ferro 2014, doi:10.1002/qj.2270) of (members, ...)."""
    count = len(members)
    error = (members - observed).abs().mean(0)
    ordered = members.sort(0).values
    ranks = torch.arange(count, device=members.device).view(-1, *[1] * observed.ndim)
    # Sum of |x_i - x_j| over pairs i < j, from the sorted members.
    pairs = ((2 * ranks - count + 1) * ordered).sum(0)
    return error - pairs / math.comb(count, 2) / 2

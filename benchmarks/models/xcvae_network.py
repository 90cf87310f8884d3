"""The settings of xcvae in the comparison, and its network alone, for the speed of drawing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import xcvae
from benchmarks.harness.record_splits import Split
from benchmarks.models.training import autocast, compiled

__all__ = ["default_fit", "network_drawer"]

#: Members of a sample share its encoded condition, as in `xcvae.sample`.
SHARED = 16


def default_fit(device: torch.device, *, minutes: float) -> dict[str, Any]:
    """Return keys of ``fit`` for a device; a checkpoint at least every minute."""
    fit: dict[str, Any] = {"max_minutes": minutes, "validations": max(8, round(minutes))}
    if device.type == "cuda":
        fit |= {"batch_size": 64, "crop": 128}
    return fit


def network_drawer(
    model: xcvae.Model, split: Split, device: torch.device, *, fast: bool
) -> Callable[[int], object]:
    """Return a function that draws fields from the prior; ``fast`` compiles.

    Only the network, with noise made on the device: `xcvae.sample` also reads, post-processes and
    labels, and its noise has an address.
    """
    from xcvae.fields.describe import prepare

    model.to(str(device))
    some = split.take(split.spaced(64))
    prepared = prepare(some.ds, model.spec, need_target=True)
    batch = model.batches(prepared).load(slice(None)).packed().to(device)
    network, scaling = model.network, model.scaling
    latents = network.shapes(*split.size)

    def fields(conditions: torch.Tensor, repeats: int) -> torch.Tensor:
        known = network.encode(conditions, None)
        known = type(known).join([known] * repeats)
        count = len(conditions) * repeats
        noise = [torch.randn(count, *shape, device=device) for shape in latents]
        return scaling.physical(network.descend(known, noise).output.float())

    apply = compiled(fields, device) if fast else fields

    def draw(count: int) -> object:
        repeats = min(SHARED, count)
        rows = np.resize(np.arange(len(some)), count // repeats)
        with torch.inference_mode(), autocast(device):
            conditions = batch.c[torch.as_tensor(rows, device=device)]
            return apply(conditions.contiguous(memory_format=torch.channels_last), repeats)

    return draw

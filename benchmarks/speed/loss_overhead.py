"""What losses by name cost: a step of the trainer against the same arithmetic written out.

    python benchmarks/loss_overhead.py [--steps 60] [--output loss_overhead.json]

Six terms, two of them from a plugin that is registered here. Both sides train the same network
from the same weights on the same batch, step by step in turn, so that both see the same machine;
the ratio is the median over pairs of steps. The target is 5 % more per step, at most.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from references.results import Row, report
from references.workbench import make_trainer
from references.written_out import negative_elbo
from torch import Tensor

import xcvae
from xcvae.fields.batch import Batch
from xcvae.generator.numerics import autocast
from xcvae.generator.trainer import Trainer
from xcvae.generator.validation import noise_for
from xcvae.plugins import Component, LossState

LOSSES = ["laplace", "kl", "intensity_weighted_mae", "mass", "wet_area", "log_error"]
WARM_UP = 5


@dataclass(frozen=True)
class WetArea(Component):
    """Difference of the wet share of each sample, softened so that it has a gradient."""

    softness: float = 0.05
    weight: float = 0.2

    def __call__(self, state: LossState) -> Tensor:
        """Return the weighted mean over samples."""
        shares = [
            (torch.sigmoid(f / self.softness) * state.mask).flatten(1).sum(1) / state.pixels()
            for f in (state.output, state.x)
        ]
        return self.weight * (shares[0] - shares[1]).abs().mean()


@dataclass(frozen=True)
class LogError(Component):
    """Squared error in normalised space."""

    weight: float = 0.5

    def __call__(self, state: LossState) -> Tensor:
        """Return the weighted mean over valid pixels."""
        return self.weight * state.mean((state.output - state.x) ** 2)


class Plugin:
    """The local plugin that brings them."""

    @xcvae.hookimpl
    def xcvae_components(self) -> dict[str, dict[str, type]]:
        """Name the two terms."""
        return {"loss": {"wet_area": WetArea, "log_error": LogError}}


class WrittenOut:
    """The arithmetic of the six terms with their default parameters, and nothing around it."""

    def __init__(self, trainer: Trainer) -> None:
        self.tail = trainer.record.quantile(0.95, wet=True)
        self.scaling = trainer.scaling

    def __call__(self, x: Tensor, output: Tensor, mask: Tensor, kl: list[Tensor]) -> Tensor:
        """Return the sum of the six."""
        valid = mask.sum().clamp(min=1)
        pixels = mask.flatten(1).sum(1, dtype=torch.float32).clamp(min=1)
        elbo = negative_elbo(x, output, mask, kl)
        observed, made = self.scaling.physical(x), self.scaling.physical(output)
        weights = (0.1 + observed / 10.0).clamp(max=2.0)
        weights = torch.where(observed > self.tail, weights * 1.5, weights)
        heavy = (weights * (made - observed).abs() * mask).sum() / valid
        mass = 0.05 * (((made - observed) * mask).flatten(1).sum(1) / pixels).abs().mean()
        a, b = ((torch.sigmoid(f / 0.05) * mask).flatten(1).sum(1) / pixels for f in (output, x))
        area = 0.2 * (a - b).abs().mean()
        square = 0.5 * ((output - x) ** 2 * mask).sum() / valid
        return elbo + heavy + mass + area + square


def bare_step(trainer: Trainer, written: WrittenOut, batch: Batch, done: float) -> Tensor:
    """`Trainer._step` with the losses written out."""
    with autocast(trainer.device):
        known = trainer.encode(batch.c, batch.pooled, batch.x)
        drawn = trainer.descend(known, noise_for(trainer.network, batch))
    assert batch.x is not None
    kl = [level.float() for level in drawn.kl()]
    loss = written(batch.x, drawn.output.float(), batch.mask, kl)
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    weights = [w for group in trainer.optimizer.param_groups for w in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, trainer.settings.clip_norm)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.settings.rate(done)
    trainer.optimizer.step()
    trainer._follow()
    return loss.detach()


def side(arguments: argparse.Namespace) -> tuple[Trainer, Batch]:
    """A trainer on the bundled radar, and the batch that it takes again and again."""
    ds = xcvae.tutorial.open_dataset("radklim").isel(time=slice(0, 60)).load()
    fit = {"crop": arguments.crop, "batch_size": arguments.batch_size, "compile": False}
    generator = {"preset": arguments.preset}
    trainer = make_trainer(ds, generator=generator, fit=fit, losses=LOSSES, device=arguments.device)
    stream = trainer.batches.shuffled(arguments.batch_size, trainer.rng)
    batch = trainer._cropped(next(stream))
    stream.close()
    return trainer, batch


def timed(trainer: Trainer, act: Any) -> tuple[float, float]:
    """Return seconds and loss of one step, its noise given by the number of the step."""
    torch.manual_seed(trainer.state.step)
    began = time.perf_counter()
    loss = float(act())  # waits for the device
    seconds = time.perf_counter() - began
    trainer.state.step += 1
    return seconds, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    xcvae.plugins.register(Plugin())
    (named, batch), (bare, _) = side(arguments), side(arguments)
    bare.network.load_state_dict(copy.deepcopy(named.network.state_dict()))
    written = WrittenOut(bare)
    sides = {
        "named": (named, lambda: named._step(batch, 0.5)["loss"]),
        "written_out": (bare, lambda: bare_step(bare, written, batch, 0.5)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for step in range(WARM_UP + arguments.steps):
        losses = []
        # In turn, and the first of each pair in turn too: what is warm helps whoever comes second.
        for name in sorted(sides, reverse=bool(step % 2)):
            spent, loss = timed(*sides[name])
            losses.append(loss)
            if step >= WARM_UP:
                seconds[name].append(spent)
        if step == 0 and not math.isclose(*losses, rel_tol=1e-5):
            raise SystemExit(f"the two sides do not compute the same: {losses}")
    row = Row.paired(
        "step, losses by name",
        seconds["named"],
        seconds["written_out"],
        amount=1,
        unit="steps/s",
        against="the same written out",
        target=1 / 1.05,
    )
    settings = vars(arguments) | {"losses": LOSSES}
    report("loss_overhead", [row], settings, device=arguments.device, output=arguments.output)


if __name__ == "__main__":
    main()

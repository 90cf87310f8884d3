"""Cost of losses by name: a step of the trainer beside the same arithmetic in plain torch.

    python -m benchmarks.speed.loss_overhead [--steps 60] [--output loss_overhead.json]

Six terms, two of them from a plugin that this benchmark registers. Both sides train the same
network from the same weights on the same batch, step by step in turn; the ratio is the median over
pairs of steps. The target is 5 % more per step, at most.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import xcvae
from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import interleaved_seconds
from benchmarks.harness.untrained import make_trainer
from benchmarks.speed.negative_elbo import negative_elbo
from xcvae.fields.batches import Batch
from xcvae.generator.device import autocast
from xcvae.generator.training.trainer import Trainer
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
    """A local plugin with these two losses."""

    @xcvae.hookimpl
    def xcvae_components(self) -> dict[str, dict[str, type]]:
        """Return the two losses by name."""
        return {"loss": {"wet_area": WetArea, "log_error": LogError}}


class PlainLosses:
    """The six terms in plain torch, with their default parameters."""

    def __init__(self, trainer: Trainer) -> None:
        self.tail = trainer.record.quantile(0.95, wet=True)
        self.scaling = trainer.scaling

    def __call__(self, x: Tensor, output: Tensor, mask: Tensor, kl: list[Tensor]) -> Tensor:
        """Return the sum of the six terms."""
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


def plain_step(trainer: Trainer, losses: PlainLosses, batch: Batch, done: float) -> Tensor:
    """Take the step of `Trainer._step` with the losses in plain torch."""
    with autocast(trainer.device):
        passes = trainer.passes[0]
        known = passes.encode(batch.c, batch.pooled, batch.x)
        drawn = passes.descend(known, trainer.networks[0].noise(len(batch), batch.c))
    assert batch.x is not None
    kl = [level.float() for level in drawn.kl()]
    loss = losses(batch.x, drawn.output.float(), batch.mask, kl)
    trainer.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    weights = [w for group in trainer.optimizer.param_groups for w in group["params"]]
    torch.nn.utils.clip_grad_norm_(weights, trainer.settings.clip_norm)
    for group in trainer.optimizer.param_groups:
        group["lr"] = trainer.settings.rate(done)
    trainer.optimizer.step()
    trainer._update_average()
    return loss.detach()


def make_side(options: argparse.Namespace) -> tuple[Trainer, Batch]:
    """Make a trainer on the bundled radar, and the batch of all its steps."""
    ds = open_radar().isel(time=slice(0, 60))
    fit = {"crop": options.crop, "batch_size": options.batch_size, "compile": False}
    generator = {"preset": options.preset}
    trainer = make_trainer(ds, generator=generator, fit=fit, losses=LOSSES, device=options.device)
    stream = trainer.batches.shuffled(options.batch_size, trainer.rng)
    batch = trainer._random_crop(next(stream))
    stream.close()
    return trainer, batch


def seeded(trainer: Trainer, step: Callable[[], Tensor]) -> Callable[[], float]:
    """Return a step whose noise depends on its number alone; the step returns its loss."""

    def act() -> float:
        torch.manual_seed(trainer.state.step)
        loss = float(step())  # waits for the device
        trainer.state.step += 1
        return loss

    return act


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_preset()
    parser.add_argument("--crop", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_device()
    parser.add_output_file()
    options = parser.parse_args(argv)
    xcvae.plugins.register(Plugin())
    (named, batch), (plain, _) = make_side(options), make_side(options)
    plain.networks.load_state_dict(copy.deepcopy(named.networks.state_dict()))
    losses = PlainLosses(plain)
    sides = {
        "named": seeded(named, lambda: named._step(batch, 0.5)["loss"]),
        "plain": seeded(plain, lambda: plain_step(plain, losses, batch, 0.5)),
    }
    first = [step() for step in sides.values()]
    if not math.isclose(*first, rel_tol=1e-5):
        raise SystemExit(f"the two sides do not compute the same: {first}")
    seconds = interleaved_seconds(sides, named.device, rounds=options.steps, warm_up=WARM_UP - 1)
    row = Row.paired(
        "step, losses by name",
        seconds["named"],
        seconds["plain"],
        amount=1,
        unit="steps/s",
        against="the same written out",
        target=1 / 1.05,
    )
    settings = vars(options) | {"losses": LOSSES}
    report("loss_overhead", [row], settings, device=options.device, output=options.output)


if __name__ == "__main__":
    main()

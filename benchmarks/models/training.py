"""The training loop of the rival models: a time budget that may be spent over several calls.

The clock leaves out the time of torch.compile, as that of xcvae does: it starts after the first
step of a call, on a GPU after a first validation too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.harness.deadline import Deadline, OutOfTime
from benchmarks.harness.record_splits import Split, block_means, from_log, stretch_bilinear, to_log
from benchmarks.harness.timing import synchronize
from xcvae.generator.device import precision

__all__ = ["Trainable", "TrainingBatches", "TrainingLog", "autocast", "compiled", "train"]

#: Seconds between checkpoints, and steps between looks at the clock of a GPU.
SAVE_EVERY, LOOK_EVERY = 60.0, 10


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the precision that xcvae uses on a device."""
    enabled = precision(device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile for a GPU; where that fails, print so once and run eagerly."""
    if device.type != "cuda":
        return function
    fast = torch.compile(function, dynamic=False)
    state = {"use": fast}

    def call(*arguments: Any) -> Any:
        if state["use"] is function:
            return function(*arguments)
        try:
            return fast(*arguments)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ImportError, OSError) as error:  # no compiler, no Triton, ...
            print(f"torch.compile failed ({type(error).__name__}): eager from here on")
            state["use"] = function
            return function(*arguments)

    return call


class TrainingBatches:
    """Augmented batches of the training samples, which are kept as tensors on the device.

    Parameters
    ----------
    split
        The samples.
    device
        Device of the tensors.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self.side = split.side
        self.x = to_log(split.fine).to(device)
        self.base = to_log(stretch_bilinear(split.coarse, split.side)).to(device)

    def batch(self, size: int, crop: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return target, interpolated condition and its blocks in log space, each (size, y, x).

        Crops are windows of whole blocks, the same for a batch; flips and transposition are drawn
        for every sample.
        """
        device = self.x.device
        rows = torch.randint(len(self.x), (size,), device=device)
        height, width = self.x.shape[1:]
        crop = min(height, width) if crop is None else crop
        high, wide = (min(crop // self.side * self.side, n) for n in (height, width))
        top, left = (
            int(torch.randint((n - cut) // self.side + 1, ())) * self.side
            for n, cut in ((height, high), (width, wide))
        )
        window = (slice(top, top + high), slice(left, left + wide))
        x, base = self.x[rows][:, *window], self.base[rows][:, *window]
        both = torch.stack([x, base], dim=1)
        for axis in (-1, -2):
            both = torch.where(_coin(size, device), both.flip(axis), both)
        if high == wide:
            both = torch.where(_coin(size, device), both.transpose(-1, -2), both)
        x, base = both[:, 0], both[:, 1]
        return x, base, blocks_of(x, self.side)


def blocks_of(x: Tensor, side: int) -> Tensor:
    """Average a field in log space over blocks of rain; return log space, repeated over pixels."""
    means = to_log(block_means(from_log(x), side))
    return means.repeat_interleave(side, -1).repeat_interleave(side, -2)


def _coin(size: int, device: torch.device) -> Tensor:
    return torch.rand(size, 1, 1, 1, device=device) < 0.5


@dataclass
class TrainingLog:
    """Progress of a training.

    Attributes
    ----------
    step, seconds
        Steps and training time so far.
    best, which
        Best validation score, and its weights: 0 for the last ones, else the number of an average.
    history
        One entry per validation.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    which: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Trainable(Protocol):
    """A model that `train` trains.

    Attributes
    ----------
    network, device, rate
        What to optimise, where, and the peak of the learning rate.
    averages
        Powers of the averages of the weights that are validated too.
    validations
        Number of validations, evenly spaced over the training.
    """

    network: nn.Module
    device: torch.device
    rate: float
    averages: tuple[float, ...]
    validations: int

    def loss(self) -> Tensor:
        """Draw a batch and score it."""
        ...

    def validate(self) -> float:
        """Score the current weights of the network on the validation split."""
        ...


def train(
    model: Trainable,
    *,
    minutes: float,
    place: Path,
    identity: Mapping[str, Any],
    deadline: Deadline,
    label: str,
) -> TrainingLog:
    """Train for a number of minutes, over as many calls as that takes.

    The best of all validated weights, averaged ones among them, is in the network at the end.

    Parameters
    ----------
    model
        Weights, batches and scores.
    minutes
        Budget of all calls together, validation included, compilation not.
    place
        Checkpoint; a training continues from it if it exists.
    identity
        Settings that must equal those of the checkpoint.
    deadline
        Of this call.
    label
        Name in the log on the screen.

    Raises
    ------
    OutOfTime
        The call ends before the training does, after writing a checkpoint.
    """
    run = _Run(model, place, {**identity, "minutes": minutes})
    run.load()
    budget = 60 * minutes
    if run.log.seconds < budget:
        run.train(budget, deadline, label)
    run.use(run.best)
    return run.log


class _Run:
    def __init__(self, model: Trainable, place: Path, identity: Mapping[str, Any]) -> None:
        self.model, self.place, self.identity = model, place, dict(identity)
        self.log = TrainingLog()
        weights = [p.detach() for p in model.network.parameters()]
        self.weights = weights
        self.averages = [[w.clone() for w in weights] for _ in model.averages]
        self.best = [w.clone() for w in weights]
        self.optimizer = torch.optim.AdamW(
            model.network.parameters(),
            lr=model.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self.saved, self.pause = time.monotonic(), SAVE_EVERY

    def train(self, budget: float, deadline: Deadline, label: str) -> None:
        model, log = self.model, self.log
        if model.device.type == "cuda":  # compile the validation before the clock starts
            model.network.eval()
            with torch.no_grad():
                model.validate()
        model.network.train()
        began: float | None = None
        before = log.seconds
        fresh = False
        while log.seconds < budget:
            progress = log.seconds / budget
            loss = self._step(progress)
            if began is None:  # the first step of a call compiles, which is not training
                synchronize(model.device)
                began = time.monotonic()
            if log.step % LOOK_EVERY == 0 or model.device.type == "cpu":
                synchronize(model.device)
            log.seconds = before + time.monotonic() - began
            due = math.floor(min(1.0, log.seconds / budget) * model.validations)
            fresh = due > math.floor(progress * model.validations)
            if fresh:
                self._validate(float(loss), label)
                log.seconds = before + time.monotonic() - began
            if deadline.over():
                self.save()
                raise OutOfTime
            if time.monotonic() - self.saved > self.pause:
                self.save()
        if not fresh:
            self._validate(float(loss), label)
        self.save()

    def _step(self, progress: float) -> Tensor:
        model, log = self.model, self.log
        loss = model.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        rise = min(1.0, (progress + 1e-3) / 0.02)
        for group in self.optimizer.param_groups:
            group["lr"] = model.rate * rise * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimizer.step()
        log.step += 1
        # Averages with a memory that grows with the training (arXiv:2312.02696).
        for average, power in zip(self.averages, model.averages, strict=True):
            torch._foreach_lerp_(average, self.weights, 1 - (1 - 1 / log.step) ** power)
        return loss.detach()

    @torch.no_grad()
    def _validate(self, loss: float, label: str) -> None:
        model, log = self.model, self.log
        if not math.isfinite(loss):
            raise SystemExit(f"{label}: the loss is {loss} at step {log.step}; lower the rate")
        current = [w.clone() for w in self.weights]
        scores = []
        model.network.eval()
        for kind, average in enumerate([current, *self.averages]):
            self.use(average)
            scores.append(model.validate())
            if scores[-1] < log.best:
                log.best, log.which = scores[-1], kind
                self.best = [w.clone() for w in average]
        self.use(current)
        model.network.train()
        log.history.append({"step": log.step, "loss": loss, "validation": min(scores)})
        listed = " ".join(f"{score:.4f}" for score in scores)
        print(
            f"{label}: {log.seconds / 60:6.2f} min, step {log.step}, loss {loss:.4f}, "
            f"validation {listed} (best {log.best:.4f})",
            flush=True,
        )

    def use(self, weights: list[Tensor]) -> None:
        """Put weights into the network."""
        torch._foreach_copy_(self.weights, weights)

    def save(self) -> None:
        """Write a checkpoint, complete or not at all."""
        start = time.monotonic()
        cuda = torch.cuda.get_rng_state() if self.model.device.type == "cuda" else None
        state = {
            "identity": self.identity,
            "log": asdict(self.log),
            "weights": self.weights,
            "averages": self.averages,
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "random": [torch.get_rng_state(), cuda],
        }
        partial = self.place.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.place)
        self.saved = time.monotonic()
        # A checkpoint of the flat model has more than 1 GB: write for 5 % of the time at most.
        self.pause = max(SAVE_EVERY, 20 * (self.saved - start))

    def load(self) -> None:
        """Continue from a checkpoint."""
        if not self.place.exists():
            return
        state = torch.load(self.place, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise SystemExit(
                f"{self.place} is the checkpoint of another training: expected {self.identity}, "
                f"got {state['identity']}. Give another --output, or remove the file."
            )
        self.log = TrainingLog(**state["log"])
        self.use([w.to(self.model.device) for w in state["weights"]])
        for average, kept in zip(self.averages, state["averages"], strict=True):
            torch._foreach_copy_(average, [w.to(self.model.device) for w in kept])
        self.best = [w.to(self.model.device) for w in state["best"]]
        self.optimizer.load_state_dict(state["optimizer"])
        cpu, cuda = state["random"]
        torch.set_rng_state(cpu)
        if cuda is not None and self.model.device.type == "cuda":
            torch.cuda.set_rng_state(cuda)

"""The training loop of the references: a time budget that may be spent over several calls.

The clock leaves out what torch.compile takes, as that of xcvae does: it begins after the first step
of a call, on a GPU after a first validation too.
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

from references.clock import Deadline, OutOfTime
from references.data import Split, block_means, from_log, stretched, to_log
from xcvae.generator.numerics import precision

__all__ = ["Learner", "Log", "Pool", "autocast", "compiled", "learn"]

#: Seconds between checkpoints, and steps between looks at the clock of a GPU.
SAVE_EVERY, LOOK_EVERY = 60.0, 10


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the precision that xcvae computes in on a device."""
    enabled = precision(device) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """Compile for a GPU; where that fails, say so once and go on without."""
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


class Pool:
    """The training samples as tensors on the device, handed out in augmented batches.

    Parameters
    ----------
    split
        The samples.
    device
        Where they are kept.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self.side = split.side
        self.x = to_log(split.fine).to(device)
        self.base = to_log(stretched(split.coarse, split.side)).to(device)

    def batch(self, size: int, crop: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Target, stretched condition and blocks of it in log space, each (size, y, x).

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
    """Block means of a field in log space, in log space, repeated over their pixels."""
    means = to_log(block_means(from_log(x), side))
    return means.repeat_interleave(side, -1).repeat_interleave(side, -2)


def _coin(size: int, device: torch.device) -> Tensor:
    return torch.rand(size, 1, 1, 1, device=device) < 0.5


@dataclass
class Log:
    """What a training has done so far."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    which: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Learner(Protocol):
    """A reference that is trained."""

    network: nn.Module
    device: torch.device
    rate: float
    averages: tuple[float, ...]
    validations: int

    def loss(self) -> Tensor:
        """Draw a batch and score it."""
        ...

    def judge(self) -> float:
        """Score the weights that are in the network on the validation split."""
        ...


def learn(
    learner: Learner,
    *,
    minutes: float,
    place: Path,
    identity: Mapping[str, Any],
    deadline: Deadline,
    tell: str,
) -> Log:
    """Train for a number of minutes, over as many calls as that takes.

    The best of all validated weights, averaged ones among them, is in the network at the end.

    Parameters
    ----------
    learner
        What to train.
    minutes
        Budget of all calls together, validation included, compilation not.
    place
        Checkpoint; goes on from it if it is there.
    identity
        Settings that a checkpoint must agree with.
    deadline
        Of this call.
    tell
        Name for the log on the screen.

    Raises
    ------
    OutOfTime
        The call ends before the training does; the checkpoint is written.
    """
    run = _Run(learner, place, {**identity, "minutes": minutes})
    run.load()
    budget = 60 * minutes
    if run.log.seconds < budget:
        run.train(budget, deadline, tell)
    run.use(run.best)
    return run.log


class _Run:
    def __init__(self, learner: Learner, place: Path, identity: Mapping[str, Any]) -> None:
        self.learner, self.place, self.identity = learner, place, dict(identity)
        self.log = Log()
        weights = [p.detach() for p in learner.network.parameters()]
        self.weights = weights
        self.averages = [[w.clone() for w in weights] for _ in learner.averages]
        self.best = [w.clone() for w in weights]
        self.optimizer = torch.optim.AdamW(
            learner.network.parameters(),
            lr=learner.rate,
            betas=(0.9, 0.99),
            weight_decay=1e-4,
            fused=True,
        )
        self.saved, self.pause = time.monotonic(), SAVE_EVERY

    def train(self, budget: float, deadline: Deadline, tell: str) -> None:
        learner, log = self.learner, self.log
        if learner.device.type == "cuda":  # what validation runs is compiled before the clock runs
            learner.network.eval()
            with torch.no_grad():
                learner.judge()
        learner.network.train()
        began: float | None = None
        before = log.seconds
        fresh = False
        while log.seconds < budget:
            progress = log.seconds / budget
            loss = self._step(progress)
            if began is None:  # the first step of a call compiles, which is not training
                _synchronise(learner.device)
                began = time.monotonic()
            if log.step % LOOK_EVERY == 0 or learner.device.type == "cpu":
                _synchronise(learner.device)
            log.seconds = before + time.monotonic() - began
            due = math.floor(min(1.0, log.seconds / budget) * learner.validations)
            fresh = due > math.floor(progress * learner.validations)
            if fresh:
                self._validate(float(loss), tell)
                log.seconds = before + time.monotonic() - began
            if deadline.over():
                self.save()
                raise OutOfTime
            if time.monotonic() - self.saved > self.pause:
                self.save()
        if not fresh:
            self._validate(float(loss), tell)
        self.save()

    def _step(self, progress: float) -> Tensor:
        learner, log = self.learner, self.log
        loss = learner.loss()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.network.parameters(), 1.0)
        rise = min(1.0, (progress + 1e-3) / 0.02)
        for group in self.optimizer.param_groups:
            group["lr"] = learner.rate * rise * 0.5 * (1 + math.cos(math.pi * progress))
        self.optimizer.step()
        log.step += 1
        # Averages with a memory that grows with the training (arXiv:2312.02696).
        for average, power in zip(self.averages, learner.averages, strict=True):
            torch._foreach_lerp_(average, self.weights, 1 - (1 - 1 / log.step) ** power)
        return loss.detach()

    @torch.no_grad()
    def _validate(self, loss: float, tell: str) -> None:
        learner, log = self.learner, self.log
        if not math.isfinite(loss):
            raise SystemExit(f"{tell}: the loss is {loss} at step {log.step}; lower the rate")
        current = [w.clone() for w in self.weights]
        scores = []
        learner.network.eval()
        for kind, average in enumerate([current, *self.averages]):
            self.use(average)
            scores.append(learner.judge())
            if scores[-1] < log.best:
                log.best, log.which = scores[-1], kind
                self.best = [w.clone() for w in average]
        self.use(current)
        learner.network.train()
        log.history.append({"step": log.step, "loss": loss, "validation": min(scores)})
        listed = " ".join(f"{score:.4f}" for score in scores)
        print(
            f"{tell}: {log.seconds / 60:6.2f} min, step {log.step}, loss {loss:.4f}, "
            f"validation {listed} (best {log.best:.4f})",
            flush=True,
        )

    def use(self, weights: list[Tensor]) -> None:
        """Put weights into the network."""
        torch._foreach_copy_(self.weights, weights)

    def save(self) -> None:
        """Write a checkpoint, complete or not at all."""
        start = time.monotonic()
        cuda = torch.cuda.get_rng_state() if self.learner.device.type == "cuda" else None
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
        # That of the flat model has more than 1 GB: writing is to take 5 % of the time at most.
        self.pause = max(SAVE_EVERY, 20 * (self.saved - start))

    def load(self) -> None:
        """Go on from a checkpoint."""
        if not self.place.exists():
            return
        state = torch.load(self.place, map_location="cpu", weights_only=True)
        if state["identity"] != self.identity:
            raise SystemExit(
                f"{self.place} is of another training: {state['identity']}, "
                f"not {self.identity}. Use another --output, or remove it."
            )
        self.log = Log(**state["log"])
        self.use([w.to(self.learner.device) for w in state["weights"]])
        for average, kept in zip(self.averages, state["averages"], strict=True):
            torch._foreach_copy_(average, [w.to(self.learner.device) for w in kept])
        self.best = [w.to(self.learner.device) for w in state["best"]]
        self.optimizer.load_state_dict(state["optimizer"])
        cpu, cuda = state["random"]
        torch.set_rng_state(cpu)
        if cuda is not None and self.learner.device.type == "cuda":
            torch.cuda.set_rng_state(cuda)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()

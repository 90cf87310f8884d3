"""The loop that trains a ladder, and each of its steps."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from xcvae.errors import DataError, explain
from xcvae.fields.batches import Batch, Batches
from xcvae.fields.describe import DataSpec
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.files import write_text
from xcvae.generator.device import autocast, compiled
from xcvae.generator.losses import LossState, learned_by
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Encoded, Ladder
from xcvae.generator.training import checkpoint
from xcvae.generator.training.distributed import ProcessGroup
from xcvae.generator.training.settings import Fit, Stage, Term
from xcvae.generator.training.threads import ThreadTuner
from xcvae.generator.training.validation import Validation, noise_for
from xcvae.registry import call, wrong_result

__all__ = ["Trainer", "Windows", "columns_of", "learned_values", "value_of"]


#: Windows that are tried for one with at least this share of valid pixels.
TRIES, LEAST_VALID = 100, 0.02


@dataclass(frozen=True)
class Windows:
    """Cuts a random window out of every batch, turned at random.

    Attributes
    ----------
    side
        Pixels along a side; smaller domains are used whole.
    unit
        Windows begin and end at multiples of so many pixels: blocks whose means are kept stay
        whole.
    flips
        Whether they are flipped and transposed.
    valid
        Pixels where the target is ever valid, (y, x); None for all.
    """

    side: int
    unit: int = 1
    flips: bool = False
    valid: NDArray[np.bool_] | None = None

    def cut(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Take the same window of all samples of a batch."""
        height, width = batch.c.shape[-2:]
        side = max(self.unit, self.side // self.unit * self.unit)
        rows, columns = min(side, height), min(side, width)
        top, left = self._place(height - rows, width - columns, (rows, columns), rng)
        batch = batch.crop(top, left, rows, columns)
        if self.flips:
            a, b, c = rng.random(3) < 0.5
            batch = batch.turned(rows=bool(a), columns=bool(b), transpose=bool(c))
        return batch

    def _place(
        self, down: int, right: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        top = left = 0
        for _ in range(1 if self.valid is None else TRIES):
            top = self.unit * int(rng.integers(down // self.unit + 1))
            left = self.unit * int(rng.integers(right // self.unit + 1))
            if self.valid is None:
                break
            # A window of sea has nothing to learn from, and all of its KL would still count.
            if self.valid[top : top + size[0], left : left + size[1]].mean() >= LEAST_VALID:
                break
        return top, left


def learned_values(stages: tuple[Stage, ...], device: torch.device) -> dict[str, nn.Parameter]:
    """What loss terms learn beside the network, such as the scale of a likelihood."""
    initial = learned_by(pair for stage in stages for pair in stage.losses)
    return {
        name: nn.Parameter(torch.tensor(value, dtype=torch.float32, device=device))
        for name, value in initial.items()
    }


def value_of(term: Term, state: LossState) -> Tensor:
    """Call a loss term, and make sure that what comes back can be added up."""
    value = call("loss", term, state)
    if isinstance(value, Tensor) and value.ndim == 0:
        return value
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise wrong_result("loss", term, expected="a tensor without dimensions", got=got)


def columns_of(name: str, value: Tensor) -> dict[str, float]:
    """Columns of the log for a learned scalar or vector."""
    numbers = value.detach().flatten().tolist()
    if len(numbers) == 1:
        return {name: numbers[0]}
    return {f"{name}_{i}": number for i, number in enumerate(numbers)}


#: Memory of the weight average, as a power of the step: about the last tenth of the training
#: whatever its length (Karras et al. 2024, arXiv:2312.02696).
AVERAGE_POWER = 9


@dataclass
class Trainer:
    """A training under way. `run` is the loop; everything else is one step of it."""

    network: Ladder
    batches: Batches
    validation: Validation | None
    scaling: Scaling
    record: Record
    architecture: Architecture
    settings: Fit
    stages: tuple[Stage, ...]
    device: torch.device
    rng: np.random.Generator
    state: checkpoint.Progress = field(default_factory=checkpoint.Progress)
    place: Path | None = None
    identity: str = ""
    #: Pixels where the target is ever valid, (y, x), if it has a mask.
    valid: NDArray[np.bool_] | None = None
    #: The processes that train together.
    ranks: ProcessGroup = field(default_factory=ProcessGroup)

    def __post_init__(self) -> None:
        self.order = self.rng.spawn(1)[0]
        self.learned = learned_values(self.stages, self.device)
        groups: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        if self.learned:
            groups.append({"params": list(self.learned.values()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.batches.move(self.device)
        wanted = self.settings.compile
        self.encode = compiled(self.network.encode, wanted=wanted)
        self.descend = compiled(self.network.descend, wanted=wanted)
        self.compiles = self.encode != self.network.encode
        weights = self.network.state_dict()
        self.average = _copy(weights)
        # Tensors that stay the same: to look them up takes as long as to average them.
        self._averages, self._weighed = (list(d.values()) for d in (self.average, weights))
        self.best = _copy(self.network.state_dict())
        flips = self.settings.flips
        self.windows = Windows(
            side=self.settings.crop,
            unit=self.architecture.constrain or 1,
            flips=_may_flip(self.batches.spec) if flips is None else flips,
            valid=self.valid,
        )

    def keep_at(self, place: Path, identity: str) -> None:
        """Write checkpoints to a file, and go on from it if it is there and may be used."""
        self.place, self.identity = place, identity
        if self.settings.resume and place.exists():
            self.state = checkpoint.read(
                place,
                identity=identity,
                weights=self._weights(),
                optimizer=self.optimizer,
                rng=self.rng,
            )

    def run(self, *, bar: bool, pace: ThreadTuner | None = None) -> None:
        """Train until the first limit; ``pace`` sets the threads of every step."""
        settings, state = self.settings, self.state
        self.network.train()
        if self.compiles:
            self._rehearse()
        before, began = state.seconds, time.monotonic()
        done = settings.progress(state.step, state.seconds)
        sums: dict[str, Tensor] = {}
        counts: Counter[str] = Counter()
        # From its beginning: a training that goes on has had so many batches of it.
        stream = self._stream(self.order, settings.heavy_share, past=state.step)
        quiet = None if bar and self.ranks.leads else True
        with tqdm(total=100, disable=quiet, unit="%", desc="train") as shown:
            while done < 1:
                start = time.monotonic()
                for key, value in self._step(self._cropped(next(stream)), done).items():
                    sums[key] = sums[key] + value if key in sums else value
                    counts[key] += 1
                if pace is not None:
                    pace.took(time.monotonic() - start)
                state.step += 1
                state.seconds = self._clock(before + time.monotonic() - began)
                last, done = done, settings.progress(state.step, state.seconds)
                shown.update(round(100 * done) - shown.n)
                if settings.due(done) > settings.due(last):
                    row = {key: float(value) / counts[key] for key, value in sums.items()}
                    sums, counts = {}, Counter()
                    if not self._judge(row):
                        break
        stream.close()

    def _step(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """One step of the optimiser; gives what is logged, still on the device."""
        stage = next(s for s in self.stages if done <= s.until + 1e-9)
        logged = self._gradients(stage, batch, done)
        weights = [w for group in self.optimizer.param_groups for w in group["params"]]
        self.ranks.average(weights)
        torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(done)
        self.optimizer.step()
        self._follow()
        return logged

    def _gradients(self, stage: Stage, batch: Batch, done: float) -> dict[str, Tensor]:
        """Losses of a batch and their gradients."""
        assert batch.x is not None
        with autocast(self.device):
            known = self.encode(batch.c, batch.pooled, batch.x if stage.reconstructs else None)
            output, kl = batch.x[:0], []
            if stage.reconstructs:
                drawn = self.descend(known, self._noise(batch))
                output, kl = drawn.output.float(), [level.float() for level in drawn.kl()]
        state = LossState(
            x=batch.x,
            output=output,
            mask=batch.mask,
            kl=kl,
            step=self.state.step,
            progress=done,
            scaling=self.scaling,
            record=self.record,
            draw=lambda: self._prior(batch, known, 1)[0],
            draw_many=lambda count: self._prior(batch, known, count),
            learned=self.learned,
        )
        terms = {name: value_of(term, state) for name, term in stage.losses}
        loss: Tensor = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        logged = {f"loss_{name}": value.detach() for name, value in terms.items()}
        if kl:
            logged["kl"] = torch.stack(kl).detach().sum(0).mean()
        return {"loss": loss.detach(), **logged}

    def _rehearse(self) -> None:
        """Compile for every stage before the clock starts; nothing else changes by it."""
        before = self.rng.bit_generator.state
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            stream = self._stream(np.random.default_rng(0), 0.0)
            batch = self._cropped(next(stream))
            stream.close()
            for stage in self.stages:
                self._gradients(stage, batch, stage.until)
        self.optimizer.zero_grad(set_to_none=True)
        self.rng.bit_generator.state = before

    def _prior(self, batch: Batch, known: Encoded, count: int) -> list[Tensor]:
        """Draw ``count`` fields from the prior for every sample, all in one pass."""
        joined = Encoded.join([replace(known, features=None)] * count)
        noise = self._noise(batch, count)
        with autocast(self.device):
            drawn = self.descend(joined, noise)
        return list(drawn.output.float().chunk(count))

    def _noise(self, batch: Batch, count: int = 1) -> list[Tensor]:
        """Deviates for this process, of those that all of them make alike."""
        noise = noise_for(self.network, batch, count=count * self.ranks.count)
        if self.ranks.count == 1:
            return noise
        rows = self.ranks.rows(count, len(batch)).to(self.device)
        return [level[rows] for level in noise]

    def _stream(
        self, rng: np.random.Generator, heavy_share: float, past: int = 0
    ) -> Generator[Batch]:
        size = self.settings.batch_size
        part = self.ranks.part(size, len(self.batches))
        return self.batches.shuffled(size, rng, heavy_share, part, past)

    def _clock(self, seconds: float) -> float:
        """The time that counts: where it ends the training, all processes have the same."""
        limited = self.settings.max_minutes is not None
        return self.ranks.agreed(lambda: seconds) if limited else seconds

    def _follow(self) -> None:
        """Move the average of the weights."""
        keep = (1 - 1 / (self.state.step + 1)) ** AVERAGE_POWER
        torch._foreach_lerp_(self._averages, self._weighed, 1 - keep)

    def _cropped(self, batch: Batch) -> Batch:
        return self.windows.cut(batch, self.rng).packed().to(self.device)

    def _judge(self, row: dict[str, float]) -> bool:
        """Validate, log and write a checkpoint; False when patience is over."""
        settings, state = self.settings, self.state
        row = {"step": state.step, "minutes": state.seconds / 60, **self.ranks.mean(row)}
        for name, value in self.learned.items():
            row |= columns_of(f"learned_{name}", value)
        row["learning_rate"] = settings.rate(settings.progress(state.step, state.seconds))
        improved = True
        if self.validation is not None:
            row |= self.ranks.agreed(self._validated)
        for key in ("loss", f"val_{settings.monitor}"):
            if not math.isfinite(row.get(key, 0.0)):
                raise DataError(
                    explain(
                        f"training, step {state.step}, {key}",
                        expected="a finite number",
                        got=row[key],
                        remedy="Lower fit.learning_rate or the weight of the largest loss term.",
                    )
                )
        if self.validation is not None:
            improved = row[f"val_{settings.monitor}"] < state.best
        if improved:
            state.best = row.get(f"val_{settings.monitor}", math.inf)
            self.best = _copy(self.average)
        state.waited = 0 if improved else state.waited + 1
        state.history.append(row)
        self._keep()
        return settings.patience is None or state.waited < settings.patience

    def _validated(self) -> dict[str, float]:
        assert self.validation is not None
        current = _copy(self.network.state_dict())
        self.network.load_state_dict(self.average)
        scores = self.validation(self.network)
        self.network.load_state_dict(current)
        return scores

    def _keep(self) -> None:
        if self.place is None or not self.ranks.leads:
            return
        checkpoint.write(
            self.place,
            identity=self.identity,
            progress=self.state,
            weights=self._weights(),
            optimizer=self.optimizer,
            rng=self.rng,
        )
        log = self.place.with_name(self.place.name.removesuffix(".checkpoint") + ".log.csv")
        columns = list(dict.fromkeys(key for row in self.state.history for key in row))
        lines = [",".join(columns)]
        lines += [
            ",".join(repr(row[c]) if c in row else "" for c in columns)
            for row in self.state.history
        ]
        write_text(log, "\n".join(lines) + "\n")

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "best": self.best,
            "learned": {name: value.data for name, value in self.learned.items()},
        }


def _may_flip(spec: DataSpec) -> bool:
    # A field over another area, a vector or a map of the land tells directions apart.
    return all(v.precipitation and v.aligned and not v.pooled for v in spec.variables)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}

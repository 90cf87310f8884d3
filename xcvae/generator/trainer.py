"""The loop that trains a ladder, and each of its steps."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from xcvae.errors import DataError, explain
from xcvae.fields.batches import Batch, Batches
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import DataSpec
from xcvae.generator import checkpoint, modelfile
from xcvae.generator.architecture import Architecture
from xcvae.generator.fit import Fit, Stage
from xcvae.generator.ladder import Encoded, Ladder
from xcvae.generator.losses import LossState
from xcvae.generator.numerics import autocast
from xcvae.generator.validation import Validation, noise_for

__all__ = ["Trainer"]

#: Memory of the weight average, as a power of the step: about the last tenth of the training
#: whatever its length (Karras et al. 2024, arXiv:2312.02696).
AVERAGE_POWER = 9
#: Windows that are tried for one with at least this share of valid pixels.
WINDOW_TRIES, LEAST_VALID = 20, 0.02


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

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.average = _copy(self.network.state_dict())
        self.best = _copy(self.network.state_dict())
        self.flips = (
            _may_flip(self.batches.spec) if self.settings.flips is None else (self.settings.flips)
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

    def run(self, *, bar: bool) -> None:
        """Train until the first limit."""
        settings, state = self.settings, self.state
        self.network.train()
        before, began = state.seconds, time.monotonic()
        done = settings.progress(state.step, state.seconds)
        sums: dict[str, Tensor] = {}
        count = 0
        stream = self.batches.shuffled(settings.batch_size, self.rng, settings.heavy_share)
        with tqdm(total=100, disable=None if bar else True, unit="%", desc="train") as shown:
            while done < 1:
                for key, value in self._step(self._cropped(next(stream)), done).items():
                    sums[key] = sums.get(key, torch.zeros((), device=self.device)) + value
                count += 1
                state.step += 1
                state.seconds = before + time.monotonic() - began
                last, done = done, settings.progress(state.step, state.seconds)
                shown.update(round(100 * done) - shown.n)
                if settings.due(done) > settings.due(last):
                    row = {key: float(value) / count for key, value in sums.items()}
                    sums, count = {}, 0
                    if not self._judge(row):
                        break
        stream.close()

    def _step(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """One step of the optimiser; gives what is logged, still on the device."""
        assert batch.x is not None
        latents = self.architecture.latents
        with autocast(self.device):
            known = self.network.encode(batch.c, batch.pooled, batch.x)
            drawn = self.network.descend(known, noise_for(latents, batch))
        state = LossState(
            x=batch.x,
            output=drawn.output.float(),
            mask=batch.mask,
            kl=[level.float() for level in drawn.kl()],
            step=self.state.step,
            progress=done,
            scaling=self.scaling,
            record=self.record,
            draw=lambda: self._prior(batch, known),
        )
        stage = next(s for s in self.stages if done <= s.until + 1e-9)
        terms = {name: term(state) for name, term in stage.losses}
        loss: Tensor = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(done)
        self.optimizer.step()
        self._follow()
        logged = {f"loss_{name}": value.detach() for name, value in terms.items()}
        kl = torch.stack(state.kl).detach().sum(0).mean()
        return {"loss": loss.detach(), "kl": kl, **logged}

    def _prior(self, batch: Batch, known: Encoded) -> Tensor:
        with autocast(self.device):
            noise = noise_for(self.architecture.latents, batch)
            drawn = self.network.descend(replace(known, features=None), noise)
        return drawn.output.float()

    def _follow(self) -> None:
        """Move the average of the weights."""
        keep = (1 - 1 / (self.state.step + 1)) ** AVERAGE_POWER
        weights = self.network.state_dict()
        names = list(weights)
        torch._foreach_lerp_(
            [self.average[n] for n in names], [weights[n] for n in names], 1 - keep
        )

    def _cropped(self, batch: Batch) -> Batch:
        height, width = batch.c.shape[-2:]
        rows, columns = min(self.settings.crop, height), min(self.settings.crop, width)
        for _ in range(WINDOW_TRIES):
            top = int(self.rng.integers(height - rows + 1))
            left = int(self.rng.integers(width - columns + 1))
            window = batch.crop(top, left, rows, columns)
            # A window of sea has nothing to learn from, and all of its KL would still count.
            if float(window.mask.float().mean()) >= LEAST_VALID:
                break
        batch = window
        if self.flips:
            a, b, c = self.rng.random(3) < 0.5
            batch = batch.turned(rows=bool(a), columns=bool(b), transpose=bool(c))
        return batch.packed().to(self.device)

    def _judge(self, row: dict[str, float]) -> bool:
        """Validate, log and write a checkpoint; False when patience is over."""
        settings, state = self.settings, self.state
        row = {"step": state.step, "minutes": state.seconds / 60, **row}
        row["learning_rate"] = settings.rate(settings.progress(state.step, state.seconds))
        improved = True
        if self.validation is not None:
            row |= self._validated()
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
        if self.place is None:
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
        columns = list(self.state.history[-1])
        lines = [",".join(columns)]
        lines += [",".join(repr(row.get(c, "")) for c in columns) for row in self.state.history]
        modelfile.write_atomically(log, ("\n".join(lines) + "\n").encode())

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {
            "network": self.network.state_dict(),
            "average": self.average,
            "best": self.best,
        }


def _may_flip(spec: DataSpec) -> bool:
    # A field over another area, a vector or a map of the land tells directions apart.
    return all(v.precipitation and v.aligned and not v.pooled for v in spec.variables)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}

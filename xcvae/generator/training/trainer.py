"""The training loop of a ladder: steps, validations, checkpoints and the log."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xcvae.errors import DataError
from xcvae.fields.batches import Batch, Batches, rescaled, to_device
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.files import write_text
from xcvae.generator.device import autocast, compiled
from xcvae.generator.losses import LossState, learned_by
from xcvae.generator.network.architecture import Architecture
from xcvae.generator.network.ladder import Drawn, Encoded, Ladder
from xcvae.generator.network.networks import Networks
from xcvae.generator.network.transfer import Taken
from xcvae.generator.training import checkpoint
from xcvae.generator.training.distributed import ProcessGroup
from xcvae.generator.training.settings import Fit, Stage, Term
from xcvae.generator.training.spikes import PATIENCE, SPIKES, SpikeGuard
from xcvae.generator.training.threads import ThreadTuner
from xcvae.generator.training.validation import Validation
from xcvae.progress import on_terminal, print_line, progress_bar
from xcvae.registry import call, wrong_result

#: Share of the best score within which later weights are kept in place of the best ones. Such
#: differences are chance, and later weights have seen all losses and the small rates of the end.
NEAR = 0.005
#: Crops that are tried for one with at least this share of valid pixels.
TRIES, LEAST_VALID = 100, 0.02


@dataclass(frozen=True)
class RandomCrop:
    """Random crop of a batch, flipped and transposed at random.

    Attributes
    ----------
    side
        Pixels along a side; smaller domains are used whole.
    unit
        Unit of the edges of a crop, in pixels: constrained blocks are not cut.
    flips
        True to flip and transpose crops.
    valid
        Pixels where the target is ever valid, (y, x); None for all.
    """

    side: int
    unit: int = 1
    flips: bool = False
    valid: NDArray[np.bool_] | None = None

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        """Crop all samples of a batch to the same window."""
        height, width = batch.c.shape[-2:]
        side = max(self.unit, self.side // self.unit * self.unit)
        rows, columns = min(side, height), min(side, width)
        top, left = self._corner(height - rows, width - columns, (rows, columns), rng)
        batch = batch.crop(top, left, rows, columns)
        if self.flips:
            a, b, c = rng.random(3) < 0.5
            batch = batch.turned(rows=bool(a), columns=bool(b), transpose=bool(c))
        return batch

    def _corner(
        self, down: int, right: int, size: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        top = left = 0
        for _ in range(1 if self.valid is None else TRIES):
            top = self.unit * int(rng.integers(down // self.unit + 1))
            left = self.unit * int(rng.integers(right // self.unit + 1))
            if self.valid is None:
                break
            # A crop of sea has no likelihood, but all of its KL would count.
            if self.valid[top : top + size[0], left : left + size[1]].mean() >= LEAST_VALID:
                break
        return top, left


@dataclass(frozen=True)
class RandomScale:
    """Random factor and pixel size of a batch, and random places of its blocks and its crop.

    Small pixels are drawn more often, in proportion to 1 / size; factors are all as likely.

    Attributes
    ----------
    spec, scaling
        Of the model; the ranges are ``spec.scales``.
    side
        Pixels along a side of the crops, about: whole blocks.
    conserves
        The model conserves block means.
    flips
        True to flip and transpose crops.
    """

    spec: DataSpec
    scaling: Scaling
    side: int
    conserves: bool
    flips: bool = True

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """Draw a factor and the number of pixels of the record along a side of a pixel."""
        assert self.spec.scales is not None
        pairs = self.spec.scales.pairs(self.spec.shape)
        multiples = np.array(sorted({multiple for _, multiple in pairs}))
        multiple = int(rng.choice(multiples, p=(1 / multiples) / (1 / multiples).sum()))
        factors = [factor for factor, other in pairs if other == multiple]
        return int(rng.choice(factors)), multiple

    def batches(self, multiple: int) -> int:
        """Count the batches that are joined, so that small maps have as many pixels as crops."""
        available = min(self.side, min(self.spec.shape) // multiple)
        return max(1, round((self.side / available) ** 2))

    def __call__(self, batch: Batch, factor: int, multiple: int, rng: np.random.Generator) -> Batch:
        """Coarsen a batch, derive its condition, and crop it."""
        left_out = [int(rng.integers(multiple)) for _ in range(2)]
        sizes = [(n - cut) // multiple for n, cut in zip(self.spec.shape, left_out, strict=True)]
        spare = [min(factor, size - 2 * factor + 1) for size in sizes]
        # A coarse pixel is lost by the offset where the blocks need all of them.
        offset = [cut if room > 0 else 0 for cut, room in zip(left_out, spare, strict=True)]
        corner = [int(rng.integers(max(1, room))) for room in spare]
        scaled = rescaled(
            batch,
            self.spec,
            self.scaling,
            factor,
            multiple,
            conserves=self.conserves,
            offset=(offset[0], offset[1]),
            corner=(corner[0], corner[1]),
        )
        side = factor * max(1, round(self.side / factor))
        return RandomCrop(side=side, unit=factor, flips=self.flips)(scaled, rng)


def learned_values(stages: tuple[Stage, ...], device: torch.device) -> dict[str, nn.Parameter]:
    """Make parameters of the values that loss terms train, such as the scale of a likelihood."""
    initial = learned_by(pair for stage in stages for pair in stage.losses)
    return {
        name: nn.Parameter(torch.tensor(value, dtype=torch.float32, device=device))
        for name, value in initial.items()
    }


def value_of(term: Term, state: LossState) -> Tensor:
    """Call a loss term, and refuse a result that is not a scalar tensor."""
    value = call("loss", term, state)
    if isinstance(value, Tensor) and value.ndim == 0:
        return value
    got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise wrong_result("loss", term, expected="a tensor without dimensions", got=got)


def columns_of(name: str, value: Tensor) -> dict[str, float]:
    """Return the columns of the log for a trained scalar or vector."""
    numbers = value.detach().flatten().tolist()
    if len(numbers) == 1:
        return {name: numbers[0]}
    return {f"{name}_{i}": number for i, number in enumerate(numbers)}


def is_near(score: float, best: float, monitor: str) -> bool:
    """Return True if later weights with a score are kept in place of those with the best one.

    An ELBO is a logarithm, so that a share of it means nothing.

    Examples
    --------
    >>> is_near(100.4, 100.0, "crps"), is_near(100.4, 100.0, "negative_elbo")
    (True, False)
    """
    share = 0.0 if monitor == "negative_elbo" else NEAR
    return score <= best + share * abs(best)


#: Power of the step in the weight average, which makes it cover about the last tenth of a
#: training of any length (Karras et al. 2024, arXiv:2312.02696).
AVERAGE_POWER = 9


@dataclass(frozen=True)
class Passes:
    """The two passes through a ladder, compiled or not: see `Ladder.encode`, `Ladder.descend`."""

    encode: Callable[..., Encoded]
    descend: Callable[..., Drawn]

    @classmethod
    def of(cls, ladder: Ladder, *, compile: bool) -> Passes:
        """Take the passes of a ladder."""
        return cls(
            compiled(ladder.encode, wanted=compile), compiled(ladder.descend, wanted=compile)
        )


@dataclass
class Trainer:
    """Training of a model's networks: `run` is the loop, the other methods are parts of a step.

    Several networks take their steps in turn, so that each is trained on batches of its own.

    Attributes
    ----------
    networks
        The ladders, on ``device``; their weights change in place.
    batches, validation
        Training samples, and the scores of held-back ones; None without.
    scaling, record, architecture, settings, stages
        Choices of the training.
    device
        Device of the network.
    rng
        Draws the crops; the order of the samples has a generator spawned from it.
    state
        Steps, seconds and history.
    path, identity
        Checkpoint file, and the fingerprints of data and settings in it; None for no checkpoints.
    valid
        Pixels where the target is ever valid, (y, x); None without a mask.
    group
        Processes that train together.
    progress
        Show a bar, or a line per validation where there is no terminal, and a closing line.
    stopped_early
        True once the validation scores have not improved for long enough.
    taken
        Report of the weights that were taken from another model; None without a start.
    known_dial
        Calibrated dial of that model; None without.
    """

    networks: Networks
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
    path: Path | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    valid: NDArray[np.bool_] | None = None
    group: ProcessGroup = field(default_factory=ProcessGroup)
    progress: bool = False
    stopped_early: bool = False
    taken: Taken | None = None
    known_dial: Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        self.order_rng = self.rng.spawn(1)[0]
        self.learned = learned_values(self.stages, self.device)
        groups: list[dict[str, Any]] = [{"params": list(self.networks.parameters())}]
        if self.learned:
            groups.append({"params": list(self.learned.values()), "weight_decay": 0.0})
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=self.settings.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        # One for each stage and network: another loss has other gradients, and where one network is
        # at fault, the steps of the others between its own are none of its.
        pairs = itertools.product(self.stages, self.networks)
        self.spikes = [SpikeGuard(self.device) for _ in pairs]
        self.batches.move(self.device)
        self.compiles = bool(self.settings.compile)
        self.passes = [Passes.of(one, compile=self.compiles) for one in self.networks]
        weights = self.networks.state_dict()
        self.average = _copy(weights)
        # The same tensors for the whole training: a look-up takes as long as the averaging.
        self._averages, self._weights_now = (list(d.values()) for d in (self.average, weights))
        self.best = _copy(weights)
        flips = self.settings.flips
        self.crop = RandomCrop(
            side=self.settings.crop,
            unit=self.architecture.constrain or 1,
            flips=_may_flip(self.batches.spec) if flips is None else flips,
            valid=self.valid,
        )
        self.scale = self._random_scale()

    def _random_scale(self) -> RandomScale | None:
        """Return the random scale of batches; None where the data have one factor."""
        spec, side = self.batches.spec, self.settings.crop
        if not spec.random_scale:
            return None
        options = {"conserves": self.batches.conserves, "flips": self.crop.flips}
        return RandomScale(spec, self.scaling, side, **options)

    def enable_checkpoints(self, path: Path, identity: Mapping[str, str]) -> None:
        """Write checkpoints to a file, and resume from it if it exists and ``fit.resume`` is on."""
        self.path, self.identity = path, identity
        if self.settings.resume and path.exists():
            self.state = checkpoint.read(
                path,
                identity=identity,
                weights=self._weights(),
                optimizer=self.optimizer,
                rng=self.rng,
            )

    def run(self, *, progress: bool, tuner: ThreadTuner | None = None) -> None:
        """Train until the first limit.

        ``tuner`` sets the threads of the steps once the minutes are the nearer limit: last digits
        depend on the clock from then on, and on the number of threads.
        """
        settings, state = self.settings, self.state
        self.networks.train()
        if self.compiles:
            self._compile_stages()
        before, began = state.seconds, time.monotonic()
        done = settings.progress(state.step, state.seconds)
        # True already in a training that was killed after its end.
        self.stopped_early = self._patience_is_over
        log = _LogRow()
        # The order starts from its seed: a resumed training skips the batches of its past steps.
        past = state.step if self.scale is None else state.batches
        stream = self._stream(self.order_rng, settings.heavy_share, past=past)
        self.progress = progress and self.group.is_main
        with progress_bar(self.progress, total=100, unit="%", desc="train") as shown:
            while done < 1 and not self.stopped_early:
                start = time.monotonic()
                log.add(*self._step(self._next(stream), done))
                end = time.monotonic()
                state.step += 1
                state.seconds = self._shared_seconds(before + end - began)
                if tuner is not None and settings.is_late(state.step, state.seconds):
                    tuner.record(end - start)
                last, done = done, settings.progress(state.step, state.seconds)
                shown.update(round(100 * done) - shown.n)
                if settings.due(done) > settings.due(last):
                    self._validate(log.means())
                    self.stopped_early = self._patience_is_over
        stream.close()

    def _step(self, batch: Batch, done: float) -> tuple[dict[str, Tensor], Tensor]:
        """Take one step of the optimiser, or skip it.

        Returns
        -------
        tuple
            The logged values and 1 for a step that was skipped, else 0; still on the device.
        """
        number = next(i for i, s in enumerate(self.stages) if done <= s.until + 1e-9)
        turn, network = divmod(self.state.step, len(self.networks))
        logged = self._gradients(self.passes[network], self.stages[number], batch, done)
        weights = [w for group in self.optimizer.param_groups for w in group["params"]]
        self.group.average(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, self.settings.clip_norm)
        guard = self.spikes[number * len(self.networks) + network]
        spike = guard.judge(norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(done)
        # With 1 here the optimiser leaves everything as it is; the host need not know.
        vars(self.optimizer)["found_inf"] = spike
        self.optimizer.step()
        if turn % PATIENCE == 0 and guard.lasts():
            self._return_to_average()
        self._update_average()
        return logged, spike

    def _return_to_average(self) -> None:
        """Continue from the averaged weights, as if every step from here were the first."""
        self.networks.load_state_dict(self.average)
        self.optimizer.state.clear()
        for one in self.spikes:
            one.reset()

    def _gradients(
        self, passes: Passes, stage: Stage, batch: Batch, done: float
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch and their gradients; return the logged values."""
        assert batch.x is not None
        with autocast(self.device):
            target = batch.x if stage.reconstructs else None
            encoded = passes.encode(batch.c, batch.pooled, target, side=batch.side)
            output, kl = batch.x[:0], []
            if stage.reconstructs:
                drawn = passes.descend(encoded, self._noise(batch))
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
            draw=lambda: self._prior_draws(passes, batch, encoded, 1)[0],
            draw_many=lambda count: self._prior_draws(passes, batch, encoded, count),
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

    def _compile_stages(self) -> None:
        """Compile the network for every stage before the clock starts.

        Random states are restored: the training is that of an uncompiled network, up to rounding.

        Experimental: on a GPU it takes minutes, and no training was completed.
        """
        before, read = self.rng.bit_generator.state, self.state.batches
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            stream = self._stream(np.random.default_rng(0), 0.0)
            batch = self._next(stream)
            stream.close()
            for passes, stage in itertools.product(self.passes, self.stages):
                self._gradients(passes, stage, batch, stage.until)
        self.optimizer.zero_grad(set_to_none=True)
        self.rng.bit_generator.state, self.state.batches = before, read

    def _prior_draws(
        self, passes: Passes, batch: Batch, encoded: Encoded, count: int
    ) -> list[Tensor]:
        """Draw ``count`` fields from the prior for every sample, all in one batch."""
        joined = Encoded.join([replace(encoded, features=None)] * count)
        noise = self._noise(batch, count)
        with autocast(self.device):
            drawn = passes.descend(joined, noise)
        return list(drawn.output.float().chunk(count))

    def _noise(self, batch: Batch, count: int = 1) -> list[Tensor]:
        """Draw deviates for all processes, and return those of this one."""
        noise = self.networks[0].noise(count * self.group.count * len(batch), batch.c)
        if self.group.count == 1:
            return noise
        rows = to_device(self.group.rows(count, len(batch)), self.device)
        return [level[rows] for level in noise]

    def _stream(
        self, rng: np.random.Generator, heavy_share: float, past: int = 0
    ) -> Generator[Batch]:
        size = self.settings.batch_size
        part = self.group.part(size, len(self.batches))
        return self.batches.shuffled(size, rng, heavy_share, part, past)

    def _shared_seconds(self, seconds: float) -> float:
        """Return the seconds of the main process if time can end the training, else its own."""
        limited = self.settings.max_minutes is not None
        return self.group.broadcast(lambda: seconds) if limited else seconds

    def _update_average(self) -> None:
        """Update the average of the weights."""
        keep = (1 - 1 / (self.state.step + 1)) ** AVERAGE_POWER
        torch._foreach_lerp_(self._averages, self._weights_now, 1 - keep)

    def _next(self, stream: Iterator[Batch]) -> Batch:
        """Read samples and crop them; at a random scale, several batches of small maps."""
        if self.scale is None:
            batch = self.crop(next(stream), self.rng)
        else:
            factor, multiple = self.scale.draw(self.rng)
            parts = [next(stream) for _ in range(self.scale.batches(multiple))]
            self.state.batches += len(parts)
            batch = self.scale(Batch.joined(parts), factor, multiple, self.rng)
        return batch.packed().to(self.device)

    @property
    def _patience_is_over(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.state.waited >= patience

    def _validate(self, row: dict[str, float]) -> None:
        """Validate, log and write a checkpoint."""
        settings, state = self.settings, self.state
        row = {"step": state.step, "minutes": state.seconds / 60, **self.group.mean(row)}
        for name, value in self.learned.items():
            row |= columns_of(f"learned_{name}", value)
        row["learning_rate"] = settings.rate(settings.progress(state.step, state.seconds))
        improved = near = True
        if self.validation is not None:
            row |= self.group.broadcast(self._validation_scores)
        for key in ("loss", f"val_{settings.monitor}"):
            if not math.isfinite(row.get(key, 0.0)):
                raise DataError.of(
                    f"training, step {state.step}, {key}",
                    expected="a finite number",
                    got=row[key],
                    remedy="Lower fit.learning_rate or the weight of the largest loss term, "
                    "and check the data for extreme values.",
                )
        if self.validation is not None:
            score = row[f"val_{settings.monitor}"]
            improved = score < state.best
            near = improved or is_near(score, state.best, settings.monitor)
        if improved:
            state.best = row.get(f"val_{settings.monitor}", math.inf)
        if near:
            self.best, state.selected = _copy(self.average), state.step
        state.waited = 0 if improved else state.waited + 1
        state.history.append(row)
        print_line(self.progress and not on_terminal(), self._line(row, improved=improved))
        self._write_checkpoint()

    def _line(self, row: Mapping[str, float], *, improved: bool) -> str:
        """Write a row of the log as a line."""
        done = self.settings.progress(self.state.step, self.state.seconds)
        text = f"train: {100 * min(done, 1.0):.0f} %, step {row['step']}, {row['minutes']:.1f} min"
        text += f", loss {row['loss']:.4g}" if "loss" in row else ""
        name = f"val_{self.settings.monitor}"
        if name not in row:
            return text
        return f"{text}, {name} {row[name]:.4g}" + (" (best so far)" if improved else "")

    @property
    def ended_best(self) -> bool:
        """True if the last weights are the best ones."""
        pairs = zip(self.best.values(), self.average.values(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)

    def closing_line(self, file: Path | None) -> str:
        """Return the result of the training: score, reason of the end, and file."""
        state, settings = self.state, self.settings
        text = f"trained {state.step} steps in {state.seconds / 60:.1f} min"
        name = f"val_{settings.monitor}"
        scored = [row for row in state.history if name in row]
        if scored:
            best = min(scored, key=lambda row: row[name])
            text += f"; best {name} {best[name]:.4g} at step {best['step']:.0f}"
            if state.selected > best["step"]:
                text += f", kept step {state.selected} ({100 * NEAR:g} % worse at most)"
        if self.stopped_early:
            text += f"; stopped after {state.waited} validations without improvement (patience)"
        elif settings.max_steps is not None and state.step >= settings.max_steps:
            text += f"; max_steps {settings.max_steps} reached"
        elif settings.max_minutes is not None:
            text += f"; max_minutes {settings.max_minutes:g} reached"
        else:
            text += "; finished"
        return f"{text}; " + (f"saved as {file}" if file is not None else "not saved: no path")

    def _validation_scores(self) -> dict[str, float]:
        assert self.validation is not None
        current = _copy(self.networks.state_dict())
        self.networks.load_state_dict(self.average)
        scores = self.validation(self.networks)
        self.networks.load_state_dict(current)
        return scores

    def _write_checkpoint(self) -> None:
        if self.path is None or not self.group.is_main:
            return
        checkpoint.write(
            self.path,
            identity=self.identity,
            progress=self.state,
            weights=self._weights(),
            optimizer=self.optimizer,
            rng=self.rng,
        )
        log = checkpoint.log_path(self.path.with_name(self.path.name.removesuffix(".checkpoint")))
        columns = list(dict.fromkeys(key for row in self.state.history for key in row))
        lines = [",".join(columns)]
        lines += [
            ",".join(repr(row[c]) if c in row else "" for c in columns)
            for row in self.state.history
        ]
        write_text(log, "\n".join(lines) + "\n")

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {
            "network": self.networks.state_dict(),
            "average": self.average,
            "best": self.best,
            "learned": {name: value.data for name, value in self.learned.items()},
            SPIKES: {
                f"{number}/{name}": value
                for number, guard in enumerate(self.spikes)
                for name, value in guard.state.items()
            },
        }


class _LogRow:
    """Means of the logged values of the steps since the last row; skipped steps do not count."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.skipped: list[Tensor] = []

    def add(self, values: Mapping[str, Tensor], skipped: Tensor) -> None:
        """Add the values of a step, on the device: reading one would wait for it.

        Parameters
        ----------
        values
            Logged values by name, without dimensions.
        skipped
            1 for a step that was skipped, else 0.
        """
        for key, value in values.items():
            counted = torch.where(skipped > 0, 0.0, value)
            self.sums[key] = self.sums[key] + counted if key in self.sums else counted
            self.counts[key] = self.counts.get(key, torch.zeros_like(skipped)) + (1 - skipped)
        self.skipped.append(skipped)

    def means(self) -> dict[str, float]:
        """Return the means, NaN where all steps were skipped, and start the next row."""
        row = {
            key: float(value) / count if (count := float(self.counts[key])) else math.nan
            for key, value in self.sums.items()
        }
        skipped = float(torch.stack(self.skipped).sum()) if self.skipped else 0.0
        self.sums, self.counts, self.skipped = {}, {}, []
        return {**row, "skipped_steps": skipped} if skipped else row


def _may_flip(spec: DataSpec) -> bool:
    # A field over another area, a vector or a map of the land depends on directions.
    return all(v.precipitation and v.aligned and not v.pooled for v in spec.variables)


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}

"""Speed of training: beside a bare torch loop, and streamed beside in memory.

    python -m benchmarks.speed.train [--only bare|streamed] [--output benchmarks/results/train.json]

Both sides of a pair train a preset on the bundled radar with the same batch size, crop, losses
(the negative ELBO) and optimiser, for so many steps, in turn; the figures are medians over the
rounds. The bare loop holds two tensors, has no names of losses, logs nothing and averages no
weights. The streamed side reads a Zarr store with Dask that is larger, as tensors, than a process
of its own is allowed to allocate; that process must finish a training too.

On a GPU: ``--device cuda --preset base --crop 128 --batch-size 64 --compile --eager-bare``.
"""

from __future__ import annotations

import argparse
import copy
import resource
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.processes import WorkerError, in_fresh_process, memory
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import interleaved_seconds, seconds_of
from benchmarks.harness.untrained import make_trainer
from benchmarks.speed.negative_elbo import negative_elbo
from xcvae.generator.device import autocast
from xcvae.generator.training.checkpoint import Progress
from xcvae.generator.training.trainer import Trainer

ELBO = ["laplace", {"name": "kl", "warmup": 0.0}]


def record_of(samples: int) -> xr.Dataset:
    """Open the training samples of the radar, repeated up to so many at least: a whole batch."""
    ds = open_radar()
    count = ds.sizes["time"]
    if count >= samples:
        return ds
    repeated = ds.isel(time=np.arange(samples) % count)
    return repeated.assign_coords(time=np.arange(samples))


class BareLoop:
    """The least code that trains this network: two tensors and a loop."""

    def __init__(self, trainer: Trainer, compile_: bool) -> None:
        whole = trainer.batches.load(slice(None))
        assert whole.x is not None
        self.c, self.x = whole.c.to(trainer.device), whole.x.to(trainer.device)
        self.network = copy.deepcopy(trainer.networks[0]).train()
        self.forward = torch.compile(self.network, dynamic=False) if compile_ else self.network
        self.fit, self.device = trainer.settings, trainer.device
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.fit.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=self.fit.weight_decay,
            fused=True,
        )
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10_000)
        self.random = np.random.default_rng(0)

    def run(self, steps: int) -> None:
        """Train so many steps."""
        size, order = self.fit.batch_size, np.empty(0, np.int64)
        for _ in range(steps):
            if len(order) < size:
                order = self.random.permutation(len(self.c))
            rows, order = torch.from_numpy(order[:size]).to(self.device), order[size:]
            self.step(*self.cut(self.c[rows], self.x[rows]))

    def cut(self, c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Take a window of both, turned alike."""
        side, (height, width) = self.fit.crop, x.shape[-2:]
        top = int(self.random.integers(max(height - side, 0) + 1))
        left = int(self.random.integers(max(width - side, 0) + 1))
        rows, columns, transpose = self.random.random(3) < 0.5

        def window(maps: Tensor) -> Tensor:
            maps = maps[..., top : top + side, left : left + side]
            maps = maps.flip([d for d, flip in ((-2, rows), (-1, columns)) if flip])
            maps = maps.transpose(-1, -2) if transpose else maps
            return maps.contiguous(memory_format=torch.channels_last)

        return window(c), window(x)

    def step(self, c: Tensor, x: Tensor) -> None:
        """Take one step of the optimiser."""
        noise = [
            torch.randn(len(x), *shape, device=self.device)
            for shape in self.network.shapes(x.shape[-2], x.shape[-1])
        ]
        with autocast(self.device):
            drawn = self.forward(c, None, noise, x=x)
        kl = [level.float() for level in drawn.kl()]
        loss = negative_elbo(x, drawn.output.float(), torch.ones_like(x, dtype=torch.bool), kl)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.fit.clip_norm)
        self.optimizer.step()
        self.scheduler.step()


def train_once(trainer: Trainer) -> None:
    """Train from step 0 to the limit, as `xcvae.train` does."""
    trainer.state = Progress()
    trainer.run(progress=False)


def trainer_of(ds: xr.Dataset, settings: Mapping[str, Any], steps: int) -> Trainer:
    """Make the trainer of a training of so many steps."""
    fit = {
        "max_steps": steps,
        "validations": 1,
        "crop": settings["crop"],
        "batch_size": settings["batch_size"],
        "compile": settings["compile"],
    }
    generator = {"preset": settings["preset"]}
    return make_trainer(ds, generator=generator, fit=fit, losses=ELBO, device=settings["device"])


def write_record(place: Path, samples: int) -> None:
    """Write the radar, repeated and flipped, to a Zarr store."""
    ds = open_radar().drop_vars("split")
    turned = [ds, ds.isel(y=slice(None, None, -1), y_coarse=slice(None, None, -1))]
    parts = [turned[k % 2] for k in range(-(-samples // ds.sizes["time"]))]
    coords = {name: ds[name] for name in ("y", "x", "y_coarse", "x_coarse") if name in ds.coords}
    whole = xr.concat(parts, "time", coords="minimal", compat="override", join="override")
    whole = whole.isel(time=slice(samples)).assign_coords(time=np.arange(samples), **coords)
    for name in whole.variables:
        whole[name].encoding = {}
    whole.chunk(time=64).to_zarr(place, consolidated=False)


def open_record(place: Path) -> xr.Dataset:
    """Open the record as Dask arrays."""
    return xr.open_zarr(place, chunks={"time": 64}, consolidated=False)


def train_under_cap(place: str, settings: dict[str, Any], in_memory: bool) -> float:
    """Train in this process, allowed to allocate so much more; return samples per second."""
    limit = memory("VmData") + settings["cap"] * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    ds = open_record(Path(place))
    steps = settings["streamed_steps"]
    trainer = trainer_of(ds.load() if in_memory else ds, settings, steps)
    seconds = seconds_of(lambda: train_once(trainer), trainer.device)
    return steps * settings["batch_size"] / seconds


def streamed_rate_under_cap(place: Path, settings: Mapping[str, Any]) -> float:
    """Return samples per second of a stream in a process too small for the record in memory."""
    given = {key: value for key, value in settings.items() if not isinstance(value, Path)}
    given["compile"] = False  # compiling would need memory of its own
    try:
        in_fresh_process(train_under_cap, str(place), given, True)
    except WorkerError as error:
        if "MemoryError" not in str(error) and "allocate memory" not in str(error):
            raise
    else:
        raise SystemExit(
            "the record fits into memory, so the cap shows nothing: give fewer --cap or more "
            "--samples"
        )
    rate: float = in_fresh_process(train_under_cap, str(place), given, False)
    return rate


def beside_bare(options: argparse.Namespace) -> tuple[Row, dict[str, list[float]]]:
    """Compare with the bare loop."""
    trainer = trainer_of(record_of(options.batch_size), vars(options), options.steps)
    bare = BareLoop(trainer, options.compile and not options.eager_bare)
    sides: dict[str, Callable[[], None]] = {
        "xcvae": lambda: train_once(trainer),
        "bare": lambda: bare.run(options.steps),
    }
    seconds = interleaved_seconds(sides, trainer.device, rounds=options.rounds)
    row = Row.paired(
        "train, in memory",
        seconds["xcvae"],
        seconds["bare"],
        amount=options.steps * options.batch_size,
        unit="samples/s",
        against="an eager bare loop" if options.eager_bare else "a bare loop",
        target=0.97,
    )
    return row, seconds


def beside_memory(options: argparse.Namespace) -> tuple[list[Row], dict[str, list[float]]]:
    """Compare a stream with the record in memory, and measure it under a cap of memory."""
    steps, settings = options.streamed_steps, vars(options)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "record.zarr"
        write_record(place, options.samples)
        streamed = trainer_of(open_record(place), settings, steps)
        in_memory = trainer_of(open_record(place).load(), settings, steps)
        sides: dict[str, Callable[[], None]] = {
            "streamed": lambda: train_once(streamed),
            "in memory": lambda: train_once(in_memory),
        }
        seconds = interleaved_seconds(sides, in_memory.device, rounds=options.streamed_rounds)
        rate = streamed_rate_under_cap(place, settings)
    about = {"unit": "samples/s", "against": "in memory"}
    row = Row.paired(
        "train, streamed",
        seconds["streamed"],
        seconds["in memory"],
        amount=steps * options.batch_size,
        target=0.9,
        **about,
    )
    megabytes = streamed.batches.nbytes / 2**20
    name = f"train, streamed, {megabytes:.0f} MB under a cap of {options.cap} MB"
    return [row, Row.rate(name, rate, row.baseline, **about)], seconds


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    add = parser.add_argument
    add("--steps", type=int, default=16, help="per round, beside the bare loop")
    add("--streamed-steps", type=int, default=192, help="per round, streamed")
    add("--streamed-rounds", type=int, default=3)
    add("--rounds", type=int, default=31)
    parser.add_preset()
    add("--crop", type=int, default=72)
    add("--batch-size", type=int, default=8)
    parser.add_device()
    add("--compile", action="store_true")
    add("--eager-bare", action="store_true", help="compile xcvae alone, in half of the time")
    add("--samples", type=int, default=8000, help="of the record that is streamed")
    add("--cap", type=int, default=1200, help="MB that its process may allocate")
    add("--only", choices=("bare", "streamed"))
    parser.add_output_file("train.json")
    options = parser.parse_args(argv)
    rows, repeats = [], {}
    if options.only != "streamed":
        row, repeats["bare"] = beside_bare(options)
        rows.append(row)
    if options.only != "bare":
        found, repeats["streamed"] = beside_memory(options)
        rows += found
    where = {"device": options.device, "output": options.output}
    report("train", rows, vars(options), **where, seconds=repeats)


if __name__ == "__main__":
    main()

"""How fast a training is: beside a bare torch loop, and streamed beside in memory.

    python benchmarks/train.py [--only bare|streamed] [--output benchmarks/results/train.json]

Both sides of a pair train a preset on the bundled radar with the same batch size, crop, losses
(the negative ELBO) and optimiser, for so many steps, in turn; what is printed are medians over the
rounds. The bare loop holds two tensors, knows no names, logs nothing and averages no weights. The
streamed side reads a Zarr store with Dask that is larger, as tensors, than what a process of
its own is allowed to allocate; that process must finish a training too.

On a GPU: ``--device cuda --preset base --crop 128 --batch-size 64 --compile``.
"""

from __future__ import annotations

import argparse
import copy
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from references.results import Row, report
from references.workbench import make_trainer
from references.written_out import negative_elbo
from torch import Tensor

import xcvae
from xcvae.generator.checkpoint import Progress
from xcvae.generator.numerics import autocast
from xcvae.generator.trainer import Trainer

ELBO = ["laplace", {"name": "kl", "warmup": 0.0}]


class Bare:
    """What one writes to train this network once: two tensors and a loop."""

    def __init__(self, trainer: Trainer, compile_: bool) -> None:
        whole = trainer.batches.load(slice(None))
        assert whole.x is not None
        self.c, self.x = whole.c.to(trainer.device), whole.x.to(trainer.device)
        self.network = copy.deepcopy(trainer.network).train()
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
        """One step of the optimiser."""
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


def trained(trainer: Trainer) -> None:
    """Train from step 0 to the limit, as `xcvae.train` does."""
    trainer.state = Progress()
    trainer.run(bar=False)


def timed(call: Callable[[], None], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def in_turn(
    sides: dict[str, Callable[[], None]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each side in every round; who comes first changes."""
    for call in sides.values():  # warms up
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sorted(sides, reverse=bool(turn % 2)):
            seconds[name].append(timed(sides[name], device))
    return seconds


def trainer_of(ds: xr.Dataset, arguments: argparse.Namespace, steps: int) -> Trainer:
    fit = {
        "max_steps": steps,
        "validations": 1,
        "crop": arguments.crop,
        "batch_size": arguments.batch_size,
        "compile": arguments.compile,
    }
    generator = {"preset": arguments.preset}
    return make_trainer(ds, generator=generator, fit=fit, losses=ELBO, device=arguments.device)


def radar() -> xr.Dataset:
    return xcvae.tutorial.open_dataset("radklim").load()


def write_record(place: Path, samples: int) -> None:
    """Repeat the radar, turned, into a Zarr store."""
    ds = radar().drop_vars("split")
    turned = [ds, ds.isel(y=slice(None, None, -1), y_coarse=slice(None, None, -1))]
    parts = [turned[k % 2] for k in range(-(-samples // ds.sizes["time"]))]
    coords = {name: ds[name] for name in ("y", "x", "y_coarse", "x_coarse") if name in ds.coords}
    whole = xr.concat(parts, "time", coords="minimal", compat="override", join="override")
    whole = whole.isel(time=slice(samples)).assign_coords(time=np.arange(samples), **coords)
    for name in whole.variables:
        whole[name].encoding = {}
    whole.chunk(time=64).to_zarr(place, consolidated=False)


def opened(place: Path) -> xr.Dataset:
    return xr.open_zarr(place, chunks={"time": 64}, consolidated=False)


def under_cap(arguments: argparse.Namespace) -> None:
    """Train from the record, allowed to allocate so much beyond what is loaded already."""
    status = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    limit = used + arguments.cap * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    ds = opened(arguments.record)
    trainer = trainer_of(ds.load() if arguments.held else ds, arguments, arguments.steps)
    seconds = timed(lambda: trained(trainer), trainer.device)
    print(arguments.steps * arguments.batch_size / seconds)


def capped(place: Path, arguments: argparse.Namespace) -> float:
    """Samples per second of a stream in a process that the record, held in memory, does not fit."""
    again = [sys.executable, __file__, "--record", str(place)]
    again += ["--steps", str(arguments.streamed_steps)]
    for name in ("preset", "crop", "batch_size", "device", "cap"):
        again += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    held = subprocess.run([*again, "--held"], check=False, capture_output=True, text=True)
    if "MemoryError" not in held.stderr and "allocate memory" not in held.stderr:
        raise SystemExit("the record fits into memory: nothing is shown\n" + held.stderr)
    return float(subprocess.run(again, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=16, help="per round, beside the bare loop")
    parser.add_argument("--streamed-steps", type=int, default=192, help="per round, streamed")
    parser.add_argument("--streamed-rounds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--crop", type=int, default=72)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--samples", type=int, default=8000, help="of the record that is streamed")
    parser.add_argument("--cap", type=int, default=1200, help="MB that its process may allocate")
    parser.add_argument("--only", choices=("bare", "streamed"))
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/train.json"))
    arguments = parser.parse_args()
    if arguments.record:
        under_cap(arguments)
        return
    rows, repeats = [], {}
    if arguments.only != "streamed":
        row, repeats["bare"] = beside_bare(arguments)
        rows.append(row)
    if arguments.only != "bare":
        found, repeats["streamed"] = beside_memory(arguments)
        rows += found
    report(
        "train",
        rows,
        vars(arguments),
        device=arguments.device,
        output=arguments.output,
        seconds=repeats,
    )


def beside_bare(arguments: argparse.Namespace) -> tuple[Row, dict[str, list[float]]]:
    trainer = trainer_of(radar(), arguments, arguments.steps)
    bare = Bare(trainer, arguments.compile)
    sides: dict[str, Callable[[], None]] = {
        "xcvae": lambda: trained(trainer),
        "bare": lambda: bare.run(arguments.steps),
    }
    seconds = in_turn(sides, arguments.rounds, trainer.device)
    row = Row.paired(
        "train, in memory",
        seconds["xcvae"],
        seconds["bare"],
        amount=arguments.steps * arguments.batch_size,
        unit="samples/s",
        against="a bare loop",
        target=0.97,
    )
    return row, seconds


def beside_memory(arguments: argparse.Namespace) -> tuple[list[Row], dict[str, list[float]]]:
    steps = arguments.streamed_steps
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "record.zarr"
        write_record(place, arguments.samples)
        streamed = trainer_of(opened(place), arguments, steps)
        held = trainer_of(opened(place).load(), arguments, steps)
        sides: dict[str, Callable[[], None]] = {
            "streamed": lambda: trained(streamed),
            "in memory": lambda: trained(held),
        }
        seconds = in_turn(sides, arguments.streamed_rounds, held.device)
        rate = capped(place, arguments)
    what = {"unit": "samples/s", "against": "in memory"}
    row = Row.paired(
        "train, streamed",
        seconds["streamed"],
        seconds["in memory"],
        amount=steps * arguments.batch_size,
        target=0.9,
        **what,
    )
    megabytes = streamed.batches.nbytes / 2**20
    name = f"train, streamed, {megabytes:.0f} MB under a cap of {arguments.cap} MB"
    return [row, Row.rate(name, rate, row.baseline, **what)], seconds


if __name__ == "__main__":
    main()

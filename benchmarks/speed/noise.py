"""What the noise costs, as a share of the forward pass that uses it.

    python benchmarks/noise.py [--device cuda] [--preset small] [--size 156 132] [--batch 8]

The forward pass is the ladder's way down from encoded conditions, as it is walked for every member;
on a GPU it is compiled where that works. The noise is made for new members each time. Three figures
per field: the pass with noise that is already there, the noise alone, and both one after the other.
What is printed is the fastest of many turns, since other work on the machine only ever adds. For
comparison: NumPy's own normal deviates (a Philox stream per map, on the host, not addressable by
position) and the plain torch operations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from references.results import Row, report
from torch import Tensor

from xcvae.generator.architecture import PRESETS
from xcvae.generator.ladder import Ladder
from xcvae.generator.noise import Address, Window, backend, normal_maps
from xcvae.generator.noise.address import address_words
from xcvae.generator.noise.tensors import tensor_normals
from xcvae.generator.numerics import autocast, choose_device, compiled, placed

LIMITS = {"cpu": 0.10, "cuda": 0.05}


def addresses(batch: int, turn: int) -> list[Address]:
    return [Address(0, "2018-05-17T12:00:00", turn * batch + k, "prior") for k in range(batch)]


def streams(batch: int, windows: Sequence[Window]) -> None:
    for member in range(batch):
        for window in windows:
            counter = np.array([0, window.level, member, 0], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=1, counter=counter))
            generator.standard_normal(window.shape, dtype=np.float32)


def plain(batch: int, windows: Sequence[Window], device: torch.device) -> list[Tensor]:
    words = torch.from_numpy(address_words(addresses(batch, 0)).astype("int64")).to(device)
    return [tensor_normals(words, window) for window in windows]


class Forward:
    """The ladder's way down for a batch of encoded conditions."""

    def __init__(self, args: argparse.Namespace, device: torch.device) -> None:
        preset = PRESETS[args.preset]
        torch.manual_seed(0)
        network = Ladder(
            conditions=1,
            pooled=0,
            channels=preset.channels,
            latents=preset.latents,
            blocks=preset.blocks,
            separable=preset.separable,
            base=0,
            patch=args.patch or preset.patch,
        )
        self.network, self.device = placed(network.eval(), device), device
        self.windows = [Window(k, s) for k, s in enumerate(network.shapes(*args.size))]
        with torch.inference_mode(), autocast(device):
            conditions = torch.rand(args.batch, 1, *args.size, device=device)
            self.known = self.network.encode(conditions, None)
        self.descend = compiled(self.network.descend, wanted=device.type == "cuda")

    def walk(self, noise: Sequence[Tensor]) -> None:
        """Draw one field per member of the batch."""
        with torch.inference_mode(), autocast(self.device):
            self.descend(self.known, noise)


def fastest(
    work: dict[str, Callable[[int], object]], seconds: float, device: torch.device
) -> dict[str, float]:
    """Seconds of one call of each; they take turns, so that all meet the same machine."""
    best = dict.fromkeys(work, float("inf"))
    stop, turn = time.perf_counter() + seconds, 0
    while turn < 3 or time.perf_counter() < stop:
        for name, call in work.items():
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            call(turn)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first turn warms up
                best[name] = min(best[name], time.perf_counter() - start)
        turn += 1
    return best


def measure(args: argparse.Namespace) -> tuple[list[Row], dict[str, object]]:
    device = choose_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    forward = Forward(args, device)
    windows, batch = forward.windows, args.batch
    there = normal_maps(addresses(batch, 0), windows, device=device)
    times = fastest(
        {
            "forward": lambda _: forward.walk(there),
            "noise": lambda turn: normal_maps(addresses(batch, turn), windows, device=device),
            "both": lambda turn: forward.walk(
                normal_maps(addresses(batch, turn), windows, device=device)
            ),
            "plain torch": lambda _: plain(batch, windows, device),
            "numpy streams": lambda _: streams(batch, windows),
        },
        args.seconds,
        device,
    )
    deviates = sum(int(np.prod(window.shape)) for window in windows)
    ms = {name: 1e3 * value / batch for name, value in times.items()}
    limit = 1 / (1 + LIMITS[device.type])
    rows = [
        Row.cost(
            "forward pass and noise",
            ms["both"],
            ms["forward"],
            unit="ms/field",
            against="the pass alone",
            target=limit,
        )
    ]
    rows += [
        Row.cost(f"noise, beside {name}", ms["noise"], ms[name], unit="ms/field", against=name)
        for name in ("plain torch", "numpy streams")
    ]
    details = {
        "backend": backend(device),
        "deviates_per_field": deviates,
        "ns_per_deviate": 1e9 * times["noise"] / batch / deviates,
    }
    return rows, details


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--preset", default="small", choices=sorted(PRESETS))
    parser.add_argument("--patch", type=int, default=0, help="0: the preset's")
    parser.add_argument("--size", type=int, nargs=2, default=[156, 132], metavar=("Y", "X"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/noise.json"))
    args = parser.parse_args()
    rows, details = measure(args)
    report("noise", rows, vars(args), device=args.device, output=args.output, **details)


if __name__ == "__main__":
    main()

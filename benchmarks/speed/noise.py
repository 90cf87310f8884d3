"""Cost of the noise, as a share of the forward pass that uses it.

    python -m benchmarks.speed.noise [--device cuda] [--preset small] [--size 156 132] [--batch 8]

The forward pass is the ladder's way down from encoded conditions, as for every member; on a GPU it
is compiled where that works. The noise is made for new members each time. Three figures per field:
the pass with noise that is in memory, the noise alone, and both one after the other. Each is the
fastest of many rounds, since other work on the machine only adds time. For
comparison: NumPy's own normal deviates (a Philox stream per map, on the host, not addressable by
position) and the plain torch operations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import interleaved_seconds
from xcvae.generator.device import autocast, choose_device, compiled, placed
from xcvae.generator.network.architecture import PRESETS
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.noise import Address, Window, backend, normal_maps
from xcvae.generator.noise.address import address_words
from xcvae.generator.noise.philox_torch import tensor_normals

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

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        preset = PRESETS[options.preset]
        torch.manual_seed(0)
        network = Ladder(
            conditions=1,
            pooled=0,
            channels=preset.channels,
            latents=preset.latents,
            blocks=preset.blocks,
            separable=preset.separable,
            base=0,
            patch=options.patch or preset.patch,
        )
        self.network, self.device = placed(network.eval(), device), device
        self.windows = [Window(k, s) for k, s in enumerate(network.shapes(*options.size))]
        with torch.inference_mode(), autocast(device):
            conditions = torch.rand(options.batch, 1, *options.size, device=device)
            self.known = self.network.encode(conditions, None)
        self.descend = compiled(self.network.descend, wanted=device.type == "cuda")

    def walk(self, noise: Sequence[Tensor]) -> None:
        """Draw one field per member of the batch."""
        with torch.inference_mode(), autocast(self.device):
            self.descend(self.known, noise)


def noise_maker(
    batch: int, windows: Sequence[Window], device: torch.device
) -> Callable[[], list[Tensor]]:
    """Return a function that makes the noise of new members at each call."""
    turns = count(1)
    return lambda: normal_maps(addresses(batch, next(turns)), windows, device=device)


def measure(options: argparse.Namespace) -> tuple[list[Row], dict[str, object]]:
    """Time the pass and the noise, alone and together."""
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    forward = Forward(options, device)
    windows, batch = forward.windows, options.batch
    ready = normal_maps(addresses(batch, 0), windows, device=device)
    alone, followed = (noise_maker(batch, windows, device) for _ in range(2))
    seconds = interleaved_seconds(
        {
            "forward": lambda: forward.walk(ready),
            "noise": alone,
            "both": lambda: forward.walk(followed()),
            "plain torch": lambda: plain(batch, windows, device),
            "numpy streams": lambda: streams(batch, windows),
        },
        device,
        rounds=2,
        seconds=options.seconds,
    )
    times = {name: min(each) for name, each in seconds.items()}
    deviates = sum(int(np.prod(window.shape)) for window in windows)
    details = {
        "backend": backend(device),
        "deviates_per_field": deviates,
        "ns_per_deviate": 1e9 * times["noise"] / batch / deviates,
    }
    ms = {name: 1e3 * value / batch for name, value in times.items()}
    return rows_of(ms, 1 / (1 + LIMITS[device.type])), details


def rows_of(ms: dict[str, float], limit: float) -> list[Row]:
    """Make the rows from milliseconds per field."""
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
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_device()
    parser.add_argument("--preset", default="small", choices=sorted(PRESETS))
    parser.add_argument("--patch", type=int, default=0, help="0: the preset's")
    parser.add_argument("--size", type=int, nargs=2, default=[156, 132], metavar=("Y", "X"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0, help="0: as torch chooses")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_output_file("noise.json")
    options = parser.parse_args(argv)
    rows, details = measure(options)
    report("noise", rows, vars(options), device=options.device, output=options.output, **details)


if __name__ == "__main__":
    main()

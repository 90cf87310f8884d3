"""How fast fields are drawn: layouts, precisions and compilation beside what is used.

    python benchmarks/draw.py [--size 128 128] [--batches 1 8 64] [--variants ...]

A draw is what a member takes once its condition is encoded: noise by address, the way down the
ladder, and the way back to physical values. The baseline is the eager network in the precision that
is used on the device, channels last, in batches of 8, as `xcvae.sample` draws. The row
"Model.draw" is that with all that is around it, the encoding of a sample for 16 members included.
Variants and baseline draw in turn. The time to compile is beside its variants, and after how many
fields it is made up for; "frozen" is compiled with constant weights.

The last rows are what is used beside the decoder that it began as (`references.prototype`), which
drew in float32; its noise is `torch.randn`.

On a GPU: ``--device cuda --preset base --batches 64 256``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from references import prototype
from references.results import Row, report
from references.workbench import make_model, make_trainer, radar
from torch._inductor import config as inductor

from xcvae.generator.ladder import Encoded
from xcvae.generator.noise import Address, Window, normal_maps
from xcvae.generator.numerics import precision

BASE = 8
Draw = Callable[[int], object]
VARIANTS = [
    f"{how} {number} {layout}"
    for how, number, layout in itertools.product(
        ("eager", "compiled", "frozen"), ("bfloat16", "float32"), ("last", "first")
    )
]


class Bench:
    """One untrained model, whose weights do not matter for its speed."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.seconds = arguments.seconds
        trainer = make_trainer(
            radar(tuple(arguments.size)),
            generator={"preset": arguments.preset},
            fit={},
            device=arguments.device,
        )
        self.device = trainer.device
        self.model = make_model(trainer).to(arguments.device)
        self.batch = trainer.batches.load([0, 1, 2, 3])
        shapes = self.model.network.shapes(*trainer.batches.size)
        self.windows = [Window(k, shape) for k, shape in enumerate(shapes)]

    def cast(self, number: str) -> AbstractContextManager[None]:
        """Compute in a precision."""
        enabled = number == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def drawer(self, variant: str) -> Draw:
        """Draw so many members of one sample."""
        how, number, layout = variant.split()
        memory = torch.channels_last if layout == "last" else torch.contiguous_format
        network = copy.deepcopy(self.model.network).to(memory_format=memory)
        own = self.batch.take([0]).to(self.device)
        with torch.inference_mode(), self.cast(number):
            known = network.encode(own.c.contiguous(memory_format=memory), own.pooled)
        scaling = self.model.scaling

        def down(known: Encoded, noise: list[torch.Tensor]) -> torch.Tensor:
            return scaling.physical(network.descend(known, noise).output.float())

        inductor.freezing = how == "frozen"  # weights become constants, laid out once
        run = down if how == "eager" else torch.compile(down, dynamic=False)
        turns: Iterator[int] = itertools.count()

        def draw(count: int) -> object:
            turn = next(turns)
            addresses = [Address(0, "a", turn * count + k, "prior") for k in range(count)]
            noise = normal_maps(addresses, self.windows, device=self.device)
            with torch.inference_mode(), self.cast(number):
                return run(Encoded.join([known] * count), noise).cpu()

        return draw

    def whole(self, count: int) -> object:
        """`Model.draw`, members of four samples; ``count`` fields in all."""
        return self.model.draw(
            self.batch, seed=0, labels=list("abcd"), realizations=range(count // 4), mode="prior"
        )

    def prototype(self, number: str, levels: prototype.Levels) -> Draw:
        """Draw so many members of one sample as xcvae's first decoder did."""
        torch.manual_seed(0)
        network = prototype.Prototype(*levels).to(self.device, memory_format=torch.channels_last)
        sides = network.sides(self.batch.c.shape[-1])
        guides = [
            torch.randn(1, c, side, side, device=self.device).to(memory_format=torch.channels_last)
            for c, side in zip(network.channels, sides, strict=True)
        ]
        scaling = self.model.scaling

        def draw(count: int) -> object:
            noise = [
                torch.randn(count, z, side, side, device=self.device)
                for z, side in zip(network.latents, sides, strict=True)
            ]
            with torch.inference_mode(), self.cast(number):
                known = [guide.repeat(count, 1, 1, 1) for guide in guides]
                return scaling.physical(network(known, noise).float()).cpu()

        return draw

    def beside(self, draw: Draw, count: int, base: Draw) -> tuple[list[float], list[float], float]:
        """Seconds of draws and of the baseline's, in turn, and of the first one."""
        began = time.perf_counter()
        draw(count)
        first = time.perf_counter() - began
        sides = ((draw, count), (base, BASE))
        seconds: tuple[list[float], list[float]] = ([], [])
        stop = time.perf_counter() + self.seconds
        while len(seconds[0]) < 5 or time.perf_counter() < stop:
            for (call, fields), times in zip(sides, seconds, strict=True):
                began = time.perf_counter()
                call(fields)
                # Seconds of as many fields as the baseline draws at once.
                times.append((time.perf_counter() - began) * BASE / fields)
        return *seconds, first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("Y", "X"))
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="for every figure")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/draw.json"))
    arguments = parser.parse_args()
    bench = Bench(arguments)
    used = f"eager {precision(bench.device)} last"
    base = bench.drawer(used)
    base(BASE)
    names = {"amount": BASE, "unit": "fields/s", "against": f"{used}, {BASE}"}
    own, other, _ = bench.beside(bench.whole, 64, base)
    rows = [Row.paired("Model.draw, 64 fields of 4 samples", own, other, **names)]
    compiling: dict[str, Any] = {}
    for variant, count in itertools.product(arguments.variants, arguments.batches):
        own, other, first = bench.beside(bench.drawer(variant), count, base)
        row = Row.paired(f"{variant}, {count}", own, other, **names)
        rows.append(row)
        if variant.startswith(("compiled", "frozen")):
            gain = (1 - 1 / row.ratio) / row.baseline
            pays = round(first / gain) if gain > 0 else None
            compiling[row.name] = {"seconds": first, "pays_after_fields": pays}
    if arguments.size[0] == arguments.size[1]:
        levels = prototype.SMALL if arguments.preset in ("fast", "small") else prototype.BASE
        names["amount"], names["against"] = BASE, "the prototype"
        for number, target in (("float32", 3.0), ("bfloat16", None)):
            own, other, _ = bench.beside(base, BASE, bench.prototype(number, levels))
            label = f"what is used, beside the prototype in {number}"
            rows.append(Row.paired(label, own, other, target=target, **names))
    for name, cost in compiling.items():
        print(f"{name}: first call {cost['seconds']:.1f} s, pays after {cost['pays_after_fields']}")
    where = {"device": arguments.device, "output": arguments.output}
    report("draw", rows, vars(arguments), **where, compiling=compiling)


if __name__ == "__main__":
    main()

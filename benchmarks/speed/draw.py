"""Speed of drawing: layouts, precisions and compilation beside the ones that xcvae uses.

    python -m benchmarks.speed.draw [--size 128 128] [--batches 1 8 64] [--variants ...]

A draw is the part of a member that remains once its condition is encoded: noise by address, the way
down the ladder, and the way back to physical values. The baseline is the eager network in the
precision that xcvae uses on the device, channels last, in batches of 8, as in `xcvae.sample`. The
row "Model.draw" is that with everything around it, including the encoding of a sample for 16
members. Variants and baseline draw in turn. The time to compile is printed beside its variants, and
the number of fields after which it pays; "frozen" is compiled with constant weights.

The last rows compare the baseline with the first decoder of xcvae
(`benchmarks.models.prototype_decoder`), which drew in float32; its noise is `torch.randn`.

On a GPU: ``--device cuda --preset base --batches 64 256``.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch._inductor import config as inductor

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import resized_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.timing import interleaved_seconds, seconds_of
from benchmarks.harness.untrained import make_model, make_trainer
from benchmarks.models import prototype_decoder
from xcvae.generator.device import precision
from xcvae.generator.network.ladder import Encoded
from xcvae.generator.noise import Address, Window, normal_maps

BASE = 8
Draw = Callable[[int], object]
VARIANTS = [
    f"{how} {number} {layout}"
    for how, number, layout in itertools.product(
        ("eager", "compiled", "frozen"), ("bfloat16", "float32"), ("last", "first")
    )
]


class DrawBenchmark:
    """One untrained model, whose weights do not matter for its speed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.seconds = options.seconds
        trainer = make_trainer(
            resized_radar(tuple(options.size)),
            generator={"preset": options.preset},
            fit={},
            device=options.device,
        )
        self.device = trainer.device
        self.model = make_model(trainer).to(options.device)
        self.batch = trainer.batches.load([0, 1, 2, 3])
        shapes = self.model.network.shapes(*trainer.batches.size)
        self.windows = [Window(k, shape) for k, shape in enumerate(shapes)]

    def cast(self, number: str) -> AbstractContextManager[None]:
        """Compute in a precision."""
        enabled = number == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def drawer(self, variant: str) -> Draw:
        """Return a function that draws so many members of one sample."""
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
        """Draw members of four samples by `Model.draw`; ``count`` fields in all."""
        return self.model.draw(
            self.batch, seed=0, labels=list("abcd"), realizations=range(count // 4), mode="prior"
        )

    def prototype(self, number: str, levels: prototype_decoder.Levels) -> Draw:
        """Return a function that draws members of one sample with the first decoder of xcvae."""
        torch.manual_seed(0)
        network = prototype_decoder.PrototypeDecoder(*levels).to(
            self.device, memory_format=torch.channels_last
        )
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

    def compare(self, draw: Draw, count: int, base: Draw) -> tuple[list[float], list[float], float]:
        """Time draws and the baseline, in turn, in seconds per `BASE` fields; also the first."""
        first = seconds_of(lambda: draw(count), self.device)
        seconds = interleaved_seconds(
            {"own": lambda: draw(count), "base": lambda: base(BASE)},
            self.device,
            rounds=5,
            seconds=self.seconds,
            warm_up=0,
        )
        return [s * BASE / count for s in seconds["own"]], seconds["base"], first

    def variant_rows(
        self, variants: Sequence[str], batches: Sequence[int], base: Draw, names: dict[str, Any]
    ) -> tuple[list[Row], dict[str, Any]]:
        """Time variants in several batch sizes; return also the cost of compiling by row."""
        rows, compiling = [], {}
        for variant, count in itertools.product(variants, batches):
            own, other, first = self.compare(self.drawer(variant), count, base)
            row = Row.paired(f"{variant}, {count}", own, other, **names)
            rows.append(row)
            if variant.startswith(("compiled", "frozen")):
                gain = (1 - 1 / row.ratio) / row.baseline
                pays = round(first / gain) if gain > 0 else None
                compiling[row.name] = {"seconds": first, "pays_after_fields": pays}
        return rows, compiling

    def prototype_rows(self, preset: str, base: Draw) -> list[Row]:
        """Time the baseline beside the first decoder of xcvae."""
        small = preset in ("fast", "small")
        levels = prototype_decoder.SMALL if small else prototype_decoder.BASE
        names = {"amount": BASE, "unit": "fields/s", "against": "the prototype"}
        rows = []
        for number, target in (("float32", 3.0), ("bfloat16", None)):
            own, other, _ = self.compare(base, BASE, self.prototype(number, levels))
            label = f"what is used, beside the prototype in {number}"
            rows.append(Row.paired(label, own, other, target=target, **names))
        return rows


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_preset()
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], metavar=("Y", "X"))
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_device()
    parser.add_argument("--seconds", type=float, default=2.0, help="for every figure")
    parser.add_output_file("draw.json")
    options = parser.parse_args(argv)
    benchmark = DrawBenchmark(options)
    used = f"eager {precision(benchmark.device)} last"
    base = benchmark.drawer(used)
    base(BASE)
    names = {"amount": BASE, "unit": "fields/s", "against": f"{used}, {BASE}"}
    own, other, _ = benchmark.compare(benchmark.whole, 64, base)
    rows = [Row.paired("Model.draw, 64 fields of 4 samples", own, other, **names)]
    found, compiling = benchmark.variant_rows(options.variants, options.batches, base, names)
    rows += found
    if options.size[0] == options.size[1]:
        rows += benchmark.prototype_rows(options.preset, base)
    for name, cost in compiling.items():
        print(f"{name}: first call {cost['seconds']:.1f} s, pays after {cost['pays_after_fields']}")
    where = {"device": options.device, "output": options.output}
    report("draw", rows, vars(options), **where, compiling=compiling)


if __name__ == "__main__":
    main()

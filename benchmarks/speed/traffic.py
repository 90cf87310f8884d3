"""Memory traffic and arithmetic of a draw and of a training step, operator by operator, on paper.

    python -m benchmarks.speed.traffic [--size 128 128] [--preset base] [--bandwidth 3.35]

Nothing is computed: the operators run on torch's device "meta", which has shapes only. Counted are
the bytes of the maps that every operator reads and writes (bfloat16; weights stay in the caches of
the device at the batches of a GPU, and are left out), and the multiplications and additions. From
them follow rates that an accelerator cannot exceed: "eager" with every operator as a kernel of its
own, "fused" with convolutions alone, pointwise operators being part of them, and "arithmetic" at
the peak of the tensor cores. Defaults: an H100 SXM (3.35 TB/s, 990 TFLOP/s dense in bfloat16).
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import resized_radar
from benchmarks.harness.results import write_json
from benchmarks.harness.untrained import make_trainer
from xcvae.generator.network.ladder import Ladder

BATCH = 64
#: Bytes of a value in bfloat16.
BYTES = 2


class Traffic(TorchDispatchMode):
    """Adds up the values that operators read and write, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.values: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        """Run an operator, and count its maps; views move nothing."""
        out = function(*arguments, **(options or {}))
        if not function.is_view:
            maps = [
                one
                for one in tree_leaves((arguments, out))
                if isinstance(one, torch.Tensor) and one.dim() == 4 and one.shape[0] == BATCH
            ]
            if maps:
                name = function.overloadpacket.__name__
                self.values[name] += sum(one.numel() for one in maps)
                self.calls[name] += 1
        return out


def counted(work: Callable[[], object]) -> tuple[Traffic, int]:
    """Count the traffic and the floating point operations of a call."""
    with Traffic() as traffic:
        work()
    with FlopCounterMode(display=False) as operations:
        work()
    return traffic, operations.get_total_flops()


def works(network: Ladder, size: Sequence[int]) -> dict[str, Callable[[], object]]:
    """Return a prior draw without its encoding, and the passes of a training step."""
    height, width = size
    weight = next(iter(network.parameters()))
    inputs = network.encode_condition.stem.weight.shape[1] // network.patch**2 - 1
    c = weight.new_zeros(BATCH, inputs, height, width)
    x = weight.new_zeros(BATCH, 1, height, width)
    noise = [weight.new_zeros(BATCH, *shape) for shape in network.shapes(height, width)]
    with torch.no_grad():
        encoded = network.encode(c, None)

    def draw() -> None:
        with torch.no_grad():
            network.descend(encoded, noise)

    def step() -> None:
        drawn = network(c, None, noise, x=x)
        error = (drawn.output - x).abs().mean()
        (error + torch.stack(drawn.kl()).mean()).backward()

    return {"draw": draw, "training step": step}


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("Y", "X"))
    parser.add_preset()
    parser.add_argument("--bandwidth", type=float, default=3.35, help="TB/s; default: %(default)s")
    parser.add_argument("--peak", type=float, default=990.0, help="TFLOP/s; default: %(default)s")
    parser.add_output_file()
    options: argparse.Namespace = parser.parse_args(argv)
    data = resized_radar(tuple(options.size))
    trainer = make_trainer(data, generator={"preset": options.preset}, fit={})
    network = trainer.networks[0].to("meta")
    results: dict[str, Any] = {}
    for name, work in works(network, options.size).items():
        traffic, operations = counted(work)
        megabytes = {n: BYTES * v / BATCH / 1e6 for n, v in traffic.values.most_common()}
        convolutions = sum(v for n, v in megabytes.items() if n.startswith("convolution"))
        rates = {
            "eager": options.bandwidth * 1e6 / sum(megabytes.values()),
            "fused": options.bandwidth * 1e6 / convolutions,
            "arithmetic": options.peak * 1e12 * BATCH / operations,
        }
        print(f"\n{name}: {sum(traffic.calls.values())} operators on maps")
        for one, value in megabytes.items():
            if value >= 0.005 * sum(megabytes.values()):
                print(f"  {one:28} {traffic.calls[one]:4} calls {value:9.2f} MB a field")
        for one, rate in rates.items():
            print(f"  at most, {one:18} {rate:12,.0f} fields/s")
        results[name] = {"MB": megabytes, "calls": dict(traffic.calls), "fields/s": rates}
    if options.output is not None:
        write_json(options.output, results)


if __name__ == "__main__":
    main()

"""The one shape that benchmarks leave their figures in, so that two runs can be compared.

A row is a figure beside a bare baseline that was measured in the same run. Its ratio is always the
larger the better: rates are divided by the baseline's, times and memory divide it.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Row", "machine", "report", "write_json"]

SHAPE = "xcvae-benchmark-1"


@dataclass(frozen=True)
class Row:
    """A figure and what it is measured against.

    Attributes
    ----------
    name
        The same in every run of the benchmark.
    value, baseline
        Both in ``unit``.
    unit
        What they are given in, such as "samples/s" or "ms".
    against
        What the baseline is.
    ratio
        Value against baseline, the larger the better.
    target
        Least ratio that is wanted; None where the figure is for information.
    """

    name: str
    value: float
    unit: str
    baseline: float
    against: str
    ratio: float
    target: float | None = None

    @classmethod
    def rate(
        cls,
        name: str,
        value: float,
        baseline: float,
        *,
        unit: str,
        against: str,
        target: float | None = None,
    ) -> Row:
        """Make a row of rates: more is better."""
        return cls(name, value, unit, baseline, against, value / baseline, target)

    @classmethod
    def cost(
        cls,
        name: str,
        value: float,
        baseline: float,
        *,
        unit: str,
        against: str,
        target: float | None = None,
    ) -> Row:
        """Make a row of times or memory: less is better."""
        return cls(name, value, unit, baseline, against, baseline / value, target)

    @classmethod
    def paired(
        cls,
        name: str,
        seconds: Sequence[float],
        baseline: Sequence[float],
        *,
        amount: float,
        unit: str,
        against: str,
        target: float | None = None,
    ) -> Row:
        """Make a row of rates from repeats that were measured in turn.

        The ratio is the median over pairs: what slows a shared machine down for a while slows
        both sides of a pair.
        """
        ratio = median(base / own for own, base in zip(seconds, baseline, strict=True))
        value, other = amount / median(seconds), amount / median(baseline)
        return cls(name, value, unit, other, against, ratio, target)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.ratio >= self.target


def report(
    benchmark: str,
    rows: Sequence[Row],
    settings: Mapping[str, Any],
    *,
    device: str = "cpu",
    output: Path | None = None,
    **details: Any,
) -> dict[str, Any]:
    """Print a table of rows, and write them where ``output`` says.

    Parameters
    ----------
    benchmark
        Its name.
    rows, settings
        What was measured, and with what.
    device
        That was measured.
    output
        JSON file.
    **details
        Whatever else the file is to hold, such as single repeats.

    Returns
    -------
    dict
        The content of the file.
    """
    where = machine(device)
    width = max([len(row.name) for row in rows], default=0)
    print(f"{benchmark}: {where}")
    for row in rows:
        aim = "" if row.target is None else f"  target {row.target:g}: {_verdict(row)}"
        print(
            f"{row.name:{width}} {row.value:12.4g} {row.unit:10} {row.ratio:8.3f} of "
            f"{row.against} ({row.baseline:.4g}){aim}"
        )
    content = {
        "shape": SHAPE,
        "benchmark": benchmark,
        "device": where,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("numpy", "torch", "xarray", "xcvae", "zarr")},
        "settings": {k: v for k, v in settings.items() if not isinstance(v, Path)},
        "rows": [asdict(row) for row in rows],
        **details,
    }
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_json(output, content)
    return content


def write_json(place: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all."""
    partial = place.with_name(f"{place.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(place)


def machine(device: str) -> str:
    """Name of the GPU, or of the processor and how many threads of it are used."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"CPU {name}, {torch.get_num_threads()} threads"


def _verdict(row: Row) -> str:
    return "met" if row.met else "missed"

"""Result files of benchmarks: rows beside their baselines, in one shape, so that runs compare.

A row is a figure beside a bare baseline that was measured in the same run. A larger ratio is always
better: rates are divided by the baseline's, times and memory divide it.
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

__all__ = ["SHAPE", "Row", "claim_folder", "machine", "report", "write_json"]

SHAPE = "xcvae-benchmark-1"


@dataclass(frozen=True)
class Row:
    """A figure beside its baseline.

    Attributes
    ----------
    name
        The same in every run of the benchmark.
    value, baseline
        Both in ``unit``.
    unit
        Unit of both, such as "samples/s" or "ms".
    against
        Name of the baseline.
    ratio
        Value against baseline; larger is better.
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
    def rate(cls, name: str, value: float, baseline: float, **about: Any) -> Row:
        """Make a row of rates, where more is better; ``about`` has unit, against and target."""
        return cls(name=name, value=value, baseline=baseline, ratio=value / baseline, **about)

    @classmethod
    def cost(cls, name: str, value: float, baseline: float, **about: Any) -> Row:
        """Make a row of times or memory, where less is better."""
        return cls(name=name, value=value, baseline=baseline, ratio=baseline / value, **about)

    @classmethod
    def paired(
        cls,
        name: str,
        seconds: Sequence[float],
        baseline: Sequence[float],
        *,
        amount: float,
        **about: Any,
    ) -> Row:
        """Make a row of rates from repeats that were measured in turn.

        The ratio is the median over pairs: a shared machine that is slow for a while slows both
        sides of a pair. The rates are ``amount`` over the median seconds.
        """
        ratio = median(base / own for own, base in zip(seconds, baseline, strict=True))
        value, other = amount / median(seconds), amount / median(baseline)
        return cls(name=name, value=value, baseline=other, ratio=ratio, **about)

    @property
    def met(self) -> bool | None:
        """True if the ratio reaches the target; None without one."""
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
    """Print a table of rows, and write them to ``output``.

    Parameters
    ----------
    benchmark
        Its name.
    rows, settings
        The measurements, and the options that they were made with.
    device
        The device that was measured.
    output
        JSON file.
    **details
        More entries of the file, such as single repeats.

    Returns
    -------
    dict
        The content of the file.
    """
    where = machine(device)
    _print_rows(benchmark, where, rows)
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
        write_json(output, content)
    return content


def write_json(place: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all; folders that do not exist are made."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(place)


def claim_folder(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make a folder for results, or refuse one with results of other data or settings."""
    place = folder / "arena.json"
    if place.exists() and json.loads(place.read_text()) != identity:
        raise SystemExit(
            f"{folder} holds results of {place.read_text()}, not {dict(identity)}: give another "
            "--output, or remove the folder"
        )
    write_json(place, identity)


def machine(device: str) -> str:
    """Return the name of the GPU, or of the processor and the number of threads in use."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"CPU {name}, {torch.get_num_threads()} threads"


def _print_rows(benchmark: str, where: str, rows: Sequence[Row]) -> None:
    width = max([len(row.name) for row in rows], default=0)
    print(f"{benchmark}: {where}")
    for row in rows:
        verdict = "met" if row.met else "missed"
        aim = "" if row.target is None else f"  target {row.target:g}: {verdict}"
        print(
            f"{row.name:{width}} {row.value:12.4g} {row.unit:10} {row.ratio:8.3f} of "
            f"{row.against} ({row.baseline:.4g}){aim}"
        )

"""What one waits for before anything happens: imports, help, and the first field of a model.

    python benchmarks/startup.py [--repeats 5] [--output benchmarks/results/startup.json]

Every figure is the median over fresh processes, the files being in the page cache. The limits are
those of the project; the imports that a figure cannot do without are measured beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from references.results import Row, report
from references.workbench import make_trainer

import xcvae
from xcvae.generator.model import Model

IMPORT = """
import xarray, time
start = time.perf_counter()
import xcvae
print(time.perf_counter() - start)
"""
CLI = "import sys; from xcvae.cli import main; sys.exit(main())"
PLUGINS = """
import sys
from xcvae.cli import main
sys.argv = ["xcvae", "plugins"]
try:
    code = main()
except SystemExit as end:
    code = end.code
assert not code, code
assert "torch" not in sys.modules, "torch was loaded"
"""
FIELD = """
import sys, xcvae
ds = xcvae.tutorial.open_dataset("radklim").isel(time=slice(1))
members = ds.cvae.sample(sys.argv[1], mode="prior", members=1, progress=False)
assert members.pr.values.shape == (1, 1, 156, 132)
"""
#: What cannot be done without, by figure.
BARE = {
    "xcvae --help": "pass",
    "xcvae plugins": "import xarray",
    "first field": "import torch, xarray, zarr, dask.array",
}


def process(code: str, *arguments: str) -> tuple[float, str]:
    """Seconds of a fresh process, and what it printed."""
    began = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    # An installed package comes with its bytecode.
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own)
    return time.perf_counter() - began, done.stdout


def timed(code: str, arguments: Sequence[str], repeats: int) -> float:
    """Median seconds of a process, after one that warms up."""
    process(code, *arguments)
    return median(process(code, *arguments)[0] for _ in range(repeats))


def save_model(place: Path) -> None:
    """Save a model of the preset "small"; its weights do not matter."""
    trainer = make_trainer(
        xcvae.tutorial.open_dataset("radklim").isel(time=slice(0, 490, 10)).load(),
        generator={"preset": "small"},
        fit={},
    )
    Model(
        trainer.network, spec=trainer.batches.spec, scaling=trainer.scaling,
        record=trainer.record, architecture=trainer.architecture, training={},
    ).save(place)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/startup.json"))
    arguments = parser.parse_args()
    process(IMPORT)
    imported = median(float(process(IMPORT)[1]) for _ in range(arguments.repeats))
    limit = {"unit": "s", "against": "the limit", "target": 1.0}
    rows = [Row.cost("import xcvae, beyond xarray", imported, 0.3, **limit)]
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.xcvae"
        save_model(model)
        figures = {
            "xcvae --help": (CLI, ["--help"], 0.7),
            "xcvae plugins": (PLUGINS, [], 1.0),
            "first field": (FIELD, [str(model)], 3.0),
        }
        for name, (code, given, most) in figures.items():
            seconds = timed(code, given, arguments.repeats)
            bare = timed(BARE[name], [], arguments.repeats)
            rows.append(Row.cost(name, seconds, most, **limit))
            what = {"unit": "s", "against": f"python -c '{BARE[name]}'"}
            rows.append(Row.cost(f"{name}, bare", seconds, bare, **what))
    report("startup", rows, vars(arguments), output=arguments.output)


if __name__ == "__main__":
    main()

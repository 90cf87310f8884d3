"""Time to start: imports, help, and the first field of a model.

    python -m benchmarks.speed.startup [--repeats 5] [--output benchmarks/results/startup.json]

Every figure is the median over fresh processes, the files being in the page cache. The limits are
those of the project; the imports that a figure needs in any case are measured beside it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.radar import open_radar
from benchmarks.harness.results import Row, report
from benchmarks.harness.untrained import make_trainer
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
#: The least that a figure needs.
BARE = {
    "xcvae --help": "pass",
    "xcvae plugins": "import xarray",
    "first field": "import torch, xarray, zarr, dask.array",
}


def run_process(code: str, *arguments: str) -> tuple[float, str]:
    """Run a fresh process; return seconds and its output."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code, *arguments]
    # An installed package comes with its bytecode.
    own = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=own)
    return time.perf_counter() - start, done.stdout


def median_seconds(code: str, arguments: Sequence[str], repeats: int) -> float:
    """Return median seconds of a process, after one that warms up."""
    run_process(code, *arguments)
    return median(run_process(code, *arguments)[0] for _ in range(repeats))


def save_model(place: Path) -> None:
    """Save a model of the preset "small"; its weights do not matter."""
    trainer = make_trainer(
        open_radar().isel(time=slice(0, 490, 10)),
        generator={"preset": "small"},
        fit={},
    )
    Model(
        trainer.networks, spec=trainer.batches.spec, scaling=trainer.scaling,
        record=trainer.record, architecture=trainer.architecture, training={},
    ).save(place)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_output_file("startup.json")
    options = parser.parse_args(argv)
    run_process(IMPORT)
    imported = median(float(run_process(IMPORT)[1]) for _ in range(options.repeats))
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
            seconds = median_seconds(code, given, options.repeats)
            bare = median_seconds(BARE[name], [], options.repeats)
            rows.append(Row.cost(name, seconds, most, **limit))
            what = {"unit": "s", "against": f"python -c '{BARE[name]}'"}
            rows.append(Row.cost(f"{name}, bare", seconds, bare, **what))
    report("startup", rows, vars(options), output=options.output)


if __name__ == "__main__":
    main()

"""Run the pages that teach, with their full limits, and keep what they print and draw.

    python docs/record.py [PAGE ...] [--minutes MINUTES]
    python docs/record.py --check

``--minutes`` replaces the three minutes of a training where other work shares the machine, so that
as many steps are made as on an idle one.

The Python blocks of a page run in their order, in one process and a temporary folder. For every
block, ``docs/outputs/PAGE.json`` has the printed text and the names of its figures, which are saved
next to it. The website shows both below the block, and as a notebook. The tests run the same blocks
with tiny limits. Outputs of a block that has changed since are not shown; ``--check`` lists them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import json
import os
import re
import runpy
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
OUTPUTS = DOCS / "outputs"
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)

#: The limit of a training, in the pages.
LIMIT = '"max_minutes": 3'

RUN = """
data: {tutorial: radklim, train: {split: 0}, validation: {split: 1}, test: {split: 2}}
output: run
train: {target: pr, conditions: [pr_coarse], fit: {max_minutes: 3}}
sample:
  - {name: prior, members: 4, samples: {split: 1}}
  - {name: storms, part: train, members: 4}
evaluate: {baselines: [bilinear]}
diagnose: null
"""


def island(_minutes: float) -> None:
    runpy.run_path(str(DOCS / "data" / "make_island.py"))["make"](Path())


def finished_run(minutes: float) -> None:
    from xcvae.cli import main

    config = RUN.replace("max_minutes: 3", f"max_minutes: {minutes}")
    Path("config.yaml").write_text(config, encoding="utf-8")
    for step in ("train", "sample"):
        if main([step, "config.yaml"]):
            raise SystemExit(f"xcvae {step} failed")


def coarse_rain(_minutes: float) -> None:
    """Write the wettest test frame of the bundled radar, as means over 12 km."""
    import xcvae

    ds = xcvae.tutorial.open_dataset("radklim").drop_encoding()
    test = ds.pr_coarse[ds.split.values == 2]
    frame = test[[int(test.mean(("y_coarse", "x_coarse")).values.argmax())]]
    frame.rename("tp").reset_coords(drop=True).to_dataset().to_netcdf("coarse.nc")


def plugin(_minutes: float) -> None:
    """Register the module that the page writes."""
    from xcvae import plugins

    text = (DOCS / "write-a-plugin.md").read_text(encoding="utf-8")
    found = re.search(r":caption: \S+/__init__\.py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    Path("xcvae_peaks.py").write_text(found[1], encoding="utf-8")
    sys.path.append(str(Path.cwd()))
    plugins.register("xcvae_peaks")


#: Pages, and what makes the files that they read.
PAGES: dict[str, Callable[[float], None] | None] = {
    "quickstart": None,
    "scenarios": island,
    "sequences": None,
    "train-networks": finished_run,
    "operate": finished_run,
    "zero-shot": coarse_rain,
    "write-a-plugin": plugin,
}


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return BLOCK.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))


def fingerprint(code: str) -> str:
    """Return what ties an output to its code."""
    return sha256(code.encode()).hexdigest()[:16]


def run(page: str, minutes: str) -> list[dict[str, Any]]:
    """Run the blocks of a page in the current folder, and return their outputs."""
    space: dict[str, Any] = {"__name__": "__main__"}
    found, seen = [], set()
    for number, code in enumerate(blocks(page)):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            value = _run_block(code.replace(LIMIT, minutes), f"{page}.md, block {number}", space)
            if value is not None:
                print(value)
        names = []
        for name, drawn in space.items():
            if hasattr(drawn, "savefig") and id(drawn) not in seen:
                seen.add(id(drawn))
                names.append(f"{page}-{number}-{name}.png")
                drawn.savefig(OUTPUTS / names[-1], dpi=80, bbox_inches="tight")
        printed = text.getvalue().replace(f"{Path.cwd()}/", "")
        lines = [line.rstrip() for line in printed.splitlines()]
        found.append({"code": fingerprint(code), "text": lines, "figures": names})
    return found


def _run_block(code: str, where: str, space: dict[str, Any]) -> object:
    """Run a block; return the value of its last line, as a notebook does."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), space)
    if not isinstance(last, ast.Expr):
        return None
    value: object = eval(compile(ast.Expression(last.value), where, "eval"), space)
    return value


def stale() -> list[str]:
    """Return the blocks that have changed since they were recorded."""
    found = []
    for page in PAGES:
        file = OUTPUTS / f"{page}.json"
        known = json.loads(file.read_text(encoding="utf-8"))["blocks"] if file.exists() else []
        codes = {block["code"] for block in known}
        found += [
            f"{page}.md, block {number}: not recorded"
            for number, code in enumerate(blocks(page))
            if fingerprint(code) not in codes
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", metavar="PAGE")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--check", action="store_true", help="list blocks without outputs")
    options = parser.parse_args()
    if options.check:
        sys.exit("\n".join(stale()) or None)
    trained = f"{options.minutes:g} minutes of training"
    import matplotlib as mpl

    mpl.use("Agg")
    OUTPUTS.mkdir(exist_ok=True)
    for page in options.pages or PAGES:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            make = PAGES[page]
            if make is not None:
                make(options.minutes)
            recorded = {
                "recorded": f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {trained}",
                "blocks": run(page, f'"max_minutes": {options.minutes}'),
            }
        file = OUTPUTS / f"{page}.json"
        file.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{page}: {len(recorded['blocks'])} blocks", file=sys.stderr)


if __name__ == "__main__":
    main()

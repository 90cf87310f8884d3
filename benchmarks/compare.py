"""Compare two runs of a benchmark, and flag ratios that fell by more than a tenth.

    python -m benchmarks.compare OLD.json NEW.json [--fall 0.1]

Ratios are against a bare baseline of the same run, so the two runs may be of different days and
machines of a kind. The exit code is 1 if a ratio fell, or if a row of the old run is missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.arguments import BenchmarkParser
from benchmarks.harness.results import SHAPE


def ratios(place: Path) -> dict[str, float]:
    """Read the ratio of every row of a file."""
    content: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    if content.get("shape") != SHAPE:
        raise SystemExit(f"{place}: expected the JSON of a benchmark, of shape {SHAPE!r}")
    return {f"{content['benchmark']}: {row['name']}": row["ratio"] for row in content["rows"]}


def compare(old: dict[str, float], new: dict[str, float], fall: float) -> list[str]:
    """Print all rows of the old run beside the new one; name those that fell or are missing."""
    fallen = []
    for name, before in old.items():
        after = new.get(name)
        # Written so that a ratio that is not a number counts as fallen.
        worse = after is None or not after >= (1 - fall) * before
        if worse:
            fallen.append(name)
        now = "missing" if after is None else f"{after:8.3f} {after / before - 1:+8.1%}"
        print(f"{name:60} {before:8.3f} {now}{'  FELL' if worse else ''}")
    for name in new.keys() - old.keys():
        print(f"{name:60} {'new':>8} {new[name]:8.3f}")
    return fallen


def main(argv: Sequence[str] | None = None) -> None:
    parser = BenchmarkParser(__file__, __doc__)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--fall", type=float, default=0.1, help="share that a ratio may fall by")
    options = parser.parse_args(argv)
    fallen = compare(ratios(options.old), ratios(options.new), options.fall)
    if fallen:
        raise SystemExit(f"{len(fallen)} of the ratios fell by more than {options.fall:.0%}")


if __name__ == "__main__":
    main()

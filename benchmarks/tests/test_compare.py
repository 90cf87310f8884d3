"""The comparison of two result files: ratios that fell, rows that are missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.harness.processes import ROOT
from benchmarks.harness.results import Row, report


def compare(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def written(place: Path, **times: float) -> Path:
    rows = [
        Row.cost(name, value, 6.0, unit="ms", against="a bare loop")
        for name, value in times.items()
    ]
    report("demo", rows, {"place": place, "steps": 3}, output=place)
    return place


def test_ratio_that_fell_by_more_than_a_tenth_is_named(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", steady=5.0, slower=5.0, faster=5.0)
    new = written(tmp_path / "new.json", steady=5.5, slower=5.6, faster=2.0)
    done = compare(old, new)
    assert done.returncode == 1
    assert [line.split()[1] for line in done.stdout.splitlines() if "FELL" in line] == ["slower"]
    assert compare(old, new, "--fall", "0.2").returncode == 0
    assert compare(old, old).returncode == 0


def test_missing_rows_and_nan_count_as_fallen(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", kept=5.0, lost=5.0)
    assert compare(old, written(tmp_path / "lost.json", kept=5.0)).returncode == 1
    broken = written(tmp_path / "nan.json", kept=5.0, lost=float("nan"))
    assert "demo: lost" in compare(old, broken).stdout.split("FELL")[0]
    assert compare(old, broken).returncode == 1


def test_files_of_another_shape_are_refused(tmp_path: Path) -> None:
    old = written(tmp_path / "old.json", kept=5.0)
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"rows": []}))
    done = compare(old, other)
    assert done.returncode == 1
    assert "expected the JSON of a benchmark" in done.stderr


def test_larger_ratio_is_better_for_rates_costs_and_pairs() -> None:
    names = {"unit": "", "against": ""}
    assert Row.rate("a", 30.0, 20.0, **names).ratio == 1.5
    assert Row.cost("a", 30.0, 20.0, **names, target=0.9).met is False
    # The ratio of the medians of both sides would be 2 / 2.
    paired = Row.paired("a", [2.0, 4.0, 1.0], [1.0, 2.0, 4.0], amount=8.0, **names)
    assert (paired.value, paired.baseline, paired.ratio) == (4.0, 4.0, 0.5)

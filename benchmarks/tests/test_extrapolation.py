"""The benchmark of rain heavier than the record: what is kept out, drawn, compared and kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import xcvae
from benchmarks.harness.record_splits import RecordSplits
from benchmarks.skill import extrapolation

LADDER = {"channels": [16, 8, 8], "latents": [2, 1, 1], "constrain": True}


def call(
    record: Path, folder: Path, *more: str, code: int = 0
) -> dict[str, list[dict[str, object]]]:
    words = ["--data", str(record), "--coarsen", "12", "--output", str(folder), "--seeds", "0"]
    words += ["--steps", "2", "--members", "3", "--generator", json.dumps(LADDER)]
    words += ["--fit", '{"batch_size": 2, "crop": 24, "validations": 1}']
    assert extrapolation.main([*words, *more]) == code
    found: dict[str, list[dict[str, object]]]
    found = json.loads((folder / "extrapolation.json").read_text())
    return found


def test_light_model_has_not_seen_the_heaviest_samples(record: Path, tmp_path: Path) -> None:
    found = call(record, tmp_path)
    rows = [(row["record"], row["cap"]) for row in found["rows"]]
    assert rows == [(r, c) for r in ("light", "whole") for c in ("default", "none")]
    splits = RecordSplits.open(record, target=None, side=12, tiles=None)
    marks = extrapolation.heaviest(splits.train, 0.1)
    cells = splits.train.coarse.numpy().max((1, 2))
    assert cells[~marks].max() <= cells[marks].min()
    models = [xcvae.load(tmp_path / f"{name}-0.xcvae") for name in ("light", "whole")]
    light, whole = (model.record for model in models)
    assert whole.samples == marks.size
    assert light.samples == marks.size - marks.sum()
    # A call that finds its files trains nothing.
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.xcvae")}
    assert call(record, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.xcvae")} == files
    # One that was killed after a training draws again with its model.
    (tmp_path / "light-0.json").unlink()
    assert call(record, tmp_path) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.xcvae")} == files
    (tmp_path / "whole-0.json").unlink()
    assert call(record, tmp_path, "--stop-after", "0.2", code=75) == found


@pytest.mark.parametrize("wrong", [["--members", "0"], ["--share", "1"], ["--share", "0.999"]])
def test_unusable_arguments_leave_no_folder(record: Path, tmp_path: Path, wrong: list[str]) -> None:
    words = ["--data", str(record), "--coarsen", "12", "--output", str(tmp_path / "new"), *wrong]
    with pytest.raises(SystemExit):
        extrapolation.main(words)
    assert not (tmp_path / "new").exists()


def test_return_levels_of_members_from_the_observed_distribution() -> None:
    rng = np.random.default_rng(1)
    observed, members = rng.gamma(2, 10, 4000), rng.gamma(2, 10, (3, 4000))
    rows = extrapolation.level_rows(members, observed)
    assert [row["period"] for row in rows] == list(extrapolation.PERIODS)
    assert all(row["low"] <= 1 <= row["high"] for row in rows)
    assert all(row["ratio"] == pytest.approx(1, abs=0.06) for row in rows)
    assert rows[0]["observed"] == pytest.approx(np.median(observed))
    twice = extrapolation.level_rows(2 * members, observed)
    assert [row["ratio"] for row in twice] == pytest.approx([2 * row["ratio"] for row in rows])

"""The benchmark of augmentation: selection on one split, report on another, several calls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.skill import augmentation

SELECTIONS = (("heavy", 0.5, 0.3), ("all", 0.25, 0.7))
LADDER = {"channels": [16, 8, 8], "latents": [2, 1, 1]}
FIT = {"batch_size": 2, "crop": 24, "validations": 1}
SCORES = 2 * 3 * 3  # losses, levels, scores


def call(record: Path, folder: Path, *more: str) -> int:
    words = ["--data", str(record), "--coarsen", "12", "--output", str(folder), "--seeds", "2"]
    words += ["--steps", "2", "--generator-steps", "2", "--storms", "4", "--tune", "2"]
    words += ["--generator", json.dumps(LADDER), "--fit", json.dumps(FIT), *more]
    return augmentation.main(words, selections=SELECTIONS)


def test_results_of_several_calls_are_in_one_table(
    record: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(record, tmp_path, "--records", "0.3") == 0
    folder = tmp_path / "record-0.3"
    networks = {place: place.stat().st_mtime_ns for place in (folder / "networks").iterdir()}
    assert len(networks) == 2 * (1 + 2) + 5 * 2 * 2
    first = (folder / "result.json").read_text()
    # Like a call that was killed before its end: what was trained is used again.
    (folder / "result.json").unlink()
    lost = next(iter(networks))
    lost.unlink()
    assert call(record, tmp_path, "--records", "0.3,1") == 0
    assert (folder / "result.json").read_text() == first
    del networks[lost]
    assert all(place.stat().st_mtime_ns == time for place, time in networks.items())

    found = json.loads((tmp_path / "augmentation.json").read_text())
    assert list(found["records"]) == ["0.3", "1"]
    assert [r["samples"] for r in found["records"].values()] == [12, 41]
    assert set(found["verdicts"]) == {"duplicated", "posterior", "prior", "both"}
    assert all(sum(counts.values()) == 2 * SCORES for counts in found["verdicts"].values())
    result = found["records"]["1"]
    train = xr.open_zarr(record, consolidated=False).pr
    train = train.isel(time=train.split.values == 0).values
    np.testing.assert_allclose(result["thresholds"], np.quantile(train, augmentation.LEVELS))
    best = max((k for k in result["tried"] if k != "record"), key=result["tried"].get)
    assert "-".join(map(str, result["selection"])) == best
    row = next(row for row in result["rows"] if row["ratio"] is not None)
    assert row["ratio"] == pytest.approx(row["value"] / row["baseline"])
    assert row["difference"] == pytest.approx(row["value"] - row["baseline"])
    assert "storms of" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="holds results"):
        call(record, tmp_path, "--seed", "1")


def test_generator_is_trained_on_its_share_of_the_training_samples_only(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[xr.Dataset] = []
    compared: list[tuple[xr.Dataset, xr.Dataset]] = []
    train, compare = augmentation.xcvae.train, augmentation.utility.compare

    def watched_train(ds: xr.Dataset, **options: object) -> object:
        seen.append(ds)
        return train(ds, **options)

    def watched_compare(
        ds: xr.Dataset, test: xr.Dataset, *args: object, **options: object
    ) -> object:
        compared.append((ds, test))
        return compare(ds, test, *args, **options)

    monkeypatch.setattr(augmentation.xcvae, "train", watched_train)
    monkeypatch.setattr(augmentation.utility, "compare", watched_compare)
    assert call(record, tmp_path, "--records", "0.3") == 0
    split = xr.open_zarr(record, consolidated=False).split.load()
    (known,) = seen
    assert set(split.sel(time=known.time).values) == {0}
    assert known.sizes["time"] == 12
    # First the choice, on split 1, then the report, on split 2; both with the same record.
    assert [set(split.sel(time=test.time).values) for _, test in compared] == [{1}, {2}]
    assert all(ds.time.equals(known.time) for ds, _ in compared)

"""The benchmark of storms beyond a censored record: what is removed, drawn, tested and reported."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.skill import storms

LADDER = {"channels": [16, 8, 8], "latents": [2, 1, 1]}
FIT = {"batch_size": 2, "crop": 24, "validations": 1}
RECIPES = ["duplicated", "prior", "amplified", "moved", "borrowed", "scaled"]


def call(record: Path, folder: Path, *more: str) -> int:
    words = ["--data", str(record), "--coarsen", "12", "--output", str(folder), "--seeds", "2"]
    words += ["--steps", "2", "--generator-steps", "2", "--storms", "4", "--samples", "12"]
    words += ["--generator", json.dumps(LADDER), "--fit", json.dumps(FIT)]
    return storms.main([*words, *more])


def test_record_lacks_the_heaviest_samples_and_is_tested_on_them(
    record: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(storms, "SHIFT", {"name": "shift", "y": 1, "x": -1})
    assert call(record, tmp_path) == 0
    found = json.loads((tmp_path / "storms.json").read_text())
    train = xr.open_zarr(record, consolidated=False).pr
    train = train.isel(time=train.split.values == 0).load()
    amounts = train.quantile(0.99, ("y", "x")).values
    rest = train.isel(time=np.argsort(amounts)[: -round(0.1 * amounts.size)])
    assert found["samples"] == 12
    assert found["heaviest"] <= float(rest.max()) + 1e-6
    assert set(found["verdicts"]["record"]) == set(RECIPES)
    assert set(found["verdicts"]["scaled"]) == {*RECIPES, "record"} - {"scaled"}
    # Four heads, three levels, three scores.
    assert all(sum(one.values()) == 36 for one in found["verdicts"]["record"].values())
    amplified = xr.open_zarr(tmp_path / "amplified-2.5.zarr", consolidated=False)
    assert (amplified.amplified == 2.5).all()
    assert "against scaled" in capsys.readouterr().out
    networks = list((tmp_path / "networks").iterdir())
    assert len(networks) == 2 * (1 + len(RECIPES))


def test_a_scarce_record_keeps_its_heaviest_samples(record: Path, tmp_path: Path) -> None:
    assert call(record, tmp_path, "--censor", "0", "--samples", "1000") == 0
    found = json.loads((tmp_path / "storms.json").read_text())
    splits = xr.open_zarr(record, consolidated=False).split
    assert found["samples"] == int((splits == 0).sum())
    assert set(found["verdicts"]["record"]) == {*RECIPES} - {"borrowed"}

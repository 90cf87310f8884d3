"""The benchmark of the scorecard: what it says is true of small cases."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import xarray as xr


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield import_module("evaluate")
    for name in [name for name in sys.modules if name.partition(".")[0] == "references"]:
        sys.modules.pop(name)
    sys.modules.pop("evaluate", None)


def test_scores_gives_the_scores_of_xcvae(bench: ModuleType) -> None:
    scorecards = sys.modules["references.scorecards"]
    forecast, observed = (da.isel(y=slice(24), x=slice(32)) for da in scorecards.pair(5, 3))
    own = scorecards.by_xcvae(forecast, observed)
    other = scorecards.by_scores(forecast.astype("float64"), observed.astype("float64"))
    assert other == pytest.approx(own, rel=1e-5)


def test_the_stores_hold_real_rain_and_no_field_twice(bench: ModuleType, tmp_path: Path) -> None:
    bench.make_store(tmp_path, 4)
    found, observed = (
        xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).pr
        for name in ("ensemble", "observed")
    )
    assert found.shape == (100, 4, 128, 128)
    assert observed.shape == (4, 128, 128)
    assert found.attrs["units"] == observed.attrs["units"] == "mm h-1"
    assert 0.05 < float((found > 0).mean()) < 0.4
    assert float(np.abs(found / 0.12 - np.round(found / 0.12)).max()) < 1e-3
    fields = np.concatenate([found.values.reshape(-1, 128, 128), observed.values])
    wet = fields[(fields > 0).any(axis=(1, 2))]
    assert len(np.unique(wet.reshape(len(wet), -1), axis=0)) == len(wet) > 300


def test_memory_is_told_of_the_scores_that_were_asked_for(
    bench: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.make_store(tmp_path, 2)
    bench.score(tmp_path, ["crps", "mass_bias"])
    told = json.loads(capsys.readouterr().out)
    assert (told["members"], told["samples"], told["metrics"]) == (100, 2, ["crps", "mass_bias"])
    members, observed = (
        xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).pr.values.astype("f8")
        for name in ("ensemble", "observed")
    )
    bias = members.sum() / 100 / observed.sum() - 1
    assert told["mass_bias"] == pytest.approx(bias, rel=1e-6)
    assert told["peak_MB"] > 100


def test_the_truth_of_the_synthetic_ensembles_is_what_they_score(bench: ModuleType) -> None:
    perfection = bench.perfection
    many = perfection.perfect(4, samples=20, side=60)
    assert many["spread_skill"] == pytest.approx(1.0, abs=0.02)
    assert many["rank_deviation"] < many["band_99.95"]
    assert many["band_low"] < many["band_high"] < many["band_99.95"]
    row = perfection.coverage(samples=40, memory=0.0, repeats=12, side=8)
    names = ("crps", "crps_skill", "spread_skill", "mass_bias", "brier")
    # Were one of the true scores wrong, its intervals of 2,560 pixels would miss it.
    assert all(row[name] >= 60 for name in names), row

"""The benchmark of the scorecard: what it says is true of small cases."""

from __future__ import annotations

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


def test_a_store_of_links_reads_like_one_of_copies(bench: ModuleType, tmp_path: Path) -> None:
    bench.make_store(tmp_path, 4, pool=2)
    found = xr.open_zarr(tmp_path / "e.zarr", consolidated=False).pr
    assert found.shape == (100, 4, 128, 128)
    assert found.attrs["units"] == "mm h-1"
    np.testing.assert_array_equal(found[:3, 3], found[:3, 1])
    assert (found[0, 0] != found[0, 1]).any()


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

"""The benchmarks of the scorecard, on small cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.diagnosis import scorecard_accuracy
from benchmarks.speed import scorecard, scorecard_packages


def test_scores_package_returns_the_scores_of_xcvae() -> None:
    forecast, observed = (da.isel(y=slice(24), x=slice(32)) for da in scorecard_packages.pair(5, 3))
    own = scorecard_packages.by_xcvae(forecast, observed)
    other = scorecard_packages.by_scores(forecast.astype("float64"), observed.astype("float64"))
    assert other == pytest.approx(own, rel=1e-5)


def test_store_has_real_rain_and_no_field_twice(tmp_path: Path) -> None:
    scorecard.make_store(tmp_path, 4)
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


def test_memory_is_measured_for_the_requested_scores(tmp_path: Path) -> None:
    scorecard.make_store(tmp_path, 2)
    row = scorecard.score_store(str(tmp_path), ["crps", "mass_bias"])
    assert (row["members"], row["samples"], row["metrics"]) == (100, 2, ["crps", "mass_bias"])
    members, observed = (
        xr.open_zarr(tmp_path / f"{name}.zarr", consolidated=False).pr.values.astype("f8")
        for name in ("ensemble", "observed")
    )
    bias = members.sum() / 100 / observed.sum() - 1
    assert row["mass_bias"] == pytest.approx(bias, rel=1e-6)
    assert row["peak_MB"] > 100


def test_true_scores_of_synthetic_ensembles_are_right() -> None:
    many = scorecard_accuracy.perfect(4, samples=20, side=60)
    assert many["spread_skill"] == pytest.approx(1.0, abs=0.02)
    assert many["rank_deviation"] < many["band_99.95"]
    assert many["band_low"] < many["band_high"] < many["band_99.95"]
    row = scorecard_accuracy.coverage(samples=40, memory=0.0, repeats=12, side=8)
    names = ("crps", "crps_skill", "spread_skill", "mass_bias", "brier")
    # Were one of the true scores wrong, its intervals of 2,560 pixels would miss it.
    assert all(row[name] >= 60 for name in names), row

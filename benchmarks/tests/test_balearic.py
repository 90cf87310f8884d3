"""The benchmark of weather maps to masked island rain, on a small made-up record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.models.analogs import Analogs
from benchmarks.skill import balearic
from benchmarks.skill.daily_sequences import by_window

QUICK = '{"max_steps": 4, "batch_size": 4, "validations": 1}'
TINY = '{"channels": [8, 8], "latents": [2, 1]}'


@pytest.fixture(scope="module")
def record() -> xr.Dataset:
    """Three years in which a passing wave determines the rain, so that analogs have skill."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2001-01-01", "ns") + np.arange(3 * 365) * np.timedelta64(1, "D")
    phase = rng.uniform(0, 2 * np.pi, time.size)
    wave = np.cos(phase[:, None, None] + np.linspace(0, 3, 5)[:, None] + np.linspace(0, 2, 6))
    rain = np.maximum(8 * np.cos(phase) - 3, 0)[:, None, None] * rng.gamma(2, 0.5, (1095, 9, 14))
    rain[:, :3] = np.nan
    maps = {
        name: (("time", "lat", "lon"), (mean + scale * wave).astype("float32"), {"units": units})
        for name, mean, scale, units in (("mslp", 1e5, 900.0, "Pa"), ("t850", 275.0, 5.0, "K"))
    }
    return xr.Dataset(
        {"pr": (("time", "y", "x"), rain.astype("float32"), {"units": "mm d-1"}), **maps},
        coords={
            "time": time,
            "split": ("time", np.repeat([0, 1, 2], 365).astype("int8")),
            "lat": np.linspace(50, 40, 5),
            "lon": np.linspace(-5, 10, 6),
            "y": ("y", np.arange(9) * 5e3, {"units": "m"}),
            "x": ("x", np.arange(14) * 5e3, {"units": "m"}),
        },
    )


@pytest.fixture(scope="module")
def store(record: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("record") / "islands.zarr"
    record.to_zarr(place, consolidated=False)
    return str(place)


def report_of(store: str, output: Path, *words: str) -> dict[str, object]:
    fixed = ["--data", store, "--fields", "mslp", "t850", "--output", str(output)]
    balearic.main([*fixed, "--members", "6", *words])
    report: dict[str, object] = json.loads((output / "balearic.json").read_text())
    return report


def test_baselines_are_scored_without_a_model(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = report_of(store, tmp_path, "--minutes", "0")
    assert (report["split"], report["days"]) == (2, 365)
    scores = report["scores"]
    assert list(scores) == ["random days", *balearic.NAMES]
    # Two draws of random days differ by chance only; analogs see the wave.
    assert scores["random days"]["crps_skill"] == pytest.approx(0, abs=0.05)
    assert scores["climatology"]["spread_skill"] == pytest.approx(1, abs=0.1)
    assert scores["16 analogs"]["crps_skill"] > 0.5
    assert "30-day window" in capsys.readouterr().out


@pytest.mark.parametrize("recipe", ["fields", "components"])
def test_model_is_trained_and_scored(store: str, tmp_path: Path, recipe: str) -> None:
    words = ["--minutes", "1", "--device", "cpu", "--recipe", recipe, "--tune"]
    report = report_of(store, tmp_path, *words, "--fit", QUICK, "--generator", TINY)
    assert report["split"] == 1
    assert report["training"]["steps"] == 4
    assert report["architecture"]["channels"] == [8, 8]
    assert next(iter(report["scores"])) == "xcvae"
    assert len(report["verdict"]) == 3
    assert (tmp_path / "model.xcvae").exists()


def test_components_are_scaled_by_the_training_days(record: xr.Dataset) -> None:
    parts = balearic.splits_of(record)
    names = balearic.with_components(parts, ["mslp", "t850"])
    assert len(names) == 14
    spread = [float(parts[0][name].std()) for name in names[:2]]
    np.testing.assert_allclose(spread, 1, rtol=1e-4)
    # The other days are projected with the mean and spread of the training days.
    shifted = record.copy()
    shifted["mslp"] = record["mslp"] + 2 * record["mslp"].std() * (record["split"] == 2)
    moved = balearic.splits_of(shifted)
    balearic.with_components(moved, ["mslp", "t850"])
    np.testing.assert_allclose(moved[0]["component_0"], parts[0]["component_0"], atol=1e-5)
    assert abs(moved[2]["component_0"] - parts[2]["component_0"]).mean() > 0.1


def test_analogs_are_the_nearest_days(record: xr.Dataset) -> None:
    record = record.isel(time=slice(60))
    twin = record.isel(time=[7, 30])
    later = twin.assign_coords(time=twin["time"] + np.timedelta64(5000, "D"))
    analogs = Analogs(record, later, ["mslp", "t850"], members=3, components=2)
    found = analogs(later[["pr"]].assign_attrs(target="pr"), 50, 0)
    assert found.dims == ("realization", "time", "y", "x")
    assert found.shape[0] == 3
    np.testing.assert_array_equal(found[0], twin["pr"])


def test_record_without_test_days_is_refused(record: xr.Dataset) -> None:
    with pytest.raises(SystemExit, match="test: the record has no days"):
        balearic.splits_of(record.isel(time=slice(700)))


def test_windows_of_days_are_scored_on_land_without_the_rest() -> None:
    observed = np.arange(7.0)[:, None, None] * np.ones((1, 2, 3))
    observed[:, 0, 0] = np.nan
    members = np.broadcast_to(observed + 3.0, (4, 7, 2, 3)).copy()
    members[:, 5:] = 100.0  # the sixth and seventh day are no whole window
    np.testing.assert_allclose(by_window(members, observed, 5), [3.0])
    members[:, :5] = observed[:5] + np.array([-1.0, 1.0, -1.0, 1.0])[:, None, None, None]
    assert by_window(members, observed, 5)[0] == pytest.approx(1.0 - 2.0 / 3.0)

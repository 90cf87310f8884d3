"""Metrics of the tail against scores, NumPy and the built-in metrics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scores.categorical
import scores.probability
import xarray as xr
from xcvae_extremes.events import QuantileCSI, QuantileSEDI
from xcvae_extremes.levels import ReturnLevelRatio
from xcvae_extremes.scores import ThresholdWeightedCRPS
from xcvae_extremes.thresholds import observed_quantile

import xcvae
from xcvae import metrics
from xcvae.testing import make_dataset, make_ensemble


@pytest.fixture(scope="module")
def rain() -> tuple[xr.DataArray, xr.DataArray]:
    ds = make_dataset(samples=12, masked=True)
    return make_ensemble(ds, members=5), ds.pr


def test_tw_crps_equals_scores(rain) -> None:
    forecast, observed = rain
    for threshold in (0.5, 3.0):
        oracle = scores.probability.tail_tw_crps_for_ensemble(
            forecast, observed, "realization", threshold, tail="upper", method="fair"
        )
        assert float(oracle) > 0
        ours = ThresholdWeightedCRPS(threshold)(forecast, observed)
        assert float(ours) == pytest.approx(float(oracle), rel=1e-5)


def test_tw_crps_at_zero_threshold_equals_crps(rain) -> None:
    card = xcvae.evaluate(
        rain[1].to_dataset(name="pr"),
        rain[0].to_dataset(name="pr"),
        metrics=["crps", {"name": "tw_crps", "threshold": 1e-12}],
        baselines=[],
        progress=False,
    )
    assert float(card.tw_crps[0]) == pytest.approx(float(card.crps[0]), rel=1e-6)
    assert card.tw_crps.attrs["units"] == "mm h-1"
    assert float(card.tw_crps_low[0]) < float(card.tw_crps[0]) < float(card.tw_crps_high[0])


def test_tw_crps_of_one_member_equals_absolute_error(rain) -> None:
    forecast, observed = rain
    one = forecast.isel(realization=[0])
    expected = abs(one[0].clip(min=2) - observed.clip(min=2)).where(observed.notnull()).mean()
    assert float(ThresholdWeightedCRPS(2.0)(one, observed)) == pytest.approx(float(expected), 1e-5)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_observed_quantile_uses_wet_pixels_only(rain, quantile: float) -> None:
    observed = rain[1]
    wet = observed.values[observed.values >= 0.1]
    expected = np.quantile(wet, quantile, method="inverted_cdf")
    found = observed_quantile(observed, quantile)
    assert found <= expected * 1.0001
    assert found == pytest.approx(expected, rel=0.0025)
    assert observed_quantile(observed.chunk(time=5), quantile) == found


def test_csi_and_sedi_equal_scores(rain) -> None:
    forecast, observed = rain
    limit = observed_quantile(observed, 0.8)
    events = [(da >= limit).where(da.notnull()) for da in rain]
    table = scores.categorical.BinaryContingencyManager(*events).transform()
    csi = QuantileCSI(quantile=0.8)(forecast, observed)
    sedi = QuantileSEDI(quantile=0.8)(forecast, observed)
    assert float(csi) == pytest.approx(float(table.critical_success_index()), rel=1e-6)
    oracle = table.symmetric_extremal_dependence_index()
    assert float(sedi) == pytest.approx(float(oracle), rel=1e-6)


def test_sedi_with_rate_of_zero_or_one_is_sign(rain) -> None:
    observed = rain[1]
    perfect = observed.expand_dims(realization=2)
    assert float(QuantileSEDI(quantile=0.8)(perfect, observed)) == 1.0
    assert float(QuantileSEDI(quantile=0.8)(0 * perfect, observed)) == pytest.approx(0.0)


def test_threshold_from_training_record_of_model(rain, tmp_path: Path) -> None:
    ds = make_dataset(samples=8)
    path = tmp_path / "model.xcvae"
    model = ds.cvae.train(
        target="pr",
        conditions=["pr_coarse"],
        generator={"levels": 1, "channels": [8], "latents": [1]},
        fit={"max_steps": 1, "batch_size": 2, "crop": 24, "validations": 1},
        path=path,
        progress=False,
    )
    limit = model.record.quantile(0.9, wet=True)
    metric = ThresholdWeightedCRPS(quantile=0.9, model=str(path))
    daily = rain[1].copy(data=rain[1] * 24).assign_attrs(units="mm/day")
    assert metric.limit(rain[1]) == pytest.approx(limit)
    assert metric.limit(daily) == pytest.approx(24 * limit)


def test_pixels_weigh_as_much_as_their_areas(rain) -> None:
    """Scores of the tail counted all pixels alike, those of xcvae by area."""
    forecast, observed = rain
    area = xr.DataArray(
        np.linspace(0.1, 2.0, observed[0].size).reshape(observed.shape[1:]), dims=observed.dims[1:]
    )
    weighted = observed.assign_coords(area=area).assign_attrs(
        observed.attrs, cell_measures="area: area"
    )
    threshold = 2.0
    pairs = [
        (ThresholdWeightedCRPS(threshold), metrics.twcrps),
        (QuantileCSI(threshold), metrics.csi),
        (QuantileSEDI(threshold), metrics.sedi),
    ]
    for ours, builtin in pairs:
        expected = float(builtin(forecast, weighted, threshold=threshold))
        assert float(ours(forecast, weighted)) == pytest.approx(expected, rel=1e-5)
        assert float(ours(forecast, observed)) != pytest.approx(expected, rel=1e-3)
    level = ReturnLevelRatio(threshold, period=50.0)
    doubled = weighted.assign_coords(area=2 * area)
    assert float(level(forecast, doubled)) == pytest.approx(float(level(forecast, weighted)))
    assert float(level(forecast, weighted)) != pytest.approx(float(level(forecast, observed)))

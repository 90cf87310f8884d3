"""Metrics of the table against the functions of scores, lazy fields, pickling and scorecards."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import scores.categorical
import scores.continuous
import scores.probability
import scores.spatial
import xarray as xr
from xcvae_scores import xcvae_components
from xcvae_scores.table import CONTINGENCY

import xcvae
from xcvae.plugins import names
from xcvae.registry import build
from xcvae.testing import make_dataset, make_ensemble

M = "realization"
LIMIT = 2.04  # a value of the radar record, so that events at the threshold occur
FAIR = {"method": "fair"}


@pytest.fixture(scope="module")
def rain() -> tuple[xr.DataArray, xr.DataArray]:
    ds = make_dataset(samples=8, masked=True)
    return make_ensemble(ds, members=4), ds.pr


def score(name: str, rain, **parameters: object) -> xr.DataArray:
    return build("metric", {"name": name, **parameters})(*rain)


ORACLES = {
    "scores_crps_for_ensemble": (
        {},
        lambda f, o: scores.probability.crps_for_ensemble(f, o, M, **FAIR),
    ),
    "scores_tail_tw_crps_for_ensemble": (
        {"threshold": "48.96 mm/day"},
        lambda f, o: scores.probability.tail_tw_crps_for_ensemble(f, o, M, LIMIT, **FAIR),
    ),
    "scores_interval_tw_crps_for_ensemble": (
        {"lower_threshold": 1.0, "upper_threshold": "48.96 mm/day"},
        lambda f, o: scores.probability.interval_tw_crps_for_ensemble(f, o, M, 1.0, LIMIT, **FAIR),
    ),
    "scores_brier_score_for_ensemble": (
        {"threshold": LIMIT},
        lambda f, o: scores.probability.brier_score_for_ensemble(f, o, M, LIMIT),
    ),
    "scores_fss_2d": (
        {"threshold": LIMIT, "window": 5},
        lambda f, o: scores.spatial.fss_2d(
            f,
            o,
            event_threshold=LIMIT,
            window_size=(5, 5),
            spatial_dims=("y", "x"),
            reduce_dims="all",
            threshold_operator=np.greater_equal,
        ),
    ),
    "scores_mae": ({}, lambda f, o: scores.continuous.mae(f.mean(M), o)),
    "scores_rmse": (
        {"of": "median"},
        lambda f, o: scores.continuous.rmse(f.median(M, skipna=False), o),
    ),
    "scores_additive_bias": (
        {"of": "members"},
        scores.continuous.additive_bias,
    ),
    "scores_multiplicative_bias": (
        {},
        lambda f, o: scores.continuous.multiplicative_bias(f.mean(M), o),
    ),
    "scores_kge": ({}, lambda f, o: scores.continuous.kge(f.mean(M), o)),
    "scores_quantile_score": (
        {"alpha": 0.8},
        lambda f, o: scores.continuous.quantile_score(
            f.quantile(0.8, M, skipna=False), o, alpha=0.8
        ),
    ),
    "scores_binary_contingency": (
        {"threshold": LIMIT, "score_name": "heidke_skill_score"},
        lambda f, o: (
            scores.categorical.BinaryContingencyManager(
                (f >= LIMIT).where(f.notnull()), (o >= LIMIT).where(o.notnull())
            )
            .transform()
            .heidke_skill_score()
        ),
    ),
}


def test_every_metric_has_an_oracle() -> None:
    assert set(ORACLES) == set(xcvae_components()["metric"])
    assert set(ORACLES) <= set(names("metric"))


@pytest.mark.parametrize("name", ORACLES)
def test_metric_equals_function_of_scores(name: str, rain) -> None:
    parameters, oracle = ORACLES[name]
    expected = float(np.squeeze(oracle(*rain)))
    assert np.isfinite(expected)
    assert expected != 0
    assert float(score(name, rain, **parameters)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_lazy_fields_give_equal_lazy_scores(name: str, rain) -> None:
    parameters, _ = ORACLES[name]
    lazy = rain[0].chunk(time=3, realization=2), rain[1].chunk(time=3)
    found = score(name, lazy, **parameters)
    assert found.chunks is not None
    assert float(found) == pytest.approx(float(score(name, rain, **parameters)), rel=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_metric_survives_pickling_with_its_class(name: str) -> None:
    metric = build("metric", {"name": name, **ORACLES[name][0]})
    assert pickle.loads(pickle.dumps(metric)) == metric
    assert pickle.loads(pickle.dumps(type(metric))) is type(metric)


def test_fair_crps_equals_builtin_crps_in_scorecard(rain) -> None:
    card = xcvae.evaluate(
        rain[1].to_dataset(),
        rain[0].to_dataset(),
        metrics=["crps", "scores_crps_for_ensemble", "scores_mae"],
        baselines=[],
        progress=False,
    )
    ours, theirs = card.crps, card.scores_crps_for_ensemble
    assert float(theirs[0]) == pytest.approx(float(ours[0]), rel=1e-5)
    assert theirs.attrs["units"] == "mm h-1"
    # A mean of absolute values, from NumPy.
    error = abs(rain[0].mean(M) - rain[1])
    assert float(card.scores_mae[0]) == pytest.approx(float(error.mean()), rel=1e-5)


@pytest.mark.parametrize("name", CONTINGENCY)
def test_contingency_score_has_direction_and_ideal_value(name: str, rain) -> None:
    metric = build(
        "metric",
        {"name": "scores_binary_contingency", "threshold": "2 mm h-1", "score_name": name},
    )
    found = metric(*rain)
    assert np.isfinite(found)
    assert found.attrs["long_name"] == f"{name.replace('_', ' ')} (scores)"
    assert found.attrs["better"] in ("lower", "higher", 1.0)
    if name == "symmetric_extremal_dependence_index":
        return  # not defined for a perfect forecast
    perfect = metric(rain[1].expand_dims(realization=2), rain[1])
    better = found.attrs["better"]
    ideal = 1.0 if better == "higher" else 0.0 if better == "lower" else better
    assert float(perfect) == pytest.approx(ideal)


def test_listing_metrics_does_not_import_scores() -> None:
    code = (
        "import sys; from xcvae.plugins import listing; rows = listing();"
        "assert any(row.name == 'scores_kge' for row in rows);"
        "assert 'scores' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ensemble_scores_weigh_pixels_by_area(rain) -> None:
    forecast, observed = rain
    size = observed.shape[1:]
    area = xr.DataArray(np.linspace(0.1, 2.0, size[0] * size[1]).reshape(size), dims=("y", "x"))
    attrs = {**observed.attrs, "cell_measures": "area: area"}
    weighted = observed.assign_coords(area=area).assign_attrs(attrs)
    expected = float(xcvae.metrics.crps(forecast, weighted))
    found = float(build("metric", "scores_crps_for_ensemble")(forecast, weighted))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(float(xcvae.metrics.crps(forecast, observed)), rel=1e-3)

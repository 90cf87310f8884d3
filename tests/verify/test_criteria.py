"""Criteria: closed bounds, validated overrides, and a readable table."""

from __future__ import annotations

import json
import math

import pytest
import xarray as xr

from xcvae.errors import ConfigError, DataError, MissingVariableError
from xcvae.verify.criteria import POSTERIOR, Criterion, Verdict, criteria_for, judge, table, to_json

GOOD_POSTERIOR = {
    "spatial_correlation": 0.75,
    "diversity": 0.2,
    "wet_fraction": 0.29,
    "wet_fraction_observed": 0.30,
    "mass_bias": -0.05,
    "ks": 0.1,
    "p99_ratio": 1.0,
}


def card(**scores: float) -> xr.Dataset:
    """A scorecard of xcvae and of a baseline with impossible scores."""
    return xr.Dataset(
        {name: ("source", [value, -99.0]) for name, value in scores.items()},
        coords={"source": ["xcvae", "bilinear"]},
    )


def words(verdicts: list[Verdict]) -> dict[str, str]:
    return {verdict.criterion.name: verdict.word for verdict in verdicts}


def test_judge_passes_a_good_posterior() -> None:
    verdicts = judge(card(**GOOD_POSTERIOR), criteria_for("posterior"))
    assert words(verdicts) == dict.fromkeys(POSTERIOR, "pass")
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"spatial_correlation": 0.69}, "spatial_correlation"),
        ({"diversity": 0.26}, "diversity"),
        ({"diversity": 0.14}, "diversity"),
        ({"wet_fraction": 0.34}, "wet_fraction_error"),
        ({"wet_fraction": 0.26}, "wet_fraction_error"),
        ({"mass_bias": -0.11}, "mass_bias"),
        ({"ks": 0.16}, "ks"),
        ({"p99_ratio": 1.16}, "p99_ratio"),
        ({"p99_ratio": math.nan}, "p99_ratio"),
    ],
)
def test_judge_misses_each_criterion_alone(changed: dict[str, float], missed: str) -> None:
    verdicts = words(judge({**GOOD_POSTERIOR, **changed}, criteria_for("posterior")))
    assert verdicts.pop(missed) == "miss"
    assert set(verdicts.values()) == {"pass"}


def test_prior_criteria_equal_the_documented_ones() -> None:
    bounds = {c.name: (c.low, c.high) for c in criteria_for("prior")}
    assert bounds == {
        "crps_skill": (0.25, None),
        "spread_skill": (0.8, 1.2),
        "spectral_distance": (None, 3.0),
        "wet_fraction_error": (-0.06, 0.06),
        "mass_bias": (-0.20, 0.20),
    }


def test_criterion_bounds_are_closed() -> None:
    criterion = Criterion("spread_skill", 0.8, 1.2)
    assert criterion.passes(0.8)
    assert criterion.passes(1.2)
    assert not criterion.passes(math.nextafter(1.2, 2))


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("bounds", [[0.8, None], [None, 1.2], [0.8, 1.2]])
def test_values_that_are_not_finite_miss(bounds: list[float | None], value: float) -> None:
    assert not Criterion.of("spread_skill", bounds).passes(value)


def test_error_of_the_wet_fraction_is_generated_less_observed() -> None:
    scores = {"wet_fraction": 0.25, "wet_fraction_observed": 0.05}
    (verdict,) = judge(scores, [Criterion("wet_fraction_error", -0.3, 0.1)])
    assert verdict.value == pytest.approx(0.2)
    assert not verdict.passed


def test_a_range_may_be_one_value() -> None:
    assert Criterion.of("spread_skill", [1, 1]).passes(1.0)


def test_criteria_overrides_replace_add_and_drop() -> None:
    criteria = criteria_for(
        "prior", {"mass_bias": [-0.3, 0.1], "csi": [0.3, None], "spread_skill": None}
    )
    bounds = {c.name: (c.low, c.high) for c in criteria}
    assert bounds["mass_bias"] == (-0.3, 0.1)
    assert bounds["csi"] == (0.3, None)
    assert "spread_skill" not in bounds
    assert bounds["spectral_distance"] == (None, 3.0)


def test_criteria_accept_numbered_metric_names() -> None:
    assert "fss_2" in {c.name for c in criteria_for("prior", {"fss_2": [0.5, None]})}


def test_criterion_treats_infinite_bounds_as_open() -> None:
    assert Criterion.of("csi", [0.3, math.inf]) == Criterion("csi", 0.3, None)


@pytest.mark.parametrize(
    "bounds", [0.7, [0.7], [0.9, 0.7], [None, None], ["0.1", 1], [True, 2], [math.nan, 1], "ab"]
)
def test_criterion_refuses_malformed_bounds(bounds: object) -> None:
    with pytest.raises(ConfigError, match=r"criteria\.ks: expected \[low, high\]"):
        criteria_for("posterior", {"ks": bounds})  # type: ignore[dict-item]


def test_unknown_score_error_names_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"spatial_corelation.*Did you mean 'spatial_correlation'"
    ):
        criteria_for("posterior", {"spatial_corelation": [0.6, None]})


def test_unknown_mode_error_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'prior'"):
        criteria_for("priors")


def test_judge_raises_for_a_missing_score() -> None:
    with pytest.raises(MissingVariableError, match=r"'ks'.*drop the criterion"):
        judge(card(mass_bias=0.0), [Criterion("ks", None, 0.15)])


def test_judge_uses_scores_of_the_given_source() -> None:
    found = judge(card(ks=0.1), [Criterion("ks", 0.0, 0.15)], source="bilinear")
    assert (found[0].value, found[0].word) == (-99.0, "miss")
    with pytest.raises(MissingVariableError, match=r"'blinear'.*Did you mean 'bilinear'"):
        judge(card(ks=0.1), [Criterion("ks", None, 0.15)], source="blinear")


def test_judge_refuses_grouped_cards() -> None:
    grouped = card(ks=0.1).expand_dims(season=["DJF", "JJA"])
    with pytest.raises(DataError, match="season"):
        judge(grouped, [Criterion("ks", None, 0.15)])


def test_criteria_table_has_aligned_columns() -> None:
    text = table(judge(card(**GOOD_POSTERIOR), criteria_for("posterior")), title="posterior")
    title, head, *rows = text.splitlines()
    assert title == "posterior"
    assert len(rows) == len(POSTERIOR)
    assert {row[head.index("verdict") :] for row in rows} == {"pass"}
    assert {row[head.index("wanted") - 1] for row in rows} == {" "}


def test_criteria_json_writes_nan_as_null() -> None:
    verdicts = judge({"ks": math.nan}, [Criterion("ks", None, 0.15)])
    assert json.loads(json.dumps(to_json(verdicts), allow_nan=False)) == [
        {"name": "ks", "value": None, "low": None, "high": 0.15, "verdict": "miss"}
    ]

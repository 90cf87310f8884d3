"""The metrics of this package as a table: add a row to add a function of scores."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from xcvae_scores import inputs
from xcvae_scores.metric import Better, Entry, Parameter, ScoresMetric, metric_class

__all__ = ["CONTINGENCY", "METRICS", "TABLE"]

DATA = None  # the units of the score are those of the data

CONTINGENCY: dict[str, Better] = {
    "accuracy": "higher",
    "critical_success_index": "higher",
    "equitable_threat_score": "higher",
    "false_alarm_ratio": "lower",
    "frequency_bias": 1.0,
    "heidke_skill_score": "higher",
    "hanssen_and_kuipers_discriminant": "higher",
    "odds_ratio_skill_score": "higher",
    "probability_of_detection": "higher",
    "probability_of_false_detection": "lower",
    "symmetric_extremal_dependence_index": "higher",
}
"""Scores of a contingency table and their direction: methods of BinaryContingencyManager."""

# --- parameters -----------------------------------------------------------------------------------

THRESHOLD = Parameter(
    "threshold",
    str | float,
    text='"5 mm h-1", or a number in the units of the data.',
    quantity=True,
)
EVENT = replace(THRESHOLD, above=0)
LOWER, UPPER = (
    replace(THRESHOLD, name="lower_threshold"),
    replace(THRESHOLD, name="upper_threshold"),
)
METHOD = Parameter(
    "method",
    Literal["fair", "ecdf"],
    "fair",
    '"fair" corrects for the number of members and needs two of them; "ecdf" does not.',
)
TAIL = Parameter(
    "tail",
    Literal["upper", "lower"],
    "upper",
    'Above ("upper") or below ("lower") the threshold.',
)
OF = Parameter(
    "of",
    Literal["mean", "median", "members"],
    "mean",
    '"mean" or "median" of the members, or "members": each of them, averaged.',
)
FAIR = Parameter(
    "fair", bool, True, "Correct for the number of members.", argument="fair_correction"
)
WINDOW = Parameter("window", int, 9, "Side of the square window in pixels.", low=1)
ALPHA = Parameter(
    "alpha", float, 0.9, "Level of the quantile, between 0 and 1.", low=0.001, high=0.999
)
SCORE_NAME = Parameter(
    "score_name",
    Literal.__getitem__(tuple(CONTINGENCY)),
    "equitable_threat_score",
    "Method of scores.categorical.BinaryContingencyManager.",
)

# --- metrics --------------------------------------------------------------------------------------

TABLE = (
    Entry(
        "probability.crps_for_ensemble",
        inputs.ensemble,
        "continuous ranked probability score",
        better="lower",
        units=DATA,
        parameters=(METHOD,),
    ),
    Entry(
        "probability.tail_tw_crps_for_ensemble",
        inputs.ensemble,
        "threshold-weighted CRPS of a tail",
        better="lower",
        units=DATA,
        parameters=(THRESHOLD, TAIL, METHOD),
    ),
    Entry(
        "probability.interval_tw_crps_for_ensemble",
        inputs.ensemble,
        "threshold-weighted CRPS of an interval",
        better="lower",
        units=DATA,
        parameters=(LOWER, UPPER, METHOD),
    ),
    Entry(
        "probability.brier_score_for_ensemble",
        inputs.ensemble,
        "Brier score",
        better="lower",
        parameters=(replace(EVENT, argument="event_thresholds"), FAIR),
    ),
    Entry(
        "spatial.fss_2d",
        inputs.whole_maps,
        "fractions skill score of members",
        better="higher",
        parameters=(replace(EVENT, argument="event_threshold"), WINDOW),
        note="Members and samples are aggregated by their sums, as in scores. Only windows within\n"
        "the map count; pixels outside the mask have no event.",
        over="record",
    ),
    Entry(
        "categorical.BinaryContingencyManager",
        inputs.events,
        "score of a contingency table",
        better=CONTINGENCY,
        parameters=(EVENT, SCORE_NAME),
        note="Members are pooled.",
        name="binary_contingency",
        over="record",
    ),
    Entry(
        "continuous.mae",
        inputs.one_field,
        "mean absolute error",
        better="lower",
        units=DATA,
        parameters=(OF,),
    ),
    Entry(
        "continuous.rmse",
        inputs.one_field,
        "root mean squared error",
        better="lower",
        units=DATA,
        parameters=(OF,),
        over="record",
    ),
    Entry(
        "continuous.additive_bias",
        inputs.one_field,
        "additive bias",
        better=0.0,
        units=DATA,
        parameters=(OF,),
        note="Mean error.",
    ),
    Entry(
        "continuous.multiplicative_bias",
        inputs.one_field,
        "multiplicative bias",
        better=1.0,
        parameters=(OF,),
        note="Mean forecast over mean observation.",
        over="record",
    ),
    Entry(
        "continuous.kge",
        inputs.one_field,
        "Kling-Gupta efficiency",
        better="higher",
        note="Of the mean of the members.",
        over="record",
    ),
    Entry(
        "continuous.quantile_score",
        inputs.member_quantile,
        "quantile score",
        better="lower",
        units=DATA,
        parameters=(ALPHA,),
        note="Pinball score of a quantile of the members.",
    ),
)

METRICS: dict[str, type[ScoresMetric]] = {
    entry.name: metric_class(entry, __name__) for entry in TABLE
}
"""The metrics by name, without the prefix ``scores_``."""

globals().update(METRICS)  # pickle looks for a class by its module and name

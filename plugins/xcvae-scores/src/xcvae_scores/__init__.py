"""Metrics of the package scores, by name, for xcvae: ``scores_`` and the name of the function.

Nothing heavy is imported here: the components are loaded when they are asked for.
"""

from __future__ import annotations

from xcvae import hookimpl

__all__ = ["XCVAE_API", "xcvae_components"]

XCVAE_API = 1


@hookimpl
def xcvae_components() -> dict[str, dict[str, type | str]]:
    """Name the components of this package."""
    metrics: dict[str, type | str] = {
        "scores_crps_for_ensemble": "xcvae_scores.ensemble:CRPS",
        "scores_tail_tw_crps_for_ensemble": "xcvae_scores.ensemble:TailCRPS",
        "scores_interval_tw_crps_for_ensemble": "xcvae_scores.ensemble:IntervalCRPS",
        "scores_brier_score_for_ensemble": "xcvae_scores.ensemble:Brier",
        "scores_fss_2d": "xcvae_scores.events:FSS",
        "scores_binary_contingency": "xcvae_scores.events:Contingency",
        "scores_mae": "xcvae_scores.continuous:MAE",
        "scores_rmse": "xcvae_scores.continuous:RMSE",
        "scores_additive_bias": "xcvae_scores.continuous:AdditiveBias",
        "scores_multiplicative_bias": "xcvae_scores.continuous:MultiplicativeBias",
        "scores_kge": "xcvae_scores.continuous:KGE",
        "scores_quantile_score": "xcvae_scores.continuous:QuantileScore",
    }
    return {"metric": metrics}

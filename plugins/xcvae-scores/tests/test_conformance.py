"""Public conformance suites, run on every metric of the package."""

from __future__ import annotations

import xcvae.testing


class TestCRPS(xcvae.testing.MetricSuite):
    component = "scores_crps_for_ensemble"
    refused = ({"method": "foul"},)


class TestTailCRPS(xcvae.testing.MetricSuite):
    component = {"name": "scores_tail_tw_crps_for_ensemble", "threshold": "2 mm h-1"}
    refused = ({"tail": "middle"},)


class TestIntervalCRPS(xcvae.testing.MetricSuite):
    component = "scores_interval_tw_crps_for_ensemble"
    parameters = {"lower_threshold": "1 mm h-1", "upper_threshold": "5 mm h-1"}
    refused = ({"upper_threshold": [1.0]},)


class TestBrier(xcvae.testing.MetricSuite):
    component = {"name": "scores_brier_score_for_ensemble", "threshold": "2 mm h-1"}
    refused = ({"threshold": 0.0},)


class TestFSS(xcvae.testing.MetricSuite):
    component = {"name": "scores_fss_2d", "threshold": "2 mm h-1", "window": 5}
    refused = ({"window": 0}, {"threshold": -1.0})


class TestContingency(xcvae.testing.MetricSuite):
    component = {"name": "scores_binary_contingency", "threshold": "2 mm h-1"}
    refused = ({"score_name": "good_luck"}, {"threshold": -1.0})


class TestMAE(xcvae.testing.MetricSuite):
    component = "scores_mae"
    refused = ({"of": "nobody"},)


class TestRMSE(xcvae.testing.MetricSuite):
    component = {"name": "scores_rmse", "of": "median"}


class TestAdditiveBias(xcvae.testing.MetricSuite):
    component = {"name": "scores_additive_bias", "of": "members"}


class TestMultiplicativeBias(xcvae.testing.MetricSuite):
    component = "scores_multiplicative_bias"


class TestKGE(xcvae.testing.MetricSuite):
    component = "scores_kge"


class TestQuantileScore(xcvae.testing.MetricSuite):
    component = "scores_quantile_score"
    refused = ({"alpha": 0.0},)

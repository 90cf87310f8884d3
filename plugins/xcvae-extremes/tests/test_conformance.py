"""Public conformance suites, run on every component of the package."""

from __future__ import annotations

import xcvae.testing

MAPPING = {"generated": [0.5, 2.0, 8.0], "observed": [0.0, 3.0, 10.0], "units": "mm h-1"}


class TestPinball(xcvae.testing.LossSuite):
    component = "pinball"
    learns_from = ("reconstruction",)
    refused = ({"tau": 1.0}, {"quantile": 1.5}, {"threshold": 0.0}, {"weight": -1.0})


class TestThresholdWeightedCRPS(xcvae.testing.MetricSuite):
    component = "tw_crps"
    refused = ({"quantile": -0.1}, {"threshold": -1.0})


class TestQuantileCSI(xcvae.testing.MetricSuite):
    component = "csi_quantile"
    refused = ({"quantile": 2.0},)


class TestQuantileSEDI(xcvae.testing.MetricSuite):
    component = {"name": "sedi_quantile", "quantile": 0.5}
    refused = ({"quantile": 2.0},)


class TestReturnLevelRatio(xcvae.testing.MetricSuite):
    component = {"name": "return_level_ratio", "quantile": 0.8}
    refused = ({"period": 0.5},)


class TestQuantileMapping(xcvae.testing.PostprocessorSuite):
    component = "quantile_mapping"
    parameters = MAPPING
    refused = ({"observed": [3.0, 1.0, 2.0]}, {"generated": [0.0, 1.0, 2.0]}, {"observed": []})

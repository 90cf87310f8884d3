"""Public conformance suites, run on every component of the package."""

from __future__ import annotations

import xcvae.testing


class TestMassThreshold(xcvae.testing.PostprocessorSuite):
    component = {"name": "mass_threshold", "value": "0.5 mm h-1"}
    refused = ({"value": -1.0}, {"block": 0}, {"limit": 0.5}, {"reference": "nobody"})


class TestMassThresholdOfTheCondition(xcvae.testing.PostprocessorSuite):
    component = {"name": "mass_threshold", "value": "0.5 mm h-1", "reference": "condition"}


class TestWetArea(xcvae.testing.PostprocessorSuite):
    component = {"name": "wet_area", "fraction": 0.2}
    refused = ({"fraction": 1.5}, {"fraction": None}, {"samples": [["a", 2.0]]})


class TestSharpEdge(xcvae.testing.PostprocessorSuite):
    component = {"name": "sharp_edge", "value": "0.5 mm h-1"}
    refused = ({"value": 0.0}, {"limit": 0.5})


class TestSpectralSlope(xcvae.testing.LossSuite):
    component = "spectral_slope"
    learns_from = ("reconstruction",)
    refused = ({"shortest": 1.0}, {"shortest": 80.0}, {"of": "nothing"}, {"weight": -1.0})


class TestSpectralSlopeOfDraws(xcvae.testing.LossSuite):
    component = {"name": "spectral_slope", "of": "prior"}
    learns_from = ("draws",)

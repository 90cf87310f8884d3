"""Conformance suites of both components, and their values."""

from __future__ import annotations

import pytest
from xcvae_template import MeanDifference, SquareError

import xcvae.testing


class TestSquareError(xcvae.testing.LossSuite):
    component = SquareError
    refused = ({"weight": -1.0},)


class TestMeanDifference(xcvae.testing.MetricSuite):
    component = MeanDifference


def test_square_error_of_perfect_reconstruction_is_zero() -> None:
    assert float(SquareError()(xcvae.testing.make_loss_state(guess=lambda x: x)).detach()) == 0.0


def test_mean_difference_of_added_rain_equals_amount() -> None:
    rain = xcvae.testing.make_dataset().pr
    wetter = (rain + 2.0).expand_dims(realization=2).assign_attrs(rain.attrs)
    assert float(MeanDifference()(wetter, rain)) == pytest.approx(2.0, rel=1e-5)

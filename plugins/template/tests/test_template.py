"""Conformance suites of all components, and their values."""

from __future__ import annotations

import numpy as np
import pytest
from xcvae_template import MeanDifference, RecordMean, SoftCap, SquareError, Steepen

import xcvae.testing


class TestSquareError(xcvae.testing.LossSuite):
    component = SquareError
    refused = ({"weight": -1.0},)


class TestSoftCap(xcvae.testing.PostprocessorSuite):
    component = SoftCap
    parameters = {"limit": "4 mm h-1"}


class TestMeanDifference(xcvae.testing.MetricSuite):
    component = MeanDifference


class TestRecordMean(xcvae.testing.BaselineSuite):
    component = RecordMean


class TestSteepen(xcvae.testing.StormSuite):
    component = Steepen
    refused = ({"power": 0.0},)


def test_square_error_of_perfect_reconstruction_is_zero() -> None:
    assert float(SquareError()(xcvae.testing.make_loss_state(guess=lambda x: x)).detach()) == 0.0


def test_soft_cap_halves_what_is_beyond() -> None:
    ds = xcvae.testing.make_dataset()
    rain = ds.pr.expand_dims(realization=1)
    capped = SoftCap("4 mm h-1")(rain, xcvae.testing.make_context(ds))
    np.testing.assert_allclose(capped, np.where(rain > 4, 2 + 0.5 * rain, rain), rtol=1e-6)


def test_mean_difference_of_added_rain_equals_amount() -> None:
    rain = xcvae.testing.make_dataset().pr
    wetter = (rain + 2.0).expand_dims(realization=2).assign_attrs(rain.attrs)
    assert float(MeanDifference()(wetter, rain)) == pytest.approx(2.0, rel=1e-5)


def test_record_mean_is_one_map_for_all_samples() -> None:
    ds = TestRecordMean().given_data()
    drawn = RecordMean()(ds, 4, 0)
    expected = ds.pr_record.mean("time_record")
    np.testing.assert_allclose(drawn[0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(drawn[0, 0], drawn[0, 1])


def test_steepen_keeps_the_mean_and_raises_the_maximum() -> None:
    ds, context = TestSteepen().given_samples()
    rain, steeper = ds.pr_coarse, Steepen(2.0)(ds, context).pr_coarse
    maps = rain.dims[1:]
    np.testing.assert_allclose(steeper.mean(maps), rain.mean(maps), rtol=1e-5)
    assert (steeper.max(maps) > rain.max(maps)).any()
    assert Steepen(1.0)(ds, context).steepened.values.tolist() == [1.0] * ds.sizes["time"]

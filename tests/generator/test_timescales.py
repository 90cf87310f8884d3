"""Timescales of the levels: measured in training, stored in the file, or absent with a reason."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.fields.describe import prepare
from xcvae.generator.noise import correlation
from xcvae.generator.training import timescales
from xcvae.generator.training.timescales import LAGS, measure_timescales


def test_training_stores_timescales_with_intervals(tiny_model):
    stored = tiny_model.training["timescales"]
    assert stored["step"] == 600  # the bundled frames are 10 minutes apart
    assert len(stored["seconds"]) == 4
    assert stored["samples"] > 20
    for low, seconds, high in zip(stored["low"], stored["seconds"], stored["high"], strict=True):
        assert low <= seconds * 1.3
        assert seconds <= high * 1.3 + 1
    # Rain remembers large patterns for longer than small ones.
    assert stored["seconds"][0] > 600
    assert stored["seconds"][0] > stored["seconds"][-1]
    assert xcvae.load(tiny_model.path).timescales == tiny_model.timescales


def test_fit_finds_the_timescale_of_its_own_correlation():
    known = np.array([0.7, 2.0, 6.0, 25.0])
    measured = correlation(np.array(LAGS)[None] / known[:, None])
    np.testing.assert_allclose(timescales._fit(measured), known, rtol=0.02)
    measured[2, 2:] = np.nan  # no samples so far apart
    np.testing.assert_allclose(timescales._fit(measured), known, rtol=0.02)


def test_level_without_correlation_has_no_memory():
    assert timescales._fit(np.array([[0.1, 0.05, 0.0, 0.0]]))[0] == 0


def test_frozen_samples_have_the_timescale_of_their_record(tiny_model, radar):
    one = radar.isel(time=[100])
    same = xr.concat([one] * 8, "time").assign_coords(
        time=one.time.values[0] + np.arange(8) * np.timedelta64(5, "m")
    )
    found = measure_timescales(tiny_model, prepare(same, tiny_model.spec, need_target=True))
    # What lies beyond the record is not measured.
    assert found.seconds == pytest.approx([8 * 300] * 4, rel=0.02)


def test_constant_difference_to_the_prior_is_no_memory():
    noise = np.random.default_rng(0).standard_normal((2, 12, 3, 20, 20))
    offset = np.array([5.0, -2.0, 0.0])[:, None, None]
    sums = [timescales._pair_sums(maps) for maps in noise + offset]
    found = timescales._correlations([np.stack(sums)])
    np.testing.assert_allclose(found, 0, atol=0.03)
    plain = timescales._correlations([np.stack([timescales._pair_sums(m) for m in noise])])
    np.testing.assert_allclose(found, plain, atol=1e-9)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (list("abcd"), "the samples of its record have no times"),
        (np.array([0, 1, 3, 7]).astype("datetime64[h]"), ""),
        (np.array([0, 1, 3, 7])[:1].astype("datetime64[h]"), "no consecutive times"),
    ],
)
def test_record_without_consecutive_times_says_so(tiny_model, radar, labels, reason):
    ds = radar.isel(time=slice(100, 100 + len(labels))).assign_coords(time=labels)
    found = measure_timescales(tiny_model, prepare(ds, tiny_model.spec, need_target=True))
    assert reason in found.reason
    assert (found.seconds is None) == bool(reason)

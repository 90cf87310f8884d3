"""Errors of the reconstruction against plain numpy and the package `scores`."""

from __future__ import annotations

import numpy as np
import pytest
import scores.continuous
import torch
import xarray as xr

from xcvae.errors import UnitsError
from xcvae.registry.registry import build


def test_intensity_weighted_mae_equals_numpy(rain, seen):
    guess = rain + 2
    term = build("loss", {"name": "intensity_weighted_mae", "scale": 5.0, "w_min": 0.2})
    step = seen(rain, guess)
    tail = step.record.quantile(0.95, wet=True)
    weights = np.minimum(0.2 + rain / 5.0, 2.0) * np.where(rain > tail, 1.5, 1.0)
    assert (rain > tail).any()
    assert float(term(step)) == pytest.approx(float((weights * 2).mean()), rel=1e-3)


def test_intensity_weighted_mae_converts_units_of_scale(rain, seen):
    step = seen(rain, rain + 1)
    per_hour = build("loss", {"name": "intensity_weighted_mae", "scale": "5 mm h-1"})(step)
    per_day = build("loss", {"name": "intensity_weighted_mae", "scale": "120 mm/day"})(step)
    assert float(per_hour) == pytest.approx(float(per_day), rel=1e-5)
    with pytest.raises(UnitsError, match="K"):
        build("loss", {"name": "intensity_weighted_mae", "scale": "5 K"})(step)


def test_gradient_and_mass_equal_numpy(rain, seen):
    guess = rain * 1.5
    error = guess - rain
    steps = np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()
    gradient = build("loss", {"name": "gradient", "weight": 1.0})(seen(rain, guess))
    assert float(gradient) == pytest.approx(float(steps), rel=1e-4)
    mass = build("loss", {"name": "mass", "weight": 1.0})(seen(rain, guess))
    wanted = np.abs(error.mean(axis=(1, 2))).mean()
    assert float(mass) == pytest.approx(float(wanted), rel=1e-4)


def test_mass_errors_of_samples_do_not_cancel(rain, seen):
    guess = rain + np.array([1.0, -1.0])[:, None, None] * (rain > 2)
    mass = build("loss", {"name": "mass", "weight": 1.0})(seen(rain, guess))
    assert float(mass) == pytest.approx(float((rain > 2).mean()), rel=1e-4)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_quantile_equals_the_tail_weighted_score(level, rain, seen):
    guess = np.roll(rain, 3, axis=2) * 1.5
    step = seen(rain, guess)
    begin = step.record.quantile(0.6, wet=True)
    maps = [xr.DataArray(v, dims=("sample", "y", "x")) for v in (guess, rain)]
    wanted = scores.continuous.tw_quantile_score(*maps, level, (begin, np.inf)) / rain.mean()
    only = {"name": "quantile", "level": level, "tail_quantile": 0.6, "below": 0.0}
    assert float(build("loss", only)(step)) == pytest.approx(float(wanted), rel=1e-4)
    everywhere = scores.continuous.quantile_score(*maps, level) / rain.mean()
    for way in ({"tail_quantile": 0.0}, {"below": 1.0}):
        term = build("loss", {"name": "quantile", "level": level, **way})
        assert float(term(step)) == pytest.approx(float(everywhere), rel=1e-4)


@pytest.mark.parametrize("level", [0.5, 0.98])
def test_quantile_is_minimal_at_the_quantile(level, seen):
    """One answer for all pixels: the best is the quantile, in the tail and below it."""
    rain = np.random.default_rng(7).gamma(0.5, 4, (2, 64, 64))
    term = build("loss", {"name": "quantile", "level": level})
    answers = np.quantile(rain, level) * np.array([0.7, 0.85, 1.0, 1.15, 1.3])
    losses = [float(term(seen(rain, np.full_like(rain, answer)))) for answer in answers]
    assert int(np.argmin(losses)) == 2


def test_quantile_gradient_raises_a_missed_heavy_pixel(rain, seen):
    step = seen(rain, np.full_like(rain, 0.2), learns=True)
    pull = torch.autograd.grad(build("loss", "quantile")(step), step.output)[0]
    heaviest = np.unravel_index(rain.argmax(), rain.shape)
    assert float(pull[:, 0][heaviest]) < 0

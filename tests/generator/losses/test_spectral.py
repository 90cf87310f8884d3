"""The spectral term against the full Fourier transform and the metric of the same name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from xcvae.metrics.spatial import radial_spectrum
from xcvae.registry.registry import build


def rings(maps: np.ndarray) -> np.ndarray:
    """Mean power of each ring of the whole Fourier plane, mode by mode; (..., y, x)."""
    ny, nx = maps.shape[-2:]
    shorter = min(ny, nx)
    power = (np.abs(np.fft.fft2(maps)) ** 2 / (ny * nx)).reshape(-1, ny, nx).mean(0)
    found: dict[int, list[float]] = {}
    for i in range(ny):
        for j in range(nx):
            fy, fx = (min(k, n - k) / n for k, n in ((i, ny), (j, nx)))
            found.setdefault(round(np.hypot(fy, fx) * shorter), []).append(power[i, j])
    return np.array([np.mean(found[k]) for k in range(1, shorter // 2 + 1)])


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 9, 9), (1, 12, 7), (2, 5, 20), (1, 2, 3)])
def test_spectral_equals_numpy_for_any_window(shape, seen):
    rng = np.random.default_rng(8)
    rain, *draws = rng.gamma(0.5, 4, (3, *shape))
    step = seen(rain, rain, None, draws)
    floor = (0.01 * rain.mean()) ** 2
    ratio = (rings(np.stack(draws)) + floor) / (rings(rain) + floor)
    value = build("loss", {"name": "spectral", "weight": 1.0})(step)
    assert float(value) == pytest.approx(np.abs(np.log(ratio)).mean(), rel=1e-3)


def test_spectral_counts_masked_pixels_as_zero(rain, seen):
    mask = rain < 3
    value = build("loss", {"name": "spectral", "weight": 1.0})(
        seen(rain, rain, mask, [rain * 2, rain + 1])
    )
    floor = (0.01 * rain.mean()) ** 2
    generated = np.stack([rain * 2, rain + 1]) * mask
    ratio = (rings(generated) + floor) / (rings(rain * mask) + floor)
    assert float(value) == pytest.approx(np.abs(np.log(ratio)).mean(), rel=1e-3)


def test_spectral_equals_the_spectral_distance_metric(seen):
    rng = np.random.default_rng(9)
    rain, *draws = rng.gamma(0.5, 4, (3, 4, 32, 24))
    spectra = [
        radial_spectrum(xr.DataArray(maps, dims=("member", "time", "y", "x"))).values
        for maps in (np.stack(draws), rain[None])
    ]
    decibels = np.abs(10 * np.log10(spectra[0] / spectra[1])).mean()
    term = build("loss", {"name": "spectral", "weight": 1.0, "floor": 1e-6})
    value = float(term(seen(rain, rain, None, draws)))
    assert value * 10 / np.log(10) == pytest.approx(decibels, rel=1e-3)


def test_spectral_of_the_reconstruction_in_normalised_space(rain, seen):
    step = seen(rain, rain * 1.7)
    term = build(
        "loss", {"name": "spectral", "of": "reconstruction", "space": "normalised", "weight": 1.0}
    )
    floor = (0.01 * step.typical("normalised")) ** 2
    ratio = (rings(step.output.numpy()) + floor) / (rings(step.x.numpy()) + floor)
    assert float(term(step)) == pytest.approx(np.abs(np.log(ratio)).mean(), rel=1e-3)
    assert float(term(seen(rain, rain))) == 0


def test_spectral_gradient_adds_power_to_smooth_draws(seen):
    rng = np.random.default_rng(10)
    rain = rng.gamma(0.5, 4, (4, 16, 16))
    smooth = 2 + (rain - 2) * 0.3
    step = seen(rain, rain, None, [smooth, smooth], learns=True)
    term = build("loss", "spectral")
    before = term(step)
    pull = torch.autograd.grad(before, step._draws)
    moved = seen(rain, rain, None, [smooth, smooth])
    moved._draws = [d.detach() - 2.0 * g for d, g in zip(step._draws, pull, strict=True)]
    assert float(term(moved)) < before.item()
    assert all(float(d.std()) > step._draws[0].std().item() for d in moved._draws)

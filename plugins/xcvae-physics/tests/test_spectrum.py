"""Spectral slope against fields with known slope, and its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import linregress
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from xcvae_physics.spectrum import SpectralSlope, _rings, _slope

from xcvae.metrics import radial_spectrum
from xcvae.testing import make_loss_state


def power_law(slope: float, size: int = 128) -> torch.Tensor:
    """Return white noise filtered to a power law in wavenumber."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn((8, 1, size, size), generator=random)
    rows, columns = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    wave = torch.hypot(rows[:, None], columns).clamp(min=1 / size)
    return torch.fft.irfft2(torch.fft.rfft2(noise) * wave ** (slope / 2), s=(size, size))


@pytest.mark.parametrize("slope", [-3.0, -1.5, 0.0])
def test_slope_of_power_law(slope: float) -> None:
    power = _rings(power_law(slope))
    wave = torch.arange(power.numel())
    used = (wave >= 2) & (wave <= 42)
    found = _slope(torch.log(wave[used].float()), torch.log(power[used]))
    assert float(found) == pytest.approx(slope, abs=0.1)


def test_power_and_slope_equal_xcvae_and_scipy() -> None:
    state = make_loss_state()
    rain = state.observed
    field = xr.DataArray(rain[:, 0].numpy(), dims=("time", "y", "x"), attrs={"units": "mm h-1"})
    oracle = radial_spectrum(field)
    power = _rings(rain)
    np.testing.assert_allclose(power[1:], oracle.values, rtol=1e-4)
    wave = np.arange(1, power.numel())
    theirs = linregress(np.log(wave), np.log(oracle.values)).slope
    ours = _slope(torch.log(torch.as_tensor(wave).float()), torch.log(power[1:]))
    assert float(ours) == pytest.approx(theirs, rel=1e-4)


def test_loss_equals_difference_of_slopes() -> None:
    state = make_loss_state()
    slopes = []
    for field in (state.reconstructed.detach(), state.observed):
        spectrum = radial_spectrum(
            xr.DataArray(field[:, 0].numpy(), dims=("time", "y", "x"))
        ).values
        wave = np.arange(1, spectrum.size + 1)
        used = 36 / wave >= 4
        slopes.append(linregress(np.log(wave[used]), np.log(spectrum[used])).slope)
    loss = SpectralSlope(shortest=4.0, weight=2.0)(state).detach()
    assert abs(slopes[0] - slopes[1]) > 0.01
    assert float(loss) == pytest.approx(2 * abs(slopes[0] - slopes[1]), rel=1e-3)


def test_loss_is_zero_for_equal_spectrum_and_large_for_smooth_field() -> None:
    turned = make_loss_state(guess=lambda x: x.flip(-1))
    smooth = make_loss_state(
        guess=lambda x: torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    )
    term = SpectralSlope()
    assert float(term(turned).detach()) == pytest.approx(0.0, abs=1e-4)
    assert float(term(smooth).detach()) > 0.05


def test_gradient_step_reduces_loss_of_smooth_field() -> None:
    def smoothed(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)

    state = make_loss_state(guess=smoothed)
    loss = SpectralSlope(weight=1.0)(state)
    loss.backward()
    step = 1e-2 * state.output.grad / state.output.grad.norm()
    moved = make_loss_state(guess=lambda x: smoothed(x) - step)
    assert float(SpectralSlope(weight=1.0)(moved).detach()) < float(loss.detach())


def test_loss_is_zero_for_few_rings_and_dry_batch() -> None:
    for options in ({"size": (4, 4)}, {"truth": torch.zeros_like}):
        assert float(SpectralSlope()(make_loss_state(**options)).detach()) == 0.0


class NoWaiting(TorchDispatchMode):
    """Refuses operations that make the host wait for a GPU: sizes or numbers from values."""

    WAITING = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        flat = tree_flatten((args, kwargs))[0]
        masks = [one for one in flat if isinstance(one, torch.Tensor) and one.dtype == torch.bool]
        assert name not in self.WAITING, f"{name} waits for the device"
        assert not (name in ("index", "index_put_") and masks), "a boolean index waits"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("of", ["reconstruction", "prior"])
def test_loss_never_waits_for_device(of: str) -> None:
    state = make_loss_state()
    state.prior_draws(1)
    with NoWaiting():
        SpectralSlope(of)(state).backward()
    with pytest.raises(AssertionError, match="waits"), NoWaiting():
        float(state.x.max())


@pytest.mark.parametrize("guess", [None, torch.zeros_like])
def test_gradient_of_dry_batch_is_zero(guess) -> None:
    state = make_loss_state(truth=torch.zeros_like, guess=guess)
    SpectralSlope()(state).backward()
    assert not state.output.grad.any()

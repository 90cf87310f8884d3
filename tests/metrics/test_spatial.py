"""Spectra, correlation and diversity against plain NumPy and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae import metrics

from .conftest import labelled, rain


def full_plane(field: np.ndarray) -> np.ndarray:
    """Mean power by ring, from the full Fourier plane, pixel by pixel."""
    ny, nx = field.shape
    short = min(ny, nx)
    power = abs(np.fft.fft2(field)) ** 2 / field.size
    found: list[list[float]] = [[] for _ in range(short // 2 + 1)]
    for i, fy in enumerate(np.fft.fftfreq(ny)):
        for j, fx in enumerate(np.fft.fftfreq(nx)):
            k = round(short * float(np.hypot(fy, fx)))
            if k < len(found):
                found[k].append(power[i, j])
    return np.array([np.mean(ring) for ring in found])


@pytest.mark.parametrize("shape", [(13, 11), (12, 8), (9, 9), (8, 15), (16, 16)])
def test_radial_spectrum_is_that_of_the_full_plane(shape: tuple[int, int]) -> None:
    field = rain((2, *shape), seed=7).astype(float)
    expected = np.mean([full_plane(one) for one in field], axis=0)[1:]
    found = metrics.radial_spectrum(labelled(field))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert found.wavelength[0].item() == min(shape)
    assert found.attrs["units"] == "(mm h-1)2"


def test_radial_spectrum_of_a_wave_is_at_its_wavenumber() -> None:
    x = np.arange(132)
    wave = 1 + np.cos(2 * np.pi * 6 * x / 132) * np.ones((156, 1))
    spectrum = metrics.radial_spectrum(labelled(wave[None]))
    assert spectrum.wavenumber[spectrum.values.argmax()].item() == 6
    assert spectrum.wavelength[spectrum.values.argmax()].item() == 22
    single = metrics.radial_spectrum(labelled(wave[None]).isel(time=0))
    np.testing.assert_allclose(single, spectrum, atol=1e-12)


def test_spectral_distance_is_the_formula(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    valid = observed.notnull() & forecast.notnull().all("realization")
    filled = forecast.where(valid, 0).values.astype(float).reshape(-1, 13, 11)
    generated = np.mean([full_plane(one) for one in filled], axis=0)
    truth = np.mean([full_plane(one) for one in observed.where(valid, 0).values], axis=0)
    expected = np.mean(abs(10 * np.log10(generated / truth))[1:])
    assert metrics.spectral_distance(forecast, observed).item() == pytest.approx(expected, rel=1e-5)


def test_spectral_distance_of_a_scaled_field_is_its_decibels(observed: xr.DataArray) -> None:
    half = (observed / 2).expand_dims("realization").assign_attrs(observed.attrs)
    found = metrics.spectral_distance(half, observed).item()
    assert found == pytest.approx(20 * np.log10(2), rel=1e-5)
    assert metrics.spectral_distance(observed, observed).item() == pytest.approx(0)


def test_spectral_distance_of_a_dry_forecast_is_large_and_finite(observed: xr.DataArray) -> None:
    dry = (observed * 0).assign_attrs(observed.attrs)
    assert 60 < metrics.spectral_distance(dry, observed).item() <= 120


def test_spectral_distance_of_a_row_is_undefined(observed: xr.DataArray) -> None:
    row = observed.isel(y=[0])
    assert np.isnan(metrics.spectral_distance(row.expand_dims(realization=2), row))


def test_spatial_correlation_is_that_of_pearson(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    valid = observed.notnull() & forecast.notnull().all("realization")
    expected = xr.corr(forecast.where(valid), observed.where(valid), ["y", "x"]).mean().item()
    assert metrics.spatial_correlation(forecast, observed).item() == pytest.approx(expected)
    assert metrics.spatial_correlation(observed, observed).item() == pytest.approx(1)


def test_spatial_correlation_of_flat_maps_is_zero(
    forecast: xr.DataArray, observed: xr.DataArray
) -> None:
    before = metrics.spatial_correlation(
        forecast.isel(time=slice(1, None)), observed.isel(time=slice(1, None))
    ).item()
    dry_day = observed.astype(float)
    dry_day[0] = 0.0
    assert metrics.spatial_correlation(forecast, dry_day).item() == pytest.approx(before)
    for amount in np.linspace(0.01, 1.0, 50):  # flat but for rounding: NaN for all samples
        dry_day[0] = amount
        dry_day[0, 0, 0] = np.nextafter(dry_day[0, 0, 0], 2.0)
        assert metrics.spatial_correlation(forecast, dry_day).item() == pytest.approx(before)
    flat = (forecast * 0 + 0.1).assign_attrs(forecast.attrs)
    assert metrics.spatial_correlation(flat, observed).item() == 0


def test_diversity_is_the_formula(masked: tuple[xr.DataArray, xr.DataArray]) -> None:
    forecast, observed = masked
    found = []
    for i in range(observed.sizes["time"]):
        valid = np.isfinite(observed[i].values) & np.isfinite(forecast[:, i].values).all(axis=0)
        members = forecast[:, i].values[:, valid].astype(float)
        units = members / np.linalg.norm(members, axis=1, keepdims=True)
        similar = [units[a] @ units[b] for a in range(5) for b in range(5) if a != b]
        found.append(1 - np.mean(similar))
    assert metrics.diversity(forecast, observed).item() == pytest.approx(np.mean(found))


def test_diversity_of_equal_disjoint_and_dry_members(observed: xr.DataArray) -> None:
    same = xr.concat([observed] * 3, "realization")
    assert metrics.diversity(same, observed).item() == pytest.approx(0, abs=1e-6)
    dry = (same * 0).assign_attrs(same.attrs)
    assert metrics.diversity(dry, observed).item() == 0
    assert metrics.diversity(same.isel(realization=[0]), observed).item() == 0
    apart = np.zeros((2, 1, 3, 3))
    apart[0, 0, 0], apart[1, 0, 1] = 1, 1
    assert metrics.diversity(labelled(apart), labelled(apart[0])).item() == pytest.approx(1)
    apart[1] = 0
    assert metrics.diversity(labelled(apart), labelled(apart[0])).item() == pytest.approx(1)

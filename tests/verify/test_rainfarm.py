"""RainFARM keeps block means, has the right spectrum, and agrees with pysteps."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import ComponentError, DataError
from xcvae.registry import build
from xcvae.verify.baselines.rainfarm import spectral_slope

FRAMES = 12
MEMBERS = 8
SIDE = 12


@pytest.fixture(scope="module")
def frames(radar: xr.Dataset) -> xr.Dataset:
    """Wet frames of the bundled record, far apart."""
    ds = radar.isel(time=slice(5, None, len(radar.time) // FRAMES)).isel(time=slice(FRAMES))
    return ds[["pr", "pr_coarse"]].assign_attrs(target="pr", condition="pr_coarse")


@pytest.fixture(scope="module")
def members(frames: xr.Dataset) -> xr.DataArray:
    return drawn(frames, MEMBERS)


def drawn(ds: xr.Dataset, count: int, seed: int = 0, **parameters: Any) -> xr.DataArray:
    field: xr.DataArray = build("baseline", {"name": "rainfarm", **parameters})(ds, count, seed)
    return field


def block_means(fields: xr.DataArray, side: int = SIDE) -> np.ndarray:
    coarse = fields.coarsen(y=side, x=side, boundary="pad").mean()
    return np.asarray(coarse.values)


def radial(fields: np.ndarray) -> np.ndarray:
    """Power by radial wavenumber of maps (..., y, x), averaged over them."""
    ny, nx = fields.shape[-2:]
    power = np.mean(np.abs(np.fft.fft2(fields.reshape(-1, ny, nx))) ** 2, axis=0)
    ring = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None]) * min(ny, nx)
    number = np.rint(ring).astype(int).ravel()
    sums = np.bincount(number, power.ravel()) / np.bincount(number)
    return np.asarray(sums[1 : min(ny, nx) // 2])


def fair_crps(members: np.ndarray, observed: np.ndarray) -> float:
    count = len(members)
    ranks = (2 * np.arange(count) - count + 1)[:, None, None, None]
    pairs = (ranks * np.sort(members, axis=0)).sum(0) / (count * (count - 1))
    return float(np.abs(members - observed).mean() - pairs.mean())


def test_rainfarm_keeps_block_means_of_the_condition(
    frames: xr.Dataset, members: xr.DataArray
) -> None:
    assert members.dims == ("realization", "time", "y", "x")
    assert members.shape == (MEMBERS, *frames.pr.shape)
    assert members.attrs["units"] == "mm h-1"
    assert (members >= 0).all()
    coarse = np.broadcast_to(frames.pr_coarse, (MEMBERS, *frames.pr_coarse.shape))
    np.testing.assert_allclose(block_means(members), coarse, rtol=1e-4, atol=1e-6)
    inside = members.coarsen(y=SIDE, x=SIDE).std().values
    assert np.median(inside[coarse > 0.5] / coarse[coarse > 0.5]) > 0.2


@pytest.mark.parametrize("slope", [1.5, 3.0])
def test_rainfarm_noise_has_the_requested_slope(slope: float) -> None:
    # A single block: scaling by its mean shifts the logarithm and leaves the spectrum alone.
    ds = xr.Dataset(
        {
            "pr": (("time", "y", "x"), np.ones((1, 64, 64), "float32"), {"units": "mm h-1"}),
            "pr_coarse": (("time", "v", "u"), np.ones((1, 1, 1), "float32"), {"units": "mm h-1"}),
        },
        attrs={"target": "pr", "condition": "pr_coarse"},
    )
    noise = np.log(drawn(ds, 60, slope=slope).values[:, 0])
    np.testing.assert_allclose(noise.std((-2, -1)), 1, rtol=1e-3)
    power = radial(noise)
    k = np.arange(1, len(power) + 1)
    assert -np.polyfit(np.log(k), np.log(power), 1)[0] == pytest.approx(slope, abs=0.12)


def test_spectral_slope_equals_that_of_the_field() -> None:
    rng = np.random.default_rng(1)
    k = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.fftfreq(36)[None])
    k[0, 0] = np.inf
    fields = [np.fft.ifft2(np.fft.fft2(rng.normal(size=k.shape)) * k**-1.3).real for _ in range(20)]
    assert np.mean([spectral_slope(field) for field in fields]) == pytest.approx(2.6, abs=0.1)
    assert spectral_slope(np.zeros((3, 4))) == 2.0
    assert spectral_slope(np.ones((1, 1))) == 2.0


def test_rainfarm_members_depend_on_seed_label_and_number_only(
    frames: xr.Dataset, members: xr.DataArray
) -> None:
    few = frames.isel(time=[2, 7])
    np.testing.assert_array_equal(drawn(few, 3), members[:3, [2, 7]])
    lazy = drawn(few.chunk(time=1, x_coarse=5, y=50), 3)
    assert lazy.chunks is not None
    np.testing.assert_array_equal(lazy, members[:3, [2, 7]])
    assert not np.array_equal(drawn(few, 1, seed=1), members[:1, [2, 7]])
    assert not np.array_equal(members[0], members[1])


def test_rainfarm_draws_other_noise_for_other_samples(frames: xr.Dataset) -> None:
    twice = frames.isel(time=[3, 3]).assign_coords(time=frames.time.values[[3, 5]])
    one, other = drawn(twice, 1).values[0]
    coarse = frames.pr_coarse.isel(time=3).values.repeat(SIDE, 0).repeat(SIDE, 1)
    wet = (one > 0) & (other > 0) & (coarse > 0)
    logs = [np.log(field[wet] / coarse[wet]) for field in (one, other)]
    assert abs(np.corrcoef(*logs)[0, 1]) < 0.3


def test_spectral_slope_is_fitted_to_the_middle_of_the_range() -> None:
    """The largest and the smallest waves have another slope, which must not count."""
    rows, columns = (np.fft.fftfreq(64) for _ in range(2))
    wavenumber = np.hypot(rows[:, None], columns)
    wavenumber[0, 0] = np.inf
    low, high = wavenumber[1:].min(), wavenumber[np.isfinite(wavenumber)].max()
    margin = np.log(high / low) / 6
    middle = (wavenumber >= low * np.exp(margin)) & (wavenumber <= high * np.exp(-margin))
    amplitude = np.where(middle, wavenumber**-1.25, 30 * wavenumber**0.5)
    amplitude[0, 0] = 0
    phases = np.angle(np.fft.fft2(np.random.default_rng(0).normal(size=(64, 64))))
    field = np.fft.ifft2(amplitude * np.exp(1j * phases)).real
    assert spectral_slope(field) == pytest.approx(2.5, abs=0.01)


def test_rainfarm_keeps_masks_and_means_of_valid_pixels(frames: xr.Dataset) -> None:
    target = frames.pr.isel(time=[3, 4]).copy()
    target[0, :30, 7:44] = np.nan
    coarse = target.coarsen(y=SIDE, x=SIDE).mean().rename(y="y_coarse", x="x_coarse")
    ds = frames.isel(time=[3, 4]).assign(pr=target, pr_coarse=coarse.assign_attrs(target.attrs))
    fields = drawn(ds, 3)
    np.testing.assert_array_equal(np.isnan(fields), np.broadcast_to(np.isnan(target), fields.shape))
    np.testing.assert_allclose(
        block_means(fields), np.broadcast_to(coarse, (3, *coarse.shape)), rtol=1e-4, atol=1e-6
    )


def test_rainfarm_accepts_smaller_blocks_at_edges() -> None:
    rng = np.random.default_rng(0)
    target = xr.DataArray(
        rng.gamma(1, 1, (2, 35, 53)).astype("float32"),
        dims=("time", "y", "x"),
        coords={"y": np.arange(35.0), "x": np.arange(53.0)},
        attrs={"units": "mm h-1"},
        name="pr",
    )
    coarse = target.coarsen(y=8, x=8, boundary="pad").mean().assign_attrs(target.attrs)
    coarse = coarse.rename(y="v", x="u")
    ds = xr.Dataset(
        {"pr": target, "pr_coarse": coarse}, attrs={"target": "pr", "condition": "pr_coarse"}
    )
    np.testing.assert_allclose(
        block_means(drawn(ds, 2), 8), np.broadcast_to(coarse, (2, *coarse.shape)), rtol=1e-4
    )


def test_rainfarm_refuses_ambiguous_block_sides() -> None:
    target = xr.DataArray(
        np.ones((1, 35, 53), "float32"), dims=("time", "y", "x"), attrs={"units": "mm h-1"}
    )
    coarse = target.coarsen(y=13, x=13, boundary="pad").mean().assign_attrs(target.attrs)
    coarse = coarse.rename(y="v", x="u")
    ds = xr.Dataset(
        {"pr": target, "pr_coarse": coarse}, attrs={"target": "pr", "condition": "pr_coarse"}
    )
    with pytest.raises(DataError, match=r"3 x 5 cells for 35 x 53 pixels: blocks of 12, 13 "):
        drawn(ds, 1)
    given = drawn(ds.assign_attrs(block=13), 2)
    np.testing.assert_allclose(block_means(given, 13), 1.0, rtol=1e-4)
    labelled = ds.assign_coords(y=np.arange(35.0), x=np.arange(53.0), v=[6, 19, 30.0])
    labelled = labelled.assign_coords(u=[6, 19, 32, 45, 52.0])
    np.testing.assert_array_equal(drawn(labelled, 2), given)


def test_rainfarm_masks_blocks_of_missing_cells(frames: xr.Dataset) -> None:
    ds = frames.isel(time=[1]).copy(deep=True)
    ds["pr_coarse"][0, 2, 3] = np.nan
    gone = np.isnan(drawn(ds, 1).values[0, 0])
    assert gone[2 * SIDE : 3 * SIDE, 3 * SIDE : 4 * SIDE].all()
    assert gone.sum() == SIDE**2


def test_rainfarm_keeps_dry_cells_and_applies_the_threshold(frames: xr.Dataset) -> None:
    ds = frames.isel(time=[0]).copy(deep=True)
    ds["pr_coarse"] = xr.zeros_like(ds.pr_coarse)
    assert (drawn(ds, 2) == 0).all()
    wet = drawn(frames.isel(time=[0]), 2, threshold="0.1 mm h-1")
    plain = drawn(frames.isel(time=[0]), 2)
    assert not ((wet > 0) & (wet < 0.1)).any()
    np.testing.assert_array_equal(wet, plain.where(plain >= np.float32(0.1), 0))


def test_rainfarm_refuses_conditions_without_square_blocks(frames: xr.Dataset) -> None:
    with pytest.raises(DataError, match="square blocks"):
        drawn(frames.isel(x_coarse=slice(7)), 1)
    pixel = float(abs(frames.x.diff("x")).mean())
    for shift in (1, 4):
        with pytest.raises(DataError, match="coordinates that lie elsewhere"):
            drawn(frames.assign_coords(x_coarse=frames.x_coarse + shift * pixel), 1)
    assert drawn(frames.assign_coords(x_coarse=frames.x_coarse + 0.5 * pixel), 1).notnull().all()
    with pytest.raises(DataError, match="coarse precipitation condition"):
        drawn(frames[["pr"]].drop_attrs().assign_attrs(target="pr"), 1)
    with pytest.raises(ComponentError, match="from 0 to 6"):
        build("baseline", {"name": "rainfarm", "slope": -1.0})


def pysteps_members(frames: xr.Dataset) -> np.ndarray:
    """Members (realization, time, y, x) of pysteps; the global random state is restored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies
        rainfarm = pytest.importorskip("pysteps.downscaling.rainfarm")
    before = np.random.get_state()  # noqa: NPY002 - the only way to seed pysteps
    np.random.seed(0)  # noqa: NPY002
    fields = [
        [rainfarm.downscale(coarse, ds_factor=SIDE) for coarse in frames.pr_coarse.values]
        for _ in range(MEMBERS)
    ]
    np.random.set_state(before)  # noqa: NPY002
    return np.asarray(fields)


def test_rainfarm_agrees_with_pysteps(frames: xr.Dataset, members: xr.DataArray) -> None:
    theirs, ours = pysteps_members(frames), members.values.astype("f8")
    observed = frames.pr.values.astype("f8")
    coarse = frames.pr_coarse.values
    for field in (theirs, ours):
        means = block_means(xr.DataArray(field, dims=("m", "t", "y", "x")))
        np.testing.assert_allclose(means, np.broadcast_to(coarse, means.shape), atol=1e-4)
    decibel = 10 * np.log10(radial(ours) / radial(theirs))
    assert np.abs(decibel).mean() < 0.5
    assert np.polyfit(np.log(np.arange(1, 1 + len(decibel))), decibel, 1)[0] == pytest.approx(
        0, abs=0.3
    )
    assert fair_crps(ours, observed) == pytest.approx(fair_crps(theirs, observed), rel=0.02)
    assert ours.std(0, ddof=1).mean() == pytest.approx(theirs.std(0, ddof=1).mean(), rel=0.03)
    for level in (0.9, 0.99, 0.999):
        their_quantile = np.quantile(theirs, level)
        assert np.quantile(ours, level) == pytest.approx(their_quantile, rel=0.05)


def test_spectral_slope_equals_pysteps(frames: xr.Dataset) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rainfarm = pytest.importorskip("pysteps.downscaling.rainfarm")
    for coarse in frames.pr_coarse.values.astype("f8"):
        _, alpha = rainfarm.downscale(coarse, ds_factor=2, return_alpha=True)
        assert spectral_slope(coarse) == pytest.approx(float(np.clip(alpha, 0, 6)), rel=1e-6)

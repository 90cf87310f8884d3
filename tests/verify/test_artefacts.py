"""Artefacts of the grid: periods and borders, and none in observed rain."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.verify.diagnosis.artefacts import Artefacts, artefacts_of


@pytest.fixture(scope="module")
def storms(radar: xr.Dataset) -> np.ndarray:
    """Wet frames far from each other, (sample, y, x)."""
    wet = (radar.pr > 0.1).mean(("y", "x")).values > 0.3
    frames = radar.pr.values[np.flatnonzero(wet)[::5]][:24]
    assert len(frames) >= 16
    return frames.astype(np.float64)


@pytest.fixture(scope="module")
def members(storms: np.ndarray) -> np.ndarray:
    """Other storms of the same radar."""
    return np.stack([np.roll(storms, shift, axis=0) for shift in (5, 9)])


def test_artefacts_of_other_storms_have_no_pattern(members: np.ndarray, storms: np.ndarray) -> None:
    assert artefacts_of(members, storms).pattern < 0.15


@pytest.mark.parametrize("period", [2, 3, 4, 12])
def test_artefacts_find_lines_with_their_period(
    period: int, members: np.ndarray, storms: np.ndarray
) -> None:
    lines = 1 + 0.5 * (np.arange(storms.shape[-1]) % period == 1)
    found = artefacts_of(members * lines, storms)
    assert found.period == period
    assert found.pattern > 0.4
    # Rows and columns are treated alike.
    turned = artefacts_of(np.swapaxes(members * lines, 2, 3), np.swapaxes(storms, 1, 2))
    assert turned.pattern == pytest.approx(found.pattern)


def test_artefacts_find_a_checkerboard(members: np.ndarray, storms: np.ndarray) -> None:
    colours = np.indices(storms.shape[1:]).sum(axis=0) % 2
    found = artefacts_of(members * (1 + 0.1 * colours), storms)
    assert (found.period, found.pattern > 0.3) == (2, True)


def test_artefacts_subtract_the_pattern_of_the_observation(
    members: np.ndarray, storms: np.ndarray
) -> None:
    lines = 1 + 0.5 * (np.arange(storms.shape[-1]) % 3 == 1)
    assert artefacts_of(members * lines, storms * lines).pattern < 0.15


def test_artefacts_measure_the_border_as_a_factor(storms: np.ndarray) -> None:
    edge = np.full(storms.shape[1:], 2.0)
    edge[2:-2, 2:-2] = 1.0
    found = artefacts_of(np.stack([storms * edge] * 2), storms)
    assert found.border_amount == pytest.approx(2.0, rel=0.05)
    assert found.border_texture == pytest.approx(2.0, rel=0.1)
    assert found.border_amount_error < 0.03


def test_artefacts_skip_a_masked_border_only(members: np.ndarray, storms: np.ndarray) -> None:
    land = np.full(storms.shape[1:], np.nan)
    land[20:-20, 20:-20] = 1.0
    found = artefacts_of(members * land, storms * land)
    assert np.isnan(found.border_amount)
    assert found.pattern < 0.2


def test_artefacts_of_small_maps_have_no_period() -> None:
    tiny = np.random.default_rng(0).random((2, 3, 8, 8))
    assert artefacts_of(tiny, tiny[0]).period == 0
    assert Artefacts().period == 0

"""Metrics of consecutive samples against brute force and fields with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.errors import ConfigError
from xcvae.metrics.metric import Metric
from xcvae.metrics.temporal import DrySpell, LagCorrelation, TemporalSpectrum, WetSpell
from xcvae.registry import build

TIMES = np.datetime64("2020-05-01", "ns") + np.arange(24) * np.timedelta64(5, "m")


def field(values: np.ndarray, times: np.ndarray = TIMES) -> xr.DataArray:
    dims = ("realization", "time", "y", "x")[-values.ndim :]
    return xr.DataArray(
        values.astype("float32"), dims=dims, coords={"time": times}, attrs={"units": "mm h-1"}
    )


def evolving(memory: float, seed: int, members: int = 0) -> np.ndarray:
    """Rain-like series with a lag-1 correlation near a memory, (..., time, y, x)."""
    rng = np.random.default_rng(seed)
    shape = (max(members, 1), 24, 24)
    state, maps = rng.normal(size=shape), []
    for _ in range(24):
        maps.append(state)
        state = memory * state + np.sqrt(1 - memory**2) * rng.normal(size=shape)
    values = np.exp(0.3 * np.stack(maps, axis=1))
    return values if members else values[0]


def test_lag_correlation_is_that_of_the_rest_of_block_means() -> None:
    forecast, observed = evolving(0.6, 0, members=2), evolving(0.6, 1)

    def rest(values: np.ndarray) -> np.ndarray:
        blocks = values.reshape(*values.shape[:-2], 2, 12, 2, 12)
        return (blocks - blocks.mean(axis=(-3, -1), keepdims=True)).reshape(values.shape)

    metric = LagCorrelation(lag=2)
    score = metric(field(forecast), field(observed))
    one, two = (rest(forecast.astype("float32"))[:, part] for part in (np.s_[:-2], np.s_[2:]))
    expected = (one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum())
    assert score.item() == pytest.approx(expected, rel=1e-4)
    assert score.item() == pytest.approx(0.36, abs=0.05)
    assert score.attrs["better"] == pytest.approx(0.36, abs=0.05)


def test_lag_correlation_without_observed_structure_is_best_at_one() -> None:
    score = LagCorrelation()(field(evolving(0.6, 0, members=2)), field(np.zeros((24, 24, 24))))
    assert score.attrs["better"] == 1.0


def test_lag_correlation_weights_pixels_by_their_area() -> None:
    forecast, observed = evolving(0.6, 0, members=2), evolving(0.6, 1)
    forecast[:, :, 12:] = forecast[:, ::-1, 12:][:, :, ::-1] ** 2
    area = np.broadcast_to(np.where(np.arange(24) < 12, 1.0, 0.0)[:, None], (24, 24))
    weighted = field(observed).assign_coords(cell_area=(("y", "x"), area))
    weighted.attrs["cell_measures"] = "area: cell_area"
    found = LagCorrelation()(field(forecast), weighted).item()
    half = LagCorrelation()(field(forecast[:, :, :12]), field(observed[:, :12])).item()
    assert found == pytest.approx(half, rel=1e-6)
    assert found != pytest.approx(LagCorrelation()(field(forecast), field(observed)).item())


def test_lag_is_a_number_of_samples_or_a_duration() -> None:
    forecast, observed = field(evolving(0.6, 0, members=2)), field(evolving(0.6, 1))
    by_number = build("metric", {"name": "lag_correlation", "lag": 3})(forecast, observed)
    by_time = build("metric", {"name": "lag_correlation", "lag": "15 min"})(forecast, observed)
    assert by_number.item() == by_time.item()
    for lag in ("7 min", "0 min", "-5 min"):
        with pytest.raises(ConfigError, match="multiple of the step of the samples, 300 s"):
            LagCorrelation(lag=lag)(forecast, observed)


@pytest.mark.parametrize("lag", [8, "40 min"])
def test_a_long_lag_loses_no_pair_of_samples(lag: int | str) -> None:
    """Thirty samples are one sequence: with those of 24 samples at most, 14 pairs of 22 remain."""
    times = TIMES[0] + np.arange(30) * np.timedelta64(5, "m")
    values = np.concatenate([evolving(0.6, 0, members=2), evolving(0.6, 3, members=2)], axis=1)
    forecast, observed = values[:, :30], values[0, 15:45]
    score = LagCorrelation(lag=lag)(field(forecast, times), field(observed, times))

    blocks = forecast.astype("float32").reshape(2, 30, 2, 12, 2, 12)
    rest = blocks - blocks.mean(axis=(-3, -1), keepdims=True)
    one, two = rest[:, :-8], rest[:, 8:]
    expected = (one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum())
    assert score.item() == pytest.approx(expected, rel=1e-4)


def test_pairs_do_not_cross_gaps() -> None:
    values = evolving(0.9, 0)
    values[12:] = evolving(0.9, 5)[12:]
    times = TIMES.copy()
    times[12:] += np.timedelta64(1, "h")
    whole = LagCorrelation()(field(values[None], times), field(values, times)).item()
    parts = [slice(0, 12), slice(12, 24)]
    alone = [
        LagCorrelation()(field(values[None, p], times[p]), field(values[p], times[p])).item()
        for p in parts
    ]
    assert whole == pytest.approx(np.mean(alone), abs=0.01)


@pytest.mark.parametrize("metric", [WetSpell("1 mm h-1"), DrySpell("1 mm h-1"), TemporalSpectrum()])
def test_a_row_of_three_times_the_area_counts_as_three_rows(metric: Metric) -> None:
    forecast, observed = evolving(0.6, 0, members=2), evolving(0.6, 1)
    rows = np.repeat(np.arange(24), np.where(np.arange(24) < 6, 3, 1))
    area = np.broadcast_to(np.where(np.arange(24) < 6, 3.0, 1.0)[:, None], (24, 24))
    weighted = field(observed).assign_coords(cell_area=(("y", "x"), area))
    weighted.attrs["cell_measures"] = "area: cell_area"
    expected = metric(field(forecast[..., rows, :]), field(observed[..., rows, :])).item()
    assert metric(field(forecast), weighted).item() == pytest.approx(expected, rel=1e-5)
    assert metric(field(forecast), field(observed)).item() != pytest.approx(expected, rel=1e-4)


def test_masked_pixels_do_not_count() -> None:
    forecast, observed = evolving(0.6, 0, members=2), evolving(0.6, 1)
    holes = observed.copy()
    holes[3, :, :12] = np.nan
    part = LagCorrelation()(field(forecast), field(holes)).item()
    kept = LagCorrelation()(field(forecast[..., 12:]), field(observed[..., 12:])).item()
    assert part == pytest.approx(kept, rel=1e-6)


def test_blocks_that_are_masked_in_part_have_the_mean_of_their_valid_pixels() -> None:
    forecast, observed = evolving(0.6, 0, members=2), evolving(0.6, 1)
    holes = np.random.default_rng(2).random((24, 24)) < 0.4
    observed[:, holes] = np.nan

    def rest(values: np.ndarray) -> np.ndarray:
        blocks = values.reshape(*values.shape[:-2], 2, 12, 2, 12)
        means = np.nanmean(blocks, axis=(-3, -1), keepdims=True)
        return (blocks - means).reshape(values.shape)[..., ~holes]

    members = rest(np.where(holes, np.nan, forecast.astype("float32")))
    one, two = members[:, :-1], members[:, 1:]
    expected = (one * two).sum() / np.sqrt((one**2).sum() * (two**2).sum())
    score = LagCorrelation()(field(forecast), field(observed)).item()
    assert score == pytest.approx(expected, rel=1e-4)


def test_spells_of_a_known_series() -> None:
    wet = np.tile([1, 1, 1, 0, 0, 0], 4).astype(float)[:, None, None]  # 3 wet, 3 dry
    short = np.tile([1, 0, 0], 8).astype(float)[:, None, None]  # 1 wet, 2 dry
    forecast, observed = field(short[None]), field(wet)
    assert WetSpell()(forecast, observed).item() == pytest.approx(1 / 3)
    # The last spell is cut: 15 dry samples with a successor and 7 ends, against 11 and 3.
    assert DrySpell()(forecast, observed).item() == pytest.approx((15 / 7) / (11 / 3))
    assert WetSpell()(field(wet[None]), observed).item() == 1


def test_temporal_spectrum_is_zero_for_equal_and_three_decibels_for_doubled_power() -> None:
    observed = evolving(0.6, 1)
    metric = TemporalSpectrum(samples=8)
    assert metric(field(observed[None]), field(observed)).item() == pytest.approx(0, abs=1e-6)
    louder = field(np.stack([observed] * 3) * np.sqrt(2))  # the power of a member, not of all
    assert metric(louder, field(observed)).item() == pytest.approx(3.01, abs=0.01)
    assert np.isnan(TemporalSpectrum(samples=25)(louder, field(observed)).item())


@pytest.mark.parametrize("name", ["lag_correlation", "wet_spell", "dry_spell"])
def test_samples_without_times_are_refused(name: str) -> None:
    labels = np.array([f"storm {i}" for i in range(24)])
    pair = field(evolving(0.6, 0, members=2), labels), field(evolving(0.6, 1), labels)
    with pytest.raises(ConfigError, match="expected times as labels"):
        build("metric", name)(*pair)

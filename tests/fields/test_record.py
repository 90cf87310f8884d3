"""Thumbnails of training samples: small, and enough to recognise copies."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.stats import genpareto

from xcvae.errors import ConfigError
from xcvae.fields.record import (
    CELLS,
    LABELS,
    MAPS,
    Record,
    Thumbnails,
    distances,
    largest_of,
    rainy,
    shrink,
)
from xcvae.fields.samples import label_codes


def field(values: np.ndarray, **coords: object) -> xr.DataArray:
    return xr.DataArray(values, dims=("time", "y", "x"), coords=coords, attrs={"units": "mm h-1"})


@pytest.fixture
def rain() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.exponential(1.0, (30, 20, 17)) * (random.random((30, 20, 17)) < 0.4)


def test_shrink_covers_every_pixel_once(rain: np.ndarray) -> None:
    small = np.expm1(shrink(rain[:, :16, :16], 0.1).astype(float)) * 0.1
    assert small.mean(axis=1) == pytest.approx(rain[:, :16, :16].mean(axis=(1, 2)), rel=2e-3)
    assert shrink(rain, 0.1).shape == (30, 64)
    assert shrink(rain[:, :5, :3], 0.1).shape == (30, 15)


def test_shrink_ignores_masked_pixels(rain: np.ndarray) -> None:
    masked = rain[:, :16, :16].copy()
    masked[:, :2, :2] = np.nan
    masked[:, 2, 2] = np.nan
    small = np.expm1(shrink(masked, 0.1).astype(float)) * 0.1
    assert np.isnan(small[:, 0]).all()
    assert small[:, 9] == pytest.approx(np.nanmean(masked[:, 2:4, 2:4], axis=(1, 2)), rel=2e-3)


def test_distances_are_zero_for_copies_and_one_for_dry_maps(rain: np.ndarray) -> None:
    maps = shrink(rain, 0.1)
    apart = distances(maps, maps)
    assert np.diag(apart) == pytest.approx(0.0, abs=1e-6)
    assert apart[~np.eye(len(maps), dtype=bool)].min() > 0.1
    assert distances(maps, np.zeros_like(maps)) == pytest.approx(1.0)


def test_distances_are_those_of_the_formula(rain: np.ndarray) -> None:
    maps = shrink(rain, 0.1)
    maps[3, 5] = np.nan
    first, second = (m.astype(float) for m in (maps[3], maps[8]))
    both = np.isfinite(first)
    norm = max(np.linalg.norm(first[both]), np.linalg.norm(second[both]))
    expected = np.linalg.norm((first - second)[both]) / norm
    assert distances(maps[3:4], maps[8:9])[0, 0] == pytest.approx(expected)


def test_distances_are_symmetric(rain: np.ndarray) -> None:
    """A weak map is as far from a strong one as the strong one from it."""
    maps = shrink(rain[:3] * np.array([0.2, 1.0, 5.0])[:, None, None], 0.1)
    found = distances(maps, maps)
    assert found == pytest.approx(found.T)
    assert found.max() < 1.0


@pytest.mark.parametrize("masked", ["first", "second"])
def test_distances_leave_out_cells_that_one_map_lacks(masked: str, rain: np.ndarray) -> None:
    """A copy with missing cells is a copy, whichever of the two has them."""
    whole = shrink(rain[:2], 0.1)
    part = whole.copy()
    part[:, whole[0].argmax()] = np.nan
    pair = (part, whole) if masked == "first" else (whole, part)
    found = distances(*pair)
    assert np.diag(found) == pytest.approx(0.0, abs=1e-6)
    common = np.isfinite(part[0])
    assert found == pytest.approx(distances(whole[:, common], whole[:, common]), rel=1e-6, abs=1e-6)


def test_rainy_is_false_for_little_rain(rain: np.ndarray) -> None:
    dry = np.where(np.arange(20)[:, None] < 1, rain, 0.0)
    assert rainy(shrink(rain, 0.1)).all()
    assert not rainy(shrink(0.01 * dry, 0.1)).any()


def test_rainy_counts_the_cells_of_an_island_only() -> None:
    island = np.full((2, 64, 64), np.nan)
    island[0, 24:32, 24:40], island[1, 24:32, 24:40] = 5.0, 0.0
    assert rainy(shrink(island, 0.1)).tolist() == [True, False]
    assert rainy(shrink(np.full((1, 64, 64), np.nan), 0.1)).tolist() == [False]


def test_thumbnails_are_bounded_in_number(rain: np.ndarray) -> None:
    days = np.datetime64("2001-01-01", "s") + np.arange(30) * np.timedelta64(1, "D")
    thumbnails = Thumbnails.of_field(field(rain, time=days), "time", 0.1, maps=7, labels=11)
    assert (thumbnails.maps.shape, thumbnails.labels.shape, thumbnails.samples) == (
        (7, 64),
        (11,),
        30,
    )
    assert (thumbnails.maps[[0, -1]] == shrink(rain[[0, -1]], 0.1)).all()
    assert set(thumbnails.labels) <= set(label_codes(field(rain, time=days), "time"))
    assert CELLS**2 * 2 * MAPS + 8 * LABELS < 400_000


def test_thumbnails_of_lazy_rain_are_equal(rain: np.ndarray) -> None:
    lazy = field(rain).chunk(time=4)
    eager, streamed = (Thumbnails.of_field(f, "time", 0.1) for f in (field(rain), lazy))
    assert (eager.maps == streamed.maps).all()
    assert eager.labels.size == 0


def test_label_codes_of_times_but_not_of_positions() -> None:
    times = np.array(["2001-01-01T06", "2001-01-02T06"], "datetime64[h]").astype("datetime64[s]")
    by_time = xr.Dataset(coords={"time": times})
    finer = xr.Dataset(coords={"time": times.astype("datetime64[ns]")})
    assert (label_codes(by_time, "time") == label_codes(finer, "time")).all()
    assert len(set(label_codes(by_time, "time"))) == 2
    for counted in (xr.Dataset({"a": ("time", [0, 1])}), xr.Dataset(coords={"time": [3, 4]})):
        assert label_codes(counted, "time").size == 0


def test_return_level_of_exponential_maxima_is_the_true_quantile() -> None:
    maxima = np.random.default_rng(0).exponential(5.0, 2000)
    record = Record.of([maxima], units="mm h-1", wet_threshold=0.1)
    record = Record.from_json({**record.to_json(), "conditions": {"pr": largest_of(maxima)}})
    assert record.conditions["pr"][0] == maxima.max()
    assert len(record.conditions["pr"]) == 200
    for period in (0.1, 1.0, 10.0):
        true = 5.0 * np.log(2000 * period)
        assert record.return_level("pr", period) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.4])
def test_return_level_is_the_formula_of_the_fit(shape: float) -> None:
    """L-moments of 199 excesses over the smallest of 200 maxima, by all pairs of them."""
    maxima = genpareto.rvs(shape, scale=5.0, size=2000, random_state=1)
    record = Record.of([maxima], units="mm h-1", wet_threshold=0.1)
    record = Record.from_json({**record.to_json(), "conditions": {"pr": largest_of(maxima)}})
    largest = np.sort(maxima)[-200:]
    excess = largest[1:] - largest[0]
    pairs = np.abs(excess[:, None] - excess).sum() / (excess.size * (excess.size - 1))
    ratio = excess.mean() / (pairs / 2)
    fitted = np.clip(2 - ratio, -0.5, 0.5)
    for period in (1.0, 10.0):
        tail = genpareto.isf(1 / (199 * period), fitted, scale=excess.mean() * (1 - fitted))
        assert record.return_level("pr", period) == pytest.approx(largest[0] + tail, rel=1e-9)


def test_shape_of_the_fit_is_bounded() -> None:
    """Two maxima far beyond all others ask for a shape of nearly one."""
    maxima = [*np.linspace(1.0, 1.1, 18), 50.0, 60.0]
    record = Record.of([np.array(maxima)], units="mm h-1", wet_threshold=0.1)
    record = Record.from_json({**record.to_json(), "conditions": {"pr": largest_of(maxima)}})
    excess = np.sort(maxima)[1:] - 1.0
    tail = genpareto.isf(1 / 190, 0.5, scale=excess.mean() * 0.5)
    assert record.return_level("pr", 10.0) == pytest.approx(1.0 + tail, rel=1e-9)


def test_record_in_other_units_is_the_record_of_the_converted_rain(rain: np.ndarray) -> None:
    blocks = [np.where(rain > 5, np.nan, rain), rain]
    record = Record.of(blocks, units="mm h-1", wet_threshold=0.1)
    other = Record.of([24 * one for one in blocks], units="mm d-1", wet_threshold=2.4)
    converted = record.converted("mm d-1", 24.0)
    assert (converted.units, converted.counts) == ("mm d-1", record.counts)
    for name in ("wet_threshold", "mean", "maximum", "wet_fraction"):
        assert getattr(converted, name) == pytest.approx(getattr(other, name), rel=1e-12)
    assert converted.quantile(0.99) == pytest.approx(24 * record.quantile(0.99), rel=1e-12)


def test_record_counts_what_was_masked_and_what_was_wet() -> None:
    values = np.array([[0.0, 0.05, 0.1], [2.0, 4.0, 0.09]])
    record = Record.of([values], units="mm h-1", wet_threshold=0.1)
    assert (record.samples, record.pixels, record.masked) == (2, 6, False)
    assert record.wet_fraction == pytest.approx(3 / 6)
    assert record.mean == pytest.approx(values.mean())
    assert record.quantile(1.0) == record.maximum == 4.0
    # Of 0.1, 2 and 4 the lowest: amounts just below the threshold are not wet.
    assert record.quantile(0.3, wet=True) == pytest.approx(0.1, rel=0.04)
    assert record.quantile(0.5, wet=True) == pytest.approx(2.0, rel=0.04)
    gap = np.where(values > 3, np.nan, values)
    assert Record.of([values, gap, values], units="mm h-1", wet_threshold=0.1).masked


@pytest.mark.parametrize("step", [0.1, 0.12, 0.05, 1e-6])
def test_quantiles_of_wet_pixels_are_those_of_numpy(step: float) -> None:
    """Also where many pixels have the wet threshold itself: the step of many products."""
    random = np.random.default_rng(0)
    amounts = random.gamma(0.5, 1.0, (9, 100, 100)) * (random.random((9, 100, 100)) < 0.3)
    amounts = np.round(np.round(amounts / step) * step, 9)
    record = Record.of([amounts], units="mm h-1", wet_threshold=0.1)
    wet = amounts[amounts >= 0.1]
    for q in (0.1, 0.3, 0.5, 0.8, 0.95, 0.99):
        expected = np.quantile(wet, q, method="inverted_cdf")
        assert record.quantile(q, wet=True) == pytest.approx(expected, rel=0.036)
    dry = Record.of([np.full((1, 9), 0.099)], units="mm h-1", wet_threshold=0.1)
    assert dry.quantile(0.95, wet=True) == 0


def test_return_level_needs_a_record_with_maxima() -> None:
    record = Record.of([np.ones((3, 2, 2))], units="mm h-1", wet_threshold=0.1)
    assert "conditions" not in record.to_json()  # the form of older files
    with pytest.raises(ConfigError, match="period: expected a record with 10 sample maxima"):
        record.return_level("pr", 10.0)

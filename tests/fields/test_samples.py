from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import ConfigError, DataError, EmptySelectionError, UnitsError
from xcvae.fields.describe import describe, prepare
from xcvae.fields.samples import (
    check_samples,
    fingerprint,
    heavy,
    label_keys,
    labels_of,
    storms_of,
)

Maker = Callable[..., xr.Dataset]


@pytest.fixture
def days() -> xr.Dataset:
    """Five days on 10 x 10 pixels, 20 at sea: dry, a pixel, a storm, flood, no data."""
    rain = np.zeros((5, 10, 10))
    rain[1, 5, 5] = 100
    rain[2, 4, :4] = 30
    rain[3] = 50
    rain[:, :2] = np.nan
    rain[4] = np.nan
    return xr.Dataset(
        {"pr": (("time", "y", "x"), rain, {"units": "mm d-1"})},
        coords={"time": pd.date_range("2020-01-01", periods=5)},
    )


@pytest.mark.parametrize(
    ("threshold", "extent", "expected"),
    [
        (20, 0.02, [2, 3]),
        ("20 mm/day", 0.02, [2, 3]),
        ("2 mm h-1", 0.02, [3]),
        (20, 0.05, [2, 3]),  # 4 of the 80 valid pixels are exactly 5 percent
        (20, 0.06, [3]),
        (20, 0.01, [1, 2, 3]),
        (30, 0.02, [2, 3]),  # the storm is exactly 30
        (50, 0.02, [3]),
        (60, 0.02, []),
    ],
)
def test_heavy_needs_rain_over_an_extent(
    days: xr.Dataset, threshold: str | float, extent: float, expected: list[int]
) -> None:
    chosen = heavy(days, threshold=threshold, extent=extent)
    assert chosen.dtype == bool
    assert np.flatnonzero(chosen).tolist() == expected
    assert days.isel(time=chosen).sizes["time"] == len(expected)


@pytest.mark.parametrize("threshold", [0, -1.0, "-2 mm/day"])
def test_heavy_refuses_thresholds_that_dry_pixels_reach(
    days: xr.Dataset, threshold: str | float
) -> None:
    with pytest.raises(ConfigError, match="threshold: expected an amount above 0"):
        heavy(days, threshold=threshold)


def test_heavy_records_its_threshold(days: xr.Dataset) -> None:
    chosen = heavy(days, threshold="2 mm h-1")
    xr.testing.assert_equal(chosen.time, days.time)
    assert chosen.attrs["threshold"] == pytest.approx(48)
    assert chosen.attrs["threshold_units"] == "mm d-1"


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_heavy_takes_the_quantile_of_wet_values(make_radar: Maker, quantile: float) -> None:
    ds = make_radar(samples=20)
    values = ds.pr.values[ds.pr.values >= 0.1]
    found = heavy(ds, quantile=quantile).attrs["threshold"]
    assert found == pytest.approx(np.quantile(values, quantile), rel=5e-3)


def test_heavy_is_equal_for_lazy_data(make_radar: Maker) -> None:
    ds = make_radar(samples=20)
    xr.testing.assert_identical(heavy(ds), heavy(ds.chunk(time=3, y=5)))


def test_heavy_includes_ties_at_the_quantile(days: xr.Dataset) -> None:
    # 80 of the 85 wet values are 50, the median is one of them.
    assert bool(heavy(days, quantile=0.5)[3])


def test_wet_quantile_counts_values_at_the_wet_threshold(days: xr.Dataset) -> None:
    # 4 pixels at 1 mm d-1, the wet threshold, and 4 at 8 mm d-1: the median is the lower one.
    pr = xr.zeros_like(days.pr[:2])
    pr[0, 4, :4], pr[1, 4, :4] = 1.0, 8.0
    assert heavy(pr.to_dataset(), quantile=0.5).attrs["threshold"] == pytest.approx(1.0)
    assert heavy(pr.to_dataset(), quantile=0.51).attrs["threshold"] == pytest.approx(8, rel=1e-3)


def test_heavy_accepts_any_order_of_dims(days: xr.Dataset) -> None:
    turned = days.rename(time="storm", y="a", x="b").transpose("b", "storm", "a")
    chosen = heavy(turned, threshold=20, spatial_dims=("a", "b"))
    assert chosen.dims == ("storm",)
    assert np.flatnonzero(chosen).tolist() == [2, 3]


def test_heavy_selects_samples_without_labels(days: xr.Dataset) -> None:
    chosen = heavy(days.drop_vars("time"), threshold=20)
    assert not chosen.coords
    assert days.isel(time=chosen).sizes["time"] == 2


def test_heavy_refuses_dry_data(days: xr.Dataset) -> None:
    with pytest.raises(EmptySelectionError, match="a pixel of at least 1 mm d-1"):
        heavy(days.isel(time=[0, 4]))


@pytest.mark.parametrize(
    "arguments",
    [{"quantile": 1.0}, {"quantile": 0.0}, {"extent": 0.0}, {"extent": 2.0}, {"quantile": np.nan}],
)
def test_heavy_refuses_shares_out_of_range(days: xr.Dataset, arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}: expected a share"):
        heavy(days, **arguments)  # type: ignore[arg-type]


def test_heavy_refuses_a_quantile_beside_a_threshold(days: xr.Dataset) -> None:
    with pytest.raises(ConfigError, match="quantile: expected none beside a threshold"):
        heavy(days, threshold=20, quantile=0.5)


def test_heavy_refuses_a_depth_for_a_rate(days: xr.Dataset) -> None:
    with pytest.raises(UnitsError, match=r"threshold: .*'mm d-1' by a factor, got '20 mm'"):
        heavy(days, threshold="20 mm")


def test_storms_of_augmented_data_are_their_labels_and_members_are_not_observed() -> None:
    ds = xr.Dataset(
        coords={"day": ["a", "b", "a", "b"], "realization": ("day", [-1, -1, 0, 3])},
    )
    storm, observed = storms_of(ds, "day")
    assert storm.tolist() == [0, 1, 0, 1]
    assert observed.tolist() == [True, True, False, False]
    storm, observed = storms_of(ds.drop_vars("realization"), "day")
    assert storm.tolist() == [0, 1, 2, 3]
    assert observed.all()


def test_labels_of_times_are_written_to_the_second() -> None:
    times = np.array(["2020-01-01", "2020-01-01T06:07:08.9"], "datetime64[ns]")
    found = labels_of(xr.Dataset(coords={"time": times}), "time")
    assert found == ["2020-01-01T00:00:00", "2020-01-01T06:07:08"]


def test_label_keys_of_a_zone_are_those_of_utc() -> None:
    times = pd.to_datetime(["2020-07-01T02:00", "2020-07-01T03:00"]).tz_localize("Europe/Berlin")
    zoned = xr.Dataset(coords={"time": ("time", np.array(list(times), object))})
    expected = pd.to_datetime(["2020-07-01T00:00", "2020-07-01T01:00"])
    assert list(label_keys(zoned, "time")) == list(expected)


def test_fingerprint_is_that_of_what_an_ensemble_depends_on(make_radar: Maker) -> None:
    ds = make_radar()
    spec = describe(ds, conditions=["pr_coarse"])

    def of(data: xr.Dataset, *, values: bool = False) -> str:
        prepared = prepare(data, spec, need_target=False)
        return fingerprint(prepared, spec, target_values=values)

    other = ds.assign(pr=ds.pr.copy(data=2 * ds.pr.values))
    wet = ds.assign(pr_coarse=ds.pr_coarse.copy(data=2 * ds.pr_coarse.values))
    gap = ds.assign(pr=ds.pr.where(ds.pr < ds.pr.max()))
    assert of(ds) == of(other) == of(ds.drop_vars("pr")) == of(ds[["pr_coarse", "pr"]])
    assert of(ds) == of(ds.chunk(time=2))
    assert of(ds) == of(ds.assign_coords(split=("time", np.arange(5))))
    assert len({of(ds), of(gap), of(wet)}) == 3
    assert len({of(ds, values=True), of(other, values=True), of(gap, values=True)}) == 3
    moved = ds.assign_coords(time=ds.time.copy(data=ds.time.values + np.timedelta64(1, "h")))
    assert of(moved) != of(ds)
    prepared = prepare(ds, spec, need_target=False)
    wider = prepared.assign_coords(x=prepared.x + 1)
    assert fingerprint(wider, spec, target_values=False) != of(ds)


@pytest.mark.parametrize("members", [[0, 1, 2], ["r1i1p1f1", "r2i1p1f1", "r3i1p1f1"]])
@pytest.mark.parametrize("stacked", [True, False])
def test_members_of_other_models_need_another_name(
    make_radar: Maker, stacked: bool, members: list[object]
) -> None:
    """Of the samples (time, realization) no member of an ensemble could be told from a driver's."""
    ds = make_radar()
    several = xr.concat([ds] * 3, "realization").assign_coords(realization=members)
    samples = several.stack(sample=("time", "realization"))
    ds = samples if stacked else samples.reset_index("sample")
    for options in ({}, {"augmented": True}):
        with pytest.raises(DataError, match=r"'realization' along 'sample'.*realization='driver'"):
            check_samples(ds, "sample", **options)
    renamed = several.rename(realization="driver").stack(sample=("time", "driver"))
    check_samples(renamed, "sample")
    real = make_radar().assign_coords(realization=("time", np.full(5, -1)))
    check_samples(real, "time")

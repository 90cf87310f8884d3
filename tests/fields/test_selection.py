from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae.errors import ConfigError, EmptySelectionError, UnitsError
from xcvae.fields.samples import heavy

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
        (60, 0.02, []),
    ],
)
def test_heavy_means_over_an_extent(
    days: xr.Dataset, threshold: str | float, extent: float, expected: list[int]
) -> None:
    chosen = heavy(days, threshold=threshold, extent=extent)
    assert chosen.dtype == bool
    assert np.flatnonzero(chosen).tolist() == expected
    assert days.isel(time=chosen).sizes["time"] == len(expected)


def test_the_result_says_what_it_did(days: xr.Dataset) -> None:
    chosen = heavy(days, threshold="2 mm h-1")
    xr.testing.assert_equal(chosen.time, days.time)
    assert chosen.attrs["threshold"] == pytest.approx(48)
    assert chosen.attrs["threshold_units"] == "mm d-1"


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_the_quantile_is_that_of_the_wet_values(make_radar: Maker, quantile: float) -> None:
    ds = make_radar(samples=20)
    values = ds.pr.values[ds.pr.values >= 0.1]
    found = heavy(ds, quantile=quantile).attrs["threshold"]
    assert found == pytest.approx(np.quantile(values, quantile), rel=5e-3)


def test_lazy_data_gives_the_same(make_radar: Maker) -> None:
    ds = make_radar(samples=20)
    xr.testing.assert_identical(heavy(ds), heavy(ds.chunk(time=3, y=5)))


def test_equal_values_at_the_quantile_are_heavy(days: xr.Dataset) -> None:
    # 80 of the 85 wet values are 50, the median is one of them.
    assert bool(heavy(days, quantile=0.5)[3])


def test_dims_may_be_in_any_order(days: xr.Dataset) -> None:
    turned = days.rename(time="storm", y="a", x="b").transpose("b", "storm", "a")
    chosen = heavy(turned, threshold=20, spatial_dims=("a", "b"))
    assert chosen.dims == ("storm",)
    assert np.flatnonzero(chosen).tolist() == [2, 3]


def test_samples_without_labels_can_be_chosen(days: xr.Dataset) -> None:
    chosen = heavy(days.drop_vars("time"), threshold=20)
    assert not chosen.coords
    assert days.isel(time=chosen).sizes["time"] == 2


def test_dry_data_has_no_quantile(days: xr.Dataset) -> None:
    with pytest.raises(EmptySelectionError, match="a pixel of at least 1 mm d-1"):
        heavy(days.isel(time=[0, 4]))


@pytest.mark.parametrize(
    "arguments",
    [{"quantile": 1.0}, {"quantile": 0.0}, {"extent": 0.0}, {"extent": 2.0}, {"quantile": np.nan}],
)
def test_shares_out_of_range_are_refused(days: xr.Dataset, arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}: expected a share"):
        heavy(days, **arguments)  # type: ignore[arg-type]


def test_a_depth_is_no_threshold_of_a_rate(days: xr.Dataset) -> None:
    with pytest.raises(UnitsError, match=r"threshold: .*'mm d-1', got 'mm'"):
        heavy(days, threshold="20 mm")

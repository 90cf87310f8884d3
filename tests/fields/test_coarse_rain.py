"""Coarse rain that cannot be that of the target: other amounts, or sums since a start."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

from xcvae.fields.block_means import warn_of_amounts
from xcvae.fields.describe import describe, prepare
from xcvae.fields.validation import check_values

Maker = Callable[..., xr.Dataset]


def warn(ds: xr.Dataset) -> None:
    spec = describe(ds, target="pr", conditions=["pr_coarse"])
    warn_of_amounts(prepare(ds, spec, need_target=True), spec)


def changed(ds: xr.Dataset, scale: float, units: str = "mm h-1") -> xr.Dataset:
    return ds.assign(pr_coarse=(ds.pr_coarse * scale).assign_attrs(units=units))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize(
    ("scale", "units", "text"),
    [
        (24.0, "mm h-1", r"2\d times more"),
        (1 / 24, "mm h-1", r"2\d times less"),
        (1 / 3600, "mm h-1", r"3\d\d\d times less"),
        (0.024, "m", r"2\d times more rain than 'pr'"),
    ],
)
def test_other_amounts_than_those_of_the_target_are_warned_of(
    make_radar: Maker, scale: float, units: str, text: str, lazy: bool
) -> None:
    ds = changed(make_radar(samples=12), scale, units)
    with pytest.warns(UserWarning, match=f"pr_coarse: about {text}.*Check the units of both"):
        warn(ds.chunk(time=5) if lazy else ds)


@pytest.mark.parametrize(
    ("samples", "scale", "units"), [(12, 3.0, "mm h-1"), (12, 0.001, "m"), (5, 24.0, "mm h-1")]
)
def test_amounts_that_are_alike_or_few_are_not_warned_of(
    make_radar: Maker, samples: int, scale: float, units: str
) -> None:
    warn(changed(make_radar(samples=samples), scale, units))


def test_amounts_are_compared_where_both_are_known(make_radar: Maker) -> None:
    """Rain of the sea, where the target is masked, does not count; nor do samples without both."""
    ds = make_radar(samples=14)
    east = ds.x_coarse > 18
    ds["pr"] = ds.pr.where(ds.x < 14)
    ds["pr_coarse"] = ds.pr_coarse.where(~east, 100.0).assign_attrs(ds.pr.attrs)
    warn(ds)
    labels = ds.assign_coords(time=np.arange(14))
    warn(changed(labels, 3600.0, "mm"))  # of samples without times, a depth says nothing


def test_coarse_rain_since_a_start_is_warned_of(make_radar: Maker) -> None:
    ds = make_radar(24, 24, factor=4, samples=48)
    total = ds.pr_coarse.groupby(ds.time.dt.floor("D")).cumsum()
    ds["pr_coarse"] = (total / 1000).assign_attrs(units="m")
    spec = describe(ds, target="pr", conditions=["pr_coarse"])
    prepared = prepare(ds, spec, need_target=True)
    with pytest.warns(UserWarning, match=r"pr_coarse: values rise .*ds\['pr_coarse'\]\.diff"):
        check_values(prepared, spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_values(prepared.isel(time=slice(3)), spec, masked=True)

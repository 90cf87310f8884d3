"""The border between physical and normalised values, and the record that guards it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from xcvae.errors import DataError, UnitsError
from xcvae.fields.describe import describe, prepare
from xcvae.fields.record import Record
from xcvae.fields.scaling import RainScaling, Scaling, StandardScaling, blocks_of


def test_rain_scaling_inverts_and_dry_is_exactly_dry():
    scaling = RainScaling("mm h-1", 0.1)
    rain = np.array([0.0, 0.01, 0.12, 1.0, 30.0, 400.0])
    normalised = scaling.normalise(rain)
    back = scaling.physical(torch.from_numpy(normalised)).numpy()
    np.testing.assert_allclose(back, rain, rtol=1e-4)
    assert back[0] == 0
    below = scaling.physical(torch.tensor([-3.0, -1e-6]))
    assert float(below.abs().max()) == 0


def test_rain_below_zero_by_rounding_is_exactly_dry():
    normalised = RainScaling("mm h-1", 0.1).normalise(np.array([-1e-7, -0.0, 0.0, np.nan]))
    np.testing.assert_array_equal(normalised, [0, 0, 0, np.nan])


def test_thresholds_of_a_selection_are_those_of_its_record(make_radar):
    """Depths of an hour at noon: by the distance of their times they would be those of a day."""
    ds = make_radar(samples=49)
    for name in ("pr", "pr_coarse"):
        ds[name] = ds[name].assign_attrs(units="mm")
    spec = describe(ds, conditions=["pr_coarse"])
    noons = prepare(ds.isel(time=slice(None, None, 24)), spec, need_target=True)
    scaling, _ = Scaling.fit(noons, spec)
    assert scaling.target.eps == pytest.approx(0.1)
    assert scaling.variables["pr_coarse"].eps == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("seconds", "daily", "step"),
    [(300.0, False, 300.0), (None, True, 86400.0), (None, False, 3600.0)],
)
def test_step_of_older_files_is_an_hour_or_a_day(make_radar, seconds, daily, step):
    spec = describe(make_radar(), conditions=["pr_coarse"])
    assert replace(spec, step_seconds=seconds, daily=daily).step == step


def test_physical_is_bounded_and_has_gradients():
    value = torch.tensor([0.5, 50.0], requires_grad=True)
    physical = RainScaling("mm h-1", 0.1).physical(value)
    physical.sum().backward()
    assert torch.isfinite(physical).all()
    assert float(value.grad[0]) > 0


def test_fit_of_radar_has_scaling_and_record(train_radar):
    spec = describe(train_radar, target="pr", conditions=["pr_coarse"])
    scaling, record = Scaling.fit(prepare(train_radar, spec, need_target=True), spec)
    values = train_radar.pr.values
    assert record.samples == len(values)
    assert record.pixels == values.size
    assert record.mean == pytest.approx(values.mean(), rel=1e-4)
    assert record.maximum == pytest.approx(values.max())
    assert record.wet_fraction == pytest.approx((values >= 0.1).mean(), rel=1e-3)
    assert not record.masked
    for q in (0.9, 0.99, 0.999):
        assert record.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.06)
    wet = values[values >= 0.1]
    assert record.quantile(0.5, wet=True) == pytest.approx(np.quantile(wet, 0.5), rel=0.15)
    # A condition in the target's units is scaled like the target: the output is added to it.
    assert scaling.variables["pr_coarse"] == scaling.target
    assert Scaling.from_json(json.loads(json.dumps(scaling.to_json()))) == scaling
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record


def test_record_quantile_at_the_end_of_a_bin_is_in_this_bin():
    record = Record.of([np.array([0.0, 0.0, 1.0, 3.0])], units="mm h-1", wet_threshold=0.1)
    assert record.quantile(0.5) == 0.0
    assert record.quantile(0.75) == pytest.approx(1.0, rel=0.04)
    assert record.quantile(0.5, wet=True) == pytest.approx(1.0, rel=0.04)


def test_fit_is_equal_for_lazy_data(train_radar):
    few = train_radar.isel(time=slice(0, 60))
    spec = describe(few, target="pr", conditions=["pr_coarse"])
    results = [
        Scaling.fit(prepare(ds, spec, need_target=True), spec)
        for ds in (few, few.chunk({"time": 7}))
    ]
    assert results[0][0] == results[1][0]
    assert results[0][1] == results[1][1]


def test_blocks_of_are_bounded_in_bytes(train_radar):
    few = train_radar.isel(time=slice(0, 9))
    spec = describe(few, target="pr", conditions=["pr_coarse"])
    prepared = prepare(few, spec, need_target=True)
    sample_bytes = 8 * sum(da.size for da in prepared.data_vars.values()) // 9
    for room, sizes in ((10.0, [9]), (4.5, [4, 4, 1]), (0.5, [1] * 9)):
        blocks = blocks_of(prepared, spec, int(room * sample_bytes))
        assert [block.sizes["time"] for block in blocks] == sizes


def with_condition(values: np.ndarray) -> xr.Dataset:
    rng = np.random.default_rng(0)
    return xr.Dataset(
        {
            "pr": (("time", "y", "x"), rng.gamma(0.3, 2, (6, 8, 8)), {"units": "mm h-1"}),
            "t": (("time",), values, {"units": "K"}),
        },
        coords={"time": np.arange(6).astype("datetime64[h]").astype("datetime64[ns]")},
    )


def test_standard_scaling_has_mean_zero_and_deviation_one():
    ds = with_condition(np.array([270.0, 275, 280, 285, 290, 295]))
    spec = describe(ds, target="pr", conditions=["t"])
    prepared = prepare(ds, spec, need_target=True)
    scaling, _ = Scaling.fit(prepared, spec)
    fitted = scaling.variables["t"]
    assert isinstance(fitted, StandardScaling)
    normalised = scaling.normalise(prepared["t"], "t")
    assert normalised.mean() == pytest.approx(0, abs=1e-6)
    assert normalised.std() == pytest.approx(1, rel=1e-5)


def test_moments_do_not_depend_on_blocks():
    """Blocks of one sample have no variance within: all of it is between their means."""
    values = 270.0 + np.arange(6.0) ** 2  # a trend
    ds = with_condition(values)
    spec = describe(ds, target="pr", conditions=["t"])
    prepared = prepare(ds, spec, need_target=True)
    for budget in (1, 3 * 8, 10**6):
        fitted = Scaling.fit(prepared, spec, budget)[0].variables["t"]
        assert fitted.mean == pytest.approx(values.mean(), rel=1e-12)
        assert fitted.std == pytest.approx(values.std(), rel=1e-12)


@pytest.mark.parametrize(
    ("values", "said"),
    [([280.0] * 6, "constant"), ([280.0, np.nan, 281, 282, 283, 284], "1 NaN")],
)
def test_fit_names_conditions_that_cannot_be_scaled(values, said):
    ds = with_condition(np.array(values))
    spec = describe(ds, target="pr", conditions=["t"])
    with pytest.raises(DataError, match=said):
        Scaling.fit(prepare(ds, spec, need_target=True), spec)


def test_normalise_refuses_other_units():
    scaling = Scaling(RainScaling("mm h-1", 0.1), {})
    for attrs in ({}, {"units": "mm/day"}, {"units": "1"}):
        field = xr.DataArray(np.ones((2, 2)), name="pr", attrs=attrs)
        with pytest.raises(UnitsError, match="mm h-1"):
            scaling.normalise(field)

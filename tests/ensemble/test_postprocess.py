"""Post-processors act on physical values only; a pipeline counts their changes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import xarray as xr

from xcvae import tutorial
from xcvae.ensemble.postprocess import (
    ChangeStats,
    Clip,
    Context,
    NotPhysicalError,
    PostprocessPipeline,
    Round,
    Threshold,
)
from xcvae.errors import ComponentError, ConfigError, UnitsError
from xcvae.fields.describe import DataSpec, describe
from xcvae.registry import Component


@pytest.fixture(scope="module")
def spec() -> DataSpec:
    ds = tutorial.open_dataset("radklim").isel(time=slice(0, 3))
    return describe(ds, target="pr", conditions=["pr_coarse"])


@pytest.fixture
def context(spec):
    return Context(spec, "prior")


def field(values, units="mm h-1", dtype="float32"):
    maps = np.array(values, dtype).reshape(1, 1, 1, -1)
    attrs = {} if units is None else {"units": units, "standard_name": "rainfall_rate"}
    return xr.DataArray(maps, dims=("realization", "time", "y", "x"), name="pr", attrs=attrs)


def test_threshold_sets_values_below_it_to_zero(context):
    before = field([0.0, 0.05, 0.1, 0.2, np.nan])
    after = Threshold("0.1 mm h-1")(before, context)
    np.testing.assert_array_equal(
        after.values.ravel(), np.array([0, 0, 0.1, 0.2, np.nan], "float32")
    )
    assert after.dtype == "float32"
    assert after.attrs == before.attrs


def test_threshold_refuses_negative_amounts(context):
    with pytest.raises(ComponentError, match="expected 0 or more, got '-1 mm h-1'"):
        Threshold("-1 mm h-1")(field([1.0]), context)


@pytest.mark.parametrize(
    ("units", "factor"), [("mm h-1", 1.0), ("mm/day", 24.0), ("kg m-2 s-1", 1 / 3600)]
)
def test_threshold_means_the_same_rain_in_any_units(context, units, factor):
    rain = np.array([0.05, 0.09, 0.11, 5.0])
    after = Threshold("0.1 mm h-1")(field(rain * factor, units, "float64"), context)
    np.testing.assert_array_equal(after.values.ravel() > 0, [False, False, True, True])


def test_threshold_number_is_in_the_units_of_the_field(context):
    after = Threshold(2.4)(field([2.3, 2.5], "mm/day"), context)
    np.testing.assert_array_equal(after.values.ravel() > 0, [False, True])


def test_clip_limits_values_and_keeps_nan(context):
    clip = Clip(maximum="48 mm/day", minimum="0.1 mm h-1")
    after = clip(field([0.0, 1.0, 2.5, np.nan]), context)
    np.testing.assert_allclose(after.values.ravel(), [0.1, 1.0, 2.0, np.nan], rtol=1e-6)
    assert after.dtype == "float32"
    assert after.attrs["units"] == "mm h-1"


def test_clip_refuses_minimum_above_maximum(context):
    with pytest.raises(ComponentError, match=r"minimum.*at most the maximum, 1 mm h-1"):
        Clip(maximum="24 mm/day", minimum="2 mm h-1")(field([1.0]), context)


@pytest.mark.parametrize("make", [np.asarray, list])
def test_arrays_without_units_raise_type_error_with_remedy(context, make):
    bare = make(np.array([0.05, 1.0]))
    with pytest.raises(TypeError, match=r"DataArray with physical values and units, got"):
        Threshold(0.1)(bare, context)
    with pytest.raises(NotPhysicalError):
        PostprocessPipeline(()).apply(bare, context)


def test_tensor_raises_type_error(context):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="got Tensor"):
        Threshold(0.1)(torch.zeros(3), context)


def test_field_without_units_raises_units_error(context):
    with pytest.raises(UnitsError, match=r"pr: expected an attribute 'units'"):
        Threshold("0.1 mm h-1")(field([1.0], None), context)


def test_inconvertible_units_raise_error_naming_both(context):
    with pytest.raises(UnitsError, match=r"'mm h-1' by a factor, got '280 K'"):
        Threshold("280 K")(field([1.0]), context)


def test_threshold_text_without_number_is_refused(context):
    with pytest.raises(ConfigError, match="Write the number first"):
        Threshold("a little")(field([1.0]), context)


def test_pipeline_counts_changes_by_each_step(context):
    before = field([0.05, 0.05, 0.0, 1.0, 3.0, np.nan])
    pipeline = PostprocessPipeline((Threshold("0.1 mm h-1"), Clip(maximum="2 mm h-1")))
    after, (dry, capped) = pipeline.apply(before, context)
    np.testing.assert_array_equal(
        after.values.ravel(), np.array([0, 0, 0, 1, 2, np.nan], "float32")
    )
    assert (dry.pixels, dry.of_pixels) == (2, 5)
    assert dry.mass == pytest.approx(0.1, rel=1e-6)
    assert dry.of_mass == pytest.approx(4.1, rel=1e-6)
    assert (capped.pixels, capped.mass, capped.of_mass) == (1, 1.0, 4.0)
    assert capped.to_json() == {
        "pixels": 1, "pixels_share": 0.2, "mass": 1.0, "mass_share": 0.25,
    }  # fmt: skip


def test_change_stats_add_up_over_blocks(context):
    values = np.random.default_rng(0).gamma(0.3, 1.0, 400).astype("float32")
    pipeline = PostprocessPipeline((Threshold("0.1 mm h-1"),))
    _, (whole,) = pipeline.apply(field(values), context)
    parts = [pipeline.apply(field(part), context)[1][0] for part in np.split(values, 5)]
    total = sum(parts, start=ChangeStats())
    assert (total.pixels, total.of_pixels) == (whole.pixels, whole.of_pixels)
    assert total.mass == pytest.approx(whole.mass)
    assert total.of_mass == pytest.approx(whole.of_mass)


def test_change_stats_share_of_nothing_is_zero():
    assert ChangeStats().to_json()["mass_share"] == 0.0


def test_pipeline_default_is_threshold_at_drizzle_threshold(spec):
    (default,) = PostprocessPipeline.build(None, spec).steps
    assert default == Threshold("0.1 mm h-1")
    assert PostprocessPipeline.build([], spec).steps == ()


def test_pipeline_default_is_0_1_mm_per_day_for_daily_si_data(spec, context):
    daily = replace(spec, units="kg m-2 s-1", drizzle_threshold=0.1 / 86400)
    (default,) = PostprocessPipeline.build(None, daily).steps
    after = default(field(np.array([0.09, 0.11]) / 86400, "kg m-2 s-1", "float64"), context)
    np.testing.assert_array_equal(after.values.ravel() > 0, [False, True])


def test_pipeline_builds_from_names_dicts_or_instances(spec):
    both = PostprocessPipeline.build(
        [{"name": "threshold", "value": "0.5 mm/day"}, Clip(maximum=100.0)], spec
    )
    assert both.steps == (Threshold("0.5 mm/day"), Clip(maximum=100.0))
    one = PostprocessPipeline.build({"name": "threshold", "value": 0.2}, spec)
    assert one.steps == (Threshold(0.2),)


def test_unknown_parameter_error_names_the_nearest(spec):
    with pytest.raises(ComponentError, match=r"'valeu'.*Did you mean 'value'"):
        PostprocessPipeline.build([{"name": "threshold", "valeu": 0.1}], spec)


def test_pipeline_description_is_json_with_changes(spec, context):
    pipeline = PostprocessPipeline.build(None, spec)
    _, changes = pipeline.apply(field([0.05, 1.0]), context)
    (described,) = json.loads(json.dumps(pipeline.describe(changes)))
    assert described["name"] == "threshold"
    assert described["value"] == "0.1 mm h-1"
    assert described["removed"]["pixels"] == 1
    (unknown,) = pipeline.describe()
    assert unknown["removed"] is None


@dataclass(frozen=True)
class ForgetsUnits(Component):
    def __call__(self, field: xr.DataArray, context: Context) -> xr.DataArray:
        return field.drop_attrs() * 2.0


@dataclass(frozen=True)
class ReturnsValues(Component):
    def __call__(self, field: xr.DataArray, context: Context) -> np.ndarray:
        return field.values


@pytest.mark.parametrize(("broken", "got"), [(ForgetsUnits(), "None"), (ReturnsValues(), "nd")])
def test_dry_run_names_post_processor_that_loses_units_or_labels(spec, context, broken, got):
    with pytest.raises(ComponentError, match=f"{type(broken).__name__}.*got .*{got}"):
        PostprocessPipeline((broken,)).dry_run(context, (4, 5))


@pytest.mark.parametrize(
    ("broken", "got"),
    [
        (lambda field, _: field - 5, "at least 0, got -5 mm h-1"),
        (lambda field, _: field.__setitem__({"x": 0}, 1.0) or field, "is a view|read-only"),
    ],
)
def test_negative_rain_and_changes_in_place_are_refused(spec, context, broken, got):
    """Rain below zero was stored, and what was changed in place was not counted."""
    with xr.set_options(keep_attrs=True):
        pipeline = PostprocessPipeline.build([broken], spec)
        with pytest.raises(ComponentError, match=got):
            pipeline.dry_run(context, (2, 2))


def test_maps_with_labels_in_another_order_are_refused(spec, context):
    """They were stored by position: mirror images."""
    labels = {"time": [0], "y": [3.0, 2.0], "x": [0.0, 1.0, 2.0]}
    field = xr.DataArray(np.ones((1, 1, 2, 3), "float32"), labels, ("realization", *labels))
    field.attrs["units"] = "mm h-1"
    pipeline = PostprocessPipeline.build([lambda field, _: field.sortby("y")], spec)
    with pytest.raises(ComponentError, match="other labels of y"):
        pipeline.apply(field, context)
    rounded = PostprocessPipeline.build(
        [lambda field, _: field.assign_coords(y=field.y * (1 + 1e-13))], spec
    )
    assert rounded.apply(field, context)[0].shape == field.shape
    free = PostprocessPipeline.build([lambda field, _: field.drop_vars("y")], spec)
    assert free.apply(field, context)[0].shape == field.shape


def test_dry_run_finds_inconvertible_units(spec, context):
    with pytest.raises(UnitsError, match=r"'mm h-1' by a factor, got '280 K'"):
        PostprocessPipeline((Threshold("280 K"),)).dry_run(context, (4, 5))


def test_post_processors_keep_lazy_fields_lazy(context):
    lazy = field([0.05, 1.0]).chunk({"x": 1})
    after = Clip(maximum="0.5 mm h-1")(Threshold("0.1 mm h-1")(lazy, context), context)
    assert after.chunks is not None
    np.testing.assert_array_equal(after.values.ravel(), np.array([0, 0.5], "float32"))


def test_round_returns_multiples_of_the_step(context):
    before = field([0.0, 0.05, 0.07, 0.2, np.nan, 3.61])
    after = Round("0.12 mm h-1")(before, context)
    np.testing.assert_allclose(after.values.ravel(), [0, 0, 0.12, 0.24, np.nan, 3.6], rtol=1e-6)
    assert after.dtype == np.float32
    assert after.attrs == before.attrs
    per_day = Round("2.88 mm/day")(before, context)
    np.testing.assert_allclose(per_day.values, after.values)


def test_round_refuses_zero_step(context):
    with pytest.raises(ComponentError, match="more than 0"):
        Round(0.0)(field([1.0]), context)

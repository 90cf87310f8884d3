"""Wet fractions after WetArea, and errors for missing fractions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from xcvae_physics.area import WetArea

from xcvae.ensemble.postprocess import PostprocessPipeline
from xcvae.errors import ComponentError
from xcvae.testing import make_context, make_dataset, make_ensemble

PIXELS = 36 * 48 - 10 * 14
"""Shape of a map of the masked test data."""


@pytest.fixture(scope="module")
def block():
    ds = make_dataset(masked=True)
    field = make_ensemble(ds)
    # Radar values are quantised; noise removes ties, so that the number of pixels is exact.
    noise = 1 + 1e-3 * np.random.default_rng(0).random(field.shape, dtype="float32")
    return ds, (field * noise).assign_attrs(field.attrs), make_context(ds)


def shares(field: xr.DataArray) -> xr.DataArray:
    return (field > 0).sum(("y", "x")) / field.notnull().sum(("y", "x"))


def test_wet_area_of_zero_is_dry_and_keeps_missing_pixels(block) -> None:
    _, field, context = block
    after = WetArea(0.0)(field, context)
    np.testing.assert_array_equal(after.isnull(), field.isnull())
    assert float(after.max()) == 0.0


def test_wet_area_gives_every_map_the_climatological_fraction(block) -> None:
    _, field, context = block
    assert (shares(field) > 0.25).all()
    after = WetArea(0.2)(field, context)
    assert int(field[0, 0].notnull().sum()) == PIXELS
    np.testing.assert_allclose(shares(after), 0.2, atol=0.51 / PIXELS)


def test_wet_area_leaves_wettest_pixels_unchanged(block) -> None:
    _, field, context = block
    after = WetArea(0.2)(field, context)
    kept = field.where(after > 0)
    np.testing.assert_array_equal(kept, after.where(after > 0))
    lost = field.where((after == 0) & field.notnull())
    assert (lost.max(("y", "x")) < kept.min(("y", "x"))).all()


def test_wet_area_gives_each_sample_its_observed_fraction(block) -> None:
    ds, field, context = block
    wet = (ds.pr >= 1.0).where(ds.pr.notnull()).mean(("y", "x"))
    assert float(wet.max() - wet.min()) > 0.05
    component = WetArea.of(ds.pr, wet="1 mm h-1")
    after = component(field, context)
    np.testing.assert_allclose(
        shares(after), np.broadcast_to(wet, after.shape[:2]), atol=0.51 / PIXELS
    )
    # A block of samples in any order uses the fractions of its labels.
    part = component(field.isel(time=[4, 1]), context)
    np.testing.assert_array_equal(part, after.isel(time=[4, 1]))


def test_wet_area_of_observations_over_all_samples(block) -> None:
    ds = block[0]
    overall = float((ds.pr >= 0.1).where(ds.pr.notnull()).mean())
    assert WetArea.of(ds.pr, per_sample=False) == WetArea(pytest.approx(overall))
    daily = (24 * ds.pr).assign_attrs(units="mm/day")
    assert WetArea.of(daily, wet="0.1 mm h-1", per_sample=False).fraction == pytest.approx(overall)


def test_wet_area_reads_fraction_from_condition(block) -> None:
    _, field, context = block
    fractions = np.linspace(0.05, 0.3, field.sizes["time"])
    inputs = context.inputs.assign(area=("time", fractions, {"units": "1"}))
    after = WetArea("area")(field, dataclasses.replace(context, inputs=inputs))
    np.testing.assert_allclose(
        shares(after), np.broadcast_to(fractions, after.shape[:2]), atol=0.51 / PIXELS
    )


def test_wet_area_adds_no_rain_and_keeps_ties_together(block) -> None:
    _, field, context = block
    dry = field.where(~(field < 20), 0.0)
    np.testing.assert_array_equal(WetArea(0.9)(dry, context), dry)
    flat = xr.full_like(field, 3.0)
    np.testing.assert_array_equal(WetArea(0.5)(flat, context), flat)
    assert not WetArea(0.0)(flat, context).any()


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_wet_area_labels_do_not_depend_on_time_resolution(block, unit) -> None:
    ds, field, context = block
    stored = ds.assign_coords(time=ds.time.astype(f"datetime64[{unit}]"))
    assert stored.time.dtype == f"datetime64[{unit}]"
    component = WetArea.of(stored.pr)
    assert component == WetArea.of(ds.pr)
    np.testing.assert_array_equal(
        component(field.assign_coords(time=stored.time), context),
        WetArea.of(ds.pr)(field, context),
    )


def test_dry_run_refuses_wet_area_without_fraction_for_sample(block) -> None:
    ds, _, context = block
    first = dataclasses.replace(context, inputs=context.inputs.isel(time=[0]))
    PostprocessPipeline((WetArea.of(ds.pr),)).dry_run(first, ds.pr.shape[1:])
    later = PostprocessPipeline((WetArea.of(ds.pr.isel(time=slice(1, None))),))
    with pytest.raises(ComponentError, match="a wet fraction for sample"):
        later.dry_run(first, ds.pr.shape[1:])


def test_wet_area_refuses_missing_fraction(block) -> None:
    ds, field, context = block
    with pytest.raises(ComponentError, match=r"sample .*, got 1 samples: '2001-01-01'"):
        WetArea(samples=(("2001-01-01", 0.2),))(field, context)
    # Observations of other samples have no fraction for these.
    with pytest.raises(ComponentError, match=r"got 5 samples: .*, \.\.\."):
        WetArea.of(ds.pr.isel(time=slice(1, None)))(field, context)
    with pytest.raises(ComponentError, match="'nowhere'"):
        WetArea("nowhere")(field, context)
    with pytest.raises(ComponentError, match="in its place, got both"):
        WetArea(0.2, samples=(("2001-01-01", 0.2),))
    gap = context.inputs.assign(area=("time", np.full(field.sizes["time"], np.nan), {"units": "1"}))
    with pytest.raises(ComponentError, match="a share for every sample in 'area'"):
        WetArea("area")(field, dataclasses.replace(context, inputs=gap))


def test_wet_area_refuses_samples_without_labels(block) -> None:
    ds, field, context = block
    with pytest.raises(ComponentError, match="labels along 'time'"):
        WetArea.of(ds.pr.drop_vars("time"))
    bare = dataclasses.replace(context, inputs=context.inputs.drop_vars("time"))
    with pytest.raises(ComponentError, match="labels along 'time'"):
        WetArea(samples=(("0", 0.2), ("1", 0.3)))(field.drop_vars("time")[:, 4:], bare)

"""MassThreshold conserves mass block by block."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import xarray as xr
from xcvae_physics.mass import MassThreshold

from xcvae.errors import ComponentError, UnitsError
from xcvae.testing import make_context, make_dataset, make_ensemble

MEAN = {"y": 12, "x": 12}


def blocks(field: xr.DataArray) -> np.ndarray:
    return field.coarsen(MEAN).mean().values


@pytest.fixture(scope="module")
def block():
    ds = make_dataset()
    return make_ensemble(ds).astype("float64"), make_context(ds)


def test_mass_threshold_conserves_mass_of_wet_blocks(block) -> None:
    field, context = block
    after = MassThreshold("2 mm h-1", limit=1e9)(field, context)
    wet = blocks(after) > 0
    assert 0.3 < wet.mean() < 1
    np.testing.assert_allclose(blocks(after)[wet], blocks(field)[wet], rtol=1e-9)
    # Blocks without any rain at the threshold become dry; no rain below it remains.
    assert not (field.coarsen(MEAN).max().values[~wet] >= 2).any()
    assert not ((after > 0) & (field < 2)).any()
    assert (after.where(after > 0) >= 2 - 1e-9).where(after > 0, True).all()
    # A plain threshold loses mass.
    assert float(field.where(field >= 2, 0).sum()) < 0.999 * float(after.sum())


def test_mass_threshold_gives_blocks_mass_of_condition(block) -> None:
    field, context = block
    after = MassThreshold("0.2 mm h-1", "condition", limit=1e9)(field, context)
    wanted = np.broadcast_to(context.inputs.pr_coarse.values, blocks(after).shape)
    wet = blocks(after) > 0
    assert wet.mean() > 0.5
    np.testing.assert_allclose(blocks(after)[wet], wanted[wet], rtol=1e-5)


@pytest.mark.parametrize("dim", ["y_coarse", "x_coarse"])
def test_mass_threshold_refuses_condition_in_other_order(block, dim) -> None:
    field, context = block
    term = MassThreshold("0.2 mm h-1", "condition")
    turned = context.inputs.isel({dim: slice(None, None, -1)})
    for one in (field, field.drop_vars(["y", "x"])):
        with pytest.raises(ComponentError, match=f"cells along '{dim}' .* in the same order"):
            term(one, dataclasses.replace(context, inputs=turned))
    # Reversed together with the field, the result is the same.
    fine = dim[0]
    both = term(
        field.isel({fine: slice(None, None, -1)}), dataclasses.replace(context, inputs=turned)
    )
    np.testing.assert_allclose(both.isel({fine: slice(None, None, -1)}), term(field, context))
    # Without coordinates cells are aligned edge to edge.
    bare = dataclasses.replace(context, inputs=context.inputs.drop_vars(["y_coarse", "x_coarse"]))
    np.testing.assert_array_equal(term(field, bare), term(field, context))


def test_mass_threshold_converts_units_of_condition(block) -> None:
    field, context = block
    hourly = MassThreshold("0.2 mm h-1", "condition")(field, context)
    daily = (24 * field).assign_attrs(units="mm/day")
    other = MassThreshold("0.2 mm h-1", "condition")(daily, context)
    np.testing.assert_allclose(other, 24 * hourly, rtol=1e-6)


def test_mass_threshold_factor_is_limited(block) -> None:
    rain = np.full((1, 1, 12, 12), 0.4)
    rain[..., 0, 0] = 0.6
    field = xr.DataArray(rain, dims=block[0].dims, attrs={"units": "mm h-1"})
    total = float(field.sum())
    capped = MassThreshold("0.5 mm h-1", limit=3)(field, block[1])
    assert float(capped.sum()) == pytest.approx(1.8)
    assert float(MassThreshold("0.5 mm h-1", limit=1e3)(field, block[1]).sum()) == pytest.approx(
        total
    )


def test_mass_threshold_with_mask_and_partial_blocks(block) -> None:
    ds = make_dataset(masked=True)
    field = make_ensemble(ds).astype("float64").isel(y=slice(35), x=slice(41))
    after = MassThreshold("0.5 mm h-1", block=10, limit=1e9)(field, block[1])
    for first, last in ((0, 10), (30, 35)):
        part = {"y": slice(first, last), "x": slice(20, 30)}
        before, now = (da.isel(part).sum(("y", "x")) for da in (field, after))
        wet = (now > 0).values
        assert wet.any()
        np.testing.assert_allclose(now.values[wet], before.values[wet])


def test_mass_threshold_errors_name_cause(block) -> None:
    field, context = block
    with pytest.raises(ComponentError, match="35 pixels over 3 cells"):
        MassThreshold(0.1, "condition")(field.isel(y=slice(35)), context)
    with pytest.raises(ComponentError, match=r"'psl'. There are: pr_coarse"):
        MassThreshold(0.1, "condition", condition="psl")(field, context)
    with pytest.raises(ComponentError, match="more than 0"):
        MassThreshold("0 mm h-1")(field, context)
    with pytest.raises(UnitsError):
        MassThreshold("1 K")(field, context)

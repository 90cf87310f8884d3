"""The constraint on block means, in the network and in training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import xcvae
from xcvae.errors import ConfigError
from xcvae.fields.block_means import check_block_means, conserved_condition, whole_blocks
from xcvae.fields.describe import describe, prepare
from xcvae.fields.scaling import RainScaling
from xcvae.generator.network.constraint import BlockMeans

SCALING = RainScaling("mm h-1", 0.1)
KEEP = BlockMeans(SCALING, 4)
SMALL = {"channels": [16, 16, 16], "latents": [4, 2, 2], "patch": 2, "constrain": True}
FEW = {"max_steps": 6, "batch_size": 4, "crop": 50, "validations": 1}


def coarse_maps(values: torch.Tensor) -> torch.Tensor:
    normal = torch.from_numpy(SCALING.normalise(values.numpy()))
    return normal.repeat_interleave(4, -1).repeat_interleave(4, -2)


def means(output: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(SCALING.physical(output), 4)


def test_block_means_are_kept():
    torch.manual_seed(0)
    wanted = torch.rand(3, 1, 5, 6) * 20
    kept = KEEP(torch.randn(3, 1, 20, 24), coarse_maps(wanted))
    torch.testing.assert_close(means(kept), wanted, rtol=1e-4, atol=1e-4)


def test_block_means_keep_dry_pixels_and_dry_blocks_dry():
    output = torch.randn(1, 1, 8, 8)
    output[0, 0, 0, 0] = 1.0  # a wet pixel in the first block
    wanted = torch.tensor([[[[2.0, 0.0], [1.0, 0.0]]]])
    kept = KEEP(output, coarse_maps(wanted))
    first = (slice(None), slice(None), slice(0, 4), slice(0, 4))
    assert torch.equal(kept[first] > 0, output[first] > 0)
    assert float(SCALING.physical(kept)[..., 4:].abs().max()) == 0


def test_block_means_put_rain_of_a_dry_block_in_its_least_dry_pixel():
    output = torch.full((1, 1, 4, 4), -1.0)
    output[0, 0, 2, 1] = -0.05
    kept = KEEP(output, coarse_maps(torch.tensor([[[[0.5]]]])))
    assert float(means(kept)) == pytest.approx(0.5, rel=1e-3)
    rain = SCALING.physical(kept)
    assert float(rain[0, 0, 2, 1]) == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize(("units", "eps"), [("mm/day", 2.4), ("mm/month", 30.0), ("m/s", 2.8e-8)])
@pytest.mark.parametrize("ceiling", [np.inf, 2.0])
def test_block_means_of_dry_blocks_are_kept_in_any_units(units, eps, ceiling):
    """Rain in one pixel of many is much less than a thousandth of a wet threshold of 30 mm."""
    scaling, side = RainScaling(units, eps), 32
    output = torch.full((1, 1, side, side), -1.0)
    output[0, 0, 3, 5] = -0.02
    wanted = torch.full_like(output, 0.6 * eps)
    kept = BlockMeans(scaling, side, ceiling)(
        output, torch.from_numpy(scaling.normalise(wanted.numpy()))
    )
    assert float(scaling.physical(kept).mean()) == pytest.approx(0.6 * eps, rel=1e-3)


@pytest.mark.parametrize(
    ("amounts", "mean", "expected"),
    [
        ([20.0, 60.0], 5.0, [30.0, 50.0]),  # of 80 the other wet pixel takes what is too much
        ([80.0], 5.0, [50.0] + [2.0] * 15),  # no wet pixel has room: the dry ones share 30
        ([10.0] * 16, 70.0, [70.0] * 16),  # more than the ceiling in the mean
        ([70.0] + [66.0] * 15, 70.0, [70.0] * 16),
        ([1.0, 3.0], 0.25, [1.0, 3.0]),  # nothing to cap
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_what_exceeds_the_ceiling_goes_to_the_other_pixels_of_the_block(
    amounts, mean, expected, given
):
    rain = torch.zeros(16)
    rain[: len(amounts)] = torch.tensor(amounts)
    output = torch.where(rain > 0, torch.log1p(rain / 0.1) / 2.0, -0.5).reshape(1, 1, 4, 4)
    ceiling = float(np.log1p(50.0 / 0.1) / 2.0)
    keep = KEEP if given else BlockMeans(SCALING, 4, ceiling)
    limits = torch.tensor([ceiling]) if given else None
    kept = keep(output, coarse_maps(torch.tensor([[[[mean]]]])), ceilings=limits)
    found = SCALING.physical(kept).ravel()
    wanted = torch.zeros(16)
    wanted[: len(expected)] = torch.tensor(expected)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_block_means_have_finite_gradients():
    output = torch.randn(2, 1, 16, 16) - 1
    output[0] = -2.0
    output.requires_grad_()
    wanted = torch.rand(2, 1, 4, 4) * torch.tensor([0.0, 1.0, 1e-6, 50.0])
    KEEP(output, coarse_maps(wanted)).square().sum().backward()
    assert bool(torch.isfinite(output.grad).all())
    assert float(output.grad.abs().max()) > 0


def test_sampled_members_keep_the_block_means(train_radar, test_radar, tmp_path):
    trained = xcvae.train(
        train_radar.isel(time=slice(60)),
        target="pr",
        conditions=["pr_coarse"],
        generator=SMALL,
        fit=FEW,
        path=tmp_path / "m.xcvae",
        progress=False,
    )
    model = xcvae.load(trained.path)  # the constraint is in the file
    ens = xcvae.sample(test_radar, model, members=2, postprocess=[], progress=False)
    blocks = ens.pr.coarsen(y=12, x=12).mean().transpose("realization", "time", "y", "x")
    difference = np.abs(blocks.values - test_radar.pr_coarse.values[None])
    assert float(difference.max()) < 1e-3
    assert float(ens.pr.std("realization").max()) > 0.1


def test_train_refuses_constrain_without_block_means(train_radar):
    few = train_radar.isel(time=slice(20))
    hour = few.time.dt.hour.astype(float).assign_attrs(units="1")
    bare = few.drop_vars(["y_coarse", "x_coarse", "y", "x"])
    cases = [
        (few.assign(pr_coarse=few.pr_coarse * 0.5), "pr_coarse", "differs from 'pr_coarse' by 50%"),
        (few.assign(hour=hour), "hour", "no rain condition"),
        (bare.isel(y_coarse=slice(12)), "pr_coarse", "12 x 11 cells over 156 x 132 pixels"),
        (few.assign(pr=few.pr.where(few.y != few.y[3])), "pr_coarse", "missing pixels"),
    ]
    for ds, condition, message in cases:
        ds.pr.attrs.update(few.pr.attrs)
        if "pr_coarse" in ds:
            ds.pr_coarse.attrs.update(few.pr_coarse.attrs)
        with pytest.raises(xcvae.errors.ConfigError, match=message):
            xcvae.train(
                ds,
                target="pr",
                conditions=[condition],
                generator=SMALL,
                fit=FEW,
                progress=False,
            )


def test_check_block_means_refuses_missing_pixels(train_radar):
    few = train_radar[["pr"]].isel(time=slice(4))
    spec = describe(few, target="pr", conditions=[], coarsen=12)
    check_block_means(prepare(few, spec, need_target=True), spec)
    gap = few.assign(pr=few.pr.where(few.x != few.x[5]))
    with pytest.raises(xcvae.errors.ConfigError, match="missing pixels"):
        check_block_means(prepare(gap, spec, need_target=True), spec)


@pytest.mark.parametrize(
    ("factor", "added", "differs"),
    [(1.01, 0.0, False), (1.0, 0.001, False), (1.05, 0.0, True), (1.0, 0.02, True)],
)
def test_check_block_means_allows_rounding(factor, added, differs):
    """Two percent of a block's rain, of the wet threshold (0.1 mm h-1) where there is less."""
    rain = np.full((2, 8, 12), 5.0 if added == 0 else 1e-4)
    ds = xr.Dataset({"pr": (("time", "y", "x"), rain, {"units": "mm h-1"})})
    means = factor * ds.pr.coarsen(y=4, x=4).mean() + added
    ds["pr_coarse"] = means.rename(y="y2", x="x2").assign_attrs(ds.pr.attrs)
    spec = describe(ds, target="pr", conditions=["pr_coarse"])
    if not differs:
        return check_block_means(prepare(ds, spec, need_target=True), spec)
    with pytest.raises(ConfigError, match=r"got a block that differs from 'pr_coarse' by (5|20)%"):
        check_block_means(prepare(ds, spec, need_target=True), spec)
    return None


def test_cells_of_two_by_three_pixels_are_no_blocks():
    ds = xr.Dataset({"pr": (("time", "y", "x"), np.ones((2, 8, 12)), {"units": "mm h-1"})})
    means = ds.pr.coarsen(y=2, x=3).mean().rename(y="y2", x="x2").assign_attrs(ds.pr.attrs)
    spec = describe(ds.assign(pr_coarse=means), target="pr", conditions=["pr_coarse"])
    with pytest.raises(ConfigError, match="got 4 x 4 cells over 8 x 12 pixels"):
        whole_blocks(spec)


def test_kept_blocks_refuses_reversed_cells(train_radar):
    few = train_radar.isel(time=slice(4))
    spec = describe(few, target="pr", conditions=["pr_coarse"])
    prepared = prepare(few, spec, need_target=True)
    assert conserved_condition(prepared, spec, spec.shape, 12).name == "pr_coarse"
    with pytest.raises(xcvae.errors.ConfigError, match="opposite order to 'y'"):
        conserved_condition(prepared.isel(y_coarse=slice(None, None, -1)), spec, spec.shape, 12)
    with pytest.raises(xcvae.errors.ConfigError, match="13 x 11 cells over 78 x 66 pixels"):
        conserved_condition(prepared, spec, (78, 66), 12)

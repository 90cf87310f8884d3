"""Storms beyond the record: amplified, moved and borrowed conditions, flagged in the ensemble."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

import xcvae
from xcvae.ensemble.augment import augment
from xcvae.ensemble.sample import sample
from xcvae.ensemble.sources import LoaderRequest, source_of
from xcvae.ensemble.storms import Amplify, StormContext, StormPipeline
from xcvae.ensemble.verify_store import verify_store
from xcvae.errors import (
    ComponentError,
    ConfigError,
    DataError,
    MismatchError,
    MissingVariableError,
)
from xcvae.fields.describe import prepare
from xcvae.generator.training.train import train

TWO_STEPS = {"max_steps": 2, "batch_size": 4, "crop": 24, "validations": 1}
MOVES = [
    "turn",
    {"name": "mirror", "along": "x"},
    {"name": "mirror", "along": "y"},
    {"name": "shift", "y": 1},
]


def trained(ds: xr.Dataset, **options: object) -> xcvae.Model:
    return train(
        ds, target="pr", fit=TWO_STEPS, device="cpu", progress=False,
        **{"generator": {"channels": [8, 8, 8, 8], "latents": [2, 2, 1, 1]}, **options},
    )  # fmt: skip


@pytest.fixture(scope="module")
def conserving(storms):
    """Members keep the block means."""
    architecture = {"channels": [8, 8, 8, 8], "latents": [2, 2, 1, 1], "constrain": True}
    return trained(storms, coarsen=12, generator=architecture)


def coarse_of(few, model):
    """The conditions alone, with other variables than the target."""
    return prepare(few, model.spec, need_target=True)[["pr_coarse"]]


def means(rain: xr.DataArray) -> np.ndarray:
    return rain.coarsen(y=12, x=12).mean().values


def test_amplified_members_keep_amplified_block_means(few, conserving):
    plain = sample(few, conserving, members=2, postprocess=[])
    strong = sample(
        few, conserving, members=2, postprocess=[], storms={"name": "amplify", "factor": 1.5}
    )
    wanted = means(few.pr)
    np.testing.assert_allclose(means(plain.pr)[0], wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(means(strong.pr)[0], 1.5 * wanted, rtol=1e-3, atol=1e-3)
    assert (strong.amplified == 1.5).all()
    assert strong.amplified.dims == ("time",)
    assert "amplified" not in plain.coords
    (storm,) = json.loads(strong.attrs["xcvae"])["storms"]
    assert storm["name"] == "amplify"
    assert storm["factor"] == 1.5
    assert "storms" not in json.loads(plain.attrs["xcvae"])
    assert "amplify" in strong.attrs["history"]


def test_amplified_posterior_redraws_the_amplified_storm(few, conserving):
    options = {"mode": "posterior", "spread": 0.0, "members": 1, "postprocess": []}
    strong = sample(few, conserving, storms={"name": "amplify", "factor": 2.0}, **options)
    scaled = few.assign(pr=(2 * few.pr).assign_attrs(few.pr.attrs))
    np.testing.assert_array_equal(strong.pr, sample(scaled, conserving, **options).pr)


def test_amplify_raises_the_largest_coarse_rain_to_a_level(few, model):
    ds = coarse_of(few, model)
    largest = ds.pr_coarse.max(("y_coarse", "x_coarse")).values
    level = 1.2 * float(np.median(largest))
    context = StormContext(model.spec, model.record)
    raised = Amplify(level=f"{24 * level} mm/day")(ds, context)
    assert raised.amplified.values == pytest.approx(np.clip(level / largest, 1, 3))
    after = raised.pr_coarse.max(("y_coarse", "x_coarse")).values
    assert after == pytest.approx(np.maximum(np.minimum(level, 3 * largest), largest))
    rare, rarer = (Amplify(period=years, most=50)(ds, context).amplified for years in (2, 100))
    assert (rarer >= rare).all()
    assert (rarer > rare).any()


@pytest.mark.parametrize("storm", MOVES)
def test_moved_members_are_those_of_the_moved_coarse_rain(few, model, storm):
    ens = sample(few, model, members=1, storms=storm, postprocess=[])
    moved = few.copy()
    name = storm if isinstance(storm, str) else storm["name"]
    if name == "turn":
        moved["pr"] = few.pr.copy(data=few.pr.values[:, ::-1, ::-1])
    elif name == "mirror":
        axis = {"x": 2, "y": 1}[storm["along"]]
        moved["pr"] = few.pr.copy(data=np.flip(few.pr.values, axis))
    else:
        rows = np.concatenate([few.pr.values[:, 11::-1], few.pr.values[:, :-12]], axis=1)
        moved["pr"] = few.pr.copy(data=rows)
    expected = sample(moved, model, members=1, postprocess=[])
    np.testing.assert_allclose(ens.pr, expected.pr, atol=1e-4)
    flags = {"turn": "turned", "mirror": f"mirrored_{storm['along']}" if name == "mirror" else "",
             "shift": "shifted_y"}  # fmt: skip
    assert ens[flags[name]].values.all()


def test_turn_is_counterclockwise_on_the_map(few, model):
    square = coarse_of(few.isel(y=slice(0, 36)), model)
    storm = {"name": "turn", "degrees": 90}
    turned = StormPipeline.build(storm).apply(square, StormContext(model.spec)).pr_coarse
    upward = square.sortby("y_coarse")  # west to east, south to north
    south_east = upward.pr_coarse.isel(y_coarse=0, x_coarse=-1)
    north_east = turned.sortby("y_coarse").isel(y_coarse=-1, x_coarse=-1)
    np.testing.assert_array_equal(north_east, south_east)
    with pytest.raises(MismatchError, match="square domain"):
        sample(few, model, members=1, storms=storm)


@pytest.mark.parametrize("y_down", [False, True])
@pytest.mark.parametrize("x_left", [False, True])
def test_turn_is_counterclockwise_whatever_the_order_of_rows_and_columns(
    few, model, y_down, x_left
):
    square = prepare(few.isel(y=slice(0, 36)), model.spec, need_target=True).sortby(["y", "x"])
    north_up = np.rot90(square.pr.values[:, ::-1], axes=(1, 2))[:, ::-1]
    order = {
        "y": slice(None, None, -1 if y_down else 1),
        "x": slice(None, None, -1 if x_left else 1),
    }
    storm = {"name": "turn", "degrees": 90}
    turned = StormPipeline.build(storm).apply(square.isel(order), StormContext(model.spec))
    np.testing.assert_array_equal(turned.pr.sortby(["y", "x"]), north_up)


def test_shift_moves_observed_and_coarse_rain_by_the_same_distance(few, model):
    ds = prepare(few, model.spec, need_target=True)
    storm = {"name": "shift", "y": 1, "x": -2}
    moved = StormPipeline.build(storm).apply(ds, StormContext(model.spec))
    np.testing.assert_array_equal(moved.pr[:, 12:, :-24], ds.pr[:, :-12, 24:])
    np.testing.assert_array_equal(moved.pr_coarse[:, 1:, :-2], ds.pr_coarse[:, :-1, 2:])
    np.testing.assert_array_equal(moved.pr[:, :12, :-24], ds.pr[:, 11::-1, 24:])
    assert (moved.shifted_y == 1).all()
    assert (moved.shifted_x == -2).all()


def test_amplify_repeats_the_factors_of_an_ensemble(few, model):
    """Samples of an augmented Dataset have the factors that their members were drawn with."""
    ds = coarse_of(few, model)
    factors = ("time", np.linspace(1.0, 2.0, 6))
    raised = Amplify(level="500 mm/h")(
        ds.assign_coords(amplified=factors), StormContext(model.spec)
    )
    np.testing.assert_allclose(raised.amplified, factors[1])
    expected = ds.pr_coarse * xr.DataArray(factors[1], dims="time")
    np.testing.assert_allclose(raised.pr_coarse, expected, rtol=1e-6)


def test_lazy_data_and_stores_give_the_same_storms(few, model, tmp_path):
    storms = [{"name": "amplify", "level": 8.0}, "turn", {"name": "shift", "x": -1, "fill": "dry"}]
    drawn = sample(few, model, members=2, storms=storms).compute()
    lazy = sample(few.chunk(time=2), model, members=2, storms=storms)
    np.testing.assert_array_equal(lazy.pr, drawn.pr)
    options = {"members": 2, "chunks": {"time": 2}, "store": tmp_path / "ens.zarr"}
    stored = sample(few, model, storms=storms, progress=False, **options)
    np.testing.assert_array_equal(stored.pr, drawn.pr)
    for name in ("amplified", "turned", "shifted_x"):
        np.testing.assert_array_equal(stored[name], drawn[name])
    assert json.loads(stored.attrs["xcvae"])["identity"]["storms"][1] == {
        "name": "turn", "degrees": 180,
    }  # fmt: skip
    found = verify_store(tmp_path / "ens.zarr", ds=few, model=model, seed=0, progress=False)
    assert found.ok, str(found)
    with pytest.raises(xcvae.errors.OutputExistsError, match="storms"):
        sample(few, model, progress=False, **options)


def test_augment_pairs_members_with_the_changed_conditions(few, model):
    real = few.assign(coarse_of(few, model))
    strong = sample(few, model, members=2, storms={"name": "amplify", "level": 9.0}).compute()
    turned = sample(few, model, members=1, storms="turn").compute()
    both = augment(real, [strong, turned])
    assert both.sizes["time"] == 6 * 4
    assert both.realization.values.tolist() == [-1] * 6 + [0] * 6 + [1] * 6 + [2] * 6
    np.testing.assert_array_equal(both.pr[6:12], strong.pr[0])
    np.testing.assert_array_equal(both.pr[18:], turned.pr[0])
    factors = strong.amplified.values
    np.testing.assert_allclose(
        both.pr_coarse[6:12], real.pr_coarse * factors[:, None, None], rtol=1e-6
    )
    np.testing.assert_array_equal(both.pr_coarse[18:], real.pr_coarse[:, ::-1, ::-1])
    np.testing.assert_array_equal(both.amplified, [*[1.0] * 6, *factors, *factors, *[1.0] * 6])
    np.testing.assert_array_equal(both.turned, [0] * 18 + [180] * 6)
    # No map may stay behind.
    hilly = real.assign(height=few.pr[0].drop_vars("time").assign_attrs(units="m"))
    augment(hilly, strong)
    with pytest.raises(MismatchError, match="height"):
        augment(hilly, turned)


def test_loader_pairs_members_with_the_changed_conditions(few, model):
    real = few.assign(coarse_of(few, model))
    strong = sample(few, model, members=1, storms={"name": "amplify", "factor": 2.0}).compute()
    for spec in (None, model.spec):
        request = LoaderRequest("pr", ("pr_coarse",), spec, units={"pr_coarse": "mm h-1"})
        batch = source_of("strong", strong, real, request).load(0, np.arange(6))
        np.testing.assert_allclose(batch["pr_coarse"], 2 * real.pr_coarse, rtol=1e-6)


def test_borrowed_storms_have_the_conditions_of_their_source(few, storms, model):
    other = coarse_of(storms.isel(time=[3, 4]), model)
    ens = sample(other, model, members=2, storms={"name": "borrow", "source": "a model run"})
    assert ens.borrowed.values.all()
    assert "a model run" in ens.borrowed.long_name
    real = few.assign(coarse_of(few, model))
    both = augment(real, ens, borrowed=other)
    assert both.borrowed.values.tolist() == [False] * 6 + [True] * 4
    np.testing.assert_array_equal(both.pr_coarse[6:8], other.pr_coarse)
    np.testing.assert_array_equal(both.time[6:8], other.time)
    with pytest.raises(MismatchError, match="borrowed=other"):
        augment(real, ens)
    with pytest.raises(MissingVariableError, match="height"):
        augment(real.assign(height=("time", np.arange(6.0))), ens, borrowed=other)
    with pytest.raises(MismatchError, match="no observed storm"):
        sample(few, model, mode="posterior", storms={"name": "borrow", "source": "x"})


def test_moves_of_maps_that_are_tied_to_their_place_are_refused(storms, few):
    def with_maps(ds: xr.Dataset) -> xr.Dataset:
        height = np.arange(48 * 36.0).reshape(48, 36)
        wind = ds.pr.coarsen(y=12, x=12).mean().drop_vars(["y", "x"]).rename(y="yc", x="xc")
        wind = wind.drop_attrs()
        return ds.assign(
            height=(("y", "x"), height, {"units": "m"}), u=wind.assign_attrs(units="m s-1")
        )

    hilly = trained(with_maps(storms), coarsen=12, statics=["height"])
    windy = trained(with_maps(storms), coarsen=12, conditions=["u"])
    cases = [(hilly, storm, "height") for storm in MOVES] + [(windy, "turn", "wind")]
    for model, storm, reason in cases:
        with pytest.raises(MismatchError, match=reason):
            sample(with_maps(few), model, members=1, storms=storm)
    strong = sample(with_maps(few), hilly, members=1, storms={"name": "amplify", "factor": 2.0})
    assert strong.pr.shape == (1, 6, 48, 36)
    sample(with_maps(few), windy, members=1, storms={"name": "shift", "x": 1})


def test_models_with_a_mask_or_without_coarse_rain_are_refused(storms, few):
    wet = storms.assign(index=("time", np.arange(30.0), {"units": "1"}))
    with pytest.raises(MismatchError, match="none of its conditions"):
        sample(
            wet.isel(time=[0]), trained(wet, conditions=["index"]), members=1,
            storms={"name": "amplify", "factor": 2.0},
        )  # fmt: skip
    masked = trained(storms.assign(pr=storms.pr.where(storms.x > storms.x[3])), coarsen=12)
    with pytest.raises(MismatchError, match="mask"):
        sample(few, masked, members=1, storms="turn")


@pytest.mark.parametrize(
    ("storms", "message"),
    [
        ("amplify", "^storm 'amplify': expected one of factor, level and period"),
        ({"name": "amplify", "factor": 2.0, "level": 3.0}, "factor and level"),
        ({"name": "amplify", "factor": 0}, "above 0"),
        ({"name": "turn", "degrees": 45}, "90, 180 or 270"),
        ({"name": "mirror", "along": "z"}, "'x' or 'y'"),
        ({"name": "shift", "fill": "wet"}, "'mirror' or 'dry'"),
        (["turn", "turn"], "more than once"),
        ("rotate", "unknown storm 'rotate'"),
    ],
)
def test_wrong_storms_are_refused(storms, message):
    with pytest.raises(ComponentError, match=message):
        StormPipeline.build(storms)


@dataclass(frozen=True)
class Halved:
    """Leaves out every other sample."""

    def __call__(self, ds, context):
        return ds.isel({context.spec.sample: slice(None, None, 2)})


@dataclass(frozen=True)
class Reversed:
    """Turns the order of the rows, and their labels with them."""

    def __call__(self, ds, context):
        rows = [dim for dim in ds.dims if str(dim).startswith(context.spec.y)]
        return ds.isel({dim: slice(None, None, -1) for dim in rows})


def test_storms_that_change_shapes_are_refused(few, model):
    with pytest.raises(ComponentError, match="like the one it got"):
        sample(few, model, members=1, storms=Halved())
    with pytest.raises(ComponentError, match="other labels of y"):
        sample(few, model, members=1, storms=Reversed())
    with pytest.raises(MismatchError, match="without 'amplified'"):
        sample(few.assign_coords(amplified=1.0), model, storms={"name": "amplify", "factor": 2.0})
    with pytest.raises(MismatchError, match="fewer cells"):
        sample(few, model, storms={"name": "shift", "x": 3})


@pytest.mark.parametrize("lazy", [False, True])
def test_storms_that_are_no_rain_are_refused(few, model, lazy):
    """Values in memory were checked before the storms, and lazy ones after them."""
    ds = coarse_of(few, model)

    def negative(ds, _):
        return ds.assign(pr_coarse=(-1 - ds.pr_coarse).assign_attrs(ds.pr_coarse.attrs))

    with pytest.raises(DataError, match="negative"):
        sample(ds.chunk() if lazy else ds, model, members=1, storms=[negative]).load()


def test_changed_storms_are_not_scored(few, model):
    strong = sample(few, model, members=2, storms={"name": "amplify", "factor": 2.0})
    with pytest.raises(MismatchError, match=r"changed storms \(amplify\)"):
        xcvae.evaluate(few, strong, progress=False)


def test_cap_grows_with_conditions_beyond_the_record(few, storms, model):
    """A network that is far too wet shows the cap."""
    record = model.record
    known = record.conditions["pr_coarse"][0]
    assert known == pytest.approx(means(storms.pr).max())
    bias = model.network.head.bias
    before = bias.detach().clone()
    bias.data += 10
    try:
        plain = sample(few, model, members=1).pr.max(("realization", "y", "x")).values
        strong = sample(few, model, members=1, storms={"name": "amplify", "factor": 4.0})
        capped = sample(few, model, members=1, cap="240 mm/day")
        free = sample(few, model, members=1, cap="none")
        highest = strong.pr.max(("realization", "y", "x")).values
        assert plain == pytest.approx(2 * record.maximum)
        excess = np.maximum(1.0, 4 * means(few.pr).max((1, 2)) / known)
        assert excess.max() > 1
        assert highest == pytest.approx(2 * record.maximum * excess, rel=1e-5)
        assert float(capped.pr.max()) == pytest.approx(10.0)
        assert float(free.pr.max()) > 2 * record.maximum
    finally:
        bias.data.copy_(before)
    assert json.loads(capped.attrs["xcvae"])["cap"] == "240 mm/day"
    assert "cap" not in json.loads(strong.attrs["xcvae"])


@pytest.mark.parametrize("kind", ["conserving", "any_factor_model"])
def test_cap_keeps_block_means(few, kind, request):
    """What a cap takes from a pixel stays in its block; pixels below it are not changed."""
    model, options = request.getfixturevalue(kind), {"members": 2, "postprocess": []}
    data, side = few[["pr"]], 12
    if kind == "any_factor_model":
        side, data = 6, few[["pr"]].isel(y=slice(48), x=slice(48))
        data = (
            data.coarsen(y=side, x=side).mean().assign(pr=lambda d: d.pr.assign_attrs(few.pr.attrs))
        )
        options["factor"] = side
    free = sample(data, model, **options, cap="none").pr.load()
    capped = sample(data, model, **options, cap=2.0).pr.load()
    blocks = [rain.coarsen(y=side, x=side) for rain in (free, capped)]
    means, highest = blocks[0].mean().values, blocks[0].max().values
    np.testing.assert_allclose(blocks[1].mean().values, means, rtol=1e-4, atol=1e-4)
    limit = np.maximum(2.0, means)
    assert (highest > 2.1 * limit).any()
    assert (blocks[1].max().values <= limit * (1 + 1e-5)).all()
    below = (highest <= limit).repeat(side, -1).repeat(side, -2)
    np.testing.assert_array_equal(capped.values[below], free.values[below])


@pytest.mark.parametrize("cap", [0, -1.0, "0 mm h-1", "many", "3 m"])
def test_wrong_caps_are_refused(few, model, cap):
    with pytest.raises((ConfigError, xcvae.errors.UnitsError), match="cap"):
        sample(few, model, members=1, cap=cap)

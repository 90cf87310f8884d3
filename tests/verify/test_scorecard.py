"""The scorecard: sources, skills, intervals, groups, and refused input."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from xcvae import hookimpl, metrics
from xcvae.ensemble.dataset import catalog_metadata
from xcvae.ensemble.sample import sample
from xcvae.errors import (
    ComponentError,
    ConfigError,
    DataError,
    EmptySelectionError,
    MismatchError,
    MissingVariableError,
    UnitsError,
    XcvaeError,
)
from xcvae.fields.describe import describe
from xcvae.generator.model import Model
from xcvae.registry import build, registry
from xcvae.registry.registry import Registry
from xcvae.verify import score_text
from xcvae.verify.accumulate import blocks
from xcvae.verify.baselines.runner import BaselineRunner
from xcvae.verify.pairing import pair_up
from xcvae.verify.resampling import interval
from xcvae.verify.scorecard import DEFAULT_METRICS, evaluate, score_match

TIMES = 12


def rain(seed: int, *shape: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    amounts = random.gamma(0.7, 4.0, shape) + 0.1
    return np.where(random.random(shape) < 0.5, amounts, 0.0).astype("float32")


@pytest.fixture
def ds() -> xr.Dataset:
    """Observed rain with its 4 x 4 block means, and a coordinate to group by."""
    times = np.datetime64("2021-06-01", "ns") + np.arange(TIMES) * np.timedelta64(6, "h")
    pr = xr.DataArray(rain(1, TIMES, 12, 16), dims=("time", "y", "x"), attrs={"units": "mm h-1"})
    coarse = pr.coarsen(y=4, x=4).mean().rename(y="y_coarse", x="x_coarse")
    regime = ("time", ["calm", "storm", "storm"] * 4)
    return xr.Dataset(
        {"pr": pr, "pr_coarse": coarse.assign_attrs(units="mm h-1")},
        coords={"time": times, "regime": regime},
    )


@pytest.fixture
def ensemble(ds: xr.Dataset) -> xr.Dataset:
    """Members that resemble the observation."""
    noise = rain(2, 4, TIMES, 12, 16)
    values = 0.6 * ds.pr.values + 0.4 * noise
    pr = xr.DataArray(values, dims=("realization", *ds.pr.dims), attrs={"units": "mm h-1"})
    return xr.Dataset({"pr": pr}, coords={"time": ds.time, "realization": np.arange(4)})


def test_scorecard_has_default_metrics_with_attributes(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble)
    assert card.source.values.tolist() == ["xcvae", "bilinear"]
    assert card.members.values.tolist() == [4, 1]
    for name in DEFAULT_METRICS:
        score, low, high = card[name], card[f"{name}_low"], card[f"{name}_high"]
        assert score.dims == ("source",)
        assert score.attrs["units"] in ("mm h-1", "1", "dB")
        assert score.attrs["long_name"]
        better = score.attrs["better"]
        assert better in ("lower", "higher") or isinstance(better, float)
        assert (low <= score).all()
        assert (score <= high).all()
    assert card.wet_fraction.attrs["better"] == pytest.approx(card.wet_fraction_observed[0].item())
    assert card.csi.attrs["threshold"] == 5.0
    assert card.fss.attrs["window"] == 9
    assert len(card.data_vars) == 3 * len(DEFAULT_METRICS)
    assert json.loads(card.attrs["xcvae"])["samples"] == TIMES


def test_scorecard_equals_metric_functions(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble)
    for name in DEFAULT_METRICS:
        if name != "crps_skill":
            expected = getattr(metrics, name)(ensemble.pr, ds.pr).item()
            assert card[name].sel(source="xcvae").item() == pytest.approx(expected), name


def test_scorecard_draws_baselines_with_seed_0(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble, metrics=["crps"], baselines=["rainfarm"])
    members = build("baseline", "rainfarm")(pair_up(ds, ensemble).for_baselines(), 4, 0)
    expected = metrics.crps(members, ds.pr).item()
    assert card.crps.sel(source="rainfarm").item() == pytest.approx(expected)
    assert card.members.sel(source="rainfarm") == 4


def test_scorecard_interval_is_that_of_sample_scores_within_limits(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble, metrics=["mae"], baselines=[])
    samples = [ds.isel(time=[i]) for i in range(TIMES)]
    each = [metrics.mae(ensemble.pr.sel(time=one.time), one.pr).item() for one in samples]
    values = np.array(each)
    found = interval(lambda total: total(values) / TIMES, (0, TIMES, TIMES), (0.0, np.inf))
    ends = [card[name].item() for name in ("mae", "mae_low", "mae_high")]
    np.testing.assert_allclose(ends, found, rtol=1e-5)


def test_scorecard_of_bilinear_has_zero_skill_and_crps_equal_to_mae(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble, metrics=["crps", "mae", "crps_skill"])
    crps = card.crps.sel(source="bilinear").item()
    assert crps == pytest.approx(card.mae.sel(source="bilinear").item())
    assert card.crps_skill.sel(source="bilinear").item() == 0
    expected = 1 - card.crps.sel(source="xcvae").item() / crps
    assert card.crps_skill.sel(source="xcvae").item() == pytest.approx(expected)
    assert expected > 0


def test_skill_score_builds_its_unlisted_reference(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble, metrics="crps_skill", baselines=[])
    both = evaluate(ds, ensemble)
    assert card.source.values.tolist() == ["xcvae"]
    assert card.crps_skill.item() == both.crps_skill.sel(source="xcvae").item()
    block = evaluate(ds, ensemble, metrics=[{"name": "crps_skill", "against": "block"}])
    assert block.crps_skill[0].item() != card.crps_skill.item()
    assert block.crps_skill.attrs["against"] == "block"


@pytest.mark.parametrize("block_bytes", [1, 10**4, 10**9])
def test_scorecard_is_independent_of_blocks_and_chunks(
    ds: xr.Dataset, ensemble: xr.Dataset, block_bytes: int
) -> None:
    baselines = ["bilinear", "shuffled"]
    expected = evaluate(ds, ensemble, baselines=baselines)
    for given in ((ds, ensemble), (ds.chunk(time=3), ensemble.chunk(time=5, realization=2))):
        card = score_match(pair_up(*given), baselines=baselines, block_bytes=block_bytes)
        xr.testing.assert_identical(card, expected)


def test_blocks_end_at_chunk_edges(ensemble: xr.Dataset) -> None:
    field = ensemble.pr.chunk(time=(5, 5, 2))
    per_sample = field.nbytes // TIMES
    assert blocks(field, "time", 7 * per_sample) == [slice(0, 5), slice(5, 12)]
    assert blocks(field, "time", per_sample) == [slice(0, 5), slice(5, 10), slice(10, 12)]


def test_baselines_are_drawn_in_chunks_of_block_size(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    block_bytes = 3 * 4 * 4 * 12 * 16  # 3 samples of 4 members
    for given, longest in ((ds, 3), (ds.chunk(time=6), 3), (ds.chunk(time=2), 2)):
        found = pair_up(given, ensemble).for_baselines(block_bytes)
        assert max(found.chunksizes["time"]) == longest
        members = build("baseline", "rainfarm")(found, 4, 0)
        assert max(members.chunksizes["time"]) <= 3
    chunked = ensemble.chunk(time=(5, 5, 2))
    runner = BaselineRunner(
        pair_up(ds, chunked), {"block": build("baseline", "block")}, 0, block_bytes
    )
    # A chunk that two blocks share would be drawn twice.
    assert runner.dataset.chunksizes["time"] == (3, 2, 1, 3, 1, 2)
    options = {"metrics": ["crps"], "baselines": ["rainfarm", "shuffled"]}
    card = score_match(pair_up(ds, ensemble), **options, block_bytes=block_bytes)
    xr.testing.assert_allclose(card, evaluate(ds, ensemble, **options, progress=False))


def test_evaluate_matches_samples_by_label(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    some = ensemble.isel(time=slice(3, 9))
    expected = evaluate(ds.isel(time=slice(3, 9)), some)
    xr.testing.assert_identical(evaluate(ds, some), expected)
    with pytest.raises(MismatchError, match="3 of 12 that are not, the first 2021-06-01"):
        evaluate(ds.isel(time=slice(3, None)), ensemble)
    twice = xr.concat([ds, ds.isel(time=[0])], "time")
    with pytest.raises(MismatchError, match="more than once"):
        evaluate(twice, ensemble)


def test_evaluate_of_one_sample_has_no_intervals(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble.isel(time=4), metrics="crps")
    expected = metrics.crps(ensemble.pr.isel(time=[4]), ds.pr.isel(time=[4])).item()
    assert card.crps[0].item() == pytest.approx(expected)
    assert np.isnan(card.crps_low).all()


def test_evaluate_converts_units_of_the_ensemble(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    other = ensemble.assign(pr=(ensemble.pr * 24).assign_attrs(units="mm/day"))
    card, expected = evaluate(ds, other), evaluate(ds, ensemble)
    assert card.crps.attrs["units"] == "mm h-1"
    xr.testing.assert_allclose(card, expected, rtol=1e-4)


def test_evaluate_converts_units_of_the_condition(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    coarse = (ds.pr_coarse.astype("float64") / 3600).assign_attrs(units="kg m-2 s-1")
    found = evaluate(ds.assign(pr_coarse=coarse), ensemble, metrics="crps")
    xr.testing.assert_allclose(found, evaluate(ds, ensemble, metrics="crps"), rtol=1e-5)


def test_evaluate_derives_the_condition_from_the_record(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    fine = ds[["pr"]]
    spec = describe(fine, target="pr", conditions=None, statics=None, coarsen=4, spatial_dims=None)
    record = {"version": "0", "seed": 3, "spec": spec.to_json()}
    made = ensemble.assign_attrs(xcvae=json.dumps(record))
    card = evaluate(fine, made)
    xr.testing.assert_allclose(card, evaluate(ds, ensemble))
    assert json.loads(card.attrs["xcvae"])["ensemble"] == {"version": "0", "seed": 3}


def test_evaluate_without_condition_compares_with_climatology(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds[["pr"]], ensemble)
    assert card.source.values.tolist() == ["xcvae", "climatology"]
    crps = card.crps.values
    assert card.crps_skill[0].item() == pytest.approx(1 - crps[0] / crps[1])
    assert card.crps_skill.attrs["against"] == "climatology"
    assert "crps" in card
    with pytest.raises(DataError, match="coarse precipitation condition"):
        evaluate(ds[["pr"]], ensemble, metrics=["crps_skill"])
    with pytest.raises(DataError, match="coarse precipitation condition"):
        evaluate(ds[["pr"]], ensemble, baselines=["block"])


def test_default_climatology_draws_from_samples_that_were_not_evaluated(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    part = ensemble.isel(time=slice(4))
    card = evaluate(ds[["pr"]], part, metrics=["crps"])
    others = ds[["pr"]].isel(time=slice(4, None))
    given = [{"name": "climatology", "record": others}]
    expected = evaluate(ds[["pr"]], part, metrics=["crps"], baselines=given)
    xr.testing.assert_equal(card, expected)
    # One sample alone has no other field to draw.
    one = ensemble.isel(time=[3])
    assert evaluate(ds[["pr"]].isel(time=[3]), one).source.values.tolist() == ["xcvae"]


@pytest.mark.parametrize("chunks", [None, 3])
def test_baseline_of_a_plugin_gets_all_conditions_and_the_record(
    ds: xr.Dataset, ensemble: xr.Dataset, chunks: int | None
) -> None:
    psl = ("time", "lat", "lon"), np.arange(TIMES * 6.0).reshape(TIMES, 2, 3), {"units": "Pa"}
    fields = ds.drop_vars("regime").assign(psl=psl, pi=((), 3.14, {"units": "1"}))
    made = drawn_from(ensemble, fields, conditions=["pr_coarse", "psl"]).isel(time=slice(6))
    seen = {}

    def analogue(dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        """The field of the record with the nearest mean pressure would be drawn here."""
        seen.update(dataset.attrs)
        pressure = dataset["psl"].mean(("lat", "lon")).compute()
        assert pressure.sizes == {"time": 6}
        record = dataset[dataset.attrs["record"]]
        assert record.dims == ("time_record", "y", "x")
        np.testing.assert_array_equal(record.time_record, ds.time[6:])
        rows = xr.DataArray([[0], [1], [2], [3], [4], [5]], dims=("time", "realization"))
        drawn = record.isel(time_record=rows).drop_vars("time_record")
        return drawn.assign_coords(time=dataset.time).transpose("realization", ...)

    given = fields.chunk(time=chunks) if chunks else fields
    card = evaluate(given, made, metrics=["mae"], baselines=["bilinear", analogue])
    assert set(seen["conditions"]) == {"psl", "pr_coarse"}
    assert (seen["target"], seen["record"]) == ("pr", "pr_record")
    error = abs(ds.pr.values[6:] - ds.pr.values[:6]).mean()
    assert card.mae.sel(source="analogue").item() == pytest.approx(error, rel=1e-5)


def drawn_from(ensemble: xr.Dataset, ds: xr.Dataset, **described: object) -> xr.Dataset:
    """The ensemble with the attributes of one that was drawn for these data."""
    spec = describe(ds, target="pr", **described)
    return ensemble.assign_attrs(xcvae=json.dumps({"spec": spec.to_json()}))


def test_default_threshold_of_twcrps_is_that_of_the_record(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    content = json.loads(drawn_from(ensemble, ds, conditions=["pr_coarse"]).attrs["xcvae"])
    made = ensemble.assign_attrs(xcvae=json.dumps({**content, "record_p99": 7.5}))
    given = {"metrics": ["twcrps", {"name": "twcrps", "window": "12h"}], "baselines": []}
    card = evaluate(ds, made, **given)
    assert card.twcrps.attrs["threshold"] == 7.5
    assert card.twcrps_12h.attrs["threshold"] == 5.0  # means have another distribution
    in_days = ds.assign(pr=(24 * ds.pr).assign_attrs(units="mm/day"))
    assert evaluate(in_days, made, **given).twcrps.attrs["threshold"] == pytest.approx(180)
    assert evaluate(ds, ensemble, **given).twcrps.attrs["threshold"] == 5.0


def test_groupby_coarse_rain_scores_thirds_of_the_samples(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble, metrics=["spread_skill"], baselines=[], groupby="coarse_rain")
    assert card.coarse_rain.values.tolist() == ["1 least", "2 middle", "3 most"]
    order = np.argsort(ds.pr_coarse.mean(["y_coarse", "x_coarse"]).values)
    for name, rows in zip(card.coarse_rain.values, np.array_split(order, 3), strict=True):
        some = {"time": np.sort(rows)}
        expected = metrics.spread_skill(ensemble.pr.isel(some), ds.pr.isel(some)).item()
        assert card.spread_skill.sel(coarse_rain=name).item() == pytest.approx(expected)
    with pytest.raises(MissingVariableError, match="coarse rain in the Dataset"):
        evaluate(ds[["pr"]], ensemble, groupby="coarse_rain", baselines=[])


def test_evaluate_accepts_data_without_the_training_condition(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    made = drawn_from(ensemble, ds, conditions=["pr_coarse"])
    expected = evaluate(ds, ensemble, metrics=["crps"], baselines=["shuffled"])
    found = evaluate(ds[["pr"]], made, metrics=["crps"], baselines=["shuffled"])
    xr.testing.assert_equal(found, expected)
    card = evaluate(ds[["pr"]], made)
    assert card.source.values.tolist() == ["xcvae", "climatology"]
    assert card.crps_skill.attrs["against"] == "climatology"
    for options in ({"metrics": ["crps_skill"]}, {"baselines": ["bilinear"]}):
        with pytest.raises(DataError, match="coarse precipitation condition"):
            evaluate(ds[["pr"]], made, **options)


def test_evaluate_checks_the_condition_for_baselines_only(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    made = drawn_from(ensemble, ds, conditions=["pr_coarse"])
    wrong = ds.isel(x_coarse=slice(2))
    card = evaluate(wrong, made, metrics=["crps"], baselines=[])
    xr.testing.assert_equal(card, evaluate(ds, ensemble, metrics=["crps"], baselines=[]))
    with pytest.raises(MismatchError, match="pr_coarse"):
        evaluate(wrong, made)


RATE = {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize(("fine", "coarse"), [("mm", RATE), ("mm h-1", {**RATE, "units": "m"})])
def test_evaluate_compares_a_depth_with_a_rate_by_the_step(
    ds: xr.Dataset, ensemble: xr.Dataset, fine: str, coarse: dict[str, str], recorded: bool
) -> None:
    hours = 6.0  # between samples
    part = 3600 * hours if coarse["units"] == RATE["units"] else 1000 / hours
    both = ds.assign(
        pr=ds.pr.assign_attrs(units=fine), pr_coarse=(ds.pr_coarse / part).assign_attrs(coarse)
    )
    members = ensemble.assign(pr=ensemble.pr.assign_attrs(units=fine))
    made = drawn_from(members, both, conditions=["pr_coarse"]) if recorded else members
    options = {"metrics": ["crps", "crps_skill"], "baselines": ["bilinear", "rainfarm"]}
    card, wanted = evaluate(both, made, **options), evaluate(ds, ensemble, **options)
    assert evaluate(both, made).source.values.tolist() == ["xcvae", "bilinear"]
    for name in ("crps", "crps_skill"):
        np.testing.assert_allclose(card[name], wanted[name], rtol=1e-5)


def test_evaluate_does_not_compare_a_depth_with_a_rate_without_a_step(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    coarse = ds.pr_coarse.assign_attrs(RATE)
    both = ds.assign(pr=ds.pr.assign_attrs(units="mm"), pr_coarse=coarse)
    members = ensemble.assign(pr=ensemble.pr.assign_attrs(units="mm"))
    monthly = xr.date_range("2001-01-01", periods=ds.sizes["time"], freq="MS")
    for labels in (np.arange(ds.sizes["time"]), monthly):
        data, plain = both.assign_coords(time=labels), members.assign_coords(time=labels)
        for made in (plain, drawn_from(plain, data, conditions=["pr_coarse"])):
            card = evaluate(data, made)
            assert card.source.values.tolist() == ["xcvae", "climatology"]
            assert card.crps_skill.attrs["against"] == "climatology"
            with pytest.raises(UnitsError, match="a depth and the other a rate"):
                evaluate(data, made, baselines=["bilinear"])
    finer = data.assign(rain=data.pr.coarsen(y=6, x=8).mean().rename(y="y_6", x="x_8"))
    assert evaluate(finer, plain).source.values.tolist() == ["xcvae", "bilinear"]


def test_baselines_use_the_finest_condition(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    coarser = ds.pr.coarsen(y=6, x=8).mean().rename(y="y_6", x="x_8").assign_attrs(ds.pr.attrs)
    both = ds[["pr"]].assign(pr_coarser=coarser, pr_finer=ds.pr_coarse)
    assert pair_up(both, ensemble).for_baselines().attrs["condition"] == "pr_finer"


def test_evaluate_takes_unnamed_dims_from_the_ensemble(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    names = {"y": "a", "x": "b"}
    fine, members = ds[["pr"]].rename(names), ensemble.rename(names)
    made = drawn_from(members, fine, coarsen=4, spatial_dims=("a", "b"))
    found = evaluate(fine, made, baselines=["bilinear", "block"])
    xr.testing.assert_allclose(found, evaluate(ds, ensemble, baselines=["bilinear", "block"]))


def test_evaluate_scores_groups_separately(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    names = ["crps", "crps_skill", "ks", "spectral_distance"]
    card = evaluate(ds, ensemble, metrics=names, groupby="regime")
    assert card.regime.values.tolist() == ["calm", "storm"]
    for regime in ("calm", "storm"):
        part = ds.isel(time=ds.regime.values == regime)
        expected = evaluate(part, ensemble.sel(time=part.time), metrics=names)
        found = card.sel(regime=regime, drop=True)
        for name in names:
            xr.testing.assert_allclose(found[name], expected[name])
            xr.testing.assert_allclose(found[f"{name}_low"], expected[f"{name}_low"])


def test_score_table_omits_grouped_scores(ds, ensemble) -> None:
    whole = score_text.table(evaluate(ds, ensemble, metrics=["mass_bias"]), title="all:")
    assert whole.startswith("all:\nscore")
    assert "mass bias" in whole
    card = evaluate(ds, ensemble, metrics=["mass_bias"], groupby="time.hour")
    assert "mass bias" not in score_text.table(card)


def test_groupby_accepts_arrays_and_virtual_coordinates(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble, metrics="crps", groupby="time.hour")
    assert card.hour.values.tolist() == [0, 6, 12, 18]
    wet = xr.DataArray([0.0, 1.0, np.nan] * 5, dims="time", name="wet")[:TIMES]
    card = evaluate(ds, ensemble, metrics="crps", groupby=wet)
    assert card.wet.values.tolist() == [0, 1]
    for values in (wet.values, wet.to_series()):
        found = evaluate(ds, ensemble, metrics="crps", groupby=values)
        xr.testing.assert_identical(found, card.rename(wet="group"))
    labels = wet.assign_coords(time=ds.time)[::-1]
    xr.testing.assert_identical(evaluate(ds, ensemble, metrics="crps", groupby=labels), card)


def test_groupby_regions_are_scored_separately(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    names = ["crps", "crps_skill", "fss", "p99_ratio", bias]
    region = np.tile(np.where(np.arange(16) < 5, "west", "east").astype(object), (12, 1))
    region[3, 7] = np.nan
    given = ds.assign_coords(region=(("y", "x"), region))
    card = evaluate(given, ensemble, metrics=names, groupby="region")
    assert card.region.values.tolist() == ["east", "west"]
    for name in ("west", "east"):
        part = ds.assign(pr=ds.pr.where(given.region == name).assign_attrs(ds.pr.attrs))
        expected = evaluate(part, ensemble, metrics=names)
        xr.testing.assert_allclose(card.sel(region=name, drop=True), expected)


def test_map_of_regions_is_laid_on_the_pixels_by_its_coordinates(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    options = {"metrics": "mae", "baselines": [], "progress": False}
    region = xr.zeros_like(ds.pr[0], int).drop_vars("time").rename("region")
    region[:5] = 1
    labels = {"y": np.arange(12.0), "x": np.arange(16.0)}
    ds, ensemble, region = (one.assign_coords(labels) for one in (ds, ensemble, region))
    expected = evaluate(ds, ensemble, groupby=region, **options)
    turned = region.isel(y=slice(None, None, -1))
    xr.testing.assert_identical(evaluate(ds, ensemble, groupby=turned, **options), expected)
    with pytest.raises(DataError, match=r"groupby, coordinate 'y': .* got 1.0 to 12.0"):
        evaluate(ds, ensemble, groupby=region.assign_coords(y=region.y + 1), **options)


@pytest.mark.parametrize("name", ["source", "members", "mae", "mae_low"])
def test_groups_with_the_name_of_a_score_are_numbered(
    ds: xr.Dataset, ensemble: xr.Dataset, name: str
) -> None:
    half = xr.DataArray(np.arange(TIMES) % 2, dims="time", name=name)
    options = {"metrics": ["mae"], "baselines": [], "progress": False}
    card = evaluate(ds, ensemble, groupby=half, **options)
    assert card.mae.dims == ("source", f"{name}_2")
    assert set(card.data_vars) == {"mae", "mae_low", "mae_high"}
    assert card.members.dims == ("source",)


def test_series_of_pandas_are_groups_by_their_labels(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    number = np.arange(ds.sizes["time"])
    by_label = pd.Series(number < 2, index=ds.time.values)
    options = {"metrics": ["crps"], "baselines": []}
    wanted = evaluate(ds, ensemble, groupby=number < 2, **options).crps
    for groups in (by_label, by_label[::-1], [by_label[::-1]], by_label.reset_index(drop=True)):
        found = evaluate(ds, ensemble, groupby=groups, **options).crps
        np.testing.assert_array_equal(found, wanted)
    twice = pd.concat([by_label, by_label])
    for groups in (twice, xr.DataArray(twice.to_numpy(), {"time": twice.index}, "time")):
        with pytest.raises(DataError, match="labels that repeat"):
            evaluate(ds, ensemble, groupby=groups, **options)


def test_samples_without_a_value_of_their_label_are_warned_of(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    days = xr.DataArray(np.zeros(3), {"time": ds.time[::4][:3]}, "time", name="regime")
    with pytest.warns(UserWarning, match=rf"'regime' has no value for {TIMES - 3} of {TIMES}"):
        evaluate(ds, ensemble, metrics="mae", baselines=[], groupby=days, progress=False)


def test_interval_blocks_are_neighbours_in_time(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    options = {"metrics": ["crps", "csi"], "baselines": []}
    expected = evaluate(ds, ensemble, **options)
    mixed = np.random.default_rng(0).permutation(TIMES)
    found = evaluate(ds.isel(time=mixed), ensemble.isel(time=mixed), **options)
    xr.testing.assert_allclose(found, expected)
    # Samples with a time coordinate that is not their label, such as tiles of many areas.
    numbered = [
        one.assign_coords(
            tile=("time", [f"tile {i}" for i in mixed]), when=("time", one.time.values)
        )
        .swap_dims(time="tile")
        .drop_vars("time")
        for one in (ds.isel(time=mixed), ensemble.isel(time=mixed))
    ]
    xr.testing.assert_allclose(evaluate(*numbered, **options), expected)
    # Texts are in the order of the data, also those that a file returns as objects.
    names = np.array([f"storm {i}" for i in mixed])
    cards = [
        evaluate(ds.assign_coords(time=one), ensemble.assign_coords(time=one), **options)
        for one in (names, names.astype(object))
    ]
    xr.testing.assert_identical(*cards)


def test_a_sample_without_coarse_rain_is_in_no_third(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    options = {"metrics": ["mae"], "baselines": [], "groupby": "coarse_rain", "progress": False}
    gaps = ds.assign(pr_coarse=ds.pr_coarse.where(ds.time != ds.time[0]))
    known = {"time": slice(1, None)}
    expected = evaluate(ds.isel(known), ensemble.isel(known), **options)
    assert evaluate(gaps, ensemble, **options).mae.values.tolist() == expected.mae.values.tolist()


def test_groupby_refuses_unknown_or_empty_groups(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    with pytest.raises(MissingVariableError, match="Did you mean 'regime'"):
        evaluate(ds, ensemble, groupby="regimes")
    with pytest.raises(MissingVariableError, match="Did you mean 'coarse_rain'"):
        evaluate(ds, ensemble, groupby="coarse_rian")
    with pytest.raises(MissingVariableError, match=r"Did you mean 'time\.season'"):
        evaluate(ds, ensemble, groupby="time.saeson")
    with pytest.raises(ConfigError, match=r"a list of these, got 5 \(int\)"):
        evaluate(ds, ensemble, groupby=5)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="along 'time'"):
        evaluate(ds, ensemble, groupby="pr_coarse")
    with pytest.raises(DataError, match="values of one type"):
        evaluate(ds, ensemble, groupby=np.array(["a", 1] * (TIMES // 2), object))
    empty = xr.DataArray(np.full(TIMES, np.nan), dims="time")
    with pytest.raises(EmptySelectionError, match="no sample is left"):
        evaluate(ds, ensemble, groupby=empty)


@dataclass(frozen=True)
class Peak:
    """A third party's metric without a base class."""

    power: float = 1.0

    units: ClassVar[str] = "mm h-1"
    long_name: ClassVar[str] = "highest rain"
    better: ClassVar[str] = "higher"

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        return forecast.max(["realization", "y", "x"]) ** self.power


def bias(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    return (forecast.mean("realization") - observed).mean()


def test_evaluate_accepts_callables_as_metrics(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble.chunk(time=5), metrics=[Peak(), bias, "crps"], baselines=[])
    assert card.Peak.item() == pytest.approx(
        ensemble.pr.max(["realization", "y", "x"]).mean().item()
    )
    assert card.Peak.attrs["units"] == "mm h-1"
    assert card.bias.item() == pytest.approx((ensemble.pr - ds.pr).mean().item(), rel=1e-5)
    assert card.bias_low.item() < card.bias.item() < card.bias_high.item()


def test_callable_metric_may_return_maps_and_skip_samples(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    def after_noon(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        return abs(forecast - observed).mean("realization").where(observed.time.dt.hour >= 12)

    card = evaluate(ds, ensemble, metrics=after_noon)
    late = ds.time.dt.hour >= 12
    expected = abs(ensemble.pr - ds.pr).isel(time=late.values).mean().item()
    assert card.after_noon.sel(source="xcvae").item() == pytest.approx(expected, rel=1e-5)


@dataclass(frozen=True)
class ReturnLevel:
    """Level that the mean over the map exceeds once in the record, members over observation."""

    over: ClassVar[str] = "record"
    units: ClassVar[str] = "1"
    long_name: ClassVar[str] = "ratio of return levels"
    better: ClassVar[float] = 1.0

    def __call__(self, forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        drawn = forecast.astype(float).max("time").mean(["realization", "y", "x"])
        return drawn / observed.astype(float).max("time").mean(["y", "x"])


class Extremes:
    """A plugin with the metric, by name."""

    @hookimpl
    def xcvae_components(self) -> dict[str, dict[str, object]]:
        return {"metric": {"return_level_here": ReturnLevel}}


@pytest.fixture
def own_registry() -> Iterator[Registry]:
    """The registry of the process; what a test adds to it is forgotten."""
    registry.cache_clear()
    yield registry()
    registry.cache_clear()


@pytest.mark.parametrize("chunks", [None, 5])
def test_metric_of_the_whole_record_by_name_equals_the_direct_call(
    ds: xr.Dataset, ensemble: xr.Dataset, chunks: int | None, own_registry: Registry
) -> None:
    own_registry.register(Extremes())
    given = ensemble.chunk(time=chunks) if chunks else ensemble
    names = ["return_level_here", "mae"]
    card = evaluate(ds, given, metrics=names, baselines=["bilinear", "shuffled"])
    expected = ReturnLevel()(ensemble.pr, ds.pr).item()
    assert card.return_level_here[0].item() == pytest.approx(expected, rel=1e-12)
    assert card.return_level_here.attrs["long_name"] == "ratio of return levels"
    assert np.isnan(card.return_level_here_low).all()
    # The rearranged members have nearly the same largest values.
    assert card.return_level_here[2].item() == pytest.approx(expected, rel=0.05)
    assert card.return_level_here[2].item() != expected
    assert np.isfinite(card.mae_low).all()
    xr.testing.assert_identical(card.mae, evaluate(ds, given, metrics="mae", baselines=[
        "bilinear", "shuffled"]).mae)  # fmt: skip


def test_metric_of_the_whole_record_by_groups_sees_their_samples_only(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    card = evaluate(ds, ensemble, metrics=ReturnLevel(), groupby="time.hour", baselines=[])
    for hour in card.hour.values:
        chosen = ds.time.dt.hour.values == hour
        part = ReturnLevel()(ensemble.pr.isel(time=chosen), ds.pr.isel(time=chosen)).item()
        assert card.ReturnLevel.sel(hour=hour)[0].item() == pytest.approx(part, rel=1e-12)
    region = (ds.y > ds.y.mean()).astype(int).broadcast_like(ds.pr[0]).rename("half")
    card = evaluate(ds, ensemble, metrics=ReturnLevel(), groupby=region, baselines=[])
    for half in (0, 1):
        part = ReturnLevel()(ensemble.pr.where(region == half), ds.pr.where(region == half)).item()
        assert card.ReturnLevel.sel(half=half)[0].item() == pytest.approx(part, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": 5}, "metrics: expected a list of names"),
        ({"baselines": 1.5}, "baselines: expected a list of names"),
        ({"ensemble": "prior.zarr"}, "ensemble: expected a Dataset.*open_store"),
        ({"ensemble": None}, "ensemble: expected a Dataset.*None"),
    ],
)
def test_arguments_of_other_types_are_refused(
    ds: xr.Dataset, ensemble: xr.Dataset, options: dict[str, object], words: str
) -> None:
    with pytest.raises(XcvaeError, match=words):
        evaluate(ds, **{"ensemble": ensemble, **options})


def test_metric_that_is_no_average_of_samples_is_refused(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    def return_level(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
        return ReturnLevel()(forecast, observed)

    words = r"metric 'return_level'.*average of 1\d samples.*over = \"record\""
    with pytest.raises(ComponentError, match=words):
        evaluate(ds, ensemble, metrics=["crps", return_level])
    return_level.over = "samples"  # type: ignore[attr-defined]
    with pytest.raises(ComponentError, match=r"'sample'.*or 'record'"):
        evaluate(ds, ensemble, metrics=return_level)
    return_level.over = "record"  # type: ignore[attr-defined]
    card = evaluate(ds, ensemble, metrics=return_level)
    expected = ReturnLevel()(ensemble.pr, ds.pr).item()
    assert card.return_level[0].item() == pytest.approx(expected, rel=1e-12)


def test_samples_that_were_trained_on_are_reported(
    radar: xr.Dataset, tiny_model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    some = np.flatnonzero(radar.split.values == 0)[[0, 20]].tolist()
    new = np.flatnonzero(radar.split.values == 2)[[0, 5, 9]].tolist()
    mixed = radar.isel(time=[*some, *new])
    drawn = sample(mixed, tiny_model, members=1, progress=False).compute()
    codes = json.loads(drawn.attrs["xcvae"]).get("training_samples", {"count": 0})
    # Training held back blocks of the train split, which are not trained on.
    count = codes["count"]
    assert 1 <= count <= 2
    card = evaluate(mixed, drawn, metrics=["mae"], baselines=[])
    assert f"{count} of 5 samples were trained on" in caplog.text
    assert f"{count} of 5 samples were trained on" in card.attrs["comment"]
    assert "were trained on" in score_text.table(card)
    caplog.clear()
    record = json.loads(card.attrs["xcvae"])
    assert record["trained_samples"] == count
    assert "training_samples" not in record["ensemble"]
    assert catalog_metadata(drawn.assign_attrs(xcvae=json.dumps(
        {**json.loads(drawn.attrs["xcvae"]), "identity": None}
    )))["training_samples"] == count  # fmt: skip
    # The others, selected afterwards.
    card = evaluate(mixed, drawn.isel(time=[2, 3, 4]), metrics=["mae"], baselines=[])
    assert caplog.text == ""
    assert "comment" not in card.attrs
    assert json.loads(card.attrs["xcvae"])["trained_samples"] == 0


def test_repeated_metric_is_numbered(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    twice = [{"name": "csi", "threshold": 2.0}, {"name": "csi", "threshold": "10 mm h-1"}]
    card = evaluate(ds, ensemble, metrics=twice)
    assert card.csi.attrs["threshold"] == 2.0
    assert card.csi_2.attrs["threshold"] == 10.0
    assert card.csi[0].item() > card.csi_2[0].item()


def test_baseline_with_the_name_of_the_ensemble_is_numbered(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    def xcvae(dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        return dataset.pr.expand_dims(realization=1)

    card = evaluate(ds, ensemble, metrics=["crps"], baselines=[xcvae])
    assert card.source.values.tolist() == ["xcvae", "xcvae_2"]
    assert card.crps[1] == 0


def test_evaluate_refuses_normalised_fields(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    scored = ((ensemble - ensemble.mean()) / ensemble.std()).pr.drop_attrs()
    with pytest.raises(UnitsError, match="normalisation"):
        evaluate(ds, scored.to_dataset())
    with pytest.raises(DataError, match="never below zero"):
        evaluate(ds, scored.assign_attrs(units="mm h-1").to_dataset())


def test_evaluate_refuses_an_ensemble_without_values(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    with pytest.raises(DataError, match="none in any sample"):
        evaluate(ds, ensemble.where(ensemble.pr < 0))


def test_evaluate_refuses_mismatched_data(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    with pytest.raises(DataError, match="got DataArray"):
        evaluate(ds.pr, ensemble)  # type: ignore[arg-type]
    with pytest.raises(MissingVariableError, match="'rain'"):
        evaluate(ds, ensemble.rename(pr="rain"))
    with pytest.raises(MismatchError, match="one variable with the dimension 'realization'"):
        evaluate(ds, ensemble.isel(realization=0))
    with pytest.raises(MismatchError, match="dimension 'y'"):
        evaluate(ds, ensemble.isel(y=slice(8)))
    with pytest.raises(EmptySelectionError, match="no samples"):
        evaluate(ds, ensemble.isel(time=[]))
    with pytest.raises(ComponentError, match="Did you mean 'crps'"):
        evaluate(ds, ensemble, metrics=["crsp"])
    with pytest.raises(ComponentError, match="unknown baseline"):
        evaluate(ds, ensemble, baselines="bilinea")


def test_evaluate_ignores_foreign_attributes_and_missing_labels(
    ds: xr.Dataset, ensemble: xr.Dataset
) -> None:
    expected = evaluate(ds, ensemble, metrics="crps")
    for text in ("{not json", "[1]", None):
        xr.testing.assert_equal(
            evaluate(ds, ensemble.assign_attrs(xcvae=text), metrics="crps"), expected
        )
    plain = evaluate(ds.drop_vars("time"), ensemble.drop_vars("time"), metrics="crps")
    xr.testing.assert_equal(plain, expected)


def test_evaluate_skips_conditions_that_are_not_rain(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    pressure = (ds.pr_coarse + 1000).assign_attrs(units="hPa", standard_name="air_pressure")
    fields = ds[["pr"]].assign(mslp=pressure)
    spec = describe(fields, target="pr", conditions=["mslp"])
    made = ensemble.assign_attrs(xcvae=json.dumps({"spec": spec.to_json()}))
    card = evaluate(fields, made)
    assert card.source.values.tolist() == ["xcvae", "climatology"]
    assert card.crps_skill.attrs["against"] == "climatology"


def test_evaluate_accepts_a_data_array(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    xr.testing.assert_identical(evaluate(ds, ensemble.pr), evaluate(ds, ensemble))


def test_scorecard_round_trips_through_zarr(ds: xr.Dataset, ensemble: xr.Dataset, tmp_path) -> None:
    card = evaluate(ds, ensemble, metrics=["crps", "wet_fraction"], groupby="regime")
    card.to_zarr(tmp_path / "card.zarr", consolidated=False)
    with xr.open_zarr(tmp_path / "card.zarr", consolidated=False) as back:
        xr.testing.assert_equal(back.load(), card)


def test_groupby_a_list_scores_every_combination(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    hours = ds.time.dt.hour
    region = xr.zeros_like(ds.pr.isel(time=0), dtype=int).drop_vars("time")
    region[:, ds.sizes["x"] // 2 :] = 1
    given = ds.assign_coords(region=region, half=("time", np.arange(ds.sizes["time"]) % 2))
    card = evaluate(
        given, ensemble, metrics=["crps", "mass_bias"], baselines=[],
        groupby=["time.hour", "region", "half"], progress=False,
    )  # fmt: skip
    assert card.crps.dims == ("source", "hour", "region", "half")
    assert set(card.hour.values) == set(hours.values)
    for hour in card.hour.values:
        for half in (0, 1):
            chosen = (hours.values == hour) & (given.half.values == half)
            one = card.crps.sel(source="xcvae", hour=hour, half=half)
            if not chosen.any():
                assert one.isnull().all()
                continue
            part = given.isel(time=chosen).drop_vars("half")
            drawn = ensemble.isel(time=chosen)
            alone = evaluate(part, drawn, metrics=["crps"], groupby="region", progress=False)
            np.testing.assert_allclose(one, alone.crps.sel(source="xcvae"), rtol=1e-6)
    single = evaluate(given, ensemble, metrics="crps", groupby=["half"], progress=False)
    xr.testing.assert_identical(
        single, evaluate(given, ensemble, metrics="crps", groupby="half", progress=False)
    )


def test_table_writes_rows_of_scores_in_every_style(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    card = evaluate(ds, ensemble, metrics=["crps", "wet_fraction"], progress=False)
    value = float(card.crps.sel(source="xcvae"))
    text = card.cvae.table().splitlines()
    assert text[0].split() == ["score", "xcvae", "bilinear"]
    assert text[1].startswith("CRPS [mm h-1]")
    assert f"{value:.3f} ({float(card.crps_low[0]):.3f} to " in text[1]
    assert "(" not in card.cvae.table(intervals=False)
    rows = card.cvae.table(style="markdown").splitlines()
    assert rows[1] == "| --- | ---: | ---: |"
    assert len({row.count("|") for row in rows}) == 1
    latex = card.cvae.table(style="latex").splitlines()
    assert latex[0] == r"\begin{tabular}{lrr}"
    assert latex[-1] == r"\end{tabular}"
    assert latex[4].endswith(r"\\")
    frame = pd.read_csv(io.StringIO(card.cvae.table(style="csv")))
    assert list(frame)[:5] == ["score", "units", "xcvae", "xcvae_low", "xcvae_high"]
    assert frame.xcvae[0] == value
    assert frame.bilinear_high[0] == float(card.crps_high.sel(source="bilinear"))
    grouped = evaluate(ds, ensemble, metrics=["crps"], groupby="time.hour", progress=False)
    frame = pd.read_csv(io.StringIO(grouped.cvae.table("csv", intervals=False)))
    assert list(frame) == ["score", "units", "hour", "xcvae", "bilinear"]
    np.testing.assert_array_equal(frame.xcvae, grouped.crps.sel(source="xcvae"))
    assert grouped.cvae.table().splitlines()[0].split() == ["score", "hour", "xcvae", "bilinear"]
    odd = grouped.assign_coords(hour=["a|b", "c_d^2", r"e\f", "g"])
    rows = odd.cvae.table(style="markdown").replace(r"\|", "").splitlines()
    assert len({row.count("|") for row in rows}) == 1
    assert r"c\_d\textasciicircum{}2" in odd.cvae.table(style="latex")
    assert r"e\textbackslash{}f" in odd.cvae.table(style="latex")
    with pytest.raises(ConfigError, match="Did you mean 'latex'"):
        card.cvae.table(style="latx")
    with pytest.raises(DataError, match="a scorecard"):
        ensemble.cvae.table()


def highest(forecast: xr.DataArray, observed: xr.DataArray) -> xr.DataArray:
    """Return the largest member where there is an observation."""
    return forecast.where(observed.notnull()).max()


highest.over = "record"  # type: ignore[attr-defined]
METRICS_OF_ALL_KINDS = ["crps", "crps_skill", highest]


@pytest.mark.parametrize("lacks", ["ensemble", "baseline"])
def test_sources_are_compared_on_the_pixels_that_all_have(
    ds: xr.Dataset, ensemble: xr.Dataset, lacks: str
) -> None:
    """The wettest samples, which the ensemble lacked, were scored for the baseline alone."""
    few = ds.isel(time=slice(0, 5))
    part = evaluate(few, ensemble.isel(time=slice(0, 5)), metrics=METRICS_OF_ALL_KINDS)
    if lacks == "ensemble":
        ensemble = ensemble.where(ensemble.time <= few.time[-1])
        match = "'xcvae' lacks 58 %"
    else:
        ds = ds.assign(pr_coarse=ds.pr_coarse.where(ds.time <= few.time[-1]))
        match = "'bilinear' lacks 58 %"
    with pytest.warns(UserWarning, match=match):
        card = evaluate(ds, ensemble, metrics=METRICS_OF_ALL_KINDS, baselines=["bilinear"])
    for name in ("crps", "crps_skill", "highest"):
        np.testing.assert_allclose(card[name], part[name], rtol=1e-5, err_msg=name)


def test_best_source_of_a_group_is_the_one_near_what_was_observed_in_it(ds: xr.Dataset) -> None:
    """In all groups the source near the observed share of all samples was marked as the best."""
    wet = ds.regime == "storm"
    ds = ds.assign(pr=ds.pr.where(wet | (ds.x < 2), 0.0).assign_attrs(ds.pr.attrs))
    same = xr.concat([ds.pr, 1.1 * ds.pr], "realization").assign_attrs(ds.pr.attrs).to_dataset()

    def flat(dataset: xr.Dataset, members: int, seed: int) -> xr.DataArray:
        rain = xr.zeros_like(dataset.pr) + 5.0 * (dataset.x < 6)
        return rain.expand_dims("realization").assign_attrs(units="mm h-1")

    metrics_of_shares = ["wet_fraction", "crps"]
    card = evaluate(ds, same, metrics=metrics_of_shares, baselines=[flat], groupby="regime")
    for name, group in card.groupby("regime"):
        part = group.squeeze("regime")
        seen = (ds.pr[ds.regime == name] >= 0.1).mean().item()
        assert part.wet_fraction_better.item() == pytest.approx(seen)
        assert score_text.best_sources(part, "wet_fraction") == [True, False], name
    assert "crps_better" not in card.coords
    assert score_text.score_table(card, style="markdown")


def test_sources_without_a_common_pixel_are_named(ds: xr.Dataset, ensemble: xr.Dataset) -> None:
    calm = ds.time < ds.time[6]
    ds = ds.assign(pr_coarse=ds.pr_coarse.where(calm).assign_attrs(units="mm h-1"))
    with pytest.raises(DataError, match="'xcvae' lacks 50 %, 'bilinear' lacks 50 %"):
        evaluate(ds, ensemble.where(~calm), metrics=["crps"], baselines=["bilinear"])

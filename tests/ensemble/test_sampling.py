"""The verb ``sample``: physical members that depend on their labels, and on nothing else."""

from __future__ import annotations

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from xcvae.ensemble import catalog
from xcvae.ensemble.sample import sample
from xcvae.errors import (
    CatalogError,
    ComponentError,
    ConfigError,
    DataError,
    EmptySelectionError,
    MismatchError,
    MissingVariableError,
    OutputExistsError,
    UnitsError,
)
from xcvae.fields.describe import prepare
from xcvae.fields.grids import check_reference, reference_fields
from xcvae.metrics.spatial import diversity, spatial_correlation


def record(ensemble):
    return json.loads(ensemble.attrs["xcvae"])


@pytest.fixture
def empty_folder(tmp_path, monkeypatch):
    """The working folder of a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def prior(few, model):
    return sample(few, model, members=5, seed=3).compute()


def test_ensemble_has_dims_coordinates_and_metadata_of_the_target(few, model):
    ens = sample(few, model, members=3)
    assert list(ens.data_vars) == ["pr"]
    assert ens.pr.dims == ("realization", "time", "y", "x")
    assert ens.pr.shape == (3, *few.pr.shape)
    assert ens.pr.dtype == "float32"
    assert ens.pr.attrs == few.pr.attrs
    for name in ("time", "y", "x", "split"):
        xr.testing.assert_identical(ens[name].drop_vars("realization", errors="ignore"), few[name])
    assert ens.realization.values.tolist() == [0, 1, 2]
    assert ens.realization.attrs["standard_name"] == "realization"
    assert ens.realization.attrs["units"] == "1"
    assert ens.attrs["Conventions"] == "CF-1.11"
    assert ens.attrs["license"] == few.attrs["license"]
    assert model.sha256[:12] in ens.attrs["history"]


def test_attributes_record_model_options_and_spec(few, model):
    content = record(sample(few, model, members=3, seed=5, temperature=0.9))
    assert content["model_sha256"] == model.sha256
    assert (content["mode"], content["seed"], content["members"], content["temperature"]) == (
        "prior", 5, 3, 0.9,
    )  # fmt: skip
    assert content["postprocess"][0]["name"] == "threshold"
    assert content["postprocess"][0]["value"] == "0.1 mm h-1"
    assert content["postprocess"][0]["removed"] is None
    assert content["spec"] == model.spec.to_json()
    assert content["record_p99"] == pytest.approx(model.record.quantile(0.99), rel=1e-5)


def test_members_are_physical_without_drizzle(prior):
    values = prior.pr.values
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    assert not ((values > 0) & (values < np.float32(0.1))).any()
    assert (values > 0.1).any()


def test_members_and_samples_differ(prior):
    maps = prior.pr.values.reshape(-1, prior.pr[0, 0].size)
    assert len(np.unique(maps, axis=0)) == len(maps)


def test_lazy_ensemble_draws_only_the_selection(few, model, prior):
    drawn = []

    def spy(field, context):
        drawn.append(dict(field.sizes))
        return field

    ens = sample(few, model, members=5, seed=3, postprocess=[spy])
    drawn.clear()
    one = ens.isel(realization=3, time=4).pr.compute()
    assert drawn == [{"realization": 1, "time": 1, "y": 48, "x": 36}]
    expected = one.where(one >= 0.1, 0.0)
    np.testing.assert_array_equal(expected.values, prior.pr.isel(realization=3, time=4).values)


@pytest.mark.parametrize(
    "part",
    [
        {"time": [4, 1]},
        {"realization": slice(None, None, -2), "y": slice(5, 9)},
        {"realization": [0, 0, 3], "time": 2, "x": -1},
        {"time": np.array([True, False, True, False, False, False])},
        {"time": slice(0, 0)},
        {"time": [], "realization": -1, "y": 3},
    ],
)
def test_selection_of_a_lazy_ensemble_equals_that_of_the_whole(few, model, prior, part):
    ens = sample(few, model, members=5, seed=3)
    np.testing.assert_array_equal(ens.isel(part).pr.values, prior.isel(part).pr.values)


@pytest.mark.parametrize("chunks", [{"realization": 1, "time": 1}, {"realization": 2, "time": 5}])
def test_members_do_not_depend_on_the_chunks(few, model, prior, chunks):
    ens = sample(few, model, members=5, seed=3, chunks=chunks)
    assert ens.pr.chunks[0][0] == chunks["realization"]
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)


def test_members_depend_on_the_label_not_the_position(few, model, prior):
    alone = sample(few.isel(time=[4]), model, members=5, seed=3)
    np.testing.assert_array_equal(alone.pr.values, prior.pr.isel(time=[4]).values)


def test_first_members_do_not_depend_on_their_number(few, model, prior):
    fewer = sample(few, model, members=2, seed=3)
    np.testing.assert_array_equal(fewer.pr.values, prior.pr.values[:2])


def test_dask_backed_data_give_the_same_members(few, model, prior):
    ens = sample(few.chunk({"time": 2}), model, members=5, seed=3)
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)


def test_another_seed_changes_every_member(few, model, prior):
    other = sample(few, model, members=5, seed=4)
    assert (other.pr.values != prior.pr.values).any(axis=(2, 3)).all()


def test_temperature_zero_makes_members_equal(few, model):
    ens = sample(few, model, members=3, temperature=0.0).pr.values
    np.testing.assert_array_equal(ens[0], ens[1])


def test_prior_does_not_need_the_target(few, model, prior):
    conditions = prepare(few, model.spec, need_target=True)[["pr_coarse"]]
    ens = sample(conditions, model, members=5, seed=3)
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)
    np.testing.assert_array_equal(ens.y.values, few.y.values)
    assert ens.y.attrs == few.y.attrs


def test_posterior_without_the_target_is_refused(few, model):
    conditions = prepare(few, model.spec, need_target=True)[["pr_coarse"]]
    with pytest.raises((MissingVariableError, MismatchError), match="pr"):
        sample(conditions, model, mode="posterior")


def test_masked_pixels_are_nan_in_all_members(few, model):
    hole = few.copy(deep=True)
    hole.pr[:, :5, :7] = np.nan
    ens = sample(hole, model, members=2).pr
    np.testing.assert_array_equal(np.isnan(ens.values[0]), np.isnan(hole.pr.values))


def test_diversity_grows_and_correlation_falls_with_spread(storms, model):
    spreads = (0.0, 0.5, 1.0)
    drawn = [
        sample(storms, model, mode="posterior", members=4, spread=spread).pr.compute()
        for spread in spreads
    ]
    varied = [float(diversity(ens, storms.pr)) for ens in drawn]
    alike = [float(spatial_correlation(ens, storms.pr)) for ens in drawn]
    assert varied == sorted(varied)
    assert alike == sorted(alike, reverse=True)
    assert varied[-1] - varied[0] > 0.1


def test_default_spread_of_the_posterior_is_one_half(few, model):
    ens = sample(few, model, mode="posterior", members=2)
    half = sample(few, model, mode="posterior", members=2, spread=0.5)
    assert record(ens)["spread"] == 0.5
    np.testing.assert_array_equal(ens.pr.values, half.pr.values)


def test_requested_diversity_is_reached_and_recorded(storms, model):
    ens = sample(storms, model, mode="posterior", members=8, diversity=0.15)
    content = record(ens)
    assert content["diversity"] == 0.15
    assert content["diversity_reached"] == pytest.approx(0.15, abs=0.005)
    assert 0.0 < content["spread"] < 1.0
    assert float(diversity(ens.pr, storms.pr)) == pytest.approx(0.15, abs=0.02)


def test_unreachable_diversity_is_refused_with_the_reachable_range(few, model):
    with pytest.raises(ConfigError, match=r"spread 0\) to .* \(spread 1\), got 0\.99"):
        sample(few, model, mode="posterior", diversity=0.99)


def feasible_share(members, reference):
    """Share of the mass that about half the members of the driest sample do not reach."""
    share = members.sum(("y", "x")) / reference.sum(("y", "x"))
    return float(share.median("realization").min())


def test_min_mass_redraws_dry_members_and_counts_them(few, model, prior, tmp_path):
    least = feasible_share(prior.pr, few.pr)
    ens = sample(
        few, model, members=5, seed=3, min_mass=least, store=tmp_path / "e.zarr", progress=False
    )
    wanted = least * few.pr.sum(("y", "x"), dtype="float64")
    mass = ens.pr.sum(("y", "x"), dtype="float64").compute()
    assert (mass >= wanted).all()
    before = prior.pr.sum(("y", "x"), dtype="float64")
    enough = (before >= wanted).transpose("realization", "time").values
    assert 0 < enough.sum() < enough.size
    unchanged = (ens.pr.values == prior.pr.values).all(axis=(2, 3))
    np.testing.assert_array_equal(unchanged, enough)
    assert record(ens)["rejected"] >= (~enough).sum()
    assert record(ens)["min_mass"] == least


def test_min_mass_without_target_compares_with_the_stretched_condition(few, model, prior):
    conditions = prepare(few, model.spec, need_target=True)[["pr_coarse"]]
    fields = reference_fields(conditions.assign_coords(y=few.y, x=few.x), model.spec, (48, 36))
    reference = few.pr.copy(data=fields)
    least = feasible_share(prior.pr, reference)
    ens = sample(conditions, model, members=5, seed=3, min_mass=least)
    mass = ens.pr.sum(("y", "x"), dtype="float64").compute()
    assert (mass >= least * reference.sum(("y", "x"), dtype="float64")).all()
    assert (mass != prior.pr.sum(("y", "x"), dtype="float64")).any()
    # Block means stretched over the map hold the rain of the map, but for what its edges do.
    share = reference.sum(("y", "x")) / few.pr.sum(("y", "x"))
    np.testing.assert_allclose(share, 1.0, atol=0.3)


def test_min_mass_without_reference_is_refused(few, model):
    spec = dataclasses.replace(model.spec, variables=())
    with pytest.raises(MissingVariableError, match="min_mass"):
        check_reference(few.drop_vars("pr"), spec)


def test_unreachable_min_mass_names_the_sample(few, model):
    ens = sample(few.isel(time=[2]), model, members=1, min_mass=1000.0)
    label = np.datetime_as_string(few.time.values[2], unit="s")
    with pytest.raises(DataError, match=rf"sample {label}: .*1000 .*50 redraws"):
        ens.compute()


def test_postprocessors_work_in_physical_units_and_record_what_they_removed(few, model, tmp_path):
    chain = [{"name": "threshold", "value": "12 mm/day"}, {"name": "clip", "maximum": 2.0}]
    raw = sample(few, model, members=3, postprocess=[]).pr.values.astype("float64")
    ens = sample(
        few, model, members=3, postprocess=chain, store=tmp_path / "e.zarr", progress=False,
        chunks={"realization": 2, "time": 4},
    )  # fmt: skip
    dry = np.where(raw < 0.5, 0.0, raw)
    np.testing.assert_array_equal(ens.pr.values, np.minimum(dry, 2.0).astype("float32"))
    threshold, clip = record(ens)["postprocess"]
    assert threshold["removed"]["pixels"] == ((raw > 0) & (raw < 0.5)).sum()
    assert threshold["removed"]["mass"] == pytest.approx(raw.sum() - dry.sum(), rel=1e-6)
    assert threshold["removed"]["mass_share"] == pytest.approx(1 - dry.sum() / raw.sum(), rel=1e-6)
    assert clip["removed"]["pixels"] == (dry > 2.0).sum()


def test_model_may_be_a_path(few, model, prior):
    ens = sample(few, str(model.path), members=5, seed=3)
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)


def test_lazy_ensemble_can_be_pickled(few, model, prior):
    ens = pickle.loads(pickle.dumps(sample(few, model, members=5, seed=3)))
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "posterio"}, r"mode: .*Did you mean 'posterior'"),
        ({"members": 0}, "members: expected an integer >= 1, .*got 0"),
        ({"members": 2.5}, "members"),
        ({"seed": "a"}, "seed: expected an integer"),
        ({"temperature": -1.0}, r"temperature: expected a number >= 0, got -1\.0"),
        ({"spread": 0.5}, "spread: expected None with mode='prior'"),
        ({"diversity": 0.2}, "diversity: expected None with mode='prior'"),
        ({"mode": "posterior", "spread": 1.5}, r"spread: expected a number in \[0, 1\]"),
        ({"mode": "posterior", "spread": True}, "spread"),
        ({"mode": "posterior", "spread": 0.5, "diversity": 0.2}, "one of the two"),
        ({"min_mass": float("nan")}, "min_mass"),
        ({"tile": 64}, "tile: expected pixels by dim of the maps, or 'auto', got 64"),
        ({"tile": "automatic"}, "or 'auto', got 'automatic'"),
        ({"tile": {}}, "tile: expected pixels by dim"),
        ({"tile": {"y": 12.5}}, r"tile\['y'\]: expected an integer >= 1, got 12\.5"),
        ({"tile": {"lat": 24}}, r"tile\['lat'\]: expected the dims of the maps, y and x"),
        ({"tile": {"x": 1}}, r"tile\['x'\]: expected at least 4 pixels"),
        ({"chunks": {"y": 10}}, r"chunks\['y'\]"),
        ({"chunks": {"time": 0}}, r"chunks\['time'\]"),
        ({"catalog": "c.yaml"}, "only what is written can be listed"),
        ({"name": "a"}, "a catalog to write it to"),
        ({"resume": "again"}, "'restart' replaces"),
        ({"device": "tpu"}, "device"),
        ({"device": None}, "device: expected 'auto'.*None"),
        ({"chunks": {"time": np.float64(2)}}, r"chunks\['time'\]"),
        ({"chunks": {"time": True}}, r"chunks\['time'\]"),
        ({"chunks": {"tim": 1}}, r"chunks\['tim'\]: .* got {'tim': 1}"),
        ({"chunks": "auto"}, "chunks: expected an integer >= 1 for 'realization' or 'time'"),
    ],
)
def test_wrong_argument_is_refused_by_name(few, model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        sample(few, model, **arguments)


@pytest.mark.parametrize(
    ("where", "got"),
    [
        ({"store": "memory://e.zarr"}, r"store: .* got 'memory://e\.zarr'"),
        ({"store": Path("s3://bucket/e.zarr")}, r"store: .* got 's3:/bucket/e\.zarr'"),
        ({"store": "simplecache::s3://e.zarr"}, "store: .* got 'simplecache"),
        ({"store": {}}, "store: .* got {}"),
        ({"store": "e.zarr", "catalog": "https://host/c.yaml"}, "catalog: .* got 'https:"),
    ],
)
def test_remote_store_and_catalog_are_refused(few, model, empty_folder, where, got):
    with pytest.raises(ConfigError, match=got):
        sample(few, model, **where)
    assert not list(empty_folder.iterdir())


def test_relative_outputs_do_not_follow_a_change_of_folder(few, model, empty_folder, monkeypatch):
    def leave(field, context):
        monkeypatch.chdir("/")
        return field

    options = {"store": "run/e.zarr", "catalog": "run/c.yaml", "progress": False}
    ens = sample(few, model, members=2, postprocess=[leave], **options)
    assert sorted(p.name for p in empty_folder.glob("run/[!.]*")) == ["c.yaml", "e.zarr"]
    assert np.isfinite(ens.pr.values).all()


def test_numpy_scalars_are_accepted_as_options(few, model, tmp_path):
    options = {
        "members": np.int64(2), "seed": np.int32(3), "temperature": np.float32(0.5),
        "min_mass": np.float32(0.125), "chunks": {"time": np.int64(2)},
    }  # fmt: skip
    ens = sample(few, model, store=tmp_path / "e.zarr", progress=False, **options)
    assert ens.pr.chunks[1] == (2, 2, 2)
    plain = {"members": 2, "seed": 3, "temperature": 0.5, "min_mass": 0.125, "chunks": {"time": 2}}
    again = sample(few, model, store=tmp_path / "e.zarr", resume=True, **plain)
    assert again.attrs == ens.attrs
    dial = {"mode": "posterior", "members": 2, "store": tmp_path / "p.zarr", "progress": False}
    spread = record(sample(few, model, spread=np.float32(0.25), **dial))["spread"]
    assert spread == 0.25
    reached = sample(few, model, **dial, diversity=np.float32(0.125), resume="restart")
    assert record(reached)["diversity"] == 0.125


@pytest.mark.parametrize("wrong", [None, 5])
def test_object_that_is_not_a_model_is_refused(few, wrong):
    with pytest.raises(ConfigError, match="a Model, the path of a model file, or a name"):
        sample(few, wrong)


def test_empty_selection_is_refused(few, model):
    with pytest.raises(EmptySelectionError):
        sample(few.isel(time=slice(0, 0)), model)


def test_wrong_postprocessor_is_refused_before_drawing(few, model):
    with pytest.raises(ComponentError, match="Did you mean 'threshold'"):
        sample(few, model, postprocess=["treshold"])
    with pytest.raises(UnitsError, match="got '280 K'"):
        sample(few, model, postprocess=[{"name": "threshold", "value": "280 K"}])


def test_stored_ensemble_equals_the_lazy_one_and_opens_with_plain_intake(
    few, model, prior, tmp_path, read_elsewhere
):
    where = {"store": tmp_path / "run" / "e.zarr", "catalog": tmp_path / "run" / "cat.yaml"}
    ens = sample(few, model, members=5, seed=3, name="prior5", progress=False, **where)
    assert ens.pr.chunks is not None
    np.testing.assert_array_equal(ens.pr.values, prior.pr.values)
    xr.testing.assert_identical(ens.drop_attrs(deep=False).compute(), prior.drop_attrs(deep=False))
    total, units = read_elsewhere(where["catalog"], "prior5")
    assert total == pytest.approx(float(prior.pr.astype("float64").sum()))
    assert units == "mm h-1"
    content = catalog.metadata_of(where["catalog"], "prior5")
    assert content["model_sha256"] == model.sha256
    assert content["dims"] == ["realization", "time", "y", "x"]
    assert content["postprocess"][0]["removed"]["pixels"] > 0
    assert "spec" not in content


def test_reopening_a_finished_store_keeps_its_scores_in_the_catalog(few, model, tmp_path):
    options = {
        "members": 2, "store": tmp_path / "e.zarr", "catalog": tmp_path / "c.yaml",
        "progress": False,
    }  # fmt: skip
    sample(few, model, **options)
    catalog.annotate(options["catalog"], "e", {"crps": 0.2})
    written = (tmp_path / "e.zarr" / "zarr.json").stat().st_mtime_ns
    sample(few, model, **options)
    assert catalog.metadata_of(options["catalog"], "e")["scores"] == {"crps": 0.2}
    assert (tmp_path / "e.zarr" / "zarr.json").stat().st_mtime_ns == written


def test_used_catalog_name_is_refused_before_writing(few, model, tmp_path):
    options = {"members": 2, "catalog": tmp_path / "c.yaml", "name": "x", "progress": False}
    sample(few, model, store=tmp_path / "a.zarr", **options)
    with pytest.raises(CatalogError, match="name 'x'"):
        sample(few, model, store=tmp_path / "b.zarr", **options)
    assert not (tmp_path / "b.zarr").exists()
    assert not (tmp_path / "b.zarr.partial").exists()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 1}, "seed"),
        ({"members": 3}, "members"),
        ({"temperature": 0.5}, "temperature"),
        ({"mode": "posterior"}, "mode"),
        ({"postprocess": []}, "postprocess"),
        ({"min_mass": 0.1}, "min_mass"),
    ],
)
def test_store_of_another_ensemble_is_refused_with_the_differing_key(
    few, model, tmp_path_factory, change, key
):
    folder = tmp_path_factory.getbasetemp() / "identity"
    first = {"members": 2, "store": folder / "e.zarr", "progress": False}
    sample(few, model, **first)
    with pytest.raises(OutputExistsError, match=rf"{key} \(stored: .*, requested: "):
        sample(few, model, **{**first, **change})


def test_store_of_other_data_is_refused_and_replaced_by_restart(few, model, tmp_path):
    options = {"members": 2, "store": tmp_path / "e.zarr", "progress": False}
    sample(few, model, **options)
    other = few.copy(deep=True)
    other.pr[0] *= 2
    with pytest.raises(OutputExistsError, match=r"data \(stored"):
        sample(other, model, **options)
    ens = sample(other, model, resume="restart", **options)
    np.testing.assert_array_equal(ens.pr.values, sample(other, model, members=2).pr.values)


@pytest.mark.parametrize(
    "step",
    [
        lambda field, _: field,
        lambda field, _: field.astype("float64"),
        lambda field, _: field.round().astype("int16"),
    ],
)
def test_lazy_members_are_float32_and_can_be_changed(few, model, step):
    """They had the type of the last post-processor."""
    drawn = sample(few.isel(time=[0]), model, members=2, postprocess=[step]).pr
    values = drawn.values
    assert values.dtype == drawn.dtype == "float32"
    values[:] = 0

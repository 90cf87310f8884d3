"""Real and synthetic samples side by side, flagged, with the conditions they belong to."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import xcvae
from xcvae.ensemble import catalog
from xcvae.ensemble.augment import augment
from xcvae.ensemble.sample import sample
from xcvae.ensemble.store.base import lock_folder
from xcvae.ensemble.store.samples import samples_metadata, write_samples
from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    MismatchError,
    MissingVariableError,
    StoreError,
)
from xcvae.fields.describe import describe, prepare
from xcvae.files import hidden_sibling
from xcvae.generator.training.train import split, train

MEMBERS = 3


@pytest.fixture(scope="module")
def real(few, model):
    """Six storms with a condition, a map and a number per sample."""
    coarse = prepare(few, model.spec, need_target=True).pr_coarse
    return few.assign(
        pr_coarse=coarse,
        height=(("y", "x"), np.arange(48 * 36.0).reshape(48, 36), {"units": "m"}),
        wind=("time", np.arange(6.0), {"units": "m s-1"}),
    )


@pytest.fixture(scope="module")
def ensemble(few, model):
    return sample(few, model, members=MEMBERS).compute()


def test_augment_puts_unchanged_real_samples_first(real, ensemble):
    both = augment(real, ensemble)
    assert both.sizes["time"] == 6 * (1 + MEMBERS)
    first = both.isel(time=slice(0, 6))
    assert not first.synthetic.any()
    assert (first.realization == -1).all()
    same = first.drop_vars(["synthetic", "realization"])
    same.attrs = real.attrs  # of all samples: see the next test
    xr.testing.assert_identical(same, real)


def test_samples_are_written_by_one_process_that_removes_what_killed_ones_left(
    real, ensemble, tmp_path
):
    store = tmp_path / "both.zarr"
    killed = hidden_sibling(store, "new")
    with lock_folder(store):
        killed.mkdir()
        with pytest.raises(StoreError, match="no other process"):
            augment(real, ensemble, store=store)
        assert killed.exists()
    assert augment(real, ensemble, store=store).sizes["time"] > real.sizes["time"]
    assert [path.name for path in tmp_path.iterdir()] == ["both.zarr"]


def test_augmented_rain_is_not_described_as_observed(real, ensemble):
    own = {"references": "10.5676/DWD/RADKLIM_YW_V2017.002", "comment": "quality-checked"}
    given = real.assign(pr=real.pr.assign_attrs(own)).assign_attrs(history="2020: cropped")
    both = augment(given, ensemble, fraction=0.25)
    synthetic = int(both.synthetic.sum())
    sha = json.loads(ensemble.attrs["xcvae"])["model_sha256"]
    attrs = both.attrs
    assert f"6 real samples ({real.attrs['title']})" in attrs["title"]
    assert "synthetic" in attrs["title"]
    for name in ("source", "license", "institution"):
        assert attrs[name].startswith(f"real samples: {real.attrs[name]}")
    assert (
        f"synthetic samples: drawn by xcvae {xcvae.__version__}, model {sha[:12]}"
        in (attrs["source"])
    )
    assert attrs["comment"].startswith(f"{synthetic} of {6 + synthetic} samples are synthetic")
    assert attrs["history"].startswith("2020: cropped\n")
    assert f"appended {synthetic} synthetic samples" in attrs["history"].splitlines()[1]
    assert json.loads(attrs["xcvae_augmented"])["model_sha256"] == sha
    assert both.pr.attrs["comment"] == "real samples: quality-checked"
    assert both.pr.attrs["references"].startswith("real samples: ")
    assert both.pr.attrs["units"] == "mm h-1"
    # Again: the words are not doubled.
    again = augment(both.isel(time=slice(0, 6)).drop_vars(["synthetic", "realization"]), ensemble)
    assert "real samples: real samples" not in " ".join(map(str, again.attrs.values()))


def test_catalog_entry_of_augmented_rain_says_that_it_is_synthetic(real, ensemble, tmp_path):
    both = augment(real, ensemble)
    both.drop_encoding().to_zarr(tmp_path / "both.zarr", zarr_format=3, consolidated=False)
    catalog.append(
        tmp_path / "c.yaml", "both", tmp_path / "both.zarr", samples_metadata(both, "pr", "time")
    )
    found = catalog.metadata_of(tmp_path / "c.yaml", "both")
    assert found["synthetic_samples"] == 6 * MEMBERS
    assert found["samples"] == 6 * (1 + MEMBERS)
    for name in ("title", "source", "license", "comment", "history"):
        assert found[name] == both.attrs[name]
    assert found["model_sha256"] == json.loads(ensemble.attrs["xcvae"])["model_sha256"]


def test_synthetic_sample_is_member_with_its_conditions(real, ensemble):
    both = augment(real, ensemble)
    added = both.isel(time=both.synthetic.values)
    assert added.sizes["time"] == 6 * MEMBERS
    for i in range(added.sizes["time"]):
        one = added.isel(time=i)
        member = ensemble.pr.sel(realization=int(one.realization), time=one.time)
        np.testing.assert_array_equal(one.pr.values, member.values)
        for name in ("pr_coarse", "wind", "split"):
            expected = real[name].sel(time=one.time)
            np.testing.assert_array_equal(one[name].values, expected.values)


@pytest.mark.parametrize("kind", ["netcdf", "zarr"])
def test_augment_drops_encoding_of_source(few, model, tmp_path, kind):
    # The packed range ends at the largest observation; a member may be heavier.
    packing = {"dtype": "int16", "scale_factor": float(few.pr.max()) / 32767, "_FillValue": -32768}
    packed = few.drop_encoding().chunk(time=4)
    if kind == "netcdf":
        packed.to_netcdf(tmp_path / "obs.nc", engine="scipy", encoding={"pr": packing})
        real = xr.open_dataset(tmp_path / "obs.nc", engine="scipy")
    else:
        packed.to_zarr(tmp_path / "obs.zarr", encoding={"pr": packing}, consolidated=False)
        real = xr.open_zarr(tmp_path / "obs.zarr", consolidated=False)
    ensemble = sample(real, model, members=MEMBERS).compute()
    ensemble["pr"] = ensemble.pr * 3
    both = augment(real, ensemble.chunk(time=5))
    assert not both.encoding
    assert not any(variable.encoding for variable in both.variables.values())
    both.to_netcdf(tmp_path / "both.nc", engine="scipy")
    both.to_zarr(tmp_path / "both.zarr", consolidated=False)
    for again in (
        xr.open_dataset(tmp_path / "both.nc", engine="scipy"),
        xr.open_zarr(tmp_path / "both.zarr", consolidated=False),
    ):
        np.testing.assert_array_equal(again.pr.values, both.pr.values)
    real.close()


def test_augment_has_every_member_of_every_sample_once(real, ensemble):
    both = augment(real, ensemble)
    added = both.isel(time=both.synthetic.values)
    pairs = set(zip(added.realization.values.tolist(), added.time.values.tolist(), strict=True))
    assert len(pairs) == 6 * MEMBERS


def test_augment_keeps_variable_attributes_units_and_statics(real, ensemble):
    both = augment(real, ensemble)
    assert both.pr.attrs == real.pr.attrs
    assert both.pr.dims == real.pr.dims
    assert both.attrs["Conventions"] == real.attrs["Conventions"]
    xr.testing.assert_identical(both.height, real.height)
    assert both.synthetic.dtype == bool


def test_augment_converts_members_to_units_of_data(real, ensemble):
    daily = real.copy()
    daily["pr"] = (real.pr * 24).assign_attrs(real.pr.attrs, units="mm/day")
    both = augment(daily, ensemble)
    assert both.pr.attrs["units"] == "mm/day"
    np.testing.assert_allclose(both.pr[6].values, 24 * ensemble.pr[0, 0].values, rtol=1e-6)


def test_augment_of_lazy_ensemble_is_lazy(real, few, model, ensemble):
    drawn = []

    def watch(field, context):
        drawn.append(field.shape)
        return field

    lazy = sample(few, model, members=MEMBERS, postprocess=[watch])
    drawn.clear()
    both = augment(real, lazy)
    assert both.pr.chunks is not None
    assert drawn == []
    one = both.pr.isel(time=6 + 2).values
    np.testing.assert_array_equal(np.where(one < 0.1, 0, one), ensemble.pr[0, 2].values)


@pytest.mark.parametrize(
    "select",
    [
        lambda ds: ds.wind >= 4,
        "mask",
        "labels",
    ],
)
def test_select_takes_function_mask_or_labels(real, ensemble, select):
    if select == "mask":
        select = real.wind >= 4
    elif select == "labels":
        select = real.time.values[4:]
    both = augment(real, ensemble, select=select)
    added = both.isel(time=both.synthetic.values)
    assert added.sizes["time"] == 2 * MEMBERS
    assert set(added.wind.values) == {4.0, 5.0}


def test_select_ignores_samples_without_members(real, ensemble):
    part = ensemble.isel(time=[0, 5])
    both = augment(real, part, select=real.wind >= 4)
    assert both.sizes["time"] == 6 + MEMBERS
    assert set(both.wind.values[6:]) == {5.0}


@pytest.mark.parametrize(("fraction", "added"), [(0.0, 0), (0.25, 2), (0.5, 6), (0.75, 18)])
def test_fraction_is_share_of_synthetic_samples(real, ensemble, fraction, added):
    both = augment(real, ensemble, fraction=fraction)
    assert int(both.synthetic.sum()) == added
    assert float(both.synthetic.mean()) == pytest.approx(fraction)


def test_choice_of_members_depends_on_seed(real, ensemble):
    def chosen(seed):
        both = augment(real, ensemble, fraction=0.5, seed=seed)
        return list(zip(both.time.values.tolist(), both.realization.values.tolist(), strict=True))

    assert chosen(0) == chosen(0)
    assert chosen(0) != chosen(1)
    assert len(set(chosen(0))) == 12


@pytest.mark.parametrize("seed", range(3))
def test_chosen_samples_rise_within_each_realization(real, ensemble, seed):
    """As training expects the labels of augmented data."""
    added = augment(real, ensemble, fraction=0.7, seed=seed).isel(time=slice(6, None))
    assert (np.diff(added.realization.values) >= 0).all()
    for number in range(MEMBERS):
        assert (
            np.diff(added.time.values[added.realization.values == number]) > np.timedelta64(0)
        ).all()


@pytest.mark.parametrize("fraction", [1.0, -0.1, True, "half"])
def test_fraction_out_of_range_is_refused(real, ensemble, fraction):
    with pytest.raises(ConfigError, match="less than 1"):
        augment(real, ensemble, fraction=fraction)


def test_fraction_error_names_largest_possible_fraction(real, ensemble):
    with pytest.raises(ConfigError, match=r"at most 0\.750, for there are 18 members"):
        augment(real, ensemble, fraction=0.9)


def test_empty_selection_is_refused(real, ensemble):
    with pytest.raises(EmptySelectionError, match="select"):
        augment(real, ensemble, select=real.wind > 100)


def test_select_refuses_labels_without_members(real, ensemble):
    with pytest.raises(MismatchError, match="1 others, the first of them 2018"):
        augment(real, ensemble.isel(time=[0]), select=real.time.values[:2])


def test_select_refuses_mask_of_other_shape(real, ensemble):
    with pytest.raises(MismatchError, match="one value per sample"):
        augment(real, ensemble, select=real.height > 3)


def test_select_takes_a_mask_by_position_and_one_label(real, ensemble):
    mask = np.arange(6) < 2
    for select in (mask, xr.DataArray(mask, dims="time")):
        assert int(augment(real, ensemble, select=select).synthetic.sum()) == 2 * MEMBERS
    first = real.time[0]
    for label in (str(first.values), first.values, first):
        assert int(augment(real, ensemble, select=label).synthetic.sum()) == MEMBERS
    for wrong in (3, 2.5, real.pr):
        with pytest.raises((MismatchError, DataError), match="select"):
            augment(real, ensemble, select=wrong)
    with pytest.raises(MismatchError, match=r"select: .* got 'yesterday'"):
        augment(real, ensemble, select="yesterday")


def test_select_takes_masks_in_lists_and_series_of_pandas(real, ensemble):
    wanted = augment(real, ensemble, select=np.arange(6) < 2)
    series = pd.Series(np.arange(6) < 2, index=real.time.values)
    for select in (list(series), tuple(series), series.tolist(), series, series[::-1], series.array,
                   series.reset_index(drop=True)):  # fmt: skip
        found = augment(real, ensemble, select=select)
        # The history has the time of the call.
        xr.testing.assert_identical(found.assign_attrs(history=wanted.history), wanted)
    # True is no label 1.
    numbered = [one.assign_coords(time=np.arange(6)) for one in (real, ensemble)]
    chosen = augment(*numbered, select=[True, False, False, True, False, False])
    assert set(chosen.time[chosen.synthetic].values) == {0, 3}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ensemble": "ens.zarr"}, "open_store"),
        ({"seed": -1}, "seed: expected an integer >= 0"),
        ({"name": "both"}, "name: expected a catalog"),
        ({"store": "both.nc"}, "both.zarr"),
    ],
)
def test_augment_refuses_wrong_arguments(real, ensemble, options, words):
    with pytest.raises(ConfigError, match=words):
        augment(real, **{"ensemble": ensemble, **options})


def test_augment_takes_a_selected_member(real, ensemble):
    expected = augment(real, ensemble.isel(realization=[1]))
    assert augment(real, ensemble.isel(realization=1)).drop_attrs().equals(expected.drop_attrs())


def test_stacked_samples_are_not_written(real, ensemble, tmp_path):
    sites = {"site": ("time", np.arange(6) % 2), "day": ("time", np.arange(6) // 2)}
    stacked, members = (
        ds.drop_vars("time").assign_coords(sites).set_index(time=["site", "day"])
        for ds in (real, ensemble)
    )
    with pytest.raises(DataError, match="reset_index"):
        augment(stacked, members, store=tmp_path / "both.zarr")
    with pytest.raises(DataError, match="reset_index"):
        members.cvae.to_netcdf(tmp_path / "nc")
    assert not list(tmp_path.iterdir())


def test_augment_refuses_augmented_data_which_it_would_flag_as_real(real, ensemble):
    both = augment(real, ensemble)
    with pytest.raises(MismatchError, match=r"ds\.isel\(time=~ds\.synthetic\)"):
        augment(both, ensemble)
    again = augment(both.isel(time=~both.synthetic), ensemble)
    np.testing.assert_array_equal(again.synthetic, both.synthetic)


def test_augment_refuses_ensemble_of_other_samples(real, ensemble):
    with pytest.raises(MismatchError, match="2 others, the first of them 2018"):
        augment(real.isel(time=slice(0, 4)), ensemble)


def test_augment_refuses_ensemble_on_other_grid(real, ensemble):
    with pytest.raises(MismatchError, match="along 'y'"):
        augment(real, ensemble.isel(y=slice(0, 20)))
    with pytest.raises(MismatchError, match="along 'x'"):
        augment(real, ensemble.assign_coords(x=ensemble.x + 1))
    # Pixels of 50 m: one of them is 1e-5 of a coordinate in metres.
    metres = real.assign_coords(y=5.5e6 + 50.0 * np.arange(48))
    with pytest.raises(MismatchError, match="along 'y'"):
        augment(metres, ensemble.assign_coords(y=metres.y.values + 50.0))


def test_augment_refuses_ensemble_without_sample_dim(real, ensemble):
    with pytest.raises(MismatchError, match="dimension 'time'"):
        augment(real, ensemble.isel(time=0))


def test_augment_refuses_data_without_target(real, ensemble):
    with pytest.raises(DataError, match="got DataArray"):
        augment(real.pr, ensemble)
    with pytest.raises(MissingVariableError, match="pr"):
        augment(real.drop_vars("pr"), ensemble)


def test_augment_refuses_dataset_that_is_not_an_ensemble(real):
    with pytest.raises(MismatchError, match=r"made by xcvae\.sample"):
        augment(real, real)


def test_augment_labels_samples_by_position(real, few, model):
    bare = few.drop_vars("time")
    both = augment(bare, sample(bare, model, members=2).compute())
    np.testing.assert_array_equal(both.time, np.tile(np.arange(6), 3))
    some = sample(bare.isel(time=[2, 3]), model, members=1).compute()
    with pytest.raises(MismatchError, match=r"as many samples as the Dataset, 6, .* got 2"):
        augment(bare, some)


QUICK = {"max_steps": 2, "batch_size": 2, "crop": 24, "validations": 1}


def quick_train(both, **options):
    small = {"channels": [8, 8], "latents": [2, 1]}
    return train(
        both, target="pr", conditions=["pr_coarse"], generator=small, fit=QUICK, progress=False,
        **options,
    )  # fmt: skip


def test_train_excludes_members_of_validation_samples(real, ensemble):
    both = augment(real, ensemble)
    # Two of six storms: their members are neither learned from nor judged by.
    trained = quick_train(both, validation=0.34)
    assert trained.record.samples == 4 * (1 + MEMBERS)
    assert quick_train(both, validation=0).record.samples == 6 * (1 + MEMBERS)
    validation = real.isel(time=[0, 5])
    part = augment(real.isel(time=slice(1, 5)), ensemble.isel(time=slice(1, 5)))
    assert quick_train(part, validation=validation).record.samples == 4 * (1 + MEMBERS)


def test_train_takes_lazy_augmented_data(real, ensemble):
    trained = quick_train(augment(real.chunk(time=2), ensemble.chunk(time=3)), validation=0.34)
    assert trained.record.samples == 4 * (1 + MEMBERS)


def test_sample_refuses_augmented_data(real, ensemble, model):
    with pytest.raises(DataError, match="repeated"):
        sample(augment(real, ensemble), model, members=1)


def test_train_excludes_members_of_validation_samples_that_are_given(real, ensemble):
    """Variants of a storm were trained on, and the storm chose the weights."""
    both, held_back = augment(real, ensemble), real.isel(time=[4, 5])
    validated = both.time.isin(held_back.time)
    training = both.isel(time=~validated | both.synthetic)
    spec = describe(training, target="pr", conditions=["pr_coarse"])
    learned, kept = split(training, spec, held_back)
    assert learned.time.values.tolist() == both.time[~validated].values.tolist()
    assert kept.time.values.tolist() == held_back.time.values.tolist()


def test_validation_samples_are_real(real, ensemble):
    both = augment(real, ensemble)
    spec = describe(both, target="pr", conditions=["pr_coarse"])
    learned, held_back = split(both, spec, 0.34)
    assert (held_back.realization == -1).all()
    assert held_back.sizes["time"] == 2
    assert not set(held_back.time.values) & set(learned.time.values)
    assert learned.sizes["time"] == 4 * (1 + MEMBERS)


@pytest.mark.filterwarnings("ignore:Unable to decode time axis")
@pytest.mark.parametrize("year", [1620, 2001, 2400])
def test_stored_samples_have_their_times_and_the_names_of_bounds(few, tmp_path, year):
    """Also beyond the years of nanoseconds, and where xarray moved the names to the encoding."""
    start = np.datetime64(f"{year}-06-01", "s") + 900 * np.arange(few.sizes["time"])
    edges = np.stack([start, start + 300], axis=-1)
    ds = few.assign_coords(time=start).assign(edges=(("time", "nv"), edges), crs=0)
    place = ds["time"].encoding if year == 2001 else ds["time"].attrs
    place["bounds"] = "edges"
    ds["pr"].encoding["grid_mapping"] = "crs"
    write_samples(ds, tmp_path / "samples.zarr", "time")
    copy = xr.open_zarr(tmp_path / "samples.zarr")
    for name in ("time", "edges"):
        found = [str(one)[:16].replace(" ", "T") for one in copy[name].values.ravel()]
        assert found == [str(one)[:16] for one in ds[name].values.ravel()]
    assert copy["time"].attrs["bounds"] == "edges"
    assert copy["pr"].attrs["grid_mapping"] == "crs"
    assert ("bounds" in ds["time"].attrs) == (year != 2001)

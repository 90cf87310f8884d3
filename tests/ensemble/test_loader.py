"""Fields from a catalog as tensors: each once, with its own conditions, mixed, masked, seeded."""

from __future__ import annotations

import pickle
import threading
import time

import numpy as np
import pytest
import torch
import xarray as xr
from torch.utils.data import DataLoader

import xcvae
from xcvae.ensemble import catalog
from xcvae.ensemble.sample import sample
from xcvae.errors import (
    CatalogError,
    ConfigError,
    DataError,
    MismatchError,
    MissingVariableError,
)
from xcvae.fields.describe import prepare

DAYS, MEMBERS, SIZE = 90, 4, (6, 5)
TIME = np.arange("2000-01-01", "2000-03-31", dtype="datetime64[D]").astype("datetime64[ns]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalog of real days and an ensemble of them: values tell member and day."""
    folder = tmp_path_factory.mktemp("handed over")
    day = np.arange(DAYS, dtype="float32")
    grid = np.ones(SIZE, "float32")
    grid[0, 0] = np.nan
    dims = ("time", "y", "x")
    rain = {"units": "mm h-1", "standard_name": "lwe_precipitation_rate"}
    real = xr.Dataset(
        {
            "pr": (dims, day[:, None, None] * grid, rain),
            "psl": (("time", "lat", "lon"), day[:, None, None] + np.zeros((2, 3)), {"units": "Pa"}),
            "index": ("time", day, {"units": "1"}),
            "height": (("y", "x"), np.arange(30.0).reshape(SIZE), {"units": "m"}),
        },
        {"time": TIME},
    )
    write(real.chunk(time=10), folder, "real")
    numbers = 1000.0 * (1 + np.arange(MEMBERS))[:, None] + day
    members = (numbers[..., None, None] * grid).astype("float32")
    drawn = xr.Dataset(
        {"pr": (("realization", *dims), members * 24, {**rain, "units": "mm/day"})},
        {"time": TIME, "realization": np.arange(MEMBERS)},
    )
    # In another order than the real ones: labels count, not positions.
    backwards = drawn.isel(time=slice(None, None, -1))
    write(backwards.chunk(realization=2, time=8), folder, "drawn")
    return folder


def write(ds, folder, name):
    ds.to_zarr(folder / f"{name}.zarr", consolidated=False, zarr_format=3)
    catalog.append(folder / "c.yaml", name, folder / f"{name}.zarr", {})


def load(folder, name, **options):
    return xcvae.loader(folder / "c.yaml", name, **options)


def numbers(loader):
    """Return the source of each field of an epoch, in order."""
    return np.concatenate([batch["pr"][:, 1, 1].numpy() for batch in loader]).round(2)


@pytest.mark.parametrize(("size", "drop"), [(16, False), (16, True), (7, False), (None, False)])
def test_length_is_the_number_of_batches(folder, size, drop):
    loader = load(folder, {"real": 1, "drawn": 1}, batch_size=size, drop_last=drop)
    assert len(loader) == sum(1 for _ in loader)
    assert len(DataLoader(loader, batch_size=None)) == len(loader)


def test_fields_are_read_one_by_one(folder, monkeypatch):
    loader = load(folder, {"real": 1, "drawn": 1}, conditions=["index"], real="real")
    fields = loader.fields
    assert len(fields) == DAYS * (1 + MEMBERS)
    assert float(fields[7]["pr"][1, 1]) == 7
    one = fields[DAYS + 2 * DAYS + 5]  # the third member, in the order of the store: backwards
    assert float(one["pr"][1, 1]) == pytest.approx(3000 + DAYS - 6, rel=1e-6)
    assert float(one["index"]) == DAYS - 6
    assert bool(one["synthetic"])
    assert one["pr"].shape == SIZE
    assert len(list(fields)) == len(fields)
    with pytest.raises(IndexError):
        fields[len(fields)]
    read = []
    monkeypatch.setattr(xr.DataArray, "compute", _recording(xr.DataArray.compute, read))
    fields[DAYS + 3]
    assert read == [30]  # one map, not a block of them
    sampled = DataLoader(fields, batch_size=8, shuffle=True, generator=torch.Generator())
    assert next(iter(sampled))["pr"].shape == (8, *SIZE)


def _recording(compute, read):
    def recording(self, **options):
        read.append(self.size)
        return compute(self, **options)

    return recording


def test_shares_of_wet_and_heavy_pixels_are_those_of_daily_thresholds(folder):
    shares = load(folder, {"real": 1, "drawn": 1}).shares()
    days = np.arange(DAYS)
    assert shares["real"] == {  # mm h-1, of days: 1 mm and 20 mm a day
        "wet_share": pytest.approx((days * 24 >= 1).mean(), abs=1e-6),
        "heavy_share": pytest.approx((days * 24 >= 20).mean(), abs=1e-6),
    }
    assert shares["drawn"]["heavy_share"] == 1.0


def test_epoch_has_every_member_of_every_day_once(folder):
    loader = load(folder, "drawn")
    found = numbers(loader) / 24
    wanted = 1000.0 * (1 + np.arange(MEMBERS))[:, None] + np.arange(DAYS)
    np.testing.assert_allclose(np.sort(found), wanted.ravel(), rtol=1e-6)
    assert not np.array_equal(found, np.sort(found))
    assert loader.units == {"pr": "mm/day"}
    assert "360 samples per epoch" in repr(loader)
    html = loader._repr_html_()
    for wanted in (
        "pr [mm/day]",
        "360 of the 360 fields of &#x27;drawn&#x27;",
        "for batch in loader",
    ):
        assert wanted in html


def test_batches_are_float32_tensors_of_batch_size(folder):
    batches = list(load(folder, "drawn", batch_size=50))
    assert [len(b["pr"]) for b in batches] == [50] * 7 + [10]
    assert batches[0]["pr"].dtype == torch.float32
    assert batches[0]["pr"].shape == (50, *SIZE)
    assert batches[0]["synthetic"].dtype == torch.bool
    assert [len(b["pr"]) for b in load(folder, "drawn", batch_size=50, drop_last=True)] == [50] * 7


def test_masked_pixels_are_nan(folder):
    for batch in load(folder, "drawn"):
        assert torch.isnan(batch["pr"][:, 0, 0]).all()
        assert torch.isfinite(batch["pr"].flatten(1)[:, 1:]).all()


def test_members_have_conditions_of_their_day(folder):
    loader = load(folder, "drawn", real="real", conditions=["psl", "index", "height"])
    seen = 0
    for batch in loader:
        day = (batch["pr"][:, 1, 1] / 24).round() % 1000
        torch.testing.assert_close(batch["psl"], day[:, None, None].expand(-1, 2, 3))
        torch.testing.assert_close(batch["index"], day)
        assert batch["height"].shape == (len(day), *SIZE)
        assert float(batch["height"][0, 1, 0]) == 5.0
        seen += len(day)
    assert seen == DAYS * MEMBERS
    assert list(batch) == ["pr", "psl", "index", "height", "synthetic"]


@pytest.mark.parametrize(
    ("conditions", "error", "message"),
    [
        (["pr"], ConfigError, "other variables than the target 'pr'"),
        (["index", 1], ConfigError, r"conditions: .* got index, int"),
        (3, ConfigError, "conditions: .* got int"),
        (["index", "time"], MismatchError, "'time', which labels a dim"),
    ],
)
def test_conditions_that_are_no_fields_are_refused(folder, conditions, error, message):
    with pytest.raises(error, match=message):
        load(folder, "drawn", real="real", conditions=conditions)


def test_conditions_may_be_one_name(folder):
    batch = next(iter(load(folder, "drawn", real="real", conditions="index")))
    assert list(batch) == ["pr", "index", "synthetic"]


def test_entries_are_mixed_by_weight_in_units_of_first(folder):
    loader = load(folder, {"real": 2, "drawn": 1}, batch_size=9, conditions=["psl"], real="real")
    assert loader.quotas == (DAYS, DAYS // 2)
    assert loader.units["pr"] == "mm h-1"
    flags, values, days = [], [], []
    for batch in loader:
        flags.append(batch["synthetic"].numpy())
        values.append(batch["pr"][:, 1, 1].numpy().round())
        days.append(batch["psl"][:, 0, 0].numpy())
    flags, values, days = (np.concatenate(each) for each in (flags, values, days))
    assert flags.sum() == DAYS // 2
    np.testing.assert_array_equal(np.sort(values[~flags]), np.arange(DAYS))
    assert len(set(values[flags])) == DAYS // 2
    assert (values[flags] >= 1000).all()
    np.testing.assert_array_equal(values % 1000, days)
    assert 0 < flags[:45].sum() < 45


def test_real_takes_a_dataset(folder):
    part = catalog.open_entry(folder / "c.yaml", "real").isel(time=slice(0, 40)).load()
    with pytest.raises(MismatchError, match="50 others"):
        load(folder, "drawn", real=part, conditions=["psl"])
    # The entry of that name has 90 days.
    assert load(folder, {"real": 1, "drawn": 1}, real=part).quotas == (40, 40)


def test_order_depends_on_seed_and_epoch(folder):
    first = load(folder, "drawn", seed=3)
    one, two = numbers(first), numbers(first)
    assert not np.array_equal(one, two)
    np.testing.assert_array_equal(np.sort(one), np.sort(two))
    again = load(folder, "drawn", seed=3, threads=1)
    np.testing.assert_array_equal(one, numbers(again))
    again.set_epoch(1)
    np.testing.assert_array_equal(two, numbers(again))
    assert not np.array_equal(one, numbers(load(folder, "drawn", seed=4)))


def test_samples_sets_length_of_epoch(folder):
    assert numbers(load(folder, "drawn", samples=100)).size == 100
    twice = numbers(load(folder, "real", samples=2 * DAYS))
    np.testing.assert_array_equal(np.sort(twice), np.repeat(np.arange(DAYS), 2))


# Python 3.12 warns of every fork of a process with threads; torch forks its workers on Linux.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # one core
def test_workers_share_blocks_of_epoch(folder):
    loader = load(folder, "drawn", batch_size=8)
    workers = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="fork")
    once, more = numbers(workers), numbers(workers)
    expected = np.sort(numbers(load(folder, "drawn")))
    np.testing.assert_array_equal(np.sort(once), expected)
    np.testing.assert_array_equal(np.sort(more), expected)
    # New workers count from 0, and yet it is another epoch.
    assert not np.array_equal(once, more)
    loader.set_epoch(7)
    np.testing.assert_array_equal(numbers(workers), numbers(workers))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # one core
def test_epochs_of_workers_depend_on_the_seed_of_the_loader_alone(folder):
    def two_epochs(torch_seed):
        torch.manual_seed(torch_seed)
        loader = load(folder, "drawn", batch_size=8, seed=3)
        workers = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="fork")
        return numbers(workers), numbers(workers)

    first, again = two_epochs(1), two_epochs(2)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(*first)


def test_pickled_loader_yields_same_epoch(folder):
    loader = load(folder, {"real": 1, "drawn": 2}, conditions=["psl"], real="real")
    sent = pickle.loads(pickle.dumps(loader))
    np.testing.assert_array_equal(numbers(sent), numbers(loader))


def test_batch_size_none_yields_single_samples(folder):
    singles = load(folder, "drawn", batch_size=None, conditions=["index"], real="real")
    one = next(iter(singles))
    assert one["pr"].shape == SIZE
    assert one["index"].shape == ()
    batch = next(iter(DataLoader(singles, batch_size=12)))
    assert batch["pr"].shape == (12, *SIZE)
    assert batch["index"].shape == batch["synthetic"].shape == (12,)


def test_closed_iterator_ends_its_threads(folder):
    # Pools of one batch: the reader is far from its end when it is left.
    loader = load(folder, "drawn", batch_size=4)
    loader.pool_bytes = 1
    iterator = iter(loader)
    next(iterator)
    assert any(thread.name == "xcvae-reader" for thread in threading.enumerate())
    iterator.close()
    for _ in range(100):
        left = [t.name for t in threading.enumerate() if t.name.startswith("xcvae-")]
        if not left:
            break
        time.sleep(0.1)
    assert left == []


def test_error_of_reading_thread_is_raised(folder, tmp_path):
    write(xr.open_zarr(folder / "real.zarr", consolidated=False), tmp_path, "gone")
    loader = xcvae.loader(tmp_path / "c.yaml", "gone")
    chunk = next((tmp_path / "gone.zarr" / "pr" / "c").rglob("0"))
    chunk = next(file for file in chunk.parent.rglob("*") if file.is_file())
    chunk.write_bytes(b"not a chunk")
    with pytest.raises(Exception, match=r"(?i)blosc|zstd|decom|chunk|buffer|frame"):
        list(loader)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"name": "drwan"}, CatalogError, "Did you mean 'drawn'"),
        ({"name": {}}, ConfigError, "weights above 0"),
        ({"name": {"drawn": 0.0}}, ConfigError, "weights above 0"),
        ({"name": {"drawn": "1"}}, ConfigError, "weights above 0"),
        ({"name": ["drawn"]}, ConfigError, "weights above 0"),
        ({"name": "drawn", "batch_size": 0}, ConfigError, "batch_size"),
        ({"name": "drawn", "samples": 2.5}, ConfigError, "samples"),
        ({"name": "drawn", "seed": -1}, ConfigError, "seed"),
        ({"name": "drawn", "conditions": ["psl"]}, MismatchError, "real=ds"),
        (
            {"name": "drawn", "conditions": ["pls"], "real": "real"},
            MissingVariableError,
            "Did you mean 'psl'",
        ),
        ({"name": "drawn", "target": "rain"}, MissingVariableError, "rain"),
        ({"name": "drawn", "real": xr.DataArray(0)}, DataError, "got DataArray"),
    ],
)
def test_wrong_arguments_are_refused(folder, options, error, match):
    with pytest.raises(error, match=match):
        load(folder, **options)


def test_loader_of_a_dataset_names_the_catalog(few):
    with pytest.raises(ConfigError, match=r"catalog: .* got a Dataset"):
        xcvae.loader(few, "drawn")


def test_entries_on_different_grids_are_refused(folder, tmp_path):
    real = xr.open_zarr(folder / "real.zarr", consolidated=False)
    write(real, tmp_path, "whole")
    write(real.isel(x=slice(0, 4)).chunk(x=4), tmp_path, "cut")
    with pytest.raises(MismatchError, match=r"grid of pr in 'cut': expected that of 'whole', \(6,"):
        xcvae.loader(tmp_path / "c.yaml", {"whole": 1, "cut": 1})


def test_reversed_grids_are_refused(folder, tmp_path):
    real = xr.open_zarr(folder / "real.zarr", consolidated=False)
    real = real.assign_coords(y=np.arange(6.0), x=np.arange(5.0)).load()
    turned = real.isel(y=slice(None, None, -1))
    members = real[["pr"]].expand_dims(realization=2)
    for name, ds in {"up": real, "down": turned, "drawn": members}.items():
        write(ds.drop_encoding(), tmp_path, name)
    with pytest.raises(MismatchError, match="coordinate 'y' in 'down': expected rising"):
        load(tmp_path, {"up": 1, "down": 1})
    with pytest.raises(MismatchError, match=r"real, coordinate 'y': expected .*'drawn', 0"):
        load(tmp_path, "drawn", real=turned, conditions=["height"])
    assert len(load(tmp_path, "drawn", real=turned, conditions=["index"]))  # no map among them
    with pytest.raises(MismatchError, match="real: expected samples along 'time'"):
        load(tmp_path, "drawn", real=real.rename(time="day"), conditions=["index"])


def test_maps_come_with_rows_first_whatever_the_order_in_the_file(folder):
    real = xr.open_zarr(folder / "real.zarr", consolidated=False).load()
    given = real.transpose("x", "lon", "time", "lat", "y")
    names = ["height", "psl", "index"]
    batches = [next(iter(load(folder, "drawn", real=ds, conditions=names))) for ds in (real, given)]
    assert batches[0]["height"].shape == (16, *SIZE)
    for name in names:
        torch.testing.assert_close(batches[1][name], batches[0][name])


def test_augmented_entry_flags_its_synthetic_samples(few, model, drawn, tmp_path):
    ensemble = xr.open_zarr(drawn / "prior.zarr", consolidated=False)
    coarse = prepare(few, model.spec, need_target=True).pr_coarse
    both = few.assign(pr_coarse=coarse)
    file, store = tmp_path / "c.yaml", tmp_path / "both.zarr"
    augmented = xcvae.augment(both, ensemble, store=store, catalog=file).load()
    for options in ({}, {"model": model}):
        loader = xcvae.loader(file, "both", batch_size=np.int64(5), **options)
        assert loader.batch_size == 5
        assert sum(int(batch["synthetic"].sum()) for batch in loader) == 18
    fields = xcvae.loader(file, "both").fields
    found = [bool(fields[number]["synthetic"]) for number in range(len(fields))]
    assert found == augmented.synthetic.values.tolist()
    # It stands for the real samples that it has.
    catalog.append(file, "prior", drawn / "prior.zarr", {})
    loader = xcvae.loader(file, "prior", real="both", model=model)
    assert {tuple(batch["pr_coarse"].shape[1:]) for batch in loader} == {(4, 3)}


@pytest.fixture(scope="module")
def drawn(few, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    sample(
        few, model, members=3, store=folder / "prior.zarr", catalog=folder / "c.yaml",
        progress=False,
    )  # fmt: skip
    return folder


def test_model_selects_variables_and_normalises(few, model, drawn):
    mixed = {"real": 1, "prior": 1}
    loader = xcvae.loader(drawn / "c.yaml", mixed, real=few, model=model, batch_size=4)
    assert loader.quotas == (6, 6)
    plain = model.scaling.physical
    observed = {round(float(field.sum()), 1) for field in few.pr.values}
    ensemble = xr.open_zarr(drawn / "prior.zarr", consolidated=False).pr
    members = {round(float(field.sum()), 1) for field in ensemble.values.reshape(-1, 48, 36)}
    seen = 0
    for batch in loader:
        assert set(batch) == {"pr", "pr_coarse", "synthetic"}
        assert batch["pr"].max() < 6
        assert batch["pr_coarse"].shape[1:] == (4, 3)
        for field, synthetic in zip(plain(batch["pr"]), batch["synthetic"], strict=True):
            total = float(field.double().sum())
            known = members if synthetic else observed
            assert min(abs(total - one) for one in known) < 1e-3 * total
            seen += 1
        # A real field is that of its condition; a member has the condition of its storm.
        real = ~batch["synthetic"]
        coarse = plain(batch["pr"]).unfold(1, 12, 12).unfold(2, 12, 12).mean((-1, -2))
        torch.testing.assert_close(
            coarse[real], plain(batch["pr_coarse"])[real], rtol=1e-3, atol=1e-3
        )
    assert seen == 12


def test_ensemble_with_model_needs_real_samples(drawn, model):
    with pytest.raises(MismatchError, match="the conditions pr_coarse in it"):
        xcvae.loader(drawn / "c.yaml", "prior", model=model)
    with pytest.raises(MissingVariableError, match="variables that the model was trained with"):
        xcvae.loader(drawn / "c.yaml", "prior", model=model, conditions=["psl"])
    loader = xcvae.loader(drawn / "c.yaml", "prior", model=model, conditions=[])
    assert set(next(iter(loader))) == {"pr", "synthetic"}

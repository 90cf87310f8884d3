"""Labels of samples, and the fingerprint of the data that an ensemble depends on."""

from __future__ import annotations

import cftime
import numpy as np
import pytest
import xarray as xr

from xcvae.ensemble.store.base import differences
from xcvae.fields.describe import describe, prepare
from xcvae.fields.samples import fingerprint, labels_of


def test_labels_of_times_are_iso_with_seconds():
    ds = xr.Dataset(coords={"time": np.array(["2018-05-10T04:10", "2018-05-11"], "M8[ns]")})
    assert labels_of(ds, "time") == ["2018-05-10T04:10:00", "2018-05-11T00:00:00"]


def test_labels_do_not_depend_on_the_resolution_of_the_times():
    times = np.array(["2018-05-10", "2018-05-11"], "M8[D]")
    texts = [
        labels_of(xr.Dataset(coords={"time": times.astype(f"M8[{unit}]")}), "time")
        for unit in ("s", "ms", "ns")
    ]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["a", "b"], ["a", "b"]),
        ([3, 10], ["3", "10"]),
        ([cftime.DatetimeNoLeap(2001, 2, 3, 4)], ["2001-02-03T04:00:00"]),
    ],
)
def test_labels_of_other_types_are_text(values, labels):
    assert labels_of(xr.Dataset(coords={"storm": values}), "storm") == labels


def test_labels_without_coordinate_are_positions():
    assert labels_of(xr.Dataset({"pr": ("storm", [5.0, 6.0])}), "storm") == ["0", "1"]


@pytest.fixture(scope="module")
def data(few):
    height = (("y", "x"), np.ones((48, 36)), {"units": "m"})
    return few.assign(height=height).isel(time=slice(0, 3))


@pytest.fixture(scope="module")
def printed(data):
    spec = describe(data, target="pr", statics=["height"], coarsen=12)

    def of(ds, *, target_values=True):
        prepared = prepare(ds, spec, need_target=True)
        return fingerprint(prepared, spec, target_values=target_values)

    return of


def changed(ds, **values):
    new = ds.copy(deep=True)
    for name, value in values.items():
        new[name].values[..., 0, 0] = value
    return new


def test_fingerprint_is_the_same_in_memory_and_lazy(data, printed):
    assert printed(data) == printed(data.copy(deep=True)) == printed(data.chunk({"time": 1}))


def test_fingerprint_changes_with_every_input(data, printed):
    later = data.assign_coords(time=data.time + np.timedelta64(1, "h"))
    moved = data.assign_coords(x=data.x + 0.001)
    others = [data, later, moved, changed(data, height=5.0), changed(data, pr=5.0)]
    assert len({printed(ds) for ds in others}) == len(others)


def test_fingerprint_without_target_values_depends_on_mask_and_condition(data, printed):
    # Two pixels of one block exchanged: the block means, and so the condition, stay.
    swapped = data.copy(deep=True)
    swapped.pr.values[:, 0, :2] = [1.0, 3.0]
    original = swapped.copy(deep=True)
    swapped.pr.values[:, 0, :2] = [3.0, 1.0]
    assert printed(swapped) != printed(original)
    assert printed(swapped, target_values=False) == printed(original, target_values=False)
    masked = [swapped.copy(deep=True) for _ in range(2)]
    masked[0].pr.values[:, 0, 0] = np.nan
    masked[1].pr.values[:, 0, 1] = np.nan
    prints = [printed(ds, target_values=False) for ds in (swapped, *masked)]
    assert len(set(prints)) == 3


def test_differences_name_keys_of_one_side_only():
    assert differences({"a": 1, "b": 2}, {"a": 1, "c": 3}) == [
        "c (stored: None, requested: 3)", "b (stored: 2, requested: None)",
    ]  # fmt: skip


def test_fingerprint_depends_on_the_sample_that_is_masked(storms, model):
    many = xr.concat([storms] * 4, "time", join="override")
    many = many.assign_coords(time=np.arange(many.sizes["time"]))
    masked = []
    for sample in (1, 100):
        one = many.copy(deep=True)
        one.pr.values[sample, :20] = np.nan
        masked.append(fingerprint(one, model.spec, target_values=False))
    assert masked[0] != masked[1]

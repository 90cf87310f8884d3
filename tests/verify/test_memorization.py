"""Distances of samples and draws from training fields, on real radar."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from xcvae.fields.record import Thumbnails
from xcvae.fields.samples import label_codes
from xcvae.verify.diagnosis.memorization import Neighbours, neighbours_of


def thumbnails_of(ds: xr.Dataset) -> Thumbnails:
    return Thumbnails.of_field(ds.pr, "time", 0.1)


def compared(ds: xr.Dataset, trained: Thumbnails, members: np.ndarray | None = None) -> Neighbours:
    some = ds.isel(time=np.linspace(0, ds.sizes["time"] - 1, 24).astype(int))
    observed = some.pr.values
    drawn = np.roll(observed, 7, axis=0)[None] if members is None else members
    return neighbours_of(drawn, observed, label_codes(ds, "time"), trained, 0.1)


@pytest.fixture(scope="module")
def test_days(radar: xr.Dataset) -> xr.Dataset:
    return radar.isel(time=radar.split.values == 2)


def test_neighbours_of_other_days_are_at_the_usual_distance(
    train_radar: xr.Dataset, test_days: xr.Dataset
) -> None:
    found = compared(test_days, thumbnails_of(train_radar))
    assert (found.same_labels, found.copies, found.labels_known) == (0.0, 0.0, 1.0)
    assert found.observed > 0.75 * found.usual
    assert 0.7 < found.drawn < 1.4


def test_neighbours_of_a_random_split_are_near(radar: xr.Dataset) -> None:
    chosen = np.random.default_rng(0).random(radar.sizes["time"]) < 0.2
    found = compared(radar.isel(time=chosen), thumbnails_of(radar.isel(time=~chosen)))
    assert (found.same_labels, found.copies) == (0.0, 0.0)
    assert found.observed < 0.65 * found.usual


def test_neighbours_find_training_samples_and_labels(train_radar: xr.Dataset) -> None:
    found = compared(train_radar, thumbnails_of(train_radar))
    assert (found.same_labels, found.copies) == (1.0, 1.0)
    assert np.isnan(found.drawn)  # nothing to compare draws with


def test_neighbours_find_draws_from_the_record(
    train_radar: xr.Dataset, test_days: xr.Dataset
) -> None:
    random = np.random.default_rng(0)
    fields = train_radar.pr.values[random.integers(0, train_radar.sizes["time"], (3, 24))]
    exact = compared(test_days, thumbnails_of(train_radar), fields)
    assert exact.drawn_copies > 0.6  # some of the training frames have little rain
    assert exact.drawn < 0.1
    noisy = compared(
        test_days, thumbnails_of(train_radar), fields * random.uniform(0.5, 1.5, fields.shape)
    )
    assert noisy.drawn < 0.3


def test_neighbours_of_dry_samples_are_unknown(
    train_radar: xr.Dataset, test_days: xr.Dataset
) -> None:
    dry = test_days.assign(pr=0.0 * test_days.pr)
    found = compared(dry, thumbnails_of(train_radar))
    assert found.rainy == 0
    assert np.isnan([found.copies, found.observed, found.drawn]).all()
    assert found.same_labels == 0.0

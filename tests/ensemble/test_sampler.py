"""The sampler: an array whose parts are drawn on access, also in other processes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy

from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sampler import EnsembleSampler
from xcvae.ensemble.store.base import EnsembleStore, Region


class Foreign:
    """A post-processor of another installed package."""

    __module__ = "scipy.foreign"

    def __call__(self, field, context):
        return field


@pytest.fixture(scope="module")
def sampler(few, model):
    return EnsembleSampler.prepare(few, model, SampleRequest(members=3, seed=3))


@pytest.fixture(scope="module")
def values(sampler):
    return sampler[:, :, :, :]


def test_sampler_is_like_an_array(sampler, few):
    assert sampler.shape == (3, *few.pr.shape)
    assert sampler.ndim == 4
    assert sampler.dtype == "float32"


def test_item_equals_that_of_the_whole(sampler, values):
    key = [2, 0], 3, slice(5, 9), -1
    np.testing.assert_array_equal(sampler[key], values[[2, 0]][:, 3, 5:9, -1])


def test_subset_has_the_data_of_its_samples_only_and_draws_the_same_values(sampler, values):
    region = Region(0, (1, 3), (2, 5))
    subset = sampler.subset(region)
    assert subset.labels == sampler.labels[2:5]
    assert subset.prepared.sizes["time"] == 3
    drawn, stats = subset.draw_region(region)
    np.testing.assert_array_equal(drawn, values[1:3, 2:5])
    assert stats["rejected"] == 0
    whole, same = sampler.draw_region(region)
    np.testing.assert_array_equal(whole, drawn)
    assert same == stats


def test_subset_of_a_subset_keeps_the_positions_of_the_whole(sampler, values):
    first, second = Region(0, (0, 1), (1, 5)), Region(1, (0, 1), (3, 4))
    nested = sampler.subset(first).subset(second)
    np.testing.assert_array_equal(nested.draw_region(second)[0], values[:1, 3:4])


def test_pickled_subset_draws_the_same_values(sampler, values):
    region = Region(0, (0, 2), (4, 6))
    subset = pickle.loads(pickle.dumps(sampler.subset(region)))
    np.testing.assert_array_equal(subset.draw_region(region)[0], values[:2, 4:6])


def test_request_is_resolved_and_leaves_the_store_at_home(few, model, tmp_path):
    store = EnsembleStore.of(tmp_path / "e.zarr")
    request = SampleRequest(store=store, catalog=tmp_path / "c.yaml", name="e", tile={"y": 16})
    resolved = EnsembleSampler.prepare(few, model, request).request
    assert (resolved.store, resolved.catalog, resolved.name) == (None, None, None)
    assert resolved.device == "cpu"
    assert resolved.tile == {"y": 16, "x": 36}
    assert resolved.chunks == {"realization": 16, "time": 6}
    assert [type(one).__name__ for one in resolved.postprocess] == ["Threshold"]


def test_environment_has_the_versions_of_the_packages_of_postprocessors(few, model):
    request = SampleRequest(members=1, postprocess=[Foreign()])
    found = EnsembleSampler.prepare(few, model, request).environment()
    assert found["scipy version"] == scipy.__version__
    assert {"xcvae version", "numpy version", "torch version"} <= set(found)


@pytest.mark.parametrize(("mode", "spread"), [("prior", 1.0), ("posterior", 0.5)])
def test_spread_is_the_default_of_the_mode(few, model, mode, spread):
    sampler = EnsembleSampler.prepare(few, model, SampleRequest(mode=mode))
    assert sampler.spread == spread


def test_with_spread_replaces_a_requested_diversity(few, model):
    request = SampleRequest(mode="posterior", diversity=0.2, members=2)
    sampler = EnsembleSampler.prepare(few, model, request).with_spread(0.25)
    assert (sampler.spread, sampler.request.diversity) == (0.25, None)

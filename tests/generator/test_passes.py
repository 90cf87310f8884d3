"""Passes of a fixed size, and what happens when a device has no room for one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xcvae.ensemble.sampler import inputs_of
from xcvae.errors import OutOfMemoryError
from xcvae.fields.samples import labels_of
from xcvae.generator.sampler import pass_size
from xcvae.generator.tiling import WholeDomain


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_pass_is_as_large_as_the_maps_allow_and_never_empty(device):
    sizes = [pass_size(device, (side, side)) for side in (8, 128, 256, 1024, 2**14)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1] == 1
    assert all(size & (size - 1) == 0 for size in sizes)


@pytest.fixture
def draw(tiny_model, test_radar):
    prepared = inputs_of(test_radar.isel(time=slice(2)), tiny_model.spec, "prior")
    batch = tiny_model.batches(prepared).load(slice(None))
    return lambda **how: tiny_model.draw(
        batch, seed=0, labels=["a", "b"], realizations=[0, 1, 2], mode="prior", **how
    )


def crowded(monkeypatch, times):
    """A device that has no room for a pass, so many times."""
    real, tried = WholeDomain.draw, []

    def lacking(*given):
        tried.append(given)
        if len(tried) <= times:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")
        return real(*given)

    monkeypatch.setattr(WholeDomain, "draw", lacking)
    return tried


def test_memory_that_was_lacking_once_costs_nothing(draw, monkeypatch):
    whole = draw()
    tried = crowded(monkeypatch, times=1)
    np.testing.assert_array_equal(draw(), whole)
    assert len(tried) == 2


def test_memory_that_is_lacking_says_what_to_do(draw, monkeypatch):
    tried = crowded(monkeypatch, times=2)
    with pytest.raises(
        OutOfMemoryError, match=r"memory for maps of 156 by 132 pixels, got CUDA ou"
    ):
        draw()
    assert len(tried) == 2
    crowded(monkeypatch, times=2)
    with pytest.raises(MemoryError, match=r"tile=\{'y': 256, 'x': 256\}"):
        draw()


@pytest.mark.parametrize("how", [{"mode": "prior"}, {"mode": "posterior", "spread": 0.6}])
@pytest.mark.parametrize("together", [1, 3, 7])
def test_batches_of_any_size_in_any_order_are_the_same_bit_by_bit(
    tiny_model, test_radar, how, together
):
    prepared = inputs_of(test_radar.isel(time=slice(3)), tiny_model.spec, "posterior")
    labels = labels_of(prepared, "time")

    def draw(samples, realizations):
        batch = tiny_model.batches(prepared.isel(time=samples)).load(slice(None))
        named = [labels[i] for i in samples]
        return tiny_model.draw(batch, seed=3, labels=named, realizations=realizations, **how)

    whole = draw([0, 1, 2], range(8))
    order = np.random.default_rng(together).permutation(8)
    for first in range(0, 8, together):
        some = order[first : first + together]
        np.testing.assert_array_equal(draw([2, 0, 1], some), whole[some][:, [2, 0, 1]])
    np.testing.assert_array_equal(draw([1], order[:together]), whole[order[:together]][:, [1]])

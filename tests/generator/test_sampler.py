"""The field sampler: draw batches of a fixed size, copies to the host, and lack of memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xcvae.ensemble.sampler import inputs_of
from xcvae.errors import OutOfMemoryError
from xcvae.fields.samples import labels_of
from xcvae.generator.sampler import HostCopy, draw_batch_size


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_draw_batch_size_shrinks_with_the_maps_to_one(device):
    sizes = [draw_batch_size(device, (side, side)) for side in (8, 128, 256, 1024, 2**14)]
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


@pytest.fixture
def lacking(tiny_model):
    """Let the network run out of memory the given number of times; return the attempts."""
    handles = []

    def fail(times):
        attempts = []

        def hook(*_):
            attempts.append(1)
            if len(attempts) <= times:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to get 2 GiB.\nMore")

        # The head runs once per draw batch, and one batch is enough for these draws.
        handles.append(tiny_model.network.head.register_forward_pre_hook(hook))
        return attempts

    yield fail
    for handle in handles:
        handle.remove()


def test_draw_repeats_after_one_out_of_memory_error(draw, lacking):
    expected = draw()
    attempts = lacking(times=1)
    np.testing.assert_array_equal(draw(), expected)
    assert len(attempts) == 2


def test_draw_explains_repeated_out_of_memory_errors(draw, lacking):
    attempts = lacking(times=2)
    message = r"memory for maps of 156 by 132 pixels, got CUDA ou.*tile=\{'y': 256, 'x': 256\}"
    with pytest.raises(OutOfMemoryError, match=message) as refused:
        draw()
    assert isinstance(refused.value, MemoryError)
    assert len(attempts) == 2


@pytest.mark.parametrize("asynchronous", [False, True])
def test_host_copy_writes_every_field_to_its_place(asynchronous):
    """Also fields whose tensor is reused before they are written."""
    out = np.full((2, 3, 4, 4), np.nan, np.float32)
    host_copy = HostCopy(torch.device("cpu"), asynchronous=asynchronous)
    rows, columns = slice(0, 2), slice(1, 4)
    fields = torch.empty(3, 2, 3)
    for member in range(2):
        fields.copy_(torch.arange(18.0).reshape(3, 2, 3) + 100 * member)
        host_copy.submit(fields, out, [(member, sample, rows, columns) for sample in (2, 0, 1)])
        # Asynchronous copies are written at the next call: the device goes on meanwhile.
        assert np.isnan(out[member]).all() == asynchronous
        fields.fill_(-1)
    host_copy.flush()
    host_copy.flush()
    expected = np.arange(18.0).reshape(3, 2, 3)[[1, 2, 0]]
    np.testing.assert_array_equal(out[..., rows, columns], [expected, expected + 100])
    assert np.isnan(out[..., 2:, :]).all()


@pytest.mark.parametrize("how", [{"mode": "prior"}, {"mode": "posterior", "spread": 0.6}])
@pytest.mark.parametrize("together", [1, 3, 7])
def test_draw_does_not_depend_on_batch_size_or_order(tiny_model, test_radar, how, together):
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

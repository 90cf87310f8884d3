"""The field sampler: draw batches of a fixed size, copies to the host, and lack of memory."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from xcvae.ensemble.sampler import inputs_of
from xcvae.errors import OutOfMemoryError
from xcvae.fields import batches
from xcvae.fields.samples import labels_of
from xcvae.generator import sampler, tiling
from xcvae.generator.noise import Address, maps
from xcvae.generator.sampler import FieldSampler, HostCopy, draw_batch_size
from xcvae.generator.tiling import DrawBatch

from ..support.waits import META, Waits


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


class Stream:
    """Stream of a GPU that is not there; counts the waits for it."""

    waits = 0

    def synchronize(self):
        self.waits += 1


@pytest.mark.parametrize("posterior", [False, True])
def test_draws_on_a_gpu_wait_for_it_once_at_the_end(tiny_model, test_radar, posterior, monkeypatch):
    """Copies that block, after a pass was launched, would stop the host until the pass is done."""
    mode = "posterior" if posterior else "prior"
    prepared = inputs_of(test_radar, tiny_model.spec, mode)
    batch = tiny_model.batches(prepared).load(slice(None))
    network, stream = copy.deepcopy(tiny_model.network).to(META), Stream()

    def to_device(tensor, _):
        return tensor.to(META, non_blocking=True)

    for module in (batches, maps, sampler):
        monkeypatch.setattr(module, "to_device", to_device)
    monkeypatch.setattr(sampler, "_host_maps", lambda shape, _: torch.empty(*shape))
    monkeypatch.setattr(tiling, "autocast", lambda _: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: stream)
    addresses = [[Address(0, str(s), m, mode) for s in range(len(batch))] for m in range(16)]
    options = DrawBatch((), [0.0, 0.5, 1.0, 1.0] if posterior else None, 1.0, META)
    drawing = FieldSampler(network, tiny_model.scaling, META)
    domain = drawing._domain(batch, None, posterior=posterior, threads=1)
    limits = torch.full((len(batch),), 50.0, dtype=torch.float64)
    with Waits() as waits:
        drawing._draw_whole(domain, batch, addresses, options, limits)
    assert waits.found == []
    assert stream.waits == 1


def test_host_copy_waits_for_the_stream_that_copies(monkeypatch):
    """The GPU of the fields need not be the current one of the thread."""
    recorded = []

    class Event:
        def record(self, stream=None):
            recorded.append(stream)

        def synchronize(self):
            pass

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    host_copy = HostCopy(torch.device("cpu"), asynchronous=True)
    host_copy.on_gpu = True
    monkeypatch.setattr(torch, "empty", lambda shape, **_: torch.zeros(shape))
    host_copy.submit(torch.zeros(1, 2, 2), np.empty((1, 1, 2, 2), np.float32), [(0, 0, ...)])
    assert recorded == ["stream of cpu"]


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

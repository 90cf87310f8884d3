"""A GPU draws and trains what the CPU does. Every test here needs a GPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import xcvae
from xcvae.ensemble.sampler import inputs_of
from xcvae.errors import OutOfMemoryError
from xcvae.generator.device import placed
from xcvae.generator.model import Model
from xcvae.generator.noise import backend
from xcvae.generator.sampler import HostCopy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    # Of the compilers themselves: torch 2.11 warns of what it imports, and of what it looks at.
    pytest.mark.filterwarnings("ignore:::torch"),
    pytest.mark.filterwarnings("ignore:::triton"),
]
CUDA = torch.device("cuda")


@pytest.fixture
def path(tiny_model, tmp_path):
    """Return the file of a copy of the tiny model, which was trained on the GPU."""
    path = tmp_path / "copy.xcvae"
    path.write_bytes(tiny_model.to_bytes())
    return path


@pytest.fixture
def on_cpu(path):
    return xcvae.load(path)


@pytest.fixture
def on_gpu(path):
    return xcvae.load(path).to("cuda")


def batch_of(model: Model, ds):
    return model.batches(inputs_of(ds, model.spec, "posterior")).load(slice(None))


@pytest.mark.parametrize("mode", ["prior", "posterior"])
def test_members_are_those_of_the_cpu_up_to_precision(on_cpu, on_gpu, test_radar, mode):
    batch = batch_of(on_cpu, test_radar.isel(time=slice(2)))
    options = {"seed": 0, "labels": ["a", "b"], "realizations": range(3), "mode": mode}
    expected = on_cpu.draw(batch, spread=0.5, **options)
    made = on_gpu.draw(batch, spread=0.5, **options)
    scale = on_cpu.scaling.target
    normal = [np.log1p(fields / scale.eps) / scale.divisor for fields in (made, expected)]
    # A GPU computes in bfloat16, which keeps 8 bits; another storm would differ by about 1.
    assert np.quantile(np.abs(normal[0] - normal[1]), 0.99) < 0.05
    assert abs(float(made.mean()) / float(expected.mean()) - 1) < 0.02


def test_network_in_float32_equals_that_of_the_cpu(on_cpu, on_gpu, test_radar):
    batch = batch_of(on_cpu, test_radar.isel(time=slice(2)))
    noise = on_cpu.network.noise(len(batch), batch.c, torch.Generator().manual_seed(0))
    previous = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.inference_mode():
            expected = on_cpu.network(batch.c, batch.pooled, noise).output
            own = batch.to(CUDA)
            made = on_gpu.network(own.c, own.pooled, [n.to(CUDA) for n in noise]).output
    finally:
        torch.backends.cudnn.allow_tf32 = previous
    torch.testing.assert_close(made.cpu(), expected, rtol=1e-3, atol=1e-3)


def test_members_on_a_gpu_do_not_depend_on_what_is_drawn_with_them(on_gpu, test_radar):
    whole = on_gpu.draw(
        batch_of(on_gpu, test_radar.isel(time=slice(2))),
        seed=0, labels=["a", "b"], realizations=range(5), mode="prior",
    )  # fmt: skip
    alone = on_gpu.draw(
        batch_of(on_gpu, test_radar.isel(time=[1])),
        seed=0, labels=["b"], realizations=[4], mode="prior",
    )  # fmt: skip
    np.testing.assert_array_equal(alone[0, 0], whole[4, 1])


@pytest.mark.parametrize(("mode", "spread"), [("prior", 1.0), ("posterior", 0.5)])
def test_replayed_members_equal_those_of_single_launches(
    on_gpu, test_radar, mode, spread, monkeypatch
):
    batch = batch_of(on_gpu, test_radar.isel(time=slice(3)))

    def draw(seed):
        return on_gpu.draw(
            batch, seed=seed, labels=list("abc"), realizations=range(30), mode=mode, spread=spread
        )

    replayed = [draw(seed) for seed in (0, 1, 0)]
    assert all(one is not None for one in on_gpu._sampler().replays._recordings.values())
    monkeypatch.setattr(Model, "_sampler", without_replays(Model._sampler))
    launched = [draw(seed) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(replayed, launched)
    assert not np.array_equal(replayed[0], replayed[1])


def test_a_model_for_another_factor_leaves_recordings_valid(test_radar):
    """Both share the weights, which stay where they are."""
    # Cells of 12 km, which become pixels of 3 and 6: the model is for 1 to 8.
    model, ds = xcvae.load("rain-radar"), test_radar[["pr_coarse"]].isel(time=slice(2))

    def drawn(factor):
        return xcvae.sample(ds, model, factor=factor, members=20, device="cuda", progress=False)

    first = drawn(4).load()
    lazy = drawn(4)
    drawn(2).load()
    np.testing.assert_array_equal(lazy.pr_coarse, first.pr_coarse)
    model.to("cpu")
    model.to("cuda")
    np.testing.assert_array_equal(drawn(4).pr_coarse, first.pr_coarse)


def without_replays(sampler_of):
    return lambda model, *args: dataclasses.replace(sampler_of(model, *args), replays=None)


def test_noise_is_made_by_the_triton_kernel():
    pytest.importorskip("triton")
    assert backend(CUDA) == "triton"


def test_host_copy_overlaps_and_loses_nothing():
    """Forty copies queue up behind slow work on the device; each arrives at its place."""
    copy, out = HostCopy(CUDA), np.empty((40, 2, 64, 64), np.float32)
    assert copy.asynchronous
    work = torch.randn(2048, 2048, device=CUDA)
    for number in range(40):
        slow = (work @ work).sum() * 0
        fields = torch.full((2, 64, 64), float(number), device=CUDA) + slow
        copy.submit(fields, out, [(number, k, slice(None), slice(None)) for k in range(2)])
    copy.flush()
    np.testing.assert_array_equal(out, np.arange(40.0)[:, None, None, None] + np.zeros(out.shape))


def test_draw_explains_a_device_without_room(on_gpu, test_radar):
    """All memory but a little is taken: the message says what fits."""
    batch = batch_of(on_gpu, test_radar.isel(time=[0]))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(max(0, free - 2**26), dtype=torch.uint8, device=CUDA)
    try:
        with pytest.raises(OutOfMemoryError, match="tile="):
            on_gpu.draw(batch, seed=0, labels=["a"], realizations=range(64), mode="prior")
    finally:
        del taken
        torch.cuda.empty_cache()
    on_gpu.draw(batch, seed=0, labels=["a"], realizations=range(2), mode="prior")


def test_compiled_network_equals_the_eager_one(on_gpu, test_radar):
    pytest.importorskip("triton")
    batch = batch_of(on_gpu, test_radar.isel(time=slice(2))).to(CUDA)
    network = placed(on_gpu.network, CUDA)
    noise = network.noise(len(batch), batch.c)
    with torch.inference_mode():
        expected = network(batch.c, batch.pooled, noise).output
        made = torch.compile(network, dynamic=False)(batch.c, batch.pooled, noise).output
    torch.testing.assert_close(made, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("compile_", [False, True])
def test_training_on_a_gpu_lowers_the_loss_and_writes_a_model(train_radar, tmp_path, compile_):
    if compile_:
        pytest.importorskip("triton")
    model = xcvae.train(
        train_radar, target="pr", conditions=["pr_coarse"], device="cuda", progress=False,
        generator={"channels": [24, 24, 24, 16], "latents": [4, 4, 2, 2]},
        fit={"max_steps": 60, "batch_size": 8, "crop": 48, "validations": 3, "compile": compile_},
        path=tmp_path / "gpu.xcvae",
    )  # fmt: skip
    losses = [row["loss"] for row in model.training["history"]]
    assert losses[-1] < losses[0]
    assert xcvae.load(tmp_path / "gpu.xcvae").sha256 == model.sha256

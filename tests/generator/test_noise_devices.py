"""NumPy, torch and Triton, on the host and on a GPU, give the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from xcvae.generator.noise import Address, Window, backend, normal_maps
from xcvae.generator.noise.address import address_words
from xcvae.generator.noise.maps import _kernel
from xcvae.generator.noise.philox_numpy import philox
from xcvae.generator.noise.philox_torch import tensor_normals, tensor_philox

ADDRESSES = [Address(seed, "a storm", 2**32 - 1 - seed, "prior") for seed in range(5)]
WINDOWS = [
    Window(0, (8, 5, 5)),
    Window(5, (1, 78, 66)),
    Window(2, (3, 10, 9), (29, 2**31 + 3)),
    Window(1, (2, 1, 1), (2**32 - 1, 0)),
]
CPU = torch.device("cpu")
HOST = normal_maps(ADDRESSES, WINDOWS, device=CPU)
WORDS = torch.from_numpy(address_words(ADDRESSES).astype("int64"))


def test_tensor_philox_equals_philox():
    random = np.random.default_rng(0)
    x, y = random.integers(0, 2**32, (2, 2, 1, 1000), np.uint32)
    offset, key = random.integers(0, 2**32, (2, 2, 7, 1), np.uint32)
    even, odd = philox(x, y, offset=offset, key=key)
    wide = [torch.from_numpy(a.astype("int64")) for a in (x, y, offset, key)]
    x_, y_, offset_, key_ = wide
    counter = (x_[0], y_[0] ^ offset_[0], x_[1], y_[1] ^ offset_[1])
    words = tensor_philox(counter, (key_[0], key_[1]))
    for made, expected in zip(words, (even[0], odd[0], even[1], odd[1]), strict=True):
        np.testing.assert_array_equal(made.numpy(), expected)


@pytest.mark.parametrize("which", range(len(WINDOWS)))
def test_tensor_normals_equal_numpy(which):
    assert torch.equal(tensor_normals(WORDS, WINDOWS[which]), HOST[which])


def test_tensor_normals_trace_as_one_graph():
    """By the compiler's front end; its code generator is tested on a GPU."""
    traced = torch.compile(
        lambda words: [tensor_normals(words, w) for w in WINDOWS], backend="eager", fullgraph=True
    )
    for made, expected in zip(traced(WORDS), HOST, strict=True):
        assert torch.equal(made, expected)


def test_triton_kernel_equals_numpy_in_the_interpreter():
    """Triton's interpreter runs the kernel on the host, operation by operation."""
    pytest.importorskip("triton")
    code = (
        "import torch; from tests_of_noise import WINDOWS, WORDS, HOST;"
        "from xcvae.generator.noise.philox_triton import fused_normals;"
        "assert all(torch.equal(fused_normals(WORDS, w), h) for w, h in zip(WINDOWS, HOST));"
        "from xcvae.generator.noise.maps import _kernel;"
        "assert _kernel(torch.device('cpu')) is fused_normals"
    )
    load = (
        "import importlib.util as u, sys;"
        f"s = u.spec_from_file_location('tests_of_noise', {__file__!r});"
        "m = u.module_from_spec(s); sys.modules[s.name] = m; s.loader.exec_module(m);"
    )
    subprocess.run(
        [sys.executable, "-c", load + code],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=True,
        timeout=600,
    )


def test_kernel_is_not_used_where_triton_cannot_run_it():
    assert _kernel(CPU) is None


def test_lack_of_memory_says_nothing_about_the_kernel(monkeypatch):
    """Else the slow way would be taken for good."""

    def lacking(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    kernel = ModuleType("philox_triton")
    kernel.fused_normals = lacking
    monkeypatch.setitem(sys.modules, "xcvae.generator.noise.philox_triton", kernel)
    device = torch.device("meta", 7)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        _kernel(device)
    kernel.fused_normals = tensor_normals
    monkeypatch.setattr(torch, "equal", lambda *_: True)  # there are no values
    assert _kernel(device) is tensor_normals


def test_backend_of_each_device():
    assert backend(CPU) == "numpy"
    # Any other device than a GPU takes the slow way through torch.
    meta = torch.device("meta")
    assert backend(meta) == "torch"
    maps = normal_maps(ADDRESSES, WINDOWS, device=meta)
    assert [tuple(values.shape) for values in maps] == [(5, *w.shape) for w in WINDOWS]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
class TestGpu:
    device = torch.device("cuda")

    def test_normal_maps_equal_those_of_the_host(self):
        made = normal_maps(ADDRESSES, WINDOWS, device=self.device)
        for values, expected in zip(made, HOST, strict=True):
            assert torch.equal(values.cpu(), expected)

    def test_tensor_normals_equal_those_of_the_host(self):
        for window, expected in zip(WINDOWS, HOST, strict=True):
            assert torch.equal(tensor_normals(WORDS.to(self.device), window).cpu(), expected)

    def test_backend_is_triton(self):
        pytest.importorskip("triton")
        assert backend(self.device) == "triton"

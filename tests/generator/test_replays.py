"""Recordings of draws on a GPU, with stand-ins on a CPU: when they are made and compiled."""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import xcvae
from xcvae.generator import replays
from xcvae.generator.device import compiled
from xcvae.generator.network.ladder import Ladder
from xcvae.generator.noise import Window
from xcvae.generator.replays import Replays


class Made:
    """Replays that record nothing."""

    def __init__(self, network, *, compile):
        self.network, self.compile = network, compile


@pytest.fixture
def on_gpu(tiny_model, monkeypatch):
    """Return the model as if it were on a GPU."""
    model = xcvae.load(tiny_model.path)
    model._placement.device = torch.device("cuda")
    monkeypatch.setattr(replays, "Replays", Made)
    for variable in ("XCVAE_PRECISION", "XCVAE_COMPILE"):
        monkeypatch.delenv(variable, raising=False)
    return model


def recordings(model):
    return model._sampler().replays


def test_recordings_are_those_of_the_settings_of_a_draw(on_gpu, monkeypatch):
    """A process may change its precision between draws, and a store says which one it has."""
    first = recordings(on_gpu)
    assert recordings(on_gpu) is first
    monkeypatch.setenv("XCVAE_PRECISION", "float32")
    second = recordings(on_gpu)
    assert second is not first
    assert not second.compile
    monkeypatch.setenv("XCVAE_COMPILE", "1")
    assert recordings(on_gpu).compile
    with on_gpu.replays.uncompiled():
        assert not recordings(on_gpu).compile
    on_gpu._placement.moves += 1
    assert recordings(on_gpu) is not second


def test_a_model_on_a_cpu_has_none(tiny_model):
    assert recordings(tiny_model) is None


def test_models_of_other_names_and_tasks_share_recordings(on_gpu):
    """A task of a worker brings the model anew: recording takes longer than drawing."""
    own = on_gpu.rename(pr="rain")
    assert recordings(own) is recordings(on_gpu)
    content = pickle.dumps(xcvae.load(on_gpu.path).rename(pr="rain"))
    one, other = (pickle.loads(content) for _ in range(2))
    assert one.spec.target == other.spec.target == "rain"
    assert one.replays is other.replays


def test_tasks_share_a_model_of_any_factor(any_factor_model):
    rain = xcvae.tutorial.open_dataset("radklim")[["pr"]].isel(time=[0], y=slice(48), x=slice(48))
    contents = []
    for factor in (2, 4):
        _, own = any_factor_model.for_data(rain, factor, observed=True)
        contents.append(pickle.dumps(own))
    one, again = (pickle.loads(contents[0]) for _ in range(2))
    assert one is again
    assert pickle.loads(contents[1]) is not one
    assert pickle.loads(contents[0]).spec == one.spec


def test_every_recording_is_compiled_once(monkeypatch):
    """Also the ninth, after which torch compiles no more of the same code."""
    torch.manual_seed(0)
    network = Ladder(conditions=1, pooled=0, channels=(4, 4), latents=(1, 1)).eval()
    made = []

    def compile_once(method, *, wanted):
        made.append(method)
        return method

    monkeypatch.setattr(replays, "compiled", compile_once)
    monkeypatch.setattr(Replays, "_recorded", lambda *_: None)  # as if CUDA refused
    replay = Replays(network, compile=True)
    known = replay.encode(torch.rand(2, 1, 8, 8), None, torch.rand(2, 1, 8, 8), side=0)
    windows = [Window(level, shape) for level, shape in enumerate(network.shapes(8, 8))]
    words = torch.arange(12).reshape(3, 4)
    options = {"temperature": 1.0, "state": None, "ceilings": None}
    for share in [*np.linspace(0.1, 0.9, 9).tolist(), 0.1]:
        fields = replay.descend(
            known, torch.tensor([0, 1, 1]), words, windows, words, released=[0.0, share], **options
        )
    assert fields.shape == (3, 1, 8, 8)
    assert len(made) == 1 + 9


def test_compiled_functions_do_not_use_up_each_others_compilations(monkeypatch):
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))

    class Pass:
        def __init__(self, offset):
            self.offset = offset

        def run(self, values, *, factor=2.0):
            return values * factor + self.offset

    first, second = (compiled(Pass(offset).run, wanted=True) for offset in (1.0, 2.0))
    for number in range(12):
        assert float(first(torch.ones(1), factor=float(number))) == number + 1.0
    before = counter.frame_count
    assert float(second(torch.ones(1))) == 4.0
    assert counter.frame_count == before + 1

"""The benchmark of losses by name: the arithmetic beside them is theirs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from xcvae.registry import Registry
from xcvae.testing import make_loss_state


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield import_module("loss_overhead")
    sys.modules.pop("loss_overhead", None)


def written_out(bench: ModuleType, state: Any) -> torch.Tensor:
    # It takes record and scaling from what it is made with, and a state has both.
    loss: torch.Tensor = bench.WrittenOut(state)(state.x, state.output, state.mask, state.kl)
    return loss


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_written_out_is_what_the_names_compute(bench: ModuleType, masked: bool) -> None:
    registry = Registry()
    registry.register(bench.Plugin())
    # The warm-up of the KL is over.
    state = make_loss_state(masked=masked, progress=0.5)
    named = sum(registry.build("loss", name)(state) for name in bench.LOSSES)
    torch.testing.assert_close(written_out(bench, state), named)


class NoCopies(TorchFunctionMode):
    """Refuses tensors made from numbers of the host: on a GPU their copy is waited for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.as_tensor, torch.tensor), f"{func.__name__} copies from the host"
        return func(*args, **(kwargs or {}))


def test_what_is_written_out_waits_for_no_copy(bench: ModuleType) -> None:
    state = make_loss_state()
    with NoCopies():
        written_out(bench, state)
    with pytest.raises(AssertionError, match="copies"), NoCopies():
        torch.as_tensor(0.06)

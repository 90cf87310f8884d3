"""The benchmark of losses by name: the plain losses equal the named ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from benchmarks.speed import loss_overhead
from xcvae.registry import Registry
from xcvae.testing import make_loss_state


def plain_loss(state: Any) -> torch.Tensor:
    # `PlainLosses` takes record and scaling of a trainer; a state has both, too.
    loss: torch.Tensor = loss_overhead.PlainLosses(state)(
        state.x, state.output, state.mask, state.kl
    )
    return loss


@pytest.mark.parametrize("masked", [False, True])
def test_plain_losses_equal_the_named_losses(masked: bool) -> None:
    registry = Registry()
    registry.register(loss_overhead.Plugin())
    # The warm-up of the KL is over.
    state = make_loss_state(masked=masked, progress=0.5)
    named = sum(registry.build("loss", name)(state) for name in loss_overhead.LOSSES)
    torch.testing.assert_close(plain_loss(state), named)


class NoCopies(TorchFunctionMode):
    """Refuse tensors made from numbers of the host, whose copy a GPU waits for."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.as_tensor, torch.tensor), f"{func.__name__} copies from the host"
        return func(*args, **(kwargs or {}))


def test_plain_losses_copy_nothing_from_the_host() -> None:
    state = make_loss_state()
    with NoCopies():
        plain_loss(state)
    with pytest.raises(AssertionError, match="copies"), NoCopies():
        torch.as_tensor(0.06)

"""One training in several processes, each with a share of every batch, as ``torchrun`` starts them.

All processes make the same choices from the same seed (order, windows, noise), take their rows of
the batch, and average the gradients, so that the losses are those of one process with the whole
batch. The wrapper that torch has for this wants the whole step inside one module; losses by name
are outside of the network, and to average one flat tensor after the step is short.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from xcvae.errors import ConfigError, explain

__all__ = ["ProcessGroup"]

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training.

    Attributes
    ----------
    rank, count
        Number of this process, and how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> ProcessGroup:
        """Join the processes that ``torchrun`` started; one process where it did not.

        Raises
        ------
        ConfigError
            If this build of torch cannot do it.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not dist.is_available():
            raise ConfigError(
                explain(
                    "WORLD_SIZE",
                    expected="1, for this build of torch knows no torch.distributed",
                    got=count,
                    remedy="Train in one process, or install another build.",
                )
            )
        if not dist.is_initialized():
            # Figures on the host go one way, gradients on a GPU the other.
            gpu = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, writes and shows progress."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """Give every process of a machine a GPU of its own."""
        if self.count == 1 or chosen.type != "cuda":
            return chosen
        own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(own)
        return own

    def part(self, size: int, samples: int) -> slice:
        """Rows of a batch that belong to this process.

        Parameters
        ----------
        size, samples
            Of the batch, and of the record.

        Raises
        ------
        ConfigError
            If the processes cannot get equal parts.

        Examples
        --------
        >>> Ranks(rank=1, count=2).part(8, 100)
        slice(4, 8, None)
        """
        if self.count > 1 and (size % self.count or samples < size):
            raise ConfigError(
                explain(
                    "fit.batch_size",
                    expected=f"a multiple of {self.count}, the number of processes, and at most "
                    f"{samples}, the number of samples",
                    got=size,
                    remedy="It is the size of the batch of all processes together.",
                )
            )
        own = size // self.count
        return slice(self.rank * own, (self.rank + 1) * own)

    def rows(self, count: int, own: int) -> Tensor:
        """Rows of this process, of ``count`` draws for a whole batch, ``own`` samples of it here.

        Examples
        --------
        >>> Ranks(rank=1, count=2).rows(2, 3)
        tensor([ 3,  4,  5,  9, 10, 11])
        """
        whole = torch.arange(count * self.count * own).view(count, self.count, own)
        return whole[:, self.rank].flatten()

    def average(self, weights: Sequence[Tensor]) -> None:
        """Average the gradients of all processes, in place."""
        if self.count == 1:
            return
        gradients = [w.grad for w in weights if w.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view(gradient.shape))

    def mean(self, row: dict[str, float]) -> dict[str, float]:
        """Average figures that every process has of its own."""
        if self.count == 1:
            return row
        values = torch.tensor(list(row.values()), dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(row, (values / self.count).tolist(), strict=True))

    def agreed(self, make: Callable[[], T]) -> T:
        """What the leading process makes, in all of them."""
        if self.count == 1:
            return make()
        # Not a tensor of the device: whatever is agreed on is small, or comes once.
        box: list[Any] = [make() if self.leads else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return cast("T", box[0])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()

"""Training in several processes, started by ``torchrun``, each with a share of every batch.

All processes make the same choices from the same seed (order, crops, noise), take their rows of
the batch, and average the gradients, so that the losses are those of one process with the whole
batch. `torch.nn.parallel.DistributedDataParallel` expects the whole step inside one module, and
losses by name are outside of the network; averaging one flat tensor after the step is short.
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

from xcvae.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """Processes of one training.

    Experimental: has not run on a GPU yet, where it needs NCCL. On CPUs it uses gloo.

    Attributes
    ----------
    rank, count
        Number of this process, and number of processes.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def of_environment(cls) -> ProcessGroup:
        """Join the processes that ``torchrun`` started; a group of one process without it.

        Raises
        ------
        ConfigError
            If this build of torch has no ``torch.distributed``.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        if not dist.is_available():
            raise ConfigError.of(
                "WORLD_SIZE",
                expected="1, because this build of torch has no torch.distributed",
                got=count,
                remedy="Train in one process, or install another build of torch.",
            )
        if not dist.is_initialized():
            # Scores are on the host and go by gloo, gradients are on the GPU and go by NCCL.
            gpu = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo")
            atexit.register(_destroy_process_group)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_main(self) -> bool:
        """True for the process that validates, writes files and shows progress."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """Return the device of this process: on GPUs, one per process of a machine."""
        if self.count == 1 or chosen.type != "cuda":
            return chosen
        gpu = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(gpu)
        return gpu

    def part(self, size: int, samples: int) -> slice:
        """Return the rows of a batch that this process trains on.

        Parameters
        ----------
        size, samples
            Samples of the batch, and of the record.

        Raises
        ------
        ConfigError
            If the batch does not divide into equal parts.

        Examples
        --------
        >>> ProcessGroup(rank=1, count=2).part(8, 100)
        slice(4, 8, None)
        """
        if self.count > 1 and (size % self.count or samples < size):
            raise ConfigError.of(
                "fit.batch_size",
                expected=f"a multiple of {self.count}, the number of processes, and at most "
                f"{samples}, the number of samples",
                got=size,
                remedy="Change it: it is the size of the batch of all processes together.",
            )
        share = size // self.count
        return slice(self.rank * share, (self.rank + 1) * share)

    def rows(self, count: int, share: int) -> Tensor:
        """Return the rows of this process in ``count`` draws for all, ``share`` samples each.

        Examples
        --------
        >>> ProcessGroup(rank=1, count=2).rows(2, 3)
        tensor([ 3,  4,  5,  9, 10, 11])
        """
        whole = torch.arange(count * self.count * share).view(count, self.count, share)
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
        """Average the values of all processes, by name."""
        if self.count == 1:
            return row
        values = torch.tensor(list(row.values()), dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(row, (values / self.count).tolist(), strict=True))

    def broadcast(self, make: Callable[[], T]) -> T:
        """Call a function in the main process, and return its result in all processes."""
        if self.count == 1:
            return make()
        # By gloo on the host: the results are small, or sent once.
        box: list[Any] = [make() if self.is_main else None]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return cast("T", box[0])


def _destroy_process_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()

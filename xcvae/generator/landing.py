"""Results on their way from the device to the host."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Landing"]

Index = tuple[int, int, slice, slice]


class Landing:
    """Takes fields off a device while the next ones are made there.

    On a GPU they are copied into pinned memory without waiting, on the stream that makes them; they
    are looked at when those of the next pass are under way. On a CPU they are there at once.

    Parameters
    ----------
    device
        Where the fields are made.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._under_way: tuple[Tensor, torch.cuda.Event, NDArray[np.float32], list[Index]] | None
        self._under_way = None

    def expect(self, fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
        """Send fields, (fields, y, x), on their way to their places in an array of the host."""
        if self.device.type != "cuda":
            _put(fields, out, places)
            return
        host = torch.empty(fields.shape, dtype=fields.dtype, pin_memory=True)
        host.copy_(fields, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        # Only now: the GPU has work to do while the host puts the last ones in place.
        self.wait()
        self._under_way = host, arrived, out, list(places)

    def wait(self) -> None:
        """Put in place what is still under way."""
        if self._under_way is None:
            return
        fields, arrived, out, places = self._under_way
        self._under_way = None
        arrived.synchronize()
        _put(fields, out, places)


def _put(fields: Tensor, out: NDArray[np.float32], places: Sequence[Index]) -> None:
    for place, field in zip(places, fields.numpy(), strict=True):
        out[place] = field

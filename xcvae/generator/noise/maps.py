"""Normal deviates as tensors, computed on the device that uses them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from xcvae.generator.noise.address import Address, Window, address_words
from xcvae.generator.noise.philox_numpy import host_maps
from xcvae.generator.noise.philox_torch import tensor_normals

Make = Callable[[Tensor, Window], Tensor]


def normal_maps(
    addresses: Sequence[Address], windows: Sequence[Window], *, device: torch.device
) -> list[Tensor]:
    """Deviates of several windows for a batch of addresses.

    Parameters
    ----------
    addresses
        One per member of the batch.
    windows
        Levels or parts of levels.
    device
        Device that computes the deviates.

    Returns
    -------
    list of float32 tensors (len(addresses), *window.shape)
        The values do not depend on the device.
    """
    if device.type == "cpu":
        # Each address once: draw batches are padded with copies, and all members of a storm share
        # the deviates that rank its latents.
        rows = {address: row for row, address in enumerate(dict.fromkeys(addresses))}
        maps = host_maps(list(rows), windows)
        if len(rows) < len(addresses):
            order = [rows[address] for address in addresses]
            maps = [values[order] for values in maps]
        return [torch.from_numpy(values) for values in maps]
    words = torch.from_numpy(address_words(addresses).astype("int64"))
    words = words.to(device, non_blocking=True)
    make = (_kernel(device) if device.type == "cuda" else None) or tensor_normals
    return [make(words, window) for window in windows]


def backend(device: torch.device) -> Literal["numpy", "triton", "torch"]:
    """Return the implementation for a device; "torch" is slow but works on any.

    Experimental: "triton" has not run on a GPU yet.
    """
    if device.type == "cpu":
        return "numpy"
    return "triton" if device.type == "cuda" and _kernel(device) else "torch"


@functools.cache
def _kernel(device: torch.device) -> Make | None:
    """Return the fused kernel if it compiles here and equals `tensor_normals`, else None.

    Experimental: has not run on a GPU yet.
    """
    windows = [Window(0, (3, 5, 7)), Window(4, (2, 30, 70), (29, 2**31))]
    words = torch.from_numpy(
        address_words([Address(seed, "", 2**32 - 1, "prior") for seed in range(9)]).astype("int64")
    ).to(device)
    try:
        from xcvae.generator.noise.philox_triton import fused_normals

        same = all(torch.equal(fused_normals(words, w), tensor_normals(words, w)) for w in windows)
    except Exception:  # noqa: BLE001 - Triton or a C compiler may be missing in many ways
        return None
    return fused_normals if same else None

"""Which device and which precision a network runs on, decided in one place."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from xcvae.errors import ConfigError, explain

N = TypeVar("N", bound=nn.Module)

__all__ = ["autocast", "choose_device", "placed"]


def choose_device(device: str) -> torch.device:
    """``"auto"`` is the GPU where there is one, else the CPU.

    Raises
    ------
    ConfigError
        If the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ConfigError(
            explain("device", expected="'auto', 'cpu' or 'cuda'", got=repr(device), remedy="")
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            explain(
                "device",
                expected="a GPU that torch can use",
                got=f"'{device}', and torch sees none",
                remedy="Use device='auto', or install a CUDA build of torch.",
            )
        )
    return chosen


def placed(network: N, device: torch.device) -> N:
    """Move a network to a device, its weights laid out channels last as convolutions want them."""
    network.to(device)
    # The stubs of Module.to know no memory format.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Run convolutions in bfloat16 where the hardware has it; elsewhere nothing changes."""
    enabled = device.type == "cuda" or _cpu_has_bfloat16()
    context: AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=enabled
    )
    return context


@functools.cache
def _cpu_has_bfloat16() -> bool:
    # oneDNN also emulates bfloat16, which is slower than float32: only native units count.
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags

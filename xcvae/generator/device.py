"""Which device and which precision a network runs on, decided in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from xcvae.errors import ConfigError, explain

N = TypeVar("N", bound=nn.Module)
F = TypeVar("F", bound=Callable[..., Any])

__all__ = [
    "autocast",
    "choose_device",
    "compiled",
    "gains_by_bfloat16",
    "placed",
    "precision",
]


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
    """Run convolutions in bfloat16 where that is faster; elsewhere nothing changes."""
    enabled = precision(device) == "bfloat16"
    context: AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=enabled
    )
    return context


def precision(device: torch.device) -> Literal["bfloat16", "float32"]:
    """Say what convolutions compute in: two machines that differ in it differ in last digits."""
    return "bfloat16" if device.type == "cuda" or _cpu_gains() else "float32"


def compiled(function: F, *, wanted: bool | None) -> F:
    """Compile a function of tensors, or leave it as it is.

    Parameters
    ----------
    function
        Called with the same shapes again and again.
    wanted
        None leaves it: compiled training has not been shown to agree with this one yet.
    """
    return cast("F", torch.compile(function, dynamic=False)) if wanted else function


def gains_by_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor is faster in bfloat16, by what Linux says of it in /proc/cpuinfo.

    Units for matrices (AMX) are. Of those with vectors only, an AMD EPYC draws 1.9 times as
    many fields in bfloat16, and an Intel Xeon of the fifth generation .7 times: its vectors
    multiply float32 as fast. On others oneDNN emulates bfloat16, which is slower still.

    Examples
    --------
    >>> gains_by_bfloat16("vendor_id : AuthenticAMD flags : avx512f avx512_bf16")
    True
    >>> gains_by_bfloat16("vendor_id : GenuineIntel flags : avx512f avx512_bf16")
    False
    >>> gains_by_bfloat16("vendor_id : GenuineIntel flags : avx512_bf16 amx_bf16")
    True
    """
    words = set(cpuinfo.split())
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words


@functools.cache
def _cpu_gains() -> bool:
    info = Path("/proc/cpuinfo")
    return info.exists() and gains_by_bfloat16(info.read_text())

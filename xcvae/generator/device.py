"""Device, memory layout and precision that networks run with."""

from __future__ import annotations

import functools
import os
import types
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import nn

from xcvae.errors import ConfigError

N = TypeVar("N", bound=nn.Module)
F = TypeVar("F", bound=Callable[..., Any])


def choose_device(device: str) -> torch.device:
    """Return a torch device; ``"auto"`` is a GPU if torch can use one, else the CPU.

    Raises
    ------
    ConfigError
        If the device is unknown or not available.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known = isinstance(device, str | torch.device)
    try:
        chosen = torch.device(device) if known else None
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "cuda"):
        raise ConfigError.of(
            "device",
            expected="'auto', 'cpu' or 'cuda'",
            got=repr(device),
            remedy="Use 'auto', which takes a GPU if torch can use one.",
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError.of(
            "device",
            expected="a GPU that torch can use",
            got=f"'{device}', and torch finds no GPU",
            remedy="Use device='auto', or install a CUDA build of torch.",
        )
    count = torch.cuda.device_count() if chosen.type == "cuda" else 0
    if chosen.type == "cuda" and ":" in str(chosen) and not 0 <= chosen.index < count:
        raise ConfigError.of(
            "device",
            expected=f"'cuda', or a number below {count} behind it, as in 'cuda:0'",
            got=f"'{device}', and torch finds {count} GPU{'s' * (count > 1)}",
            remedy="Use 'cuda'. A worker that is given one GPU of several sees it as 'cuda:0'.",
        )
    return chosen


def placed(network: N, device: torch.device) -> N:
    """Move a network to a device, with weights in the channels-last layout of convolutions."""
    network.to(device)
    # The stubs of Module.to lack the memory format.
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


class Placement:
    """Device of networks, which models of other names, or for one factor, share.

    Attributes
    ----------
    device
        Where the weights are.
    moves
        How often they were moved: what was recorded of them on a GPU before is of no use then.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.moves = 0

    def move(self, networks: Iterable[nn.Module], device: torch.device) -> None:
        """Move networks to a device."""
        self.device, self.moves = device, self.moves + 1
        for one in networks:
            placed(one, device)


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Run convolutions in bfloat16 on devices where `precision` says so."""
    enabled = precision(device) == "bfloat16"
    context: AbstractContextManager[None] = torch.autocast(
        device.type, torch.bfloat16, enabled=enabled
    )
    return context


def precision(device: torch.device) -> Literal["bfloat16", "float32"]:
    """Return the precision of convolutions; members differ in last digits between the two.

    That of the environment variable ``XCVAE_PRECISION``, else the faster one on the device.

    Raises
    ------
    ConfigError
        The variable has another value.
    """
    wanted = _environment("XCVAE_PRECISION", ("bfloat16", "float32"))
    if wanted is None:
        return "bfloat16" if device.type == "cuda" or _cpu_gains() else "float32"
    return cast("Literal['bfloat16', 'float32']", wanted)


def compiled(function: F, *, wanted: bool | None) -> F:
    """Compile a function of tensors with ``torch.compile``, if wanted.

    Parameters
    ----------
    function
        Function that is called with the same shapes again and again.
    wanted
        False or None returns the function as it is.
    """
    return cast("F", torch.compile(_with_own_code(function), dynamic=False)) if wanted else function


def _with_own_code(function: F) -> F:
    """Return a function or method with a copy of its code.

    torch counts compilations by code: after eight, for all models and options of the process
    together, it would no longer compile, and last digits would depend on what was drawn before.
    """
    plain: Any = getattr(function, "__func__", function)
    copied = types.FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, plain.__defaults__,
        plain.__closure__,
    )  # fmt: skip
    copied.__kwdefaults__ = plain.__kwdefaults__
    owner = getattr(function, "__self__", None)
    return cast("F", copied if owner is None else types.MethodType(copied, owner))


def compiles(device: torch.device) -> bool:
    """Return True if draws on a device are compiled; members differ in last digits.

    On a GPU, where the environment variable ``XCVAE_COMPILE`` is ``1``: more fields per second
    after a first draw that takes about 15 s.

    Raises
    ------
    ConfigError
        The variable has another value than 0 or 1.
    """
    return _environment("XCVAE_COMPILE", ("0", "1")) == "1" and device.type == "cuda"


def _environment(variable: str, values: tuple[str, str]) -> str | None:
    """Return the value of an environment variable, None if it is not set; refuse others."""
    wanted = os.environ.get(variable)
    if wanted is not None and wanted not in values:
        raise ConfigError.of(
            f"environment variable {variable}",
            expected=" or ".join(map(repr, values)),
            got=repr(wanted),
            remedy="Change it, or unset it for the default.",
        )
    return wanted


def gains_by_bfloat16(cpuinfo: str) -> bool:
    """Return True if a processor is faster in bfloat16, from the text of /proc/cpuinfo.

    Processors with matrix units (AMX) are. Of those with vector units only, an AMD EPYC draws 1.9
    times as many fields in bfloat16, and an Intel Xeon of the fifth generation .7 times: its vector
    units multiply float32 as fast. On others oneDNN emulates bfloat16, which is slower still.

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

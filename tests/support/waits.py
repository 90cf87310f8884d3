"""Operations after which the host waits for a GPU, seen on the meta device in its place."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

META = torch.device("meta")


class Waits(TorchDispatchMode):
    """Note values that are read from the meta device, and copies to or from it that block.

    Attributes
    ----------
    found
        Names of the operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "copy_"):
            target, source = (args[0], args[1]) if name == "copy_" else (None, args[0])
            device = options.get("device", source.device) if target is None else target.device
            asynchronous = options.get("non_blocking", args[2] if len(args) > 2 else False)
            if source.device != torch.device(device):
                if not asynchronous:
                    self.found.append(f"{name} of {tuple(source.shape)} to {device}")
                if target is not None:
                    return target  # there are no values
        elif name in ("_local_scalar_dense", "equal", "nonzero", "masked_select"):
            self.found.append(name)
        return func(*args, **options)

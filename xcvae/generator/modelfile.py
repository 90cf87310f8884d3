"""The model file: a safetensors file whose metadata holds a JSON header. No pickle anywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from xcvae.errors import ModelFileError, OutputExistsError, explain
from xcvae.fields.record import Thumbnails

__all__ = [
    "FORMAT",
    "check_new",
    "check_shapes",
    "kept_of",
    "log_of",
    "pack",
    "tensors_of",
    "unpack",
]


VALID, MAPS, LABELS, SAMPLES = "valid", "thumbnails.maps", "thumbnails.labels", "thumbnails.samples"
#: Logged errors in the units of the target.
PHYSICAL = ("val_crps", "val_mae_tail")


def tensors_of(valid: NDArray[np.bool_] | None, thumbnails: Thumbnails | None) -> dict[str, Tensor]:
    """Named tensors for the file."""
    arrays: dict[str, NDArray[np.generic]] = {}
    if valid is not None:
        arrays[VALID] = valid
    if thumbnails is not None:
        arrays[MAPS], arrays[LABELS] = thumbnails.maps, thumbnails.labels
        arrays[SAMPLES] = np.array(thumbnails.samples)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def kept_of(tensors: dict[str, Tensor]) -> tuple[NDArray[np.bool_] | None, Thumbnails | None]:
    """Take what `tensors_of` made out of a file's tensors; None for what is not there."""
    found = {k: tensors.pop(k, None) for k in (VALID, MAPS, LABELS, SAMPLES)}
    valid, maps, labels, samples = found.values()
    thumbnails = None
    if maps is not None and labels is not None and samples is not None:
        thumbnails = Thumbnails(maps.numpy(), labels.numpy(), int(samples))
    return None if valid is None else valid.numpy().astype(np.bool_), thumbnails


def log_of(training: dict[str, Any], units: str) -> xr.Dataset:
    """The log of a training: one variable per logged quantity along ``step``.

    Parameters
    ----------
    training
        The record in the model's file.
    units
        Of the target, for errors that are validated in physical values.
    """
    rows = training.get("history", [])
    columns = sorted({key for row in rows for key in row} - {"step"})
    steps = [row["step"] for row in rows]
    attrs = {name: {"units": units} for name in PHYSICAL}
    return xr.Dataset(
        {c: ("step", [row.get(c, np.nan) for row in rows], attrs.get(c)) for c in columns},
        coords={"step": steps},
    )


#: 2: patches, latents that are freed one by one, a measured temperature.
FORMAT = "xcvae-model-2"


def pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """The content of a file with a JSON header and named tensors."""
    plain = {
        k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()
    }
    text = json.dumps(header, sort_keys=True)
    metadata = {"format": FORMAT, "header": text, "checksum": _digest(text, plain)}
    return _ordered(tensors_to_bytes(plain, metadata))


def unpack(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file's content.

    Raises
    ------
    ModelFileError
        If it is not the content of an xcvae model, or it is damaged.
    """
    try:
        tensors = tensors_from_bytes(content)
        metadata = _metadata(content)
    except (SafetensorError, ValueError) as problem:
        raise _damaged(name, f"{type(problem).__name__}: {problem}") from problem
    if metadata.get("format") != FORMAT:
        raise _damaged(name, f"format {metadata.get('format')!r} instead of '{FORMAT}'")
    text = metadata.get("header", "")
    if metadata.get("checksum") != _digest(text, tensors):
        raise _damaged(name, "a header or weights that do not match their checksum")
    header: dict[str, Any] = json.loads(text)
    return header, tensors


def check_shapes(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], name: str) -> None:
    """Make sure that a file's weights are those of its architecture.

    Raises
    ------
    ModelFileError
        Naming the first weights that are not, and both shapes.
    """
    for leaf in sorted(set(wanted) | set(found)):
        shapes = [tuple(t[leaf].shape) if leaf in t else None for t in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise _damaged(name, f"weights '{leaf}' of shape {shapes[1]} instead of {shapes[0]}")


def check_new(path: Path) -> None:
    """Make sure that a file can be written without replacing one.

    Raises
    ------
    OutputExistsError
        If it is there already.
    """
    if path.exists():
        raise OutputExistsError(
            explain(
                "path",
                expected="a file that does not exist yet",
                got=str(path),
                remedy="Choose another name, or remove the old model.",
            )
        )


def _metadata(content: bytes) -> dict[str, str]:
    found: dict[str, str] = _head(content)[0].get("__metadata__", {})
    return found


def _head(content: bytes) -> tuple[dict[str, Any], int]:
    """Head of a safetensors file, eight bytes of length and then JSON, and where it ends."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), end


def _ordered(content: bytes) -> bytes:
    """The same file with sorted metadata: safetensors puts them in another order every time."""
    head, end = _head(content)
    head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _digest(header: str, tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def _damaged(name: str, got: Any) -> ModelFileError:
    return ModelFileError(
        explain(
            name,
            expected="an undamaged xcvae model file",
            got=got,
            remedy="Copy it again or train a new one.",
        )
    )

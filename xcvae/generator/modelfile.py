"""Model file format: a safetensors file with a JSON header in its metadata; no pickle."""

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

from xcvae.errors import ModelFileError, OutputExistsError
from xcvae.fields.record import Thumbnails
from xcvae.files import is_taken

VALID, MAPS, LABELS, SAMPLES = "valid", "thumbnails.maps", "thumbnails.labels", "thumbnails.samples"
#: Logged errors in the units of the target.
PHYSICAL = ("val_crps", "val_mae_tail")


def extra_tensors(
    valid: NDArray[np.bool_] | None, thumbnails: Thumbnails | None
) -> dict[str, Tensor]:
    """Make named tensors of the mask and the thumbnails of a model."""
    arrays: dict[str, NDArray[np.generic]] = {}
    if valid is not None:
        arrays[VALID] = valid
    if thumbnails is not None:
        arrays[MAPS], arrays[LABELS] = thumbnails.maps, thumbnails.labels
        arrays[SAMPLES] = np.array(thumbnails.samples)
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def take_extra_tensors(
    tensors: dict[str, Tensor],
) -> tuple[NDArray[np.bool_] | None, Thumbnails | None]:
    """Remove the tensors of `extra_tensors` from those of a file; None for what is missing."""
    found = {k: tensors.pop(k, None) for k in (VALID, MAPS, LABELS, SAMPLES)}
    valid, maps, labels, samples = found.values()
    thumbnails = None
    if maps is not None and labels is not None and samples is not None:
        thumbnails = Thumbnails(maps.numpy(), labels.numpy(), int(samples))
    return None if valid is None else valid.numpy().astype(np.bool_), thumbnails


def training_log(training: dict[str, Any], units: str) -> xr.Dataset:
    """Return the log of a training: one variable per logged quantity along ``step``.

    Parameters
    ----------
    training
        Training metadata in the model's file.
    units
        Units of the target, for scores in physical values.
    """
    rows = training.get("history", [])
    columns = sorted({key for row in rows for key in row} - {"step"})
    steps = [row["step"] for row in rows]
    attrs = {name: {"units": units} for name in PHYSICAL}
    return xr.Dataset(
        {c: ("step", [row.get(c, np.nan) for row in rows], attrs.get(c)) for c in columns},
        coords={"step": steps},
    )


#: Version 2 has patches, latents that are released one by one, and a calibrated temperature.
FORMAT = "xcvae-model-2"
#: Start of the format of all versions.
MODEL = "xcvae-model-"
#: Largest head of a file that is read, in bytes.
HEAD_BYTES = 2**27


def pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes:
    """Return the content of a file with a JSON header and named tensors."""
    plain = {
        k: v.detach().to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()
    }
    text = json.dumps(header, sort_keys=True)
    metadata = {"format": FORMAT, "header": text, "checksum": _digest(text, plain)}
    return _ordered(tensors_to_bytes(plain, metadata))


def unpack(content: bytes, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return header and tensors of a file's content.

    Raises
    ------
    ModelFileError
        If the content is not that of an xcvae model, or it is damaged.
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
    """Compare the shapes of a file's weights with those of its architecture.

    Raises
    ------
    ModelFileError
        Naming the first weights that differ, and both shapes.
    """
    for leaf in sorted(set(wanted) | set(found)):
        shapes = [tuple(t[leaf].shape) if leaf in t else None for t in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise _damaged(name, f"weights '{leaf}' of shape {shapes[1]} instead of {shapes[0]}")


def refuse_existing(path: Path) -> None:
    """Refuse to replace an existing file.

    Raises
    ------
    OutputExistsError
        If the file exists.
    """
    if is_taken(path):
        raise OutputExistsError.of(
            "path",
            expected="a file that does not exist yet",
            got=str(path),
            remedy="Choose another name, or remove the old model.",
        )


def format_of(path: Path) -> str | None:
    """Return the format that a safetensors file names in its metadata; None for other files."""
    if not path.is_file():
        return None
    with path.open("rb") as stream:
        size = stream.read(8)
        if len(size) < 8 or int.from_bytes(size, "little") > HEAD_BYTES:
            return None
        content = size + stream.read(int.from_bytes(size, "little"))
    try:
        return _metadata(content).get("format")
    except (ValueError, AttributeError):
        return None


def _metadata(content: bytes) -> dict[str, str]:
    found: dict[str, str] = _head(content)[0].get("__metadata__", {})
    return found


def _head(content: bytes) -> tuple[dict[str, Any], int]:
    """Return the head of a safetensors file (8 bytes of length, then JSON), and its end."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), end


def _ordered(content: bytes) -> bytes:
    """Sort the metadata of a file, whose order changes from one safetensors call to the next."""
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
    return ModelFileError.of(
        name,
        expected="an undamaged xcvae model file",
        got=got,
        remedy="Copy the file again from its source, or train a new model.",
    )

"""The model file: a safetensors file whose metadata holds a JSON header. No pickle anywhere."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from xcvae.errors import ModelFileError, OutputExistsError, explain
from xcvae.fields.record import Record
from xcvae.fields.scaling import Scaling
from xcvae.fields.spec import DataSpec
from xcvae.generator.architecture import Architecture, build_network
from xcvae.generator.model import Model

__all__ = [
    "FORMAT",
    "from_bytes",
    "load",
    "load_once",
    "save",
    "to_bytes",
    "write_atomically",
]

FORMAT = "xcvae-model-1"
VALID = "valid"  # tensor with the target's mask, beside the weights


def to_bytes(model: Model) -> bytes:
    """The content of the model's file."""
    tensors = {f"network.{k}": v.contiguous() for k, v in model.network.state_dict().items()}
    tensors = {k: v.to("cpu", memory_format=torch.contiguous_format) for k, v in tensors.items()}
    if model.valid is not None:
        tensors[VALID] = torch.from_numpy(model.valid.copy())
    header = {
        "spec": model.spec.to_json(),
        "scaling": model.scaling.to_json(),
        "record": model.record.to_json(),
        "architecture": model.architecture.to_json(),
        "training": model.training,
    }
    metadata = {
        "format": FORMAT,
        "header": json.dumps(header, sort_keys=True),
        "weights": _digest(tensors),
    }
    return tensors_to_bytes(tensors, metadata)


def from_bytes(content: bytes, path: Path | None = None) -> Model:
    """Make a model from the content of a file.

    Raises
    ------
    ModelFileError
        If it is not the content of an xcvae model, or it is damaged.
    """
    name = str(path or "model")
    try:
        tensors = tensors_from_bytes(content)
        metadata = _metadata(content)
    except (SafetensorError, ValueError, OSError) as problem:
        raise _damaged(name, f"{type(problem).__name__}: {problem}") from problem
    if metadata.get("format") != FORMAT:
        raise _damaged(name, f"format {metadata.get('format')!r} instead of '{FORMAT}'")
    if metadata.get("weights") != _digest(tensors):
        raise _damaged(name, "weights that do not match their checksum")
    header = json.loads(metadata["header"])
    spec = DataSpec.from_json(header["spec"])
    record = Record.from_json(header["record"])
    plan = header["architecture"]
    architecture = Architecture(
        tuple(plan["channels"]), tuple(plan["latents"]), plan["blocks"], plan["context"]
    )
    network = build_network(architecture, spec, masked=record.masked)
    valid = tensors.pop(VALID, None)
    _fill(network, tensors, name)
    return Model(
        network,
        spec=spec,
        scaling=Scaling.from_json(header["scaling"]),
        record=record,
        architecture=architecture,
        training=header["training"],
        valid=None if valid is None else valid.numpy().astype(np.bool_),
        sha256=hashlib.sha256(content).hexdigest(),
        path=path,
    )


def save(model: Model, path: str | Path) -> Model:
    """Write a model to a new file; the model then knows its path and fingerprint.

    Raises
    ------
    OutputExistsError
        If the file is there already.
    """
    target = Path(path).absolute()
    if target.exists():
        raise OutputExistsError(
            explain(
                "path",
                expected="a file that does not exist yet",
                got=str(path),
                remedy="Choose another name, or remove the old model.",
            )
        )
    content = to_bytes(model)
    write_atomically(target, content)
    model.path, model.sha256 = target, hashlib.sha256(content).hexdigest()
    return model


def load(path: str | Path) -> Model:
    """Read a model file.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is not an xcvae model, or it is damaged.
    """
    target = Path(path).absolute()
    if not target.is_file():
        raise ModelFileError(
            explain(
                "model",
                expected="a model file",
                got=f"nothing at {target}",
                remedy="Train one with xcvae.train(..., path=...).",
            )
        )
    return from_bytes(target.read_bytes(), target)


@functools.lru_cache(maxsize=4)
def load_once(path: str, sha256: str) -> Model:
    """Read a model once per process; workers get models by path and fingerprint.

    Raises
    ------
    ModelFileError
        If the file has changed since.
    """
    model = load(path)
    if model.sha256 != sha256:
        raise ModelFileError(
            explain(
                path,
                expected=f"the model with sha256 {sha256[:12]}",
                got=f"one with {model.sha256[:12]}",
                remedy="The file was replaced while it was in use: load it again.",
            )
        )
    return model


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _metadata(content: bytes) -> dict[str, str]:
    # The layout of safetensors: eight bytes of length, then JSON with "__metadata__".
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return found


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].contiguous().numpy().tobytes())
    return total.hexdigest()


def _fill(network: torch.nn.Module, tensors: dict[str, torch.Tensor], name: str) -> None:
    found = {k.removeprefix("network."): v for k, v in tensors.items()}
    wanted = network.state_dict()
    for leaf in sorted(set(wanted) | set(found)):
        shapes = [tuple(t[leaf].shape) if leaf in t else None for t in (wanted, found)]
        if shapes[0] != shapes[1]:
            raise _damaged(name, f"weights '{leaf}' of shape {shapes[1]} instead of {shapes[0]}")
    network.load_state_dict(found)


def _damaged(name: str, got: Any) -> ModelFileError:
    return ModelFileError(
        explain(
            name,
            expected="an undamaged xcvae model file",
            got=got,
            remedy="Copy it again or train a new one.",
        )
    )

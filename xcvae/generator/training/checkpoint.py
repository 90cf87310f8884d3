"""Checkpoints: the state of a training on disk, from which it resumes with the same steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from xcvae.errors import MismatchError, ModelFileError, OutputExistsError
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.sample_blocks import evenly_spaced
from xcvae.fields.samples import labels_of
from xcvae.files import is_taken, write_bytes
from xcvae.generator.modelfile import MODEL, format_of
from xcvae.generator.training.spikes import SPIKES

FORMAT = "xcvae-checkpoint-1"
#: Samples of lazy data by which a checkpoint recognises it.
COMPARED = 16
#: First columns of every log.
LOG_COLUMNS = b"step,minutes,"


@dataclass
class Progress:
    """Progress of a training.

    Attributes
    ----------
    step, seconds
        Steps done and time spent training.
    best
        Best value of the monitored score so far.
    waited
        Validations since the best one.
    history
        Rows of the log.
    selected
        Step of the weights that will be those of the model; 0 for none.
    batches
        Batches read so far, if that is not the number of steps: those of a training at random
        scales read more of small maps.
    """

    step: int = 0
    seconds: float = 0.0
    best: float = float("inf")
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    batches: int = 0
    selected: int = 0


def checkpoint_path(path: Path) -> Path:
    """Return the path of a model file's checkpoint, in the same folder."""
    return path.with_name(path.name + ".checkpoint")


def last_weights_path(path: Path) -> Path:
    """Return the path of the model with the last weights, next to that with the best ones."""
    return path.with_name(f"{path.stem}-last{path.suffix}")


def log_path(path: Path) -> Path:
    """Return the path of the log of a model file's training, in the same folder."""
    return path.with_name(path.name + ".log.csv")


def paths_of(path: Path) -> list[Path]:
    """Return the paths of all files that the training of a model file writes."""
    return [path, checkpoint_path(path), last_weights_path(path), log_path(path)]


def refuse_others(path: Path, *, resume: bool) -> None:
    """Refuse files of others next to a model file, where the training writes its own.

    Parameters
    ----------
    path
        The model file.
    resume
        A checkpoint is read before it is replaced; `read` refuses others.

    Raises
    ------
    OutputExistsError
        A file has the name of the checkpoint, the log or the last weights, and is none of xcvae's.
    """
    file, last, log = checkpoint_path(path), last_weights_path(path), log_path(path)
    own = {
        file: resume or format_of(file) == FORMAT,
        last: (format_of(last) or "").startswith(MODEL),
        log: log.is_file() and log.read_bytes()[: len(LOG_COLUMNS)] == LOG_COLUMNS,
    }
    for other, proven in own.items():
        if is_taken(other) and (other.is_symlink() or not proven):
            raise OutputExistsError.of(
                str(other),
                expected=f"a free name, or a file of the training of {path.name}",
                got="a file that xcvae did not write",
                remedy="Move it elsewhere, or choose another path: xcvae only replaces what it "
                "wrote.",
            )


def data_identity(parts: Iterable[xr.Dataset | None], spec: DataSpec) -> dict[str, str]:
    """Return hashes of the values that a training depends on.

    Parameters
    ----------
    parts
        Training and held-back samples, prepared.
    spec
        Description of the data.

    Returns
    -------
    dict
        ``samples``: labels and some of the samples. ``values``: all values, only of data in
        memory; lazy data would be read once more.
    """
    some, every, in_memory = hashlib.sha256(), hashlib.sha256(), True
    for ds in parts:
        if ds is None:
            continue
        some.update("\n".join(labels_of(ds, spec.sample)).encode())
        few = evenly_spaced(ds.sizes[spec.sample], COMPARED)
        for name in sorted(map(str, ds.data_vars)):
            if name == spec.derived:
                continue  # its last digits depend on chunks
            in_memory &= ds[name].variable._in_memory
            _update(some, ds[name].isel({spec.sample: few}, missing_dims="ignore"))
            if in_memory:
                _update(every, ds[name])
    found = {"samples": some.hexdigest()}
    return {**found, "values": every.hexdigest()} if in_memory else found


def _update(digest: Any, da: xr.DataArray) -> None:
    digest.update(f"{da.name} {da.dims} {da.shape}".encode())
    digest.update(np.ascontiguousarray(da.values, dtype=np.float32).tobytes())


def write(
    path: Path,
    *,
    identity: Mapping[str, str],
    progress: Progress,
    weights: dict[str, dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> None:
    """Write a checkpoint; it replaces the previous one when it is complete.

    The state of the generator of the GPU that is trained on is saved, too. Experimental: has not
    run on a GPU yet.

    Parameters
    ----------
    path
        File to write.
    identity
        Fingerprints by name: ``identity`` of settings, grids and the statistics of the target,
        and those of `data_identity`.
    progress, optimizer, rng
        State of the training.
    weights
        Sets of tensors by name: ``network``, ``average``, ``best``, ``learned`` and ``spikes``.
    """
    tensors = {f"{kind}/{k}": v for kind, state in weights.items() for k, v in state.items()}
    for number, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            tensors[f"optimizer/{number}/{key}"] = torch.as_tensor(value)
    tensors["torch_rng"] = torch.get_rng_state()
    gpu = _gpu_of(weights)
    if gpu is not None:
        tensors["cuda_rng"] = torch.cuda.get_rng_state(gpu)
    # Copies, because weights may share memory, which safetensors refuses.
    plain = {
        k: v.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for k, v in tensors.items()
    }
    metadata = {
        "format": FORMAT,
        **identity,
        "progress": json.dumps(vars(progress)),
        "rng": json.dumps(rng.bit_generator.state),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, tensors_to_bytes(plain, metadata), sync=True)


def read(
    path: Path,
    *,
    identity: Mapping[str, str],
    weights: dict[str, dict[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> Progress:
    """Read a checkpoint into the given weights, optimiser and random states.

    Raises
    ------
    ModelFileError
        If the file is not a checkpoint, or damaged.
    MismatchError
        If the checkpoint is of a training with other data or settings.
    """
    try:
        tensors = tensors_from_bytes(path.read_bytes())
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, OSError) as problem:
        raise _unusable(path, str(problem)) from problem
    if metadata.get("format") != FORMAT:
        raise _unusable(path, f"format {metadata.get('format')!r}")
    # Checkpoints of earlier versions have no fingerprints of the data.
    if any(metadata[name] != value for name, value in identity.items() if name in metadata):
        raise MismatchError.of(
            str(path),
            expected="the checkpoint of a training with this data and these settings",
            got="the checkpoint of another training",
            remedy="Use the same data and settings, or remove the file (or pass "
            "fit={'resume': False}) to start over.",
        )
    for kind, state in weights.items():
        for key, value in state.items():
            if kind != SPIKES or f"{kind}/{key}" in tensors:
                value.copy_(tensors[f"{kind}/{key}"])
    _restore_optimizer(optimizer, tensors)
    torch.set_rng_state(tensors["torch_rng"])
    gpu = _gpu_of(weights)
    if gpu is not None and "cuda_rng" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_rng"], gpu)
    rng.bit_generator.state = json.loads(metadata["rng"])
    return Progress(**json.loads(metadata["progress"]))


def _gpu_of(weights: dict[str, dict[str, Tensor]]) -> torch.device | None:
    """Return the GPU that is trained on, None on a CPU: whose generator makes the noise."""
    devices = (value.device for state in weights.values() for value in state.values())
    return next((device for device in devices if device.type == "cuda"), None)


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            weight = weights[int(number)]
            if value.shape == weight.shape:
                # The fused step reads weights and moments in memory order: use the same layout.
                value = torch.empty_like(weight).copy_(value)  # noqa: PLW2901
            state.setdefault(int(number), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _unusable(path: Path, got: str) -> ModelFileError:
    return ModelFileError.of(
        str(path),
        expected="an undamaged xcvae checkpoint",
        got=got,
        remedy="Remove it to start over, or choose another path.",
    )

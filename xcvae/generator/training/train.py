"""Training: from a Dataset to a model."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xcvae.errors import (
    ConfigError,
    DataError,
    EmptySelectionError,
    OutputExistsError,
    explain,
)
from xcvae.fields.batches import Batches
from xcvae.fields.block_means import check_block_means
from xcvae.fields.describe import DataSpec, describe, prepare
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.samples import storms_of
from xcvae.fields.scaling import Scaling
from xcvae.fields.validation import check_values
from xcvae.files import sha256, write_bytes
from xcvae.generator.device import choose_device, placed
from xcvae.generator.model import Model, from_bytes
from xcvae.generator.network.architecture import Architecture, build_network, resolve
from xcvae.generator.training import checkpoint
from xcvae.generator.training.calibration import calibrate
from xcvae.generator.training.distributed import ProcessGroup
from xcvae.generator.training.settings import Fit, stages_of
from xcvae.generator.training.threads import ThreadTuner
from xcvae.generator.training.trainer import Trainer
from xcvae.generator.training.validation import Validation

__all__ = ["split", "train"]


#: Blocks that a share of the record is held back in: neighbours in time are nearly copies.
HELD_BACK_BLOCKS = 5


def split(
    ds: xr.Dataset, spec: DataSpec, validation: float | xr.Dataset
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Prepare the Dataset and hold samples back, in contiguous blocks.

    Of augmented data real samples are held back; their synthetic variants are left out, for they
    would give them away.
    """
    prepared = prepare(ds, spec, need_target=True, augmented=True)
    check_values(prepared, spec)
    if isinstance(validation, xr.Dataset):
        held_back = prepare(validation, spec, need_target=True)
        check_values(held_back, spec)
        return prepared, held_back
    if isinstance(validation, bool) or not 0 <= validation < 1:
        raise ConfigError(
            explain(
                "validation",
                expected="a share from 0 to below 1, or a Dataset",
                got=repr(validation),
                remedy="0.15 holds back 15 % of the samples.",
            )
        )
    storm, observed = storms_of(prepared, spec.sample)
    total = int(storm.max()) + 1
    count = round(validation * total)
    if count == 0:
        return prepared, None
    blocks = min(HELD_BACK_BLOCKS, count)
    held = np.zeros(total, bool)
    for part in np.array_split(np.arange(total), blocks):
        held[part[len(part) - round(validation * len(part)) :]] = True
    learned, kept_apart = ~held[storm], held[storm] & observed
    if not learned.any() or not kept_apart.any():
        raise EmptySelectionError(
            explain(
                "validation",
                expected="a share that leaves samples on both sides",
                got=f"{validation} of {total} samples",
                remedy="Give more samples or another share.",
            )
        )
    return prepared.isel({spec.sample: learned}), prepared.isel({spec.sample: kept_apart})


def train(
    ds: xr.Dataset,
    *,
    target: str | None = None,
    conditions: Sequence[str] | None = None,
    statics: Sequence[str] | None = None,
    coarsen: int | None = None,
    spatial_dims: tuple[str, str] | None = None,
    validation: float | xr.Dataset = 0.15,
    generator: Mapping[str, Any] | None = None,
    losses: Sequence[Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    path: str | Path | None = None,
    progress: bool = True,
) -> Model:
    """Train a conditional VAE of rain fields.

    Parameters
    ----------
    ds
        Target with dims (sample, y, x), conditions with the sample dim on grids of their own,
        statics on the target's grid; all with ``units``. NaN in the target is a mask.
    target, conditions, statics
        Names of variables. ``target`` may be left out if only one can be meant; ``conditions``
        None takes what has the sample dim and is not the target.
    coarsen
        Derive a condition by means of the target over blocks of so many pixels.
    spatial_dims
        Names of the target's (y, x) dims, where attributes and names do not tell.
    validation
        Share of the samples that is held back, in contiguous blocks, or a Dataset; 0 for none.
    generator
        ``preset`` ("small"; "fast", which draws in half the time; "base", "large"), ``levels``,
        ``channels``, ``latents``, ``blocks``, ``patch`` (pixels along a side that the finest level
        works on as one), ``separable`` (how many of the finest levels have separable convolutions:
        less time), ``constrain`` (keep the block means that a condition tells), ``checkpointing``
        (less memory, more time).
    losses
        Components by name, as a dict with parameters, or instances. By default the negative ELBO
        (``laplace``, ``kl``), joined by ``crps`` in the last two fifths of the training.
    fit
        `xcvae.generator.training.settings.Fit` by its attributes, such as ``max_minutes``.
    seed
        Of weights, batches and noise.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    path
        File to write. A training that was interrupted goes on from the checkpoint beside it.
    progress
        Show a bar, on a terminal.

    Returns
    -------
    Model
        With the weights that validated best.

    Raises
    ------
    XcvaeError
        One of its subclasses, before anything is computed, if data and settings do not fit.

    Examples
    --------
    >>> import xcvae
    >>> ds = xcvae.tutorial.open_dataset("radklim")
    >>> quick = {"max_steps": 2, "batch_size": 2, "crop": 24, "validations": 1}
    >>> few = ds.isel(time=slice(20))
    >>> model = xcvae.train(few, target="pr", conditions=["pr_coarse"], fit=quick)
    >>> model.spec.units
    'mm h-1'
    """
    settings = Fit.of(fit)
    stages = stages_of(losses, settings)
    place = _free_path(path)
    ranks = ProcessGroup.of_environment()
    chosen = ranks.device(choose_device(device))
    spec = describe(
        ds,
        target=target,
        conditions=conditions,
        statics=statics,
        coarsen=coarsen,
        spatial_dims=spatial_dims,
    )
    architecture = resolve(generator, spec)
    learned, held_back = split(ds, spec, validation)
    scaling, record = Scaling.fit(learned, spec)
    _check_record(record)
    torch.manual_seed(seed)
    for part in (learned, held_back):
        if architecture.constrain and part is not None:
            check_block_means(part, spec)
    network = build_network(architecture, spec, scaling.target, masked=record.masked)
    network = placed(network, chosen)
    judge = None
    if held_back is not None:
        batches = _batches(held_back, spec, scaling, record, architecture)
        judge = Validation(batches, scaling, record, chosen)
    trainer = Trainer(
        network=network,
        batches=_batches(learned, spec, scaling, record, architecture),
        validation=judge,
        scaling=scaling,
        record=record,
        architecture=architecture,
        settings=settings,
        stages=stages,
        device=chosen,
        rng=np.random.default_rng(seed),
        valid=_valid_map(learned, spec) if record.masked else None,
        ranks=ranks,
    )
    told = {
        "seed": seed,
        "losses": [stage.to_json() for stage in stages],
        "fit": settings.to_json(),
        "device": chosen.type,
    }
    told = json.loads(json.dumps(told))  # what a file can hold, so that a saved model is equal
    if place is not None:
        identity = _identity(told, architecture, spec, record)
        trainer.keep_at(checkpoint.checkpoint_path(place), identity)
    by_clock = settings.max_minutes is not None and settings.max_steps is None
    paced = by_clock and chosen.type == "cpu" and ranks.count == 1
    with ThreadTuner() if paced else nullcontext() as pace:
        trainer.run(bar=progress, pace=pace)
        if ranks.count == 1:
            return _finished(trainer, spec, told, place, learned)
    made = ranks.agreed(lambda: _finished(trainer, spec, told, place, learned).to_bytes())
    return from_bytes(made, place)


def _finished(
    trainer: Trainer,
    spec: DataSpec,
    told: dict[str, Any],
    place: Path | None,
    learned: xr.Dataset,
) -> Model:
    """Make the model of a finished training, and its file."""
    names = ("xcvae", "torch", "numpy", "xarray")
    training = {
        **told,
        "steps": trainer.state.step,
        "minutes": trainer.state.seconds / 60,
        "history": trainer.state.history,
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
    }
    thumbnails = Thumbnails.of(learned, spec)
    models = {}
    for kind, weights in (("last", trainer.average), ("best", trainer.best)):
        network = build_network(
            trainer.architecture, spec, trainer.scaling.target, masked=trainer.record.masked
        )
        network.load_state_dict(weights)
        models[kind] = Model(
            network,
            spec=spec,
            scaling=trainer.scaling,
            record=trainer.record,
            architecture=trainer.architecture,
            training={**training, "weights": kind},
            valid=trainer.valid,
            thumbnails=thumbnails,
        )
    judge = trainer.validation
    held_back = trainer.batches if judge is None else judge.batches
    for model in models.values():
        calibrate(model.to(str(trainer.device)), held_back)
    best = models["best"]
    if place is None:
        best.sha256 = sha256(best.to_bytes())
    else:
        write_bytes(checkpoint.last_weights_path(place), models["last"].to_bytes(), sync=True)
        best.save(place)
        checkpoint.checkpoint_path(place).unlink(missing_ok=True)
    return best


def _free_path(path: str | Path | None) -> Path | None:
    if path is None:
        return None
    place = Path(path).absolute()
    last = checkpoint.last_weights_path(place)
    # Beside a checkpoint, the last weights are those of a training that was killed at its end.
    unfinished = checkpoint.checkpoint_path(place).exists()
    if place.exists() or (last.exists() and not unfinished):
        raise OutputExistsError(
            explain(
                "path",
                expected="a file that does not exist yet",
                got=str(place if place.exists() else last),
                remedy="Load it with xcvae.load, choose another name, or remove it.",
            )
        )
    return place


def _batches(
    prepared: xr.Dataset,
    spec: DataSpec,
    scaling: Scaling,
    record: Record,
    architecture: Architecture,
) -> Batches:
    blocks = architecture.constrain
    batches = Batches(prepared, spec, scaling, masked=record.masked, blocks=blocks)
    batches.keep()
    return batches


def _check_record(record: Record) -> None:
    if record.pixels == 0 or record.maximum <= 0:
        raise DataError(
            explain(
                "target",
                expected="some rain to learn from",
                got="only dry or missing pixels",
                remedy="Select wet samples, or check the units and the variable.",
            )
        )


def _valid_map(prepared: xr.Dataset, spec: DataSpec) -> NDArray[np.bool_]:
    """Pixels where the target was ever valid, (y, x)."""
    valid = prepared[spec.target].notnull().any(spec.sample)
    return np.asarray(valid.values)


def _identity(
    told: dict[str, Any], architecture: Architecture, spec: DataSpec, record: Record
) -> str:
    # How a training is carried out may change while it is interrupted.
    fit = {k: v for k, v in told["fit"].items() if k not in ("compile", "resume")}
    parts = [{**told, "fit": fit}, architecture.to_json(), spec.to_json(), record.to_json()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

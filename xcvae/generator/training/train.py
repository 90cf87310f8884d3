"""Train a model from a Dataset: `train`, and the split into training and held-back samples."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
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
    OutOfMemoryError,
    OutputExistsError,
    check_flags,
    warn_user,
    whole_number,
)
from xcvae.fields.batches import Batches
from xcvae.fields.block_means import check_block_means, warn_of_amounts
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import describe, prepare
from xcvae.fields.grids import warn_of_uneven
from xcvae.fields.record import Record, Thumbnails
from xcvae.fields.sample_blocks import evenly_spaced
from xcvae.fields.samples import label_codes, labels_of, storms_of
from xcvae.fields.scaling import Scaling
from xcvae.fields.validation import check_values
from xcvae.files import is_taken, local_path, locked, remove_stale, sha256, write_bytes
from xcvae.generator.device import choose_device, placed
from xcvae.generator.model import Model, from_bytes
from xcvae.generator.network.architecture import Architecture, build_networks, resolve
from xcvae.generator.network.networks import Networks
from xcvae.generator.training import checkpoint
from xcvae.generator.training.calibration import calibrate
from xcvae.generator.training.distributed import ProcessGroup
from xcvae.generator.training.settings import Fit, Stage, python_values, stages_of
from xcvae.generator.training.start import Start
from xcvae.generator.training.threads import ThreadTuner
from xcvae.generator.training.timescales import measure_timescales
from xcvae.generator.training.trainer import Trainer
from xcvae.generator.training.validation import Validation
from xcvae.progress import print_line


def train(
    ds: xr.Dataset,
    *,
    target: str | None = None,
    conditions: Sequence[str] | None = None,
    statics: Sequence[str] | None = None,
    coarsen: int | Mapping[str, Sequence[float]] | None = None,
    spatial_dims: tuple[str, str] | None = None,
    missing: str | None = None,
    validation: float | xr.Dataset = 0.15,
    generator: Mapping[str, Any] | None = None,
    losses: Sequence[Any] | None = None,
    fit: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    path: str | Path | None = None,
    start: Model | str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Model:
    """Train a conditional VAE of rain fields.

    Parameters
    ----------
    ds
        Target with dims (sample, y, x), conditions with the sample dim on grids of their own,
        statics on the target's grid; all with ``units``. NaN in the target is a mask.
    target, conditions, statics
        Names of variables. ``target`` may be left out if only one variable qualifies;
        ``conditions`` None takes all other variables with the sample dim.
    coarsen
        Derive a condition by means of the target over blocks of this side in pixels. A mapping,
        ``{"factor": [2, 16], "pixel": [1, 8]}``, trains one model for all factors and all pixel
        sizes (km) in these ranges: both are drawn at random for every batch.
    spatial_dims
        Names of the target's (y, x) dims, if neither attributes nor names identify them.
    missing
        ``"mask"`` fills missing values (NaN) of conditions and statics, such as sea surface
        temperature over land, and gives the network a mask of what is known. By default they are
        an error.
    validation
        Share of the samples that is held back, in contiguous blocks, or a Dataset; 0 for none.
    generator
        ``preset`` ("small"; "fast", which draws in half the time; "base", "large"), ``levels``,
        ``channels``, ``latents``, ``blocks``, ``patch`` (pixels along a side that the finest level
        works on as one), ``separable`` (number of the finest levels with separable convolutions:
        less time), ``constrain`` (keep the block means that a condition gives), ``checkpointing``
        (less memory, more time), ``networks`` (number of networks, 1 to 8, that take the steps in
        turn and share the members: what a short record leaves open becomes spread).
    losses
        Components by name, as a dict with parameters, or instances. By default the negative ELBO
        (``laplace``, ``kl``), joined by ``crps`` in the last two fifths of the training.
    fit
        `xcvae.generator.training.settings.Fit` by its attributes, such as ``max_minutes``.
    seed
        Seed of weights, batches and noise. The caller's random state of torch is left alone.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    path
        File to write. An interrupted training resumes from the checkpoint next to it.
    start
        Model to start from instead of from nothing: a `Model`, a path, or a name of
        `xcvae.models`. Its architecture is taken unless ``generator`` names another one, and so
        are weights that fit by name and shape. The rain is scaled as in the start. Conditions,
        statics and masks that it does not have begin without effect. Shorter by default:
        600 steps.
    progress
        Show a bar, on a terminal.

    Returns
    -------
    Model
        The model with the weights of the best validation, or later ones whose score is within half
        a percent of it (not with the monitor ``"negative_elbo"``).

    Raises
    ------
    XcvaeError
        One of its subclasses, before the first step, if data and settings do not fit.
    OutOfMemoryError
        A GPU has no room for a step.

    Warns
    -----
    UserWarning
        The start has pixels of another size, few weights that fit, or another kind of rain; there
        are too few samples to hold some back; or cells of the grid differ in size.

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
    check_flags(progress=progress)
    seed = whole_number("seed", seed, least=0, remedy="Leave it out for seed 0.")
    known = Start.of(start)
    settings = Fit.of(fit, started=known is not None)
    stages = stages_of(losses, settings)
    file = _new_file(path, resume=settings.resume)
    group = ProcessGroup.of_environment()
    chosen = group.device(choose_device(device))
    spec = describe(
        ds,
        target=target,
        conditions=conditions,
        statics=statics,
        coarsen=python_values(coarsen),
        spatial_dims=spatial_dims,
        missing=missing,
    )
    if known is None:
        architecture, parts = resolve(python_values(generator), spec), split(ds, spec, validation)
    else:
        spec = known.adapted(spec, ds)
        architecture = resolve(python_values(generator), spec, known.model.architecture)
        parts = split(ds, spec, validation)
        architecture = known.fitting(architecture, generator, spec, parts)
    metadata = _metadata(seed, stages, settings, chosen, known)
    options: dict[str, Any] = {"settings": settings, "stages": stages, "group": group}
    with _seeded(seed, chosen), _locked(file, settings.resume, group):
        options |= {"device": chosen, "rng": np.random.default_rng(seed), "start": known}
        trainer = _trainer(*parts, spec, architecture, **options)
        if file is not None:
            identity = _identity(metadata, trainer, spec, *parts)
            trainer.enable_checkpoints(checkpoint.checkpoint_path(file), identity)
        with _thread_tuner(trainer) as tuner:
            _run(trainer, tuner, progress=progress)
            finish = functools.partial(_finish, trainer, spec, metadata, file, parts[0])
            if group.count == 1:
                return finish()
            # All processes return the model that is in the file of the main one.
            return from_bytes(group.broadcast(lambda: finish().to_bytes()), file)


def _run(trainer: Trainer, tuner: ThreadTuner | None, *, progress: bool) -> None:
    """Train until the first limit.

    Raises
    ------
    OutOfMemoryError
        A GPU has no room for a step; the error says which settings decide on that.
    """
    _announce(trainer, progress)
    try:
        trainer.run(progress=progress, tuner=tuner)
    except torch.cuda.OutOfMemoryError as error:
        size, side = trainer.settings.batch_size, trainer.settings.crop
        raise OutOfMemoryError.of(
            "fit",
            expected=f"memory for batches of {size} crops of {side} by {side} pixels",
            got=str(error).splitlines()[0],
            remedy="Lower fit.batch_size or fit.crop, or train with "
            "generator={'checkpointing': True}; give the device to this process alone.",
        ) from error


def _metadata(
    seed: int,
    stages: Sequence[Stage],
    settings: Fit,
    device: torch.device,
    start: Start | None,
) -> dict[str, Any]:
    """Return the settings of a training, as in a file, so that a loaded model is equal."""
    metadata: dict[str, Any] = {
        "seed": seed,
        "losses": [stage.to_json() for stage in stages],
        "fit": settings.to_json(),
        "device": device.type,
    }
    if start is not None:
        metadata["start"] = start.identity
    found: dict[str, Any] = json.loads(json.dumps(metadata))
    return found


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a block, and restore the caller's random state after it.

    The global generators of torch are used inside, because the initial weights of torch modules
    come from them, and so may random numbers of a third-party loss.
    """
    gpus = range(torch.cuda.device_count() if device.type == "cuda" else 0)
    with torch.random.fork_rng(gpus):
        # Not torch.manual_seed, which seeds GPUs also if a training on the CPU does not use them.
        torch.default_generator.manual_seed(int(seed))
        if gpus:
            torch.cuda.manual_seed_all(int(seed))
        yield


def _trainer(
    training_samples: xr.Dataset,
    held_back: xr.Dataset | None,
    spec: DataSpec,
    architecture: Architecture,
    *,
    device: torch.device,
    start: Start | None,
    **options: Any,
) -> Trainer:
    """Fit the scaling, prepare the samples as tensors, and initialise the network."""
    options["settings"].check_networks(architecture.networks)
    warn_of_uneven(training_samples, (spec.y, spec.x))
    scaling, record = Scaling.fit(training_samples, spec)
    _check_record(record)
    if start is not None:
        scaling = start.scaling(scaling, spec)
    for part in (training_samples, held_back):
        if (architecture.constrain or spec.random_scale) and part is not None:
            check_block_means(part, spec)
    networks = build_networks(architecture, spec, scaling.target, masked=record.masked)
    taken = None if start is None else start.initialize(networks, spec, masked=record.masked)
    validation = None
    if held_back is not None:
        batches = _batches(held_back, spec, scaling, record, architecture)
        validation = Validation(batches, scaling, record, device)
    return Trainer(
        networks=Networks(placed(one, device) for one in networks),
        batches=_batches(training_samples, spec, scaling, record, architecture),
        validation=validation,
        scaling=scaling,
        record=record,
        architecture=architecture,
        device=device,
        valid=_valid_map(training_samples, spec) if record.masked else None,
        taken=taken,
        known_dial=None if start is None else start.dial_of(architecture, spec),
        **options,
    )


def _announce(trainer: Trainer, progress: bool) -> None:
    """Say on a terminal which weights come from the start."""
    if trainer.taken is not None and progress and trainer.group.is_main and sys.stderr.isatty():
        sys.stderr.write(f"from the start: {trainer.taken}\n")


def _thread_tuner(trainer: Trainer) -> AbstractContextManager[ThreadTuner | None]:
    """Tune the threads of torch if the clock can end the training, on a CPU."""
    by_clock = trainer.settings.max_minutes is not None
    tuned = by_clock and trainer.device.type == "cpu" and trainer.group.count == 1
    return ThreadTuner() if tuned else nullcontext()


#: Samples of training and validation, of equal labels, whose rain is compared.
COMPARED = 8
#: Blocks of held-back samples: single ones would be near copies of their neighbours in time.
HELD_BACK_BLOCKS = 5


def split(
    ds: xr.Dataset, spec: DataSpec, validation: float | xr.Dataset
) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Prepare the Dataset and hold samples back for validation, in contiguous blocks.

    Of augmented data only observed samples are held back, and their synthetic variants are dropped
    from training: they resemble what is validated.
    """
    prepared = prepare(ds, spec, need_target=True, augmented=True)
    check_values(prepared, spec)
    warn_of_amounts(prepared, spec)
    if isinstance(validation, xr.Dataset):
        held_back = _held_back(prepared, validation, spec)
        return _without_variants(prepared, held_back, spec), held_back
    share: object = validation
    known = isinstance(share, int | float | np.number) and not isinstance(share, bool)
    if not known or not 0 <= validation < 1:
        raise ConfigError.of(
            "validation",
            expected="a share from 0 to below 1, or a Dataset",
            got=repr(validation),
            remedy="0.15 holds back 15 % of the samples.",
        )
    storm, observed = storms_of(prepared, spec.sample)
    total = int(storm.max()) + 1
    count = round(validation * total)
    if count == 0:
        if validation:
            _warn_of_few(validation, total)
        return prepared, None
    blocks = min(HELD_BACK_BLOCKS, count)
    held_back_storms = np.zeros(total, bool)
    for part in np.array_split(np.arange(total), blocks):
        held_back_storms[part[len(part) - round(validation * len(part)) :]] = True
    training_mask = ~held_back_storms[storm]
    validation_mask = held_back_storms[storm] & observed
    if not training_mask.any() or not validation_mask.any():
        raise EmptySelectionError.of(
            "validation",
            expected="a share that leaves samples on both sides",
            got=f"{validation} of {total} samples",
            remedy="Give more samples or another share.",
        )
    return (
        prepared.isel({spec.sample: training_mask}),
        prepared.isel({spec.sample: validation_mask}),
    )


def _held_back(training: xr.Dataset, ds: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Prepare samples for validation; warn of those that are in the training, too."""
    validation = prepare(ds, spec, need_target=True)
    check_values(validation, spec)
    known, given = (label_codes(one, spec.sample) for one in (training, validation))
    both, here, there = np.intersect1d(known, given, return_indices=True)
    if not both.size:
        return validation
    some = evenly_spaced(both.size, COMPARED)
    first, second = (
        one[spec.target].isel({spec.sample: rows[some]}).values
        for one, rows in ((training, here), (validation, there))
    )
    # Tiles of one time lie in other areas; where they are dry, they are equal.
    if np.array_equal(first, second, equal_nan=True) and (first > 0).any():
        label = labels_of(validation, spec.sample)[int(there.min())]
        warn_user(
            f"validation: {both.size} of {validation.sizes[spec.sample]} samples are those of the "
            f"training too, the first of them {label}. The model is chosen and calibrated on what "
            "it was trained on: its members may differ too little. Leave them out on one side.",
        )
    return validation


def _without_variants(training: xr.Dataset, validation: xr.Dataset, spec: DataSpec) -> xr.Dataset:
    """Leave out synthetic samples of the storms of the validation, which resemble them."""
    _, observed = storms_of(training, spec.sample)
    if observed.all():
        return training
    codes, validated = (label_codes(one, spec.sample) for one in (training, validation))
    same = np.isin(codes, validated)
    return training.isel({spec.sample: observed | ~same})


def _warn_of_few(share: float, total: int) -> None:
    warn_user(
        f"validation: {share:g} of {total} samples are none to hold back. The last weights are "
        "taken, without validation scores, and the model is calibrated on the samples that it was "
        "trained on: its members may differ too little. Give more samples, validation=ds with "
        "other ones, or validation=0.",
    )


def _training_record(trainer: Trainer, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a finished training."""
    names = ("xcvae", "torch", "numpy", "xarray")
    training = {
        **metadata,
        "steps": trainer.state.step,
        "selected": trainer.state.selected,
        "minutes": trainer.state.seconds / 60,
        "history": trainer.state.history,
        "versions": {"python": platform.python_version(), **{n: version(n) for n in names}},
    }
    if trainer.taken is not None:
        training["start"] = {**metadata["start"], **trainer.taken.to_json()}
    return training


def _finish(
    trainer: Trainer,
    spec: DataSpec,
    metadata: dict[str, Any],
    file: Path | None,
    training_samples: xr.Dataset,
) -> Model:
    """Calibrate the best weights and, for a file, the last ones; write both models."""
    training = _training_record(trainer, metadata)
    thumbnails = Thumbnails.of(training_samples, spec)
    models: dict[str, Model] = {}
    measured: dict[str, Any] = {}
    for kind in ("best",) if file is None else ("best", "last"):
        networks = build_networks(
            trainer.architecture, spec, trainer.scaling.target, masked=trainer.record.masked
        )
        networks.load_state_dict(trainer.best if kind == "best" else trainer.average)
        # Equal weights, if the last validation was the best one, are not measured again.
        known = measured if kind == "last" and trainer.ended_best else {}
        models[kind] = model = Model(
            networks,
            spec=spec,
            scaling=trainer.scaling,
            record=trainer.record,
            architecture=trainer.architecture,
            training={**training, "weights": kind, **known},
            valid=trainer.valid,
            thumbnails=thumbnails,
        )
        if not known:
            measured = _measurements(model.to(str(trainer.device)), trainer, training_samples)
    _save(models, file)
    print_line(trainer.progress, trainer.closing_line(file))
    return models["best"]


def _measurements(model: Model, trainer: Trainer, training_samples: xr.Dataset) -> dict[str, Any]:
    """Calibrate a model and measure its timescales; return what was added to its training."""
    before = set(model.training)
    held_back = trainer.validation.batches if trainer.validation else trainer.batches
    with model.replays.uncompiled():
        calibrate(model, held_back, trainer.known_dial)
    model.training["timescales"] = measure_timescales(model, training_samples).to_json()
    return {key: value for key, value in model.training.items() if key not in before}


def _save(models: Mapping[str, Model], file: Path | None) -> None:
    """Write the models of the last and of the best weights, if there is a file."""
    best = models["best"]
    if file is None:
        best.sha256 = sha256(best.to_bytes())
        return
    write_bytes(checkpoint.last_weights_path(file), models["last"].to_bytes(), sync=True)
    best.save(file)
    # Last: a process that dies before this resumes at the end of the training.
    checkpoint.checkpoint_path(file).unlink(missing_ok=True)


def _new_file(path: str | Path | None, *, resume: bool) -> Path | None:
    """Return the absolute path of the model file; refuse to replace a finished model."""
    file = local_path("path", path)
    if file is None:
        return None
    last = checkpoint.last_weights_path(file)
    # Next to a checkpoint, the last weights are those of a training that was killed at its end.
    unfinished = checkpoint.checkpoint_path(file).exists()
    if is_taken(file) or (is_taken(last) and not unfinished):
        raise OutputExistsError.of(
            "path",
            expected="a file that does not exist yet",
            got=str(file if is_taken(file) else last),
            remedy="Load it with xcvae.load, choose another name, or remove it.",
        )
    checkpoint.refuse_others(file, resume=resume)
    return file


@contextmanager
def _locked(file: Path | None, resume: bool, group: ProcessGroup) -> Iterator[None]:
    """Keep other trainings from writing the same files; remove what killed ones left in part.

    Raises
    ------
    OutputExistsError
        Another training is writing the file, or has just written it.
    """
    if file is None or not group.is_main:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    busy = OutputExistsError.of(
        "path",
        expected="a file that no other training is writing",
        got=str(file),
        remedy="Wait until it ends, or choose another name.",
    )
    with locked(file, timeout=0, busy=busy):
        _new_file(file, resume=resume)
        for path in checkpoint.paths_of(file):
            remove_stale(path)
        yield


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
        raise DataError.of(
            "target",
            expected="some rain to train on",
            got="only dry or missing pixels",
            remedy="Select wet samples, or check the units and the variable.",
        )


def _valid_map(prepared: xr.Dataset, spec: DataSpec) -> NDArray[np.bool_]:
    """Return the pixels where the target was ever valid, (y, x)."""
    valid = prepared[spec.target].notnull().any(spec.sample)
    return np.asarray(valid.values)


def _identity(
    metadata: dict[str, Any], trainer: Trainer, spec: DataSpec, *parts: xr.Dataset | None
) -> dict[str, str]:
    """Return the fingerprints of settings and data that a checkpoint must have."""
    # These two do not change the result: a training may resume with others.
    fit = {k: v for k, v in metadata["fit"].items() if k not in ("compile", "resume")}
    # Step and reasons are left out: checkpoints of earlier versions do not have them.
    known = {k: v for k, v in spec.to_json().items() if k != "step_seconds"}
    known["variables"] = [
        {k: v for k, v in one.items() if k != "reason"} for one in known["variables"]
    ]
    # So are the maxima of the conditions, which have no influence on a training.
    rain = replace(trainer.record, conditions={}).to_json()
    plain = [trainer.architecture.to_json(), known, rain]
    text = json.dumps([{**metadata, "fit": fit}, *plain], sort_keys=True)
    identity = hashlib.sha256(text.encode()).hexdigest()
    return {"identity": identity, **checkpoint.data_identity(parts, spec)}

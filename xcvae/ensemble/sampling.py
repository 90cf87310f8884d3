"""The verb ``sample``: from conditions (and observed storms) to an ensemble of physical rain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.arguments import Request, local_path
from xcvae.ensemble.inputs import check_apart
from xcvae.ensemble.job import Job, opened
from xcvae.ensemble.result import assemble, catalog_metadata, check_storable
from xcvae.ensemble.runs import Resume, State, find, is_settled, notes_of
from xcvae.ensemble.store import open_target, target_of, write
from xcvae.ensemble.target import Run, Target
from xcvae.fields.dataspec import plain

if TYPE_CHECKING:
    from xcvae.ensemble.icechunks import Repository
    from xcvae.generator.model import Model

__all__ = ["sample"]


def sample(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str] | None = None,
    *,
    mode: Literal["prior", "posterior"] = "prior",
    members: int = 16,
    spread: float | None = None,
    diversity: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    postprocess: object = None,
    min_mass: float | None = None,
    store: str | os.PathLike[str] | Repository | None = None,
    catalog: str | os.PathLike[str] | None = None,
    name: str | None = None,
    chunks: Mapping[str, int] | None = None,
    tile: Mapping[str, int] | None = None,
    resume: bool | Literal["restart", "repair"] = True,
    device: str = "auto",
    progress: bool = True,
) -> xr.Dataset:
    """Draw an ensemble for every sample of a Dataset.

    Parameters
    ----------
    ds
        The conditions, dims as in training; for the posterior also the observed target. Choose
        samples with ``isel`` and ``sel``, or heavy ones with :func:`xcvae.heavy`.
    model
        A model or the path of one.
    mode
        ``"prior"``: fields that fit the conditions. ``"posterior"``: variants of observed storms.
    members
        Number of realizations.
    spread
        Posterior: how much of the observed storm is redrawn, 0 (reconstruct) to 1 (prior);
        0.5 if neither this nor ``diversity`` is given.
    diversity
        Posterior: solve for the spread at which members differ by this much (the mean over
        samples of 1 - mean pairwise cosine similarity between members, after post-processing).
    temperature
        Factor on the standard deviation of the latents.
    seed
        Members depend on the seed, the sample label and their number, and on nothing else.
    postprocess
        Post-processors: names, dicts or instances. Default: what is below 0.1 mm h-1 (daily
        data: 0.1 mm d-1) becomes 0. ``[]`` for none.
    min_mass
        Redraw members with less than this share of the rain of their sample: of the observed
        field where ``ds`` has it, else of the coarse precipitation condition, stretched.
    store
        Write to this Zarr store, a local folder, and return it, opened lazily. Or to an Icechunk
        repository: ``"icechunk:PATH"``, or an ``icechunk.Repository``, branch ``main``.
    catalog, name
        List the store in this intake catalog (YAML), under this name (default: the store's).
    chunks
        Chunk sizes for ``realization`` and the sample dimension. Default: about 8 MB.
    tile
        Draw maps too large for the memory in tiles, such as ``{"y": 256, "x": 256}`` pixels by dim
        of the maps. Neighbours overlap as far as the network sees, so that tiles leave no seams:
        members differ from those drawn in one piece by rounding.
    resume
        True: a finished store of the same ensemble is opened, an interrupted one completed.
        False: the store must be new. ``"restart"``: what is there is replaced, and keeps its
        name until the new one is done; the same call, or True, goes on with an interrupted
        replacement. ``"repair"``: the regions of a finished store whose files have changed are
        drawn again.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    progress
        Show progress on a terminal.

    Returns
    -------
    xarray.Dataset
        One variable with the name and units of the target, dims (realization, sample, y, x),
        float32. Without ``store`` it is lazy: members are drawn when they are computed.

    Raises
    ------
    ConfigError
        An argument is wrong, two exclude each other, or ``diversity`` is out of reach.
    ComponentError
        A post-processor is unknown or has wrong parameters.
    EmptySelectionError
        ``ds`` has no samples.
    MismatchError
        ``ds`` does not fit the model.
    OutputExistsError
        The store is there and holds something else: the message names the keys that differ.
    StoreError
        Some regions of the store came to nothing (all others are done, and the same call draws
        what is missing), or another process is writing it.
    CatalogError
        The name is used in the catalog for another store.
    DataError
        A condition has gaps, rain is negative or infinite, a storm was not observed (lazy data
        is checked when it is read), no member reaches ``min_mass``, or stacked samples are to be
        written.
    """
    request = Request(
        mode=mode,
        members=members,
        spread=spread,
        diversity=diversity,
        temperature=temperature,
        seed=seed,
        min_mass=min_mass,
        store=None if store is None else target_of(store),
        catalog=local_path("catalog", catalog),
        name=name,
        chunks=chunks,
        tile=tile,
        resume=resume,
    )
    job = Job.of(ds, opened(model, device), request, postprocess)
    target = request.store
    return _lazily(job, progress) if target is None else _stored(job, target, progress)


def _lazily(job: Job, progress: bool) -> xr.Dataset:
    """Return the ensemble without drawing it (but for the dial)."""
    chunks = job.chunks
    job, dial = job.dialled({}, progress=progress)
    return assemble(job.ds, job.array(chunks), job.record(dial, None))


def _stored(job: Job, target: Target, progress: bool) -> xr.Dataset:
    """Return the ensemble from its store, after writing what is missing of it."""
    request, spec = job.request, job.source.model.spec
    check_storable(job.ds, spec.sample)
    if target.place is not None:
        check_apart(job.ds, target.place)
    if request.catalog is not None and target.listed is not None:
        catalogs.check_name(request.catalog, request.listed_as, target.listed)
    run = Run(target, spec.target, job.identity(), job.chunks, job.made_with())
    resume = cast(Resume, request.resume)
    if not is_settled(run, resume):
        with target.locked():
            state = find(run, resume)
            if state != "finished":
                _write(job, run, state, progress)
    ensemble = open_target(target)
    if target.listed is not None:
        _list(request, ensemble, target.listed)
    return ensemble


def _write(job: Job, run: Run, state: State, progress: bool) -> None:
    notes = notes_of(run, state)
    job, dial = job.dialled(notes, progress=progress)
    run = replace(run, notes={"dial": vars(dial)} if dial else {})
    record = job.record(dial, run.identity)
    with job.travelling(run.target.aside("model")) as filed:
        write(
            run,
            assemble(job.ds, job.placeholder(), record),
            filed.parts(),
            finish=record.attributes,
            resume=cast(Resume, job.request.resume),
            progress=progress,
        )


def _list(request: Request, ensemble: xr.Dataset, path: Path) -> None:
    """List the store; an entry that says the same already keeps its scores."""
    catalog, name = request.catalog, request.listed_as
    if catalog is None:
        return
    metadata = catalog_metadata(ensemble)
    if catalog.exists() and name in catalogs.names(catalog):
        known = catalogs.metadata_of(catalog, name)
        if {key: v for key, v in known.items() if key != "scores"} == plain(metadata):
            return
    catalogs.append(catalog, name, path, metadata)

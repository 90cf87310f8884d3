"""The verb ``sample``: from conditions (and observed storms) to an ensemble of physical rain."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import (
    attributes_of,
    catalog_metadata,
    check_storable,
    template_of,
    to_dataset,
)
from xcvae.ensemble.execution.scheduler import shares_memory
from xcvae.ensemble.request import SampleRequest
from xcvae.ensemble.sampler import EnsembleSampler, open_model
from xcvae.ensemble.spread import resolve_spread
from xcvae.ensemble.store.base import EnsembleSpec, EnsembleStore
from xcvae.ensemble.store.write import is_settled, next_step, notes_of, write
from xcvae.errors import ConfigError
from xcvae.fields.dataspec import plain
from xcvae.files import local_path

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository
    from xcvae.generator.model import Model


def sample(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str] | None = None,
    *,
    factor: int | None = None,
    mode: Literal["prior", "posterior"] = "prior",
    members: int = 16,
    spread: float | None = None,
    diversity: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    postprocess: object = None,
    min_mass: float | None = None,
    storms: object = None,
    cap: str | float | None = None,
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
        A model, the path of one, or a name of `xcvae.models`: such a model finds the variables
        and dims of ``ds`` by their roles.
    factor
        For a model of any factor: divide every cell of the coarse rain in ``ds`` into so many
        pixels along each side. The ensemble has the name and units of that rain, and its means
        over the cells. For the posterior, the rain in ``ds`` is the observation, whose means over
        blocks of so many pixels are the condition. Not needed if ``ds`` has rain on both grids.
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
        data: 0.1 mm d-1) becomes 0. ``[]`` for none, the default of a model of any factor, which
        keeps the means over the cells.
    min_mass
        Redraw members with less than this share of the rain of their sample: of the observed
        field where ``ds`` has it, else of the coarse precipitation condition, stretched.
    storms
        Storms that the record does not have: components that change the conditions before members
        are drawn, such as ``{"name": "amplify", "factor": 1.5}``, ``"turn"``, ``"mirror"``,
        ``"shift"`` and ``"borrow"``. Coordinates along the samples say what was done.
    cap
        Largest rain of a pixel: ``"300 mm h-1"``, a number in the units of the target, or
        ``"none"``. Default: twice the heaviest rain of the record, more in proportion for samples
        whose coarse rain is heavier than any of the record.
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
        False: the store must be new. ``"restart"``: an existing ensemble is replaced, and keeps
        its name until the new one is finished; the same call, or True, continues an interrupted
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
        ``ds`` does not fit the model, or its conditions cannot be moved as ``storms`` requests.
    OutputExistsError
        The store exists and holds something else: the message names the keys that differ.
    StoreError
        Some regions could not be drawn or written (all others are kept, and the same call draws
        the missing ones), or another process is writing the store.
    CatalogError
        The name is used in the catalog for another store.
    DataError
        A condition has gaps, rain is negative or infinite, a storm was not observed (lazy data
        is checked when it is read), no member reaches ``min_mass``, or stacked samples are to be
        written.
    """
    request = SampleRequest(
        factor=factor,
        mode=mode,
        members=members,
        spread=spread,
        diversity=diversity,
        temperature=temperature,
        seed=seed,
        postprocess=postprocess,
        min_mass=min_mass,
        storms=storms,
        cap=cap,
        store=None if store is None else EnsembleStore.of(store),
        catalog=None if catalog is None else local_path("catalog", catalog),
        name=name,
        chunks=chunks,
        tile=tile,
        resume=resume,
        device=device,
        progress=progress,
    )
    ds, known = open_model(model, device).for_data(ds, factor, observed=mode == "posterior")
    sampler = EnsembleSampler.prepare(ds, known, request)
    if request.store is not None:
        return _from_store(sampler, ds, request, request.store)
    if request.diversity is not None:
        sampler = resolve_spread(sampler, request.diversity, progress=progress)
    return to_dataset(sampler, ds)


def _from_store(
    sampler: EnsembleSampler, ds: xr.Dataset, request: SampleRequest, store: EnsembleStore
) -> xr.Dataset:
    """Write what is missing in the store, list it, and open it."""
    spec = sampler.model.spec
    check_storable(ds, spec.sample)
    if store.folder is not None:
        _check_apart(ds, store.folder)
    if request.catalog is not None and store.catalog_path is not None:
        catalogs.check_name(request.catalog, request.entry, store.catalog_path)
    identity, environment = sampler.identity(), sampler.environment()
    wanted = EnsembleSpec(spec.target, identity, sampler.chunks, environment)
    if not is_settled(store, wanted, request.resume):
        with store.lock():
            step = next_step(store, wanted, request.resume)
            if step != "open":
                wanted = replace(wanted, notes=notes_of(store, step))
                _write(sampler, ds, store, wanted)
    ensemble = store.open()
    if request.catalog is not None and store.catalog_path is not None:
        _list(ensemble, request.catalog, request.entry, store.catalog_path)
    return ensemble


def _write(
    sampler: EnsembleSampler, ds: xr.Dataset, store: EnsembleStore, spec: EnsembleSpec
) -> None:
    """Write what is missing in the store; the notes of `spec` are those of an unfinished run."""
    request = sampler.request
    notes = {}
    if request.diversity is not None:
        target, progress = request.diversity, request.progress
        sampler = resolve_spread(sampler, target, spec.notes, progress=progress)
        notes = {"dial": vars(sampler.solution)}
    with _shipped(sampler, store.temporary_path("model")) as shipped:
        write(
            store,
            replace(spec, notes=notes),
            template_of(sampler, ds, spec.identity),
            shipped.subset,
            finish=partial(attributes_of, sampler, ds, identity=spec.identity),
            resume=request.resume,
            progress=request.progress,
        )


def _list(ensemble: xr.Dataset, catalog: Path, name: str, path: Path) -> None:
    """List the store; an entry with the same metadata keeps its scores."""
    metadata = catalog_metadata(ensemble)
    if catalog.exists() and name in catalogs.names(catalog):
        known = catalogs.metadata_of(catalog, name)
        if {key: v for key, v in known.items() if key != "scores"} == plain(metadata):
            return
    catalogs.append(catalog, name, path, metadata)


@contextmanager
def _shipped(sampler: EnsembleSampler, file: Path | None) -> Iterator[EnsembleSampler]:
    """Give the model a file while tasks run in other processes, if it has none.

    Parameters
    ----------
    sampler
        Draws the whole ensemble.
    file
        Name of that file, in a folder that every worker sees; it is removed at the end. None if
        the store has no such folder.

    Yields
    ------
    EnsembleSampler
        The same sampler, or one whose model travels by its file.

    Raises
    ------
    ConfigError
        The model needs a file, and no folder is known.
    """
    from xcvae.generator.model import load

    model = sampler.model
    if shares_memory() or (model.path is not None and model.path.is_file()):
        yield sampler
        return
    if file is None:
        raise ConfigError.of(
            "model",
            expected="one with a file that all workers see",
            got="one without",
            remedy="Save it where they see it: model.save('....xcvae').",
        )
    # A copy: the model of the caller stays without a file.
    copy.copy(model).save(file)
    try:
        shipped = load(file).to(sampler.request.device)
        for names in model.names:
            shipped = shipped.rename(names)
        yield replace(sampler, model=shipped)
    finally:
        file.unlink(missing_ok=True)


def _check_apart(ds: xr.Dataset, store: Path) -> None:
    """Refuse a store that contains, or lies in, a file or folder that the data are read from.

    xarray notes in the ``encoding`` of data where they were opened.
    """
    folder = store.resolve()
    for source in sorted(_sources(ds)):
        if folder == source or folder in source.parents or source in folder.parents:
            raise ConfigError.of(
                "store",
                expected="a folder apart from the data that the ensemble is drawn for",
                got=f"{store}, and data read from {source}",
                remedy="Choose another name: input files are never written to or replaced.",
            )


def _sources(ds: xr.Dataset) -> set[Path]:
    """Return the local files and folders that a Dataset and its variables were opened from."""
    encodings = [ds.encoding, *(variable.encoding for variable in ds.variables.values())]
    found = {str(encoding["source"]) for encoding in encodings if encoding.get("source")}
    local = (source.removeprefix("file://") for source in found)
    return {Path(source).resolve() for source in local if "://" not in source}

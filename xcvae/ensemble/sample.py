"""The verb ``sample``: from conditions (and observed storms) to an ensemble of physical rain."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, cast

import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.append import extension_of, requested_part
from xcvae.ensemble.dataset import (
    attributes_of,
    catalog_metadata,
    check_storable,
    described,
    record_of,
    template_of,
    to_dataset,
)
from xcvae.ensemble.execution.scheduler import shares_memory
from xcvae.ensemble.request import SampleRequest, options_like
from xcvae.ensemble.sampler import EnsembleSampler, open_model, parts_of
from xcvae.ensemble.spread import resolve_spread
from xcvae.ensemble.store.base import EnsembleSpec, EnsembleStore, open_store, refuse_netcdf
from xcvae.ensemble.store.write import is_settled, next_step, notes_of, write
from xcvae.errors import ConfigError
from xcvae.fields.dataspec import plain
from xcvae.files import local_path

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository
    from xcvae.generator.model import Model


P = ParamSpec("P")


def _with_options_of_like(verb: Callable[P, xr.Dataset]) -> Callable[P, xr.Dataset]:
    """Take the arguments that are not given from the ensemble that is given as ``like``."""

    @wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> xr.Dataset:
        like: Any = kwargs.get("like")
        if like is None:
            return verb(*args, **kwargs)
        if not isinstance(like, xr.Dataset):
            like = _opened_like(like)
        given: Any = options_like(record_of(like), {**kwargs, "like": like})
        return verb(*args, **given)

    return call


def _opened_like(like: object) -> xr.Dataset:
    """Open the store that is given as ``like``; the refusal names that argument."""
    if isinstance(like, str | os.PathLike) or type(like).__module__.startswith("icechunk"):
        return open_store(cast("Path | Repository", like))
    raise ConfigError.of(
        "like",
        expected="an ensemble of xcvae, or the path of its store",
        got=f"{type(like).__name__} {like!r}",
        remedy="Give what xcvae.sample or xcvae.open_store returned.",
    )


@_with_options_of_like
def sample(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str] | None = None,
    *,
    like: xr.Dataset | str | os.PathLike[str] | None = None,
    factor: int | None = None,
    mode: Literal["prior", "posterior"] = "prior",
    members: int | range | Mapping[str, int] = 16,
    spread: float | None = None,
    diversity: float | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    postprocess: object = None,
    min_mass: float | None = None,
    temporal: Literal["independent", "coherent"] = "independent",
    timescales: Sequence[str | float] | None = None,
    storms: object = None,
    cap: str | float | None = None,
    store: str | os.PathLike[str] | Repository | None = None,
    catalog: str | os.PathLike[str] | None = None,
    name: str | None = None,
    chunks: Mapping[str, int] | None = None,
    tile: Mapping[str, int] | Literal["auto"] | None = None,
    resume: bool | Literal["restart", "repair", "append"] = True,
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
    like
        An ensemble of xcvae, or its store: arguments that are not given are those that it was drawn
        with, its solved spread included.
    factor
        For a model of any factor: divide every cell of the coarse rain in ``ds`` into so many
        pixels along each side. The ensemble has the name and units of that rain, and its means
        over the cells. For the posterior, the rain in ``ds`` is the observation, whose means over
        blocks of so many pixels are the condition. Not needed if ``ds`` has rain on both grids.
    mode
        ``"prior"``: fields that fit the conditions. ``"posterior"``: variants of observed storms.
    members
        Number of realizations, or their numbers: ``range(16, 66)`` draws 50 members that an
        ensemble of 16 does not have. A member depends on its number, not on how many there are.
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
    temporal
        ``"independent"``: the noise of a sample has nothing to do with that of the next.
        ``"coherent"``: members evolve in time, as fast as the levels of the model forget. A
        member at a time has the same value whichever other times are drawn. The labels of the
        samples must be times.
    timescales
        Coherent members: durations after which each level has forgotten (correlation 1/e),
        coarsest first, such as ``["2h", "30min", 0]``, or seconds. Default: those that training
        measured, ``model.timescales``.
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
        members differ from those drawn in one piece by rounding. ``"auto"``: the fastest tiles that
        half of the free memory has room for, or one piece; those of the store if it has members.
    resume
        True: a finished store of the same ensemble is opened, an interrupted one completed.
        False: the store must be new. ``"restart"``: an existing ensemble is replaced, and keeps
        its name until the new one is finished; the same call, or True, continues an interrupted
        replacement. ``"repair"``: the regions of a finished store whose files have changed are
        drawn again. ``"append"``: what a finished store lacks of these members and samples is added
        to it, with the values of one call; it stays readable meanwhile, and the same call continues
        an interrupted one. True does so too with ``like`` or with members that continue those of
        the store. A store that has them all, and more, is opened at the requested part; a repeated
        call that appended returns the whole ensemble again.
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
    assert like is None or isinstance(like, xr.Dataset)  # opened above
    request = SampleRequest(
        like=like,
        factor=factor,
        mode=mode,
        members=members,
        spread=spread,
        diversity=diversity,
        temperature=temperature,
        seed=seed,
        postprocess=postprocess,
        min_mass=min_mass,
        temporal=temporal,
        timescales=timescales,
        storms=storms,
        cap=cap,
        store=None if store is None else _store_of(store, resume),
        catalog=None if catalog is None else local_path("catalog", catalog),
        name=name,
        chunks=chunks,
        tile=tile,
        resume=resume,
        device=device,
        progress=progress,
    )
    if request.store is not None and request.tile == "auto":
        request = replace(request, tile=_tile_in(request.store, request.resume))
    ds, known = open_model(model, device).for_data(ds, factor, observed=mode == "posterior")
    sampler = EnsembleSampler.prepare(ds, known, request)
    sampler = replace(sampler, seam=_seam_like(request, sampler))
    if request.store is not None:
        return _from_store(sampler, ds, request, request.store)
    sampler.request.check_room(sampler.model, sampler.size)
    if request.diversity is not None:
        notes = _notes_like(request, sampler)
        sampler = resolve_spread(sampler, request.diversity, notes, progress=progress)
    return to_dataset(sampler, ds)


def _store_of(
    given: str | os.PathLike[str] | Repository | EnsembleStore, resume: bool | str
) -> EnsembleStore:
    """Return a store; refuse a folder that cannot be written to, unless it has an ensemble."""
    store = EnsembleStore.of(given)
    if resume is not True or not store.status().complete.exists:
        store.check_writable()
    return store


def _tile_in(
    store: EnsembleStore, resume: bool | str
) -> Mapping[str, int] | Literal["auto"] | None:
    """Return the tiles of the ensemble that a store has or begins; "auto" for a new one."""
    status = store.status()
    found = status.partial.metadata.get("run")
    if not found and resume != "restart":
        found = status.complete.identity
    return found.get("tile") if found else "auto"


def _seam_like(request: SampleRequest, sampler: EnsembleSampler) -> int:
    """Return the bytes of the seam in the ensemble given as ``like``, if it has the same tiles."""
    record = {} if request.like is None else record_of(request.like)
    stored = {**record, **(record.get("identity") or {})}
    same = sampler.tile is not None and stored.get("tile") == sampler.request.tile
    return int(stored.get("seam", 0)) if same else sampler.seam


def _seam_in(
    store: EnsembleStore, identity: Mapping[str, Any], new: int, resume: bool | str
) -> int:
    """Return the bytes of the seam of the same ensemble in a store; those of a new one else.

    Stores of the time when the seam had the smallest maps have no such entry: they keep their bits.
    """
    status = store.status()
    runs = [status.partial.metadata.get("run")]
    if resume != "restart":
        runs.append(status.complete.identity)
    known = [run for run in runs if run]
    for run in known:
        if all(run.get(key) == value for key, value in identity.items() if key != "seam"):
            return int(run.get("seam", 0))
    # Another ensemble is refused: the message names what else differs.
    return int(known[-1].get("seam", 0)) if known and resume != "restart" else new


def _notes_like(request: SampleRequest, sampler: EnsembleSampler) -> dict[str, Any]:
    """Return the spread that was solved for the ensemble of the same model given as ``like``."""
    record = {} if request.like is None else record_of(request.like)
    same = record.get("model_sha256") == sampler.model.sha256
    if not same or record.get("diversity") != request.diversity:
        return {}
    solved = {"spread": record["spread"], "diversity": record["diversity_reached"]}
    return {"dial": {**solved, "evaluations": 0}}


def _from_store(
    sampler: EnsembleSampler, ds: xr.Dataset, request: SampleRequest, store: EnsembleStore
) -> xr.Dataset:
    """Write what is missing in the store, list it, and open it."""
    spec = sampler.model.spec
    check_storable(ds, spec.sample)
    if store.folder is not None:
        _check_apart(ds, store.folder)
        status = store.status()
        if not (status.complete.exists or status.partial.exists):
            refuse_netcdf(store.folder, "ensemble.cvae.to_netcdf(path)")
    if request.catalog is not None and store.catalog_path is not None:
        catalogs.check_name(request.catalog, request.entry, store.catalog_path)
    added = _append(sampler, ds, request, store) if request.extends else None
    if added is None:
        _write_missing(sampler, ds, request, store)
    ensemble = store.open()
    if request.catalog is not None and store.catalog_path is not None:
        _list(ensemble, request.catalog, request.entry, store.catalog_path)
    if added is False:
        return requested_part(store, ensemble, ds, request, spec.sample)
    return ensemble


def _write_missing(
    sampler: EnsembleSampler, ds: xr.Dataset, request: SampleRequest, store: EnsembleStore
) -> None:
    """Write what is missing in the store."""
    resume = True if request.resume == "append" else request.resume
    complete = store.status().complete
    if resume == "repair" and "run" in complete.metadata:
        # A store keeps the chunks of its first call, whatever was appended to it since.
        dims = ("realization", sampler.model.spec.sample)
        chunks = dict(zip(dims, complete.metadata["run"]["chunks"], strict=True))
        chunks.update(request.chunks or {})
        sampler = replace(sampler, request=replace(sampler.request, chunks=chunks))
    identity = sampler.identity(parts_of(complete.identity))
    sampler = replace(sampler, seam=_seam_in(store, identity, sampler.seam, resume))
    identity = {key: value for key, value in identity.items() if key != "seam"}
    if sampler.seam:
        identity["seam"] = sampler.seam
    target, environment = sampler.model.spec.target, sampler.environment()
    wanted = EnsembleSpec(target, identity, sampler.chunks, environment)
    if is_settled(store, wanted, resume):
        return
    store.check_writable()
    with store.lock():
        step = next_step(store, wanted, resume)
        if step != "open":
            notes = notes_of(store, step) or _notes_like(request, sampler)
            _write(sampler, ds, store, replace(wanted, notes=notes), resume)


def _append(
    sampler: EnsembleSampler, ds: xr.Dataset, request: SampleRequest, store: EnsembleStore
) -> bool | None:
    """Add what a finished store lacks; return False if it has all, None if there is none."""
    added = False
    with store.lock():
        if not store.status().complete.exists:
            return None
        while True:  # new samples, then new members
            extension = extension_of(store, ds, sampler, request)
            if extension is None:
                return added
            sampler.request.check_room(sampler.model, sampler.size)
            with _shipped(extension.sampler, store.temporary_path("model")) as shipped:
                write(
                    store,
                    extension.spec,
                    extension.template,
                    partial(extension.source, shipped.subset),
                    finish=extension.attributes,
                    resume="append",
                    progress=request.progress,
                    base=extension.base,
                )
            added = True


def _write(
    sampler: EnsembleSampler,
    ds: xr.Dataset,
    store: EnsembleStore,
    spec: EnsembleSpec,
    resume: bool | Literal["restart", "repair"],
) -> None:
    """Write what is missing in the store; the notes of `spec` are those of an unfinished run."""
    sampler.request.check_room(sampler.model, sampler.size)
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
            resume=resume,
            progress=request.progress,
        )


def _list(ensemble: xr.Dataset, catalog: Path, name: str, path: Path) -> None:
    """List the store; an entry with the same metadata keeps its scores."""
    metadata = plain(catalog_metadata(ensemble))
    if catalog.exists() and name in catalogs.names(catalog):
        known = catalogs.metadata_of(catalog, name)
        # Entries of earlier versions lack some keys; they are left as they are.
        if "model_sha256" in known and all(known.get(k, v) == v for k, v in metadata.items()):
            return
    catalogs.append(catalog, name, path, described(ensemble))


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

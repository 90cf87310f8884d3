"""The verb ``sample``: from conditions (and observed storms) to an ensemble of physical rain."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble.dataset import Provenance, assemble, catalog_metadata, check_storable
from xcvae.ensemble.execution.scheduler import shares_memory
from xcvae.ensemble.execution.threads import numeric_environment
from xcvae.ensemble.identity import fingerprint, labels_of
from xcvae.ensemble.postprocess import Context, build_chain, describe_chain, dry_run
from xcvae.ensemble.request import Request
from xcvae.ensemble.sampler import (
    EnsembleSampler,
    Mode,
    Parts,
    Settings,
    check_apart,
    check_reference,
    inputs_of,
)
from xcvae.ensemble.spread import Dial, dialled
from xcvae.ensemble.store.base import EnsembleSpec, EnsembleStore, plan_chunks
from xcvae.ensemble.store.write import (
    Resume,
    Step,
    is_settled,
    next_step,
    notes_of,
    write,
)
from xcvae.errors import ConfigError, explain
from xcvae.fields.dataspec import plain
from xcvae.files import local_path
from xcvae.registry.discovery import version_of

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository
    from xcvae.generator.model import Model

__all__ = ["Job", "opened", "sample"]


def opened(model: Model | str | os.PathLike[str] | None, device: str) -> Model:
    """Return a model, read from its file if need be, on a device.

    Raises
    ------
    ConfigError
        It is no model and no path.
    ModelFileError
        There is no such file, or it is no model.
    """
    from xcvae.generator.model import Model, load

    if isinstance(model, str | os.PathLike):
        model = load(Path(model))
    if not isinstance(model, Model):
        raise ConfigError(
            explain(
                "model",
                expected="a Model or the path of a model file",
                got=f"{model!r} ({type(model).__name__})",
                remedy="Train one with xcvae.train, or name its file.",
            )
        )
    return model.to(device)


@dataclass(frozen=True)
class Job:
    """One call of ``sample``.

    Parameters
    ----------
    ds
        The data it draws for.
    source
        What draws.
    request
        What was asked for.
    """

    ds: xr.Dataset
    source: EnsembleSampler
    request: Request

    @classmethod
    def of(cls, ds: xr.Dataset, model: Model, request: Request, postprocess: object) -> Job:
        """Check data and components, and put together what draws.

        Raises
        ------
        XcvaeError
            The data do not fit the model, or a post-processor is unknown or wrong.
        """
        from xcvae.generator.tiling import tile_size

        spec = model.spec
        chain = build_chain(postprocess, spec)
        prepared = inputs_of(ds, spec, request.mode)
        size = model.batches(prepared).size
        first = prepared.isel({spec.sample: [0]}).drop_vars(spec.target, errors="ignore")
        dry_run(chain, Context(spec, request.mode, first), size)
        domain = dict(zip((spec.y, spec.x), size, strict=True))
        tile = tile_size(request.tile, domain, model.architecture)
        settings = Settings(
            mode=cast("Mode", request.mode),
            seed=request.seed,
            spread=1.0 if request.fixed_spread is None else request.fixed_spread,
            temperature=request.temperature,
            min_mass=request.min_mass,
            tile=tile,
        )
        labels = labels_of(prepared, spec.sample)
        source = EnsembleSampler(
            model, prepared, labels, request.members, settings, chain, size, str(model.device)
        )
        if request.min_mass is not None:
            check_reference(prepared, spec)
        return cls(ds, source, request)

    @property
    def chunks(self) -> tuple[int, int]:
        """Realizations and samples per chunk."""
        sample = self.source.model.spec.sample
        return plan_chunks(self.request.chunks, sizes=self.source.shape, sample=sample)

    def array(self, chunks: tuple[int, int]) -> Any:
        """Return the ensemble as a lazy array, (realization, sample, y, x)."""
        import dask.array as da

        # A random name: to make one from the content, Dask would read all of the data.
        return da.from_array(  # type: ignore[no-untyped-call]
            self.source,
            chunks=(*chunks, *self.source.size),
            name=False,
            meta=np.empty((0, 0, 0, 0), "float32"),
        )

    def placeholder(self) -> np.ndarray:
        """Return an array of the shape of the ensemble that takes no memory; all NaN."""
        return np.broadcast_to(np.float32(np.nan), self.source.shape)

    def record(self, dial: Dial | None, identity: Mapping[str, Any] | None) -> Provenance:
        """Return how the ensemble is made, for its attributes."""
        history = str(self.ds.attrs.get("history", ""))
        return Provenance(self.source, self.request.diversity, dial, identity, history)

    def identity(self) -> dict[str, Any]:
        """Return what decides on the values of the ensemble, as JSON types."""
        source, request, spec = self.source, self.request, self.source.model.spec
        tile = source.settings.tile
        target_values = request.mode == "posterior" or request.min_mass is not None
        chain = [
            {key: v for key, v in one.items() if key not in ("removed", "package", "version")}
            for one in describe_chain(source.chain, None)
        ]
        return {
            "model_sha256": source.model.sha256,
            "seed": source.settings.seed,
            "mode": request.mode,
            "spread": request.fixed_spread,
            "diversity": request.diversity,
            "temperature": source.settings.temperature,
            "members": source.members,
            "postprocess": chain,
            "min_mass": request.min_mass,
            "tile": None if tile is None else dict(zip((spec.y, spec.x), tile, strict=True)),
            "data": fingerprint(source.prepared, spec, target_values=target_values),
        }

    def environment(self) -> dict[str, str]:
        """Return what decides on the last digits: packages, the device, and its precision."""
        packages = {"xcvae"}
        packages |= {str(one.get("package")) for one in describe_chain(self.source.chain, None)}
        versions = {f"{name} version": version_of(name) for name in sorted(packages)}
        known = {name: version for name, version in versions.items() if version is not None}
        return {**known, **numeric_environment(self.source.model.device)}

    def dialled(self, notes: Mapping[str, Any], *, progress: bool) -> tuple[Job, Dial | None]:
        """Set the spread that gives the diversity asked for, if one is."""
        asked = self.request.diversity
        source, dial = dialled(self.source, asked, notes, progress=progress)
        return replace(self, source=source), dial

    def at(self, spread: float) -> Job:
        """Set the spread."""
        settings = replace(self.source.settings, spread=spread)
        return replace(self, source=replace(self.source, settings=settings))

    def parts(self) -> Parts:
        """Return what cuts out of this job that which draws one region."""
        return Parts(self.source)

    @contextmanager
    def travelling(self, file: Path | None) -> Iterator[Job]:
        """Give the model a file, if it has none and tasks run in other processes.

        Parameters
        ----------
        file
            Name of that file, in a folder that every worker sees. It is gone afterwards. None if
            there is no such folder.

        Raises
        ------
        ConfigError
            It needs a file, and there is no folder.
        """
        from xcvae.generator.model import load

        model = self.source.model
        if shares_memory() or (model.path is not None and model.path.is_file()):
            yield self
            return
        if file is None:
            raise ConfigError(
                explain(
                    "model",
                    expected="one with a file that all workers see",
                    got="one without",
                    remedy="Save it where they see it: model.save('....xcvae').",
                )
            )
        # A copy: the model of the caller keeps having no file.
        copy.copy(model).save(file)
        try:
            filed = load(file).to(str(model.device))
            yield replace(self, source=replace(self.source, model=filed))
        finally:
            file.unlink(missing_ok=True)


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
        store=None if store is None else EnsembleStore.of(store),
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


def _stored(job: Job, store: EnsembleStore, progress: bool) -> xr.Dataset:
    """Return the ensemble from its store, after writing what is missing of it."""
    request, spec = job.request, job.source.model.spec
    check_storable(job.ds, spec.sample)
    if store.folder is not None:
        check_apart(job.ds, store.folder)
    if request.catalog is not None and store.catalog_path is not None:
        catalogs.check_name(request.catalog, request.listed_as, store.catalog_path)
    ensemble_spec = EnsembleSpec(spec.target, job.identity(), job.chunks, job.environment())
    resume = cast("Resume", request.resume)
    if not is_settled(store, ensemble_spec, resume):
        with store.lock():
            step = next_step(store, ensemble_spec, resume)
            if step != "open":
                _write(job, store, ensemble_spec, step, progress)
    ensemble = store.open()
    if store.catalog_path is not None:
        _list(request, ensemble, store.catalog_path)
    return ensemble


def _write(job: Job, store: EnsembleStore, spec: EnsembleSpec, step: Step, progress: bool) -> None:
    notes = notes_of(store, step)
    job, dial = job.dialled(notes, progress=progress)
    spec = replace(spec, notes={"dial": vars(dial)} if dial else {})
    record = job.record(dial, spec.identity)
    with job.travelling(store.temporary_path("model")) as filed:
        write(
            store,
            spec,
            assemble(job.ds, job.placeholder(), record),
            filed.parts(),
            finish=record.attributes,
            resume=cast("Resume", job.request.resume),
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

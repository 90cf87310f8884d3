"""The verb ``sample``: from conditions (and observed storms) to an ensemble of physical rain."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import xarray as xr

from xcvae.ensemble import catalog as catalogs
from xcvae.ensemble import store as stores
from xcvae.ensemble.arguments import Request, local_path
from xcvae.ensemble.chain import build_chain, describe_chain, rehearse
from xcvae.ensemble.dial import Dial
from xcvae.ensemble.drawing import Mode, Settings, Source
from xcvae.ensemble.identity import fingerprint, labels_of
from xcvae.ensemble.inputs import inputs_of
from xcvae.ensemble.postprocess import Context
from xcvae.ensemble.reference import check_reference
from xcvae.ensemble.regions import plan_chunks
from xcvae.ensemble.result import Record, assemble, catalog_metadata, check_storable
from xcvae.ensemble.solving import dialled
from xcvae.errors import ConfigError, explain

if TYPE_CHECKING:
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
    store: str | os.PathLike[str] | None = None,
    catalog: str | os.PathLike[str] | None = None,
    name: str | None = None,
    chunks: Mapping[str, int] | None = None,
    tile: object = None,
    resume: bool | Literal["restart"] = True,
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
        Write to this Zarr store, a local folder, and return it, opened lazily.
    catalog, name
        List the store in this intake catalog (YAML), under this name (default: the store's).
    chunks
        Chunk sizes for ``realization`` and the sample dimension. Default: about 8 MB.
    tile
        Not available yet.
    resume
        True: a finished store of the same ensemble is opened, an interrupted one completed.
        False: the store must be new. ``"restart"``: what is there is replaced.
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
        The store is there and holds something else.
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
        store=local_path("store", store),
        catalog=local_path("catalog", catalog),
        name=name,
        chunks=chunks,
        tile=tile,
        resume=resume,
    )
    job = _Job.of(ds, _opened(model, device), request, postprocess, progress)
    return job.lazily() if store is None else job.stored()


def _opened(model: Model | str | os.PathLike[str] | None, device: str) -> Model:
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
class _Job:
    """One call of ``sample``: its data, what draws, and what was asked for."""

    ds: xr.Dataset
    source: Source
    request: Request
    progress: bool

    @classmethod
    def of(
        cls, ds: xr.Dataset, model: Model, request: Request, postprocess: object, progress: bool
    ) -> _Job:
        spec = model.spec
        chain = build_chain(postprocess, spec)
        prepared = inputs_of(ds, spec, request.mode)
        size = model.batches(prepared).size
        first = prepared.isel({spec.sample: [0]}).drop_vars(spec.target, errors="ignore")
        rehearse(chain, Context(spec, request.mode, first), size)
        settings = Settings(
            mode=cast(Mode, request.mode),
            seed=request.seed,
            spread=1.0 if request.fixed_spread is None else request.fixed_spread,
            temperature=request.temperature,
            min_mass=request.min_mass,
        )
        labels = labels_of(prepared, spec.sample)
        source = Source(
            model, prepared, labels, request.members, settings, chain, size, str(model.device)
        )
        if request.min_mass is not None:
            check_reference(prepared, spec)
        return cls(ds, source, request, progress)

    @property
    def chunks(self) -> tuple[int, int]:
        sample = self.source.model.spec.sample
        return plan_chunks(self.request.chunks, sizes=self.source.shape, sample=sample)

    def lazily(self) -> xr.Dataset:
        """Return the ensemble without drawing it (but for the dial)."""
        chunks = self.chunks
        job, dial = self._dialled({})
        return assemble(self.ds, job._array(chunks), job._record(dial, None))

    def stored(self) -> xr.Dataset:
        """Return the ensemble from its store, after writing what is missing of it."""
        path = cast(Path, self.request.store)
        check_storable(self.ds, self.source.model.spec.sample)
        if self.request.catalog is not None:
            catalogs.check_name(self.request.catalog, self.request.listed_as, path)
        run = stores.Run(path, self._identity(), self.chunks)
        resume = cast(stores.Resume, self.request.resume)
        state = stores.find(run, resume)
        if state != "finished":
            job, dial = self._dialled(stores.notes_of(run) if state == "begun" else {})
            run = replace(run, notes={"dial": vars(dial)} if dial else {})
            record = job._record(dial, run.identity)
            stores.write(
                run,
                assemble(self.ds, job._array(run.chunks), record),
                self.source.model.spec.target,
                job.source,
                finish=record.attributes,
                resume=resume,
                progress=self.progress,
            )
        ensemble = stores.open_store(path)
        self._list(ensemble, path, anew=state != "finished")
        return ensemble

    def _list(self, ensemble: xr.Dataset, path: Path, *, anew: bool) -> None:
        """List the store; an entry that is there already keeps its scores if nothing changed."""
        catalog, name = self.request.catalog, self.request.listed_as
        if catalog is None or (not anew and catalog.exists() and name in catalogs.names(catalog)):
            return
        catalogs.append(catalog, name, path, catalog_metadata(ensemble))

    def _array(self, chunks: tuple[int, int]) -> Any:
        import dask.array as da

        # A random name: to make one from the content, Dask would read all of the data.
        return da.from_array(  # type: ignore[no-untyped-call]
            self.source,
            chunks=(*chunks, *self.source.size),
            name=False,
            meta=np.empty((0, 0, 0, 0), "float32"),
        )

    def _record(self, dial: Dial | None, identity: Mapping[str, Any] | None) -> Record:
        history = str(self.ds.attrs.get("history", ""))
        return Record(self.source, self.request.diversity, dial, identity, history)

    def _identity(self) -> dict[str, Any]:
        """Return what decides on the values of the ensemble, as JSON types."""
        source, request = self.source, self.request
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
            "data": fingerprint(source.prepared, source.model.spec, target_values=target_values),
        }

    def _dialled(self, notes: Mapping[str, Any]) -> tuple[_Job, Dial | None]:
        """Set the spread that gives the diversity asked for, if one is."""
        asked = self.request.diversity
        source, dial = dialled(self.source, asked, notes, progress=self.progress)
        return replace(self, source=source), dial

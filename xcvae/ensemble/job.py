"""One call of ``sample`` made ready: its data, what draws, and what tells it from another one."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import xarray as xr

from xcvae.ensemble.arguments import Request
from xcvae.ensemble.chain import build_chain, describe_chain, rehearse
from xcvae.ensemble.dial import Dial
from xcvae.ensemble.drawing import Mode, Settings, Source
from xcvae.ensemble.identity import fingerprint, labels_of
from xcvae.ensemble.inputs import inputs_of
from xcvae.ensemble.parts import Parts
from xcvae.ensemble.postprocess import Context
from xcvae.ensemble.reference import check_reference
from xcvae.ensemble.regions import plan_chunks
from xcvae.ensemble.result import Record
from xcvae.ensemble.scheduling import shares_memory
from xcvae.ensemble.solving import dialled
from xcvae.ensemble.workers import last_digits
from xcvae.errors import ConfigError, explain
from xcvae.registry.entries import version_of

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Job", "opened"]


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
    source: Source
    request: Request

    @classmethod
    def of(cls, ds: xr.Dataset, model: Model, request: Request, postprocess: object) -> Job:
        """Check data and components, and put together what draws.

        Raises
        ------
        XcvaeError
            The data do not fit the model, or a post-processor is unknown or wrong.
        """
        from xcvae.generator.splitting import tile_size

        spec = model.spec
        chain = build_chain(postprocess, spec)
        prepared = inputs_of(ds, spec, request.mode)
        size = model.batches(prepared).size
        first = prepared.isel({spec.sample: [0]}).drop_vars(spec.target, errors="ignore")
        rehearse(chain, Context(spec, request.mode, first), size)
        domain = dict(zip((spec.y, spec.x), size, strict=True))
        tile = tile_size(request.tile, domain, model.architecture)
        settings = Settings(
            mode=cast(Mode, request.mode),
            seed=request.seed,
            spread=1.0 if request.fixed_spread is None else request.fixed_spread,
            temperature=request.temperature,
            min_mass=request.min_mass,
            tile=tile,
        )
        labels = labels_of(prepared, spec.sample)
        source = Source(
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

    def record(self, dial: Dial | None, identity: Mapping[str, Any] | None) -> Record:
        """Return how the ensemble is made, for its attributes."""
        history = str(self.ds.attrs.get("history", ""))
        return Record(self.source, self.request.diversity, dial, identity, history)

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

    def made_with(self) -> dict[str, str]:
        """Return what decides on the last digits: packages, the device, and its precision."""
        packages = {"xcvae"}
        packages |= {str(one.get("package")) for one in describe_chain(self.source.chain, None)}
        versions = {f"{name} version": version_of(name) for name in sorted(packages)}
        known = {name: version for name, version in versions.items() if version is not None}
        return {**known, **last_digits(self.source.model.device)}

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

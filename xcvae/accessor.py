"""The accessor ``ds.cvae``: the verbs of xcvae as methods of a Dataset. Delegation only."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from xcvae.errors import ConfigError, explain

if TYPE_CHECKING:
    from xcvae.ensemble.store.icechunk import Repository
    from xcvae.generator.model import Model
    from xcvae.verify.diagnosis import Diagnosis
    from xcvae.verify.plots import Plots

__all__ = ["CvaeAccessor"]


@xr.register_dataset_accessor("cvae")  # type: ignore[no-untyped-call]  # xarray's lacks types
class CvaeAccessor:
    """The verbs of xcvae, as methods of a Dataset.

    xarray keeps one accessor per Dataset object. It remembers the model of the last training on
    that object, so that `sample` and `diagnose` may leave it out.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds
        self._model: Model | None = None

    @property
    def plot(self) -> Plots:
        """Pictures of this Dataset, each a method: ``ens.cvae.plot.members(ds)``.

        An ensemble has `members`, `spectra` and `rank_histogram`, a scorecard has `summary`, the
        history of a model `training_curve`.
        """
        from xcvae.verify.plots import Plots

        return Plots(self._ds)

    def train(
        self,
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
        """Train a generator on this Dataset; see `xcvae.train`.

        Parameters
        ----------
        target : str, optional
            The rain variable, dims (sample, Y, X), with ``units``. Default: the only one there is.
        conditions : sequence of str, optional
            Variables with the sample dim, each on its own grid or none.
        statics : sequence of str, optional
            Maps on the target's grid.
        coarsen, spatial_dims : optional
            Derive a condition: means of the target over blocks of so many pixels; names of
            (Y, X), where CF attributes do not tell.
        validation : float or xarray.Dataset, optional
            Share of the samples that is held out, or the samples to use.
        generator, losses, fit : optional
            Architecture, terms of the loss, and optimisation; see `xcvae.train`.
        seed, device : optional
            Of weights and batches; "auto", "cpu" or "cuda".
        path, progress : optional
            Where to save the model (a training that was interrupted goes on from there); show a
            bar on a terminal.

        Returns
        -------
        Model
        """
        from xcvae.generator.training.train import train

        self._model = train(
            self._ds,
            target=target,
            conditions=conditions,
            statics=statics,
            coarsen=coarsen,
            spatial_dims=spatial_dims,
            validation=validation,
            generator=generator,
            losses=losses,
            fit=fit,
            seed=seed,
            device=device,
            path=path,
            progress=progress,
        )
        return self._model

    def sample(
        self,
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
        """Draw an ensemble for every sample of this Dataset; see `xcvae.sample`.

        Parameters
        ----------
        model : Model or path-like, optional
            May be left out right after `train` on the same Dataset object.
        mode : {"prior", "posterior"}, optional
            Fields that fit the conditions, or variants of observed storms.
        members : int, optional
            Number of realizations.
        spread, diversity : float, optional
            Posterior: how much of a storm is redrawn, 0 to 1, or the diversity to solve it for.
        temperature, seed : optional
            Factor on the standard deviation of the latents; same seed, same members.
        postprocess : object, optional
            Components; default: the drizzle threshold. ``[]`` for none.
        min_mass : float, optional
            Redraw members with less than this share of the reference mass.
        store, catalog, name : optional
            Zarr store to write and list under this name, or ``"icechunk:PATH"``, not listed.
        chunks, tile : optional
            Chunk sizes by dim; pixels by dim of the tiles that large maps are drawn in.
        resume, device, progress : optional
            Go on with, "restart" or "repair" what is in the store; "auto", "cpu" or "cuda"; show
            progress on a terminal.

        Returns
        -------
        xarray.Dataset
            The target variable with dims (realization, sample, Y, X), lazy.
        """
        from xcvae.ensemble.sample import sample

        return sample(
            self._ds,
            self._given(model),
            mode=mode,
            members=members,
            spread=spread,
            diversity=diversity,
            temperature=temperature,
            seed=seed,
            postprocess=postprocess,
            min_mass=min_mass,
            store=store,
            catalog=catalog,
            name=name,
            chunks=chunks,
            tile=tile,
            resume=resume,
            device=device,
            progress=progress,
        )

    def evaluate(
        self,
        ensemble: xr.Dataset,
        *,
        metrics: Sequence[object] | str | Mapping[str, object] | None = None,
        baselines: Sequence[object] | str | Mapping[str, object] | None = None,
        groupby: str | xr.DataArray | None = None,
        progress: bool = True,
    ) -> xr.Dataset:
        """Score an ensemble against this Dataset, beside baselines; see `xcvae.evaluate`.

        Parameters
        ----------
        ensemble : xarray.Dataset
            From `sample`.
        metrics, baselines : sequence, optional
            Components by name, dict or instance.
        groupby, progress : optional
            Score groups of samples one by one, such as "time.season"; show a bar on a terminal.

        Returns
        -------
        xarray.Dataset
            One variable per metric, dim ``source``.
        """
        from xcvae.verify.scorecard import evaluate

        return evaluate(
            self._ds,
            ensemble,
            metrics=metrics,
            baselines=baselines,
            groupby=groupby,
            progress=progress,
        )

    def diagnose(
        self,
        model: Model | str | os.PathLike[str] | None = None,
        *,
        members: int = 8,
        seed: int = 0,
    ) -> Diagnosis:
        """Find out what is wrong with a model, in words; see `xcvae.diagnose`.

        Parameters
        ----------
        model : Model or path-like, optional
            May be left out right after `train` on the same Dataset object.
        members, seed : int, optional
            How many realizations to judge by, and the seed of their noise.

        Returns
        -------
        Diagnosis
        """
        from xcvae.verify.diagnosis import diagnose

        return diagnose(self._ds, self._given(model), members=members, seed=seed)

    def augment(
        self,
        ensemble: xr.Dataset,
        *,
        select: Any = None,
        fraction: float | None = None,
        seed: int = 0,
    ) -> xr.Dataset:
        """Put synthetic samples beside the real ones, flagged; see `xcvae.augment`.

        Parameters
        ----------
        ensemble, select
            From `sample` on these data, and which of its samples to take members of.
        fraction, seed : optional
            Share of synthetic samples in the result, and the seed of the choice.

        Returns
        -------
        xarray.Dataset
        """
        from xcvae.ensemble.augment import augment

        return augment(self._ds, ensemble, select=select, fraction=fraction, seed=seed)

    def heavy(
        self,
        *,
        target: str | None = None,
        threshold: str | float | None = None,
        quantile: float = 0.95,
        extent: float = 0.02,
        spatial_dims: Sequence[str] | None = None,
    ) -> xr.DataArray:
        """Say which samples have heavy rain over a large area; see `xcvae.heavy`.

        Parameters
        ----------
        target, spatial_dims : optional
            The rain variable, and the names of its (Y, X), where they do not tell themselves.
        threshold : str or float, optional
            What is heavy: "10 mm h-1", or a number in the target's units.
        quantile, extent : float, optional
            Without ``threshold``: this quantile of the wet pixels; the share of heavy pixels.

        Returns
        -------
        xarray.DataArray
            True or False per sample, for ``ds.isel(time=ds.cvae.heavy())``.
        """
        from xcvae.fields.samples import heavy

        return heavy(
            self._ds,
            target=target,
            threshold=threshold,
            quantile=quantile,
            extent=extent,
            spatial_dims=spatial_dims,
        )

    def _given(self, model: Model | str | os.PathLike[str] | None) -> Any:
        if model is not None:
            return model
        if self._model is None:
            raise ConfigError(
                explain(
                    "model",
                    expected="a Model or the path of one",
                    got="none, and no training on this Dataset object before",
                    remedy="Name it: a selection such as ds.isel(...) is another object, which "
                    "does not know the model trained on ds.",
                )
            )
        return self._model

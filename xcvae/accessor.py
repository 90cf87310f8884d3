"""The accessor ``ds.cvae``: the verbs of xcvae as methods of a Dataset.

Signatures and docstrings of the methods are those of the verbs, so that every option is written
once.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import xarray as xr

# Only the name is bound here: xcvae is still being imported. Its verbs are looked up on first use.
import xcvae
from xcvae.errors import ConfigError
from xcvae.notebook import MAPS, Overview

if TYPE_CHECKING:
    import numpy as np

    from xcvae.generator.model import Model
    from xcvae.verify.plots import Plots


P = ParamSpec("P")
R = TypeVar("R")
#: Samples among which the wettest are shown, and pixels along the side of a small map, about.
LOOKED_AT, PIXELS = 32, 80


class _Verb(Generic[P, R]):
    """Method of the accessor that calls a verb of xcvae with the Dataset as its first argument.

    Parameters
    ----------
    find
        Returns the verb; only then its module is imported.
    """

    def __init__(self, find: Callable[[], Callable[Concatenate[xr.Dataset, P], R]]) -> None:
        self._find = find

    @overload
    def __get__(self, accessor: None, owner: type) -> Callable[Concatenate[CvaeAccessor, P], R]: ...

    @overload
    def __get__(self, accessor: CvaeAccessor, owner: type) -> Callable[P, R]: ...

    def __get__(self, accessor: CvaeAccessor | None, owner: type) -> Callable[..., R]:
        """Return the method with signature and docstring of the verb."""
        verb = self._find()

        def method(self_: CvaeAccessor, *args: Any, **kwargs: Any) -> R:
            return self.call(verb, self_, *args, **kwargs)

        method.__name__, method.__module__ = verb.__name__, owner.__module__
        method.__qualname__ = f"{owner.__qualname__}.{verb.__name__}"
        method.__doc__ = _without_dataset(verb.__doc__ or "")
        method.__signature__ = _of_method(inspect.signature(verb))  # type: ignore[attr-defined]
        bound: Callable[..., R] = method if accessor is None else method.__get__(accessor, owner)
        return bound

    def call(self, verb: Callable[..., R], accessor: CvaeAccessor, *args: Any, **kwargs: Any) -> R:
        """Call the verb with the Dataset of an accessor."""
        return verb(accessor._ds, *args, **kwargs)


class _TrainingVerb(_Verb[P, R]):
    """Verb whose model the accessor remembers."""

    def call(self, verb: Callable[..., R], accessor: CvaeAccessor, *args: Any, **kwargs: Any) -> R:
        """Train, and remember the model."""
        model: Any = super().call(verb, accessor, *args, **kwargs)
        accessor._model = model
        return model  # type: ignore[no-any-return]


class _ModelVerb(_Verb[P, R]):
    """Verb whose model may be left out after a training on the same Dataset object."""

    def call(
        self, verb: Callable[..., R], accessor: CvaeAccessor, model: Any = None, **kwargs: Any
    ) -> R:
        """Call the verb with the given model, or the one of the last training."""
        return super().call(verb, accessor, accessor._known_model(model), **kwargs)


def _of_method(signature: inspect.Signature) -> inspect.Signature:
    """Replace the Dataset by ``self``, and let the model be left out."""
    _, *others = signature.parameters.values()
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = [one.replace(default=None) if one.name == "model" else one for one in others]
    return signature.replace(parameters=[own, *others])


def _without_dataset(text: str) -> str:
    r"""Drop the parameter ``ds`` from a docstring in the style of numpydoc.

    Examples
    --------
    >>> print(_without_dataset("    ds\n        The data.\n    seed\n        Of the noise.\n"))
        seed
            Of the noise.
    <BLANKLINE>
    """
    return re.sub(r"^( *)ds( : .*)?\n(\1 +.*\n)+", "", text, count=1, flags=re.MULTILINE)


@xr.register_dataset_accessor("cvae")  # type: ignore[no-untyped-call]  # xarray's lacks types
class CvaeAccessor:
    """The verbs of xcvae, as methods of a Dataset.

    xarray keeps one accessor per Dataset object. It remembers the model of the last training on
    that object, so that `sample` and `diagnose` may leave it out.
    """

    train = _TrainingVerb(lambda: xcvae.train)
    sample = _ModelVerb(lambda: xcvae.sample)
    evaluate = _Verb(lambda: xcvae.evaluate)
    diagnose = _ModelVerb(lambda: xcvae.diagnose)
    augment = _Verb(lambda: xcvae.augment)
    heavy = _Verb(lambda: xcvae.heavy)

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds
        self._model: Model | None = None

    def __repr__(self) -> str:
        return str(_overview(self._ds))

    def _repr_html_(self) -> str:
        return _overview(self._ds).html()

    def to_netcdf(
        self, folder: str | os.PathLike[str], by: str | None = None, pack: bool = True
    ) -> list[Path]:
        """Write this ensemble to NetCDF files; see :func:`xcvae.ensemble.store.netcdf.to_netcdf`.

        Parameters
        ----------
        folder
            Folder of the files.
        by
            None: one file. ``"realization"``: one for each member. ``"time"`` or the name of the
            sample dimension: one for each sample.
        pack
            Store rain as 16-bit integers, with a step chosen for each file from its largest value.
        """
        from xcvae.ensemble.store.netcdf import to_netcdf

        return to_netcdf(self._ds, folder, by=by, pack=pack)

    def table(
        self,
        style: Literal["text", "markdown", "latex", "csv"] = "text",
        intervals: bool = True,
    ) -> str:
        """Write this scorecard as a table: a row for each score and group, a column per source.

        Parameters
        ----------
        style
            ``"text"``, ``"markdown"``, ``"latex"``, or ``"csv"`` with all digits.
        intervals
            Write 95 % intervals behind the scores; in CSV, in columns of their own.
        """
        from xcvae.verify.score_text import score_table

        return score_table(self._ds, style=style, intervals=intervals)

    @property
    def plot(self) -> Plots:
        """Pictures of this Dataset, each a method: ``ens.cvae.plot.members(ds)``.

        An ensemble has `members`, `spectra`, `rank_histogram` and others, a scorecard `summary`,
        the history of a model `training_curve`.
        """
        from xcvae.verify.plots import Plots

        return Plots(self._ds)

    def _known_model(self, model: Any = None) -> Any:
        """Return a model, by default the one of the last training on this Dataset object.

        Raises
        ------
        ConfigError
            No model is given, and none was trained.
        """
        if model is not None:
            return model
        if self._model is None:
            raise ConfigError.of(
                "model",
                expected="a Model or the path of one",
                got="none, and no training on this Dataset object before",
                remedy="Name it: a selection such as ds.isel(...) is another object, which "
                "does not know the model trained on ds.",
            )
        return self._model


def _overview(ds: xr.Dataset) -> Overview:
    """Describe a Dataset by its kind, and say what to type next; nothing is read or drawn."""
    if _is_ensemble(ds):
        return _of_ensemble(ds)
    if "source" in ds.dims and any("better" in da.attrs for da in ds.data_vars.values()):
        return _of_scores(ds)
    if set(ds.dims) == {"step"}:
        facts = {"quantities": ", ".join(map(str, ds.data_vars)), "steps": ds.sizes["step"]}
        return Overview("Training log", facts, ["log.cvae.plot.training_curve()"])
    return _of_data(ds)


def _is_ensemble(ds: xr.Dataset) -> bool:
    """Tell if a Dataset has members of xcvae; not if they were renamed, or none is left."""
    if "xcvae" not in ds.attrs or not ds.sizes.get("realization"):
        return False
    from xcvae.ensemble.dataset import record_of
    from xcvae.errors import XcvaeError
    from xcvae.fields.dataspec import DataSpec

    try:
        spec = DataSpec.from_json(record_of(ds)["spec"])
    except XcvaeError:
        return False
    known = spec.sample in ds.dims or spec.sample in ds.coords
    return known and spec.target in ds.data_vars and ds[spec.target].size > 0


def _of_ensemble(ds: xr.Dataset) -> Overview:
    from xcvae.ensemble.dataset import record_of
    from xcvae.fields.dataspec import DataSpec
    from xcvae.pipeline.info import ensemble_facts

    record = record_of(ds)
    spec = DataSpec.from_json(record["spec"])
    lazy = not ds[spec.target].variable._in_memory
    facts = {**ensemble_facts(ds, record, spec), "values": "drawn or read on access" * lazy}
    following = [
        "card = ds.cvae.evaluate(ens); print(card.cvae.table())",
        "ens.cvae.plot.members(ds)",
    ]
    if lazy:
        following.append('ens = ds.cvae.sample(model, ..., store="ens.zarr")   # to keep it')
    members = ds[spec.target].isel(realization=0)
    dims = [spec.sample, spec.y, spec.x]
    maps = [] if lazy or set(members.dims) != set(dims) else _small(members.transpose(*dims))
    return Overview("Ensemble", facts, following, maps, "Samples of the first member")


def _of_scores(ds: xr.Dataset) -> Overview:
    from xcvae.verify.score_text import score_names, score_table

    facts = {"scores": len(score_names(ds)), "sources": ", ".join(map(str, ds["source"].values))}
    following = [
        "card.cvae.plot.summary()",
        'print(card.cvae.table(style="latex"))   # markdown, csv',
    ]
    return Overview("Scorecard", facts, following, content=score_table(ds))


def _of_data(ds: xr.Dataset) -> Overview:
    from xcvae.errors import XcvaeError
    from xcvae.fields.cf import find_layout, find_target

    # Variables of other tools may have numbers as names.
    ds = ds.rename({name: str(name) for name in ds.data_vars if not isinstance(name, str)})

    def shown(name: str) -> str:
        da = ds[name]
        units = f" [{da.attrs['units']}]" if "units" in da.attrs else ""
        return f"{name}{units} ({', '.join(f'{dim} {size}' for dim, size in da.sizes.items())})"

    try:
        target = find_target(ds, None)
        layout = find_layout(ds[target])
    except XcvaeError as error:
        found = {"variables": ", ".join(shown(str(name)) for name in ds.data_vars)}
        following = ['model = ds.cvae.train(target="...", conditions=["..."])']
        return Overview("Data", {**found, "target": f"not found: {error}"}, following)
    names = [str(n) for n, da in ds.data_vars.items() if n != target and layout.sample in da.dims]
    labels = ds.indexes.get(layout.sample, [])
    facts = {
        "target": shown(target),
        "others": ", ".join(map(shown, names)),
        "samples": " to ".join(str(one)[:16] for one in labels[:: max(len(labels) - 1, 1)][:2]),
    }
    given = "" if names else ", coarsen=8"
    following = [
        f'model = ds.cvae.train(target="{target}"{given}, path="model.xcvae")',
        'ens = ds.cvae.sample(model, mode="prior", members=16)',
    ]
    field = ds[target].transpose(layout.sample, layout.y, layout.x)
    maps = _small(field) if field.variable._in_memory else []
    return Overview("Data", facts, following, maps, "Samples with much rain")


def _small(field: xr.DataArray) -> list[np.ndarray]:
    """Return small maps of a few samples of a field in memory, dims (sample, y, x)."""
    import numpy as np

    few = field[:: max(1, field.shape[0] // LOOKED_AT)]
    means = np.nan_to_num(few.mean(few.dims[1:]).values)
    step = max(1, max(few.shape[1:]) // PIXELS)
    y = few.indexes.get(few.dims[1])
    up = -1 if y is not None and y.dtype.kind in "iuf" and y.is_monotonic_increasing else 1
    values = few.values[np.sort(np.argsort(-means, kind="stable")[:MAPS]), ::step, ::step]
    return list(np.maximum(values[:, ::up], 0.0) ** 0.35)  # as the classes of a rain scale

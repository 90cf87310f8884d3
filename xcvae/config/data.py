"""Data of a configuration: opened, renamed, and selected for training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xcvae.config.schema import Config, HeavySection, Part, SampleSection, Selection
from xcvae.config.sources import opened
from xcvae.errors import (
    ConfigError,
    EmptySelectionError,
    MissingVariableError,
    nearest,
    whole_number,
)
from xcvae.fields.cf import find_layout, find_target
from xcvae.fields.dataspec import DataSpec
from xcvae.fields.describe import describe
from xcvae.fields.regridding.projections import mapping_name
from xcvae.fields.samples import heavy
from xcvae.fields.units import step_of, time_bounds, with_duration
from xcvae.metrics.pairs import area_name


def select(ds: xr.Dataset, selection: Selection, sample: str, where: str) -> xr.Dataset:
    """Choose samples by their labels.

    Parameters
    ----------
    ds
        The data.
    selection
        By coordinate along the sample dim: a value (``split: 0``; ``time: 2005`` is the whole
        year), a list of values, for times a pair [first, last], or ``{start, stop, step}``.
        Samples must fulfil all of them; steps are applied last.
    sample
        Name of the sample dim.
    where
        Name of the selection in messages.

    Raises
    ------
    MissingVariableError
        A coordinate does not exist.
    ConfigError
        A value cannot be looked up.
    EmptySelectionError
        The selection is empty.
    """
    keep = np.ones(ds.sizes[sample], dtype=bool)
    step = 1
    for name, wanted in selection.items():
        labels = _labels(ds, name, sample, where)
        if isinstance(wanted, Mapping):
            step *= _step(wanted, f"{where}.{name}")
        matched = _matches(labels, wanted, f"{where}.{name}")
        if not matched.any():
            raise EmptySelectionError.of(
                f"{where}.{name}",
                expected=f"labels from {labels.min()} to {labels.max()}",
                got=repr(wanted),
                remedy="Choose values that occur in the data.",
            )
        keep &= matched
    positions = np.flatnonzero(keep)[::step]
    if not len(positions):
        raise EmptySelectionError.of(
            where,
            expected="at least one sample",
            got=f"none that fits {selection!r}",
            remedy="Each condition selects some samples, but no sample fulfils all: relax one.",
        )
    return ds.isel({sample: positions})


def _labels(ds: xr.Dataset, name: str, sample: str, where: str) -> Any:
    """Return a coordinate along the sample dim as a pandas index."""
    along = [str(c) for c, coord in ds.coords.items() if coord.dims == (sample,)]
    if name not in along:
        raise MissingVariableError.of(
            where,
            expected=f"names of coordinates along '{sample}'",
            got=repr(name),
            remedy=nearest(name, along),
        )
    return ds[name].to_index()


def _matches(labels: Any, wanted: object, where: str) -> np.ndarray:
    times = hasattr(labels, "year")
    if isinstance(wanted, Mapping):
        return _between(labels, wanted.get("start"), wanted.get("stop"), times, where)
    values = wanted if isinstance(wanted, list) else [wanted]
    if any(value is None or value != value for value in values):  # noqa: PLR0124
        raise ConfigError.of(
            where,
            expected="a value, or a list of values",
            got="an empty one",
            remedy="Leave the key out for all samples, or give an end: {start: 2005-03}.",
        )
    if not times:
        return np.asarray(labels.isin(values))
    if len(values) == 2:
        return _between(labels, values[0], values[1], times, where)
    found = [_between(labels, value, value, times, where) for value in values]
    return np.asarray(np.any(found, axis=0))


def _between(labels: Any, start: object, stop: object, times: bool, where: str) -> np.ndarray:
    """Return which labels lie in [start, stop]; a time such as "2005-03" covers the whole month."""
    bounds = [None if b is None else str(b) if times else b for b in (start, stop)]
    if not times:
        try:
            after = True if start is None else labels >= start
            before = True if stop is None else labels <= stop
        except TypeError as error:
            raise _unreadable(where, bounds, labels) from error
        return np.broadcast_to(np.logical_and(after, before), len(labels))
    labels = labels.rename("label")
    positions = xr.DataArray(np.arange(len(labels)), {"label": labels}, "label")
    try:
        inside = positions.sel(label=slice(*bounds)).values
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(where, bounds, labels) from error
    return np.isin(positions.values, inside)


def _unreadable(where: str, bounds: list[Any], labels: Any) -> ConfigError:
    return ConfigError.of(
        where,
        expected=f"labels such as {labels[0]}, in ascending order",
        got=f"from {bounds[0]!r} to {bounds[1]!r}",
        remedy="Write times as 2005, 2005-03 or 2005-03-01T12:00.",
    )


def _step(wanted: Mapping[str, Any], where: str) -> int:
    valid = ("start", "stop", "step")
    for key in wanted:
        if key not in valid:
            raise ConfigError(f"{where}: unknown key '{key}'. {nearest(str(key), valid)}")
    remedy = "8 takes every 8th sample."
    return whole_number(f"{where}.step", wanted.get("step", 1), least=1, remedy=remedy)


IN_MEMORY_BYTES = 1_000_000_000  # smaller data are read into memory, larger data are streamed


@dataclass(frozen=True)
class Parts:
    """Data of a configuration.

    Attributes
    ----------
    train, validation, test
        Samples for training, for its validation, and for ensembles and scores; None if the
        configuration does not select any.
    spec
        Roles, grids and units of their variables.
    whole
        All samples, not read.
    extras
        By part, and as "whole": variables that scores alone need, the areas of cells and groups of
        samples or pixels; empty without any.
    """

    train: xr.Dataset
    validation: xr.Dataset | None
    test: xr.Dataset | None
    spec: DataSpec
    whole: xr.Dataset
    extras: Mapping[str, xr.Dataset] = field(default_factory=dict)

    def of(self, section: SampleSection) -> xr.Dataset:
        """Return the samples of an ensemble: its own, or those of its part."""
        if section.samples is None:
            return self[section.part]
        return _in_memory(self._own(self.whole, section))

    def scored(self, section: SampleSection, samples: xr.Dataset) -> xr.Dataset:
        """Return the samples of an ensemble with what scores alone need."""
        if not self.extras:
            return samples
        if section.samples is None:
            return samples.assign(self.extras[section.part].data_vars)
        extra = self._own(self.extras["whole"], section).drop_vars(self.spec.target)
        return samples.assign(_in_memory(extra).data_vars)

    def _own(self, ds: xr.Dataset, section: SampleSection) -> xr.Dataset:
        """Select the samples that a section names itself, of variables along them."""
        where = f"sample '{section.name}': samples"
        return select(ds, section.samples or {}, self.spec.sample, where)

    def __getitem__(self, part: Part) -> xr.Dataset:
        """Return a part.

        Raises
        ------
        ConfigError
            The configuration does not select this part.
        """
        ds: xr.Dataset | None = getattr(self, part)
        if ds is None:
            raise _no_part(part)
        return ds


def _no_part(part: Part) -> ConfigError:
    return ConfigError.of(
        f"data.{part}",
        expected="a selection of samples",
        got="none",
        remedy=f"Add one to the configuration, such as `{part}: {{split: 2}}` or "
        f"`{part}: {{time: [2009-01-01, 2010-12-31]}}`; `{part}: {{}}` takes all.",
    )


def open_parts(config: Config) -> Parts:
    """Open the data of a configuration and select its parts.

    Parameters
    ----------
    config
        The configuration.

    Returns
    -------
    Parts
        In memory if the variables in use are small, else backed by Dask.

    Raises
    ------
    ConfigError
        The source cannot be opened, or a selection is invalid.
    EmptySelectionError
        A selection is empty.
    MissingVariableError, UnitsError, DataError
        The data do not fit the section ``train``; see :func:`xcvae.train`.
    """
    section = config.data
    ds, target, chosen = _selected(config)
    spec = _described(config, chosen["train"], target)
    names = [target, *(v.name for v in spec.variables if v.name != spec.derived)]
    mappings = [mapping_name(chosen["train"][name]) for name in names]
    names += [name for name in dict.fromkeys(mappings) if name in chosen["train"].data_vars]
    names += _bounds(chosen["train"], spec)
    ready = {part: _in_memory(one[names]) for part, one in chosen.items()}
    extras: dict[str, xr.Dataset] = {}
    if more := _for_scores(config, ds, target, names):
        extras = {part: _in_memory(one[more]) for part, one in chosen.items()}
        extras["whole"] = ds[[target, *more]]  # the target has the labels to select by
    if section.heavy is not None:
        for part in section.heavy.parts:
            if part in ready:
                rows = {spec.sample: _heavy(ready[part], section.heavy, spec, part)}
                ready[part] = ready[part].isel(rows)
                if part in extras:
                    extras[part] = extras[part].isel(rows, missing_dims="ignore")
    whole = ds[names]
    return Parts(ready["train"], ready.get("validation"), ready.get("test"), spec, whole, extras)


def _bounds(ds: xr.Dataset, spec: DataSpec) -> list[str]:
    """Name the bounds of times that depths get another duration from than the distance of times."""
    field = ds[spec.target]
    duration = step_of(with_duration(ds, field, spec.sample), spec.sample)
    bounds = time_bounds(ds, spec.sample)
    return [] if bounds is None or duration == step_of(field, spec.sample) else [bounds]


def _described(config: Config, ds: xr.Dataset, target: str) -> DataSpec:
    """Describe the training samples by the section ``train``."""
    training = config.train
    try:
        return describe(
            ds,
            target=target,
            conditions=training.conditions,
            statics=training.statics,
            coarsen=training.coarsen,
            spatial_dims=training.spatial_dims,
            missing=training.missing,
        )
    except ConfigError as error:
        if not (config.sample and config.draws_only):
            raise
        raise ConfigError(
            f"train: {error} Ensembles with a `model` of their own need no training: "
            "`xcvae sample` draws them. Scores need fine rain in the data, and `coarsen` or "
            "`conditions` here."
        ) from error


def _for_scores(config: Config, ds: xr.Dataset, target: str, names: list[str]) -> list[str]:
    """Name the variables that scores alone need, beside coordinates and those of the model."""
    groupby = config.evaluate.groupby
    wanted = [groupby] if isinstance(groupby, str) else list(groupby or ())
    area = area_name(ds[target])
    more = dict.fromkeys([*wanted, *([] if area is None else [area])])
    return [name for name in more if name in ds.data_vars and name not in names]


def open_samples(config: Config, section: SampleSection) -> xr.Dataset:
    """Open the samples of an ensemble with all variables, for a model that is not trained on them.

    Raises
    ------
    ConfigError
        The source cannot be opened, or the configuration does not select this part.
    EmptySelectionError
        The selection is empty.
    """
    ds, target, chosen = _selected(config)
    if section.samples is not None:
        sample = find_layout(ds[target], spatial_dims=config.train.spatial_dims).sample
        return select(ds, section.samples, sample, f"sample '{section.name}': samples")
    if section.part not in chosen:
        raise _no_part(section.part)
    return chosen[section.part]


def _selected(config: Config) -> tuple[xr.Dataset, str, dict[str, xr.Dataset]]:
    """Return the data, the name of the target, and the selections of the data by part."""
    section, training = config.data, config.train
    ds = opened(section, config.folder)
    target = find_target(ds, training.target)
    sample = find_layout(ds[target], spatial_dims=training.spatial_dims).sample
    wanted: dict[str, Selection | None] = {
        "train": section.train,
        "validation": section.validation,
        "test": section.test,
    }
    chosen = {
        part: select(ds, selection, sample, f"data.{part}")
        for part, selection in wanted.items()
        if selection is not None
    }
    return ds, target, chosen


def _in_memory(ds: xr.Dataset) -> xr.Dataset:
    return ds.load() if ds.nbytes <= IN_MEMORY_BYTES else ds


def _heavy(ds: xr.Dataset, section: HeavySection, spec: DataSpec, part: str) -> NDArray[np.int64]:
    """Return the positions of the samples with heavy rain."""
    days = heavy(
        ds,
        target=spec.target,
        threshold=section.threshold,
        quantile=section.quantile,
        extent=section.extent,
        spatial_dims=(spec.y, spec.x),
    )
    if not bool(days.any()):
        raise EmptySelectionError.of(
            "data.heavy",
            expected=f"samples of data.{part} with heavy rain over {section.extent:.0%} of "
            "the pixels",
            got="none",
            remedy="Lower extent or threshold.",
        )
    return np.flatnonzero(days.values)

"""Match an ensemble with the observations and conditions of a Dataset, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import (
    DataError,
    EmptySelectionError,
    MismatchError,
    MissingVariableError,
    nearest,
)
from xcvae.fields.cf import find_axes, find_layout, is_rain
from xcvae.fields.dataspec import DataSpec, VariableSpec, json_attribute
from xcvae.fields.describe import describe, prepare
from xcvae.fields.sample_blocks import block_length
from xcvae.fields.samples import label_codes, label_keys
from xcvae.fields.units import (
    DAILY_STEP,
    HEAVY,
    STEP,
    factor,
    is_rate,
    per,
    rain_converts,
    rain_scale,
    step_of,
    to_units,
    units_of,
    with_duration,
)
from xcvae.fields.validation import check_dataset, refuse_packed
from xcvae.metrics.pairs import REALIZATION, Pair, area_name, matched
from xcvae.metrics.sample import Array
from xcvae.verify.accumulate import BLOCK_BYTES

MAX_SAMPLES = 64
"""Largest number of samples that a baseline draws at a time."""


@dataclass(frozen=True, eq=False)
class MatchedPair:
    """An ensemble and the Dataset that it is evaluated against.

    Attributes
    ----------
    pair
        Ensemble and observation of the same samples.
    ds
        The Dataset, restricted to the samples of the ensemble.
    spec
        Description of the model's training data, from the attributes of the ensemble; None
        without.
    record
        Record of how the ensemble was drawn, from its attributes; may be empty.
    others
        Observed rain of the samples of the Dataset that the ensemble does not have, dims as the
        observation; None without any. If the Dataset has the training samples too, it is these.
    """

    pair: Pair
    ds: xr.Dataset
    spec: DataSpec | None
    record: Mapping[str, Any]
    others: xr.DataArray | None = None

    def against(self, forecast: xr.DataArray) -> Pair:
        """Pair another forecast of the same samples with the observation."""
        spatial = [str(dim) for dim in self.pair.observed.dims[1:]]
        return matched(forecast, self.pair.observed, spatial_dims=spatial)

    @property
    def has_condition(self) -> bool:
        """True if the data have coarse precipitation in units that convert to the observation's."""
        spec = self._coarse_spec()
        if spec is None:
            return False
        return rain_converts(spec.variables[0].units, self.pair.units, self._step)

    @property
    def trained_samples(self) -> int:
        """The number of samples that the model was trained on, as far as the ensemble knows."""
        known = self.record.get("training_samples", {})
        codes = known.get("codes", []) if isinstance(known, Mapping) else []
        same = int(np.isin(label_codes(self.pair.observed, self.pair.sample), codes).sum())
        # Of many labels the attributes hold some, evenly spaced.
        share = max(1.0, known["count"] / len(codes)) if codes else 1.0
        return min(round(same * share), self.pair.observed.shape[0])

    @cached_property
    def seen(self) -> Array:
        """True for samples with an observation, (sample,); True for all if none has one."""
        observed = self.pair.observed
        found = np.asarray(observed.notnull().any(observed.dims[1:]).values)
        return found if found.any() else np.ones_like(found)

    def for_baselines(
        self, block_bytes: int = BLOCK_BYTES, *, everything: bool = False
    ) -> xr.Dataset:
        """Return target and coarse condition, lazy, named by the attributes of the Dataset.

        With ``everything`` also all other conditions and maps of the Dataset (the attribute
        ``conditions`` has the names), and the rain of its other samples (``record``, dims
        (<sample>_record, y, x)).

        Chunks hold at least one sample, and so few that a baseline's members for one chunk, as
        many as the ensemble has, take about `block_bytes`.
        """
        name = str(self.pair.observed.name)
        spec = self._coarse_spec()
        if spec is None:
            found = self.pair.observed.to_dataset(name=name)
            attrs = dict[str, str | int](target=name)
        else:
            # Target and condition may come from files with other chunks.
            found = prepare(self.ds, spec, need_target=True).unify_chunks()
            coarse = spec.variables[0].name
            found[coarse] = self._comparable(found[coarse])
            attrs = {"target": name, "condition": coarse}
            if spec.coarsen is not None:
                attrs["block"] = spec.coarsen
        # Baselines stay as lazy as the ensemble: only blocks of them are ever in memory.
        members, *_, rows, columns = self.pair.forecast.shape
        most = min(MAX_SAMPLES, block_length(4 * members * rows * columns, block_bytes))
        chunks = found.chunksizes.get(self.pair.sample, (MAX_SAMPLES + 1,))
        if not found.chunks or max(chunks) > most:
            found = found.chunk({self.pair.sample: most})
        if everything:
            found, more = self._with_everything(found, attrs)
            attrs |= more
        return found.assign_attrs(attrs)

    def _with_everything(
        self, found: xr.Dataset, attrs: Mapping[str, object]
    ) -> tuple[xr.Dataset, dict[str, Any]]:
        """Add the conditions and the record of the Dataset, and name them."""
        sample = self.pair.sample
        if self.spec is None:
            known = [str(name) for name, da in self.ds.data_vars.items() if sample in da.dims]
        else:
            known = [variable.name for variable in self.spec.variables]
        given = [name for name in known if name in self.ds.data_vars and name not in found]
        chunks = {sample: found.chunksizes[sample]}
        fields: dict[str, xr.DataArray] = {
            name: self.ds[name].chunk(chunks if sample in self.ds[name].dims else None)
            for name in given
        }
        names: dict[str, Any] = {"conditions": [*given, *filter(None, [attrs.get("condition")])]}
        if self.others is not None:
            name = f"{self.pair.observed.name}_record"
            rows = self.others.rename({sample: f"{sample}_record"})
            along = [str(k) for k, c in rows.coords.items() if f"{sample}_record" in c.dims]
            keep = [f"{sample}_record", *map(str, rows.dims[1:])]
            rows = rows.drop_vars([k for k in along if k not in keep])
            fields[name], names["record"] = rows.chunk(), name
        return found.assign(fields).unify_chunks(), names

    def _coarse_spec(self) -> DataSpec | None:
        """Describe the coarse precipitation condition that baselines use; None without one."""
        spec = self._spec_of_data() if self.spec is None else self.spec
        if spec is None:
            return None
        # The ensemble may have been drawn from conditions that this Dataset lacks.
        present = tuple(
            v for v in spec.variables if v.name in self.ds.variables or v.name == spec.derived
        )
        here = replace(spec, variables=present, units=self.pair.units, step_seconds=self._step)
        best = here.coarse_rain
        if best is None:
            return None
        return replace(
            spec, variables=(best,), coarsen=spec.coarsen if best.name == spec.derived else None
        )

    def axes_of(self, field: xr.DataArray) -> tuple[str, str]:
        """Find the (y, x) dims of a field, also by the dims that the ensemble was drawn with.

        Raises
        ------
        DataError
            Neither names nor attributes identify them.
        """
        known = [self.pair.observed.dims[1:], *(v.dims for v in self._variables)]
        for dims in known:
            if dims and set(dims) == set(field.dims) - {self.pair.sample}:
                return str(dims[0]), str(dims[1])
        return find_axes(field, sample=self.pair.sample)

    @property
    def _step(self) -> float | None:
        """Seconds that a sample stands for; None if unknown, where thresholds take an hour."""
        if self.spec is not None:
            return self.spec.step_seconds
        return step_of(self.pair.observed, self.pair.sample)

    @property
    def _variables(self) -> tuple[VariableSpec, ...]:
        return () if self.spec is None else self.spec.variables

    def _comparable(self, coarse: xr.DataArray) -> xr.DataArray:
        """Turn a depth into a rate, or a rate into a depth, where the observation is one."""
        units, wanted, step = units_of(coarse), self.pair.units, self._step
        if is_rate(units) == is_rate(wanted) or not rain_converts(units, wanted, step):
            return coarse
        converted: xr.DataArray = coarse * rain_scale(units, wanted, step, what="condition")
        return converted.assign_attrs(coarse.attrs, units=wanted)

    def _spec_of_data(self) -> DataSpec | None:
        """Describe all coarser rain of the Dataset as conditions; None without any."""
        observed = self.pair.observed
        sample, *spatial = (str(dim) for dim in observed.dims)
        named = [
            str(name)
            for name, da in self.ds.data_vars.items()
            if da.ndim == 3 and sample in da.dims and is_rain(da) and da.size < observed.size
        ]
        if not named:
            return None
        return describe(self.ds, target=str(observed.name), conditions=named, spatial_dims=spatial)


def pair_up(ds: xr.Dataset, ensemble: xr.Dataset | xr.DataArray) -> MatchedPair:
    """Match an ensemble with the observations in a Dataset, by name and by sample label.

    Raises
    ------
    MissingVariableError
        The Dataset has no variable of the ensemble's name.
    MismatchError
        Samples of the ensemble are not in the Dataset, or grids differ.
    UnitsError
        Units are missing, not of precipitation, or do not convert.
    EmptySelectionError
        The ensemble has no samples.
    """
    check_dataset(ds)
    ensemble = _as_dataset(ensemble)
    record = _check_observed(json_attribute(ensemble))
    spec = DataSpec.from_json(record["spec"]) if "spec" in record else None
    name = spec.target if spec is not None and spec.target in ensemble else _only_field(ensemble)
    if name not in ds.data_vars:
        raise MissingVariableError.of(
            f"observation '{name}'",
            expected="the observed variable in the Dataset, named as in the ensemble",
            got=f"variables {', '.join(map(str, ds.data_vars)) or '(none)'}",
            remedy=nearest(name, ds.data_vars),
        )
    forecast = ensemble[name]
    refuse_packed(forecast)
    refuse_packed(ds[name])
    if spec is not None and {spec.sample, spec.y, spec.x} == set(ds[name].dims):
        sample, spatial = spec.sample, [spec.y, spec.x]
    else:
        layout = find_layout(ds[name])
        sample, spatial = layout.sample, [layout.y, layout.x]
    _check_members(forecast, {sample, *spatial})
    if sample not in forecast.dims:
        forecast = forecast.expand_dims(sample)
    if forecast.sizes[sample] == 0:
        raise EmptySelectionError.of(
            "ensemble",
            expected="at least one sample",
            got=f"no samples along '{sample}'",
            remedy="Check the selection that the ensemble was drawn for.",
        )
    whole, ds = ds, _selected(ds, forecast, sample)
    observed = _with_area(ds, name)
    # Default thresholds are those of the record, whatever samples of it are scored.
    step = _likely_step(whole, observed, sample) if spec is None else spec.step
    if step is not None:
        observed = observed.assign_attrs({STEP: step})
    pair = _with_heavy(matched(forecast, observed, spatial_dims=spatial), spec, record)
    content = {key: value for key, value in record.items() if key != "spec"}
    return MatchedPair(pair, ds, spec, content, _others(whole[name], ds, pair))


def _with_heavy(pair: Pair, spec: DataSpec | None, record: Mapping[str, Any]) -> Pair:
    """Return the pair, its observation with the 99th percentile of the training record."""
    known = record.get(HEAVY)
    if spec is None or not isinstance(known, int | float):
        return pair
    heavy = known * factor(spec.units, pair.units, what=HEAVY)
    return replace(pair, observed=pair.observed.assign_attrs({HEAVY: heavy}))


def _others(field: xr.DataArray, ds: xr.Dataset, pair: Pair) -> xr.DataArray | None:
    """Return the rain of the samples that were not selected, lazy if it is; None without any."""
    sample = pair.sample
    if field.sizes[sample] == ds.sizes[sample] or sample not in field.indexes:
        return None
    rest = np.flatnonzero(~label_keys(field, sample).isin(label_keys(ds, sample)))
    others = field.isel({sample: rest}).transpose(*pair.observed.dims)
    return to_units(others, pair.units) if rest.size else None


def _as_dataset(ensemble: xr.Dataset | xr.DataArray) -> xr.Dataset:
    if isinstance(ensemble, xr.Dataset):
        return ensemble
    if not isinstance(ensemble, xr.DataArray):
        raise DataError.of(
            "ensemble",
            expected="a Dataset or DataArray of members",
            got=f"{ensemble!r} ({type(ensemble).__name__})",
            remedy="Pass what xcvae.sample returns; a store is opened by xcvae.open_store(path).",
        )
    return ensemble.to_dataset(name="forecast" if ensemble.name is None else ensemble.name)


def changed_storms(record: Mapping[str, Any]) -> list[str]:
    """Return the components that changed the storms of an ensemble; such storms have no scores."""
    return [str(one["name"]) for one in record.get("storms") or [] if one["name"] != "borrow"]


def _check_observed(record: dict[str, Any]) -> dict[str, Any]:
    """Return the record; refuse that of amplified or moved storms, which were never observed."""
    changed = changed_storms(record)
    if changed:
        raise MismatchError.of(
            "ensemble",
            expected="members for conditions that were observed",
            got=f"an ensemble of changed storms ({', '.join(changed)})",
            remedy="Draw it without `storms` to score the model.",
        )
    return record


def _check_members(forecast: xr.DataArray, dims: set[str]) -> None:
    others = set(forecast.dims) - dims
    if REALIZATION not in forecast.dims and len(others) == 1:
        raise MismatchError.of(
            "ensemble",
            expected=f"members along the dimension '{REALIZATION}'",
            got=", ".join(map(str, forecast.dims)),
            remedy=f"Rename it: ensemble.rename({others.pop()}='{REALIZATION}').",
        )


def _likely_step(whole: xr.Dataset, observed: xr.DataArray, sample: str) -> float | None:
    """Return the step in seconds of the record that samples were selected from; None if unknown.

    A forecast of others says nothing about it, the Dataset may. Rates per hour at noon of each day
    are hours then, since days have labels at midnight; a single label at midnight is a day if the
    units have no period.
    """
    record = with_duration(whole, whole[str(observed.name)], sample)
    step = step_of(record, sample)
    index, units = observed.indexes.get(sample), str(observed.attrs.get("units", ""))
    known = STEP in record.attrs or (step is not None and step < DAILY_STEP)
    if known or not hasattr(index, "hour"):
        return step
    midnight = bool(((index.hour == 0) & (index.minute == 0)).all())  # type: ignore[union-attr]
    if per(units, "hour"):
        return step if midnight else 3600.0
    alone = step is None and midnight and len(observed) == 1
    return 86400.0 if alone and not per(units, "day") else step


def _with_area(ds: xr.Dataset, name: str) -> xr.DataArray:
    """Return the observation, with the cell areas that ``cell_measures`` names as a coordinate."""
    area = area_name(ds[name])
    return ds[name].assign_coords({area: ds[area]}) if area in ds.data_vars else ds[name]


def _only_field(ensemble: xr.Dataset) -> str:
    fields = [str(k) for k, da in ensemble.data_vars.items() if REALIZATION in da.dims]
    if len(fields) != 1:
        raise MismatchError.of(
            "ensemble",
            expected=f"one variable with the dimension '{REALIZATION}'",
            got=", ".join(fields) or f"none, dimensions {', '.join(map(str, ensemble.dims))}",
            remedy="Select the variable, ensemble[['pr']], or rename the dimension of the members, "
            f"ensemble.rename(number='{REALIZATION}').",
        )
    return fields[0]


def _selected(ds: xr.Dataset, forecast: xr.DataArray, sample: str) -> xr.Dataset:
    """Select the samples of the ensemble from the Dataset, by label."""
    if sample not in forecast.indexes or sample not in ds.indexes:
        return ds  # without labels, samples are matched by position, and sizes are compared
    wanted, known = label_keys(forecast, sample), label_keys(ds, sample)
    if not known.is_unique:
        raise MismatchError(
            f"Dataset, dimension '{sample}': the label {known[known.duplicated()][0]} occurs more "
            f"than once, so that samples cannot be matched. Use ds.drop_duplicates('{sample}')."
        )
    found = known.get_indexer(wanted)
    if (found < 0).any():
        missing = wanted[found < 0]
        raise MismatchError.of(
            f"ensemble, dimension '{sample}'",
            expected="labels that are in the Dataset",
            got=f"{missing.size} of {wanted.size} that are not, the first {missing[0]}",
            remedy="Pass the Dataset that the ensemble was drawn from.",
        )
    if not np.array_equal(found, np.arange(known.size)):
        ds = ds.isel({sample: found})
    if not np.array_equal(forecast[sample].values, ds[sample].values):
        # Equal times that were read in another form (a store decodes cftime and numbers).
        ds = ds.assign_coords({sample: forecast[sample].variable})
    return ds

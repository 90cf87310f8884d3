"""Every score of an ensemble beside those of baselines, with intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, EmptySelectionError, MissingVariableError, explain, nearest
from xcvae.metrics.maps import Array, Pair
from xcvae.metrics.metric import Metric, Skill, Statistic, ratio
from xcvae.registry import registry
from xcvae.verify.intervals import Pieces, Sums, interval, pieces_of
from xcvae.verify.pairing import Task, pair_up
from xcvae.verify.streaming import Foreign, stream

__all__ = ["DEFAULT_METRICS", "evaluate"]

DEFAULT_METRICS = (
    "crps",
    "crps_skill",
    "energy_score",
    "mae",
    "spread_skill",
    "rank_deviation",
    "spectral_distance",
    "spatial_correlation",
    "diversity",
    "wet_fraction",
    "wet_fraction_observed",
    "mass_bias",
    "ks",
    "p99_ratio",
    "p999_ratio",
    "fss",
    "brier",
    "csi",
    "sedi",
)
OWN = "xcvae"
"""The name of the ensemble along `source`."""
SEED = 0
"""Of baselines that draw."""

Specs = Sequence[object] | str | Mapping[str, object] | None


def evaluate(
    ds: xr.Dataset,
    ensemble: xr.Dataset,
    *,
    metrics: Specs = None,
    baselines: Specs = None,
    groupby: str | xr.DataArray | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Score an ensemble against observations, beside baselines.

    Parameters
    ----------
    ds
        Has the observed variable, dims (sample, y, x) with ``units``, under the name it has in
        the ensemble; for baselines also the coarse precipitation condition, unless the ensemble
        tells how it is derived. Samples are matched by label; `ds` may have more of them.
    ensemble
        One variable with dims (realization, sample, y, x) and ``units``, in memory or lazy. It is
        read once, in blocks of samples.
    metrics
        Names, dicts ``{"name": ..., parameters}``, or instances; by default all that apply. Any
        callable ``(forecast, observed) -> DataArray`` will do: it is called sample by sample,
        and averaged.
    baselines
        Names, dicts or instances; by default "bilinear" where there is a coarse condition.
    groupby
        A coordinate or variable along the sample dimension, its name, or a virtual one such as
        "time.season": scores get its values as a further dimension.
    progress
        Show a progress bar, if on a terminal.

    Returns
    -------
    Dataset
        Dims (source,) and perhaps that of `groupby`; `source` is "xcvae", then the baselines.
        One variable for each metric with ``units``, ``long_name`` and ``better`` ("lower",
        "higher" or the ideal value), and ``<metric>_low``, ``<metric>_high``: a 95 % interval by
        block bootstrap over samples.

    Raises
    ------
    MissingVariableError, MismatchError, EmptySelectionError
        Ensemble and Dataset do not belong together, or no sample is left.
    UnitsError, DataError
        Values are not physical: no units, not precipitation, or below zero.
    ComponentError
        A metric, baseline or parameter is unknown or wrong.
    """
    task = pair_up(ds, ensemble)
    names, pieces, label = _groups(task, groupby)
    coarse = task.for_baselines()
    has_condition = "condition" in coarse.attrs
    chosen = _chosen("metric", metrics, _applicable(has_condition))
    listed = _chosen("baseline", baselines, ("bilinear",) if has_condition else ())
    bound = {k: m.bind(task.pair.observed) for k, m in chosen.items() if isinstance(m, Metric)}
    pairs = {OWN: task.pair}
    members = task.pair.forecast.sizes["realization"]
    for name, make in (_hidden(chosen, listed) | listed).items():
        pairs[name] = task.against(make(coarse, members, SEED))
    with _bar(progress, task.pair.observed.shape[0] * len(pairs)) as bar:
        sums = {
            source: _sums(
                pair, chosen, pieces, bound, bar.update, skills=source not in (OWN, *listed)
            )
            for source, pair in pairs.items()
        }
    sources = (OWN, *listed)
    card = _card(chosen, bound, sums, sources, pieces, task.pair.units)
    return _described(card, task, pairs, sources, chosen, (names, label))


def _applicable(has_condition: bool) -> tuple[str, ...]:
    return tuple(n for n in DEFAULT_METRICS if has_condition or n != "crps_skill")


def _chosen(kind: Any, specs: Specs, default: tuple[str, ...]) -> dict[str, Any]:
    """Build components, by name; a second one of the same name becomes name_2."""
    if specs is None:
        specs = default
    elif isinstance(specs, str | Mapping) or callable(specs):
        specs = [specs]
    found: dict[str, Any] = {}
    for spec in specs:
        component = registry().build(kind, spec)
        if not callable(component):
            raise ComponentError(
                explain(f"{kind}", expected="a callable", got=repr(spec), remedy="Add __call__.")
            )
        base = name = registry().name_of(kind, component)
        count = 1
        while name in found or name == OWN:
            count += 1
            name = f"{base}_{count}"
        found[name] = component
    return found


def _hidden(chosen: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Build the baselines that a skill compares with and nobody has listed."""
    wanted = {m.against for m in chosen.values() if isinstance(m, Skill)}
    return {name: registry().build("baseline", name) for name in sorted(wanted - set(listed))}


def _groups(task: Task, groupby: str | xr.DataArray | None) -> tuple[Array | None, Pieces, str]:
    """Return the values of the groups, the pieces of the samples, and the name of the dimension."""
    sample, count = task.pair.sample, task.pair.observed.shape[0]
    if groupby is None:
        return None, pieces_of(np.zeros(count, dtype=int)), ""
    values = _group_values(task, groupby)
    if values.dims != (sample,) or values.size != count:
        raise MissingVariableError(
            explain(
                "groupby",
                expected=f"a coordinate along '{sample}' with {count} values",
                got=f"dims ({', '.join(map(str, values.dims))}), {values.size} values",
                remedy="Give one value for each sample.",
            )
        )
    present = ~values.isnull().values
    if not present.any():
        raise EmptySelectionError("groupby: all values are missing, no sample is left.")
    names, numbers = np.unique(values.values[present], return_inverse=True)
    groups = np.full(count, -1)
    groups[present] = numbers
    return names, pieces_of(groups), str(values.name or "group")


def _group_values(task: Task, groupby: str | xr.DataArray) -> xr.DataArray:
    if isinstance(groupby, xr.DataArray):
        sample = task.pair.sample
        if sample in groupby.indexes and sample in task.pair.observed.indexes:
            return groupby.reindex({sample: task.pair.observed[sample]})
        return groupby
    try:
        return task.ds[groupby]
    except KeyError as error:
        raise MissingVariableError(
            explain(
                "groupby",
                expected="a coordinate or variable of the Dataset",
                got=f"'{groupby}'",
                remedy=nearest(groupby, task.ds.variables),
            )
        ) from error


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    # None switches it off where stderr is not a terminal.
    return tqdm(
        total=total, desc="evaluate", unit="maps", leave=False, disable=None if progress else True
    )


def _sums(
    pair: Pair,
    chosen: Mapping[str, Metric | Foreign],
    pieces: Pieces,
    bound: Mapping[str, Statistic],
    tick: Callable[[int], object],
    *,
    skills: bool,
) -> dict[str, Sums]:
    """Stream one source; only for what skills need if it is not listed itself."""
    if skills:
        chosen = {name: metric for name, metric in chosen.items() if isinstance(metric, Skill)}
        bound = {name: bound[name] for name in chosen}
    return stream(pair, chosen, pieces, bound, tick)


def _finish(
    metric: Metric | Foreign,
    name: str,
    sums: Mapping[str, Mapping[str, Sums]],
    source: str,
    group: tuple[int, int, int],
) -> tuple[float, float, float]:
    """Score one metric of one source in one group, with its interval."""

    def finish(total: Callable[[Array], Array]) -> Array:
        stats = {key: total(value) for key, value in sums[source][name].of(group).items()}
        if isinstance(metric, Skill):
            other = sums[metric.against][name].of(group).items()
            return metric.finish_against(stats, {key: total(value) for key, value in other})
        if isinstance(metric, Metric):
            return metric.finish(stats)
        return ratio(stats["total"], stats["samples"])

    return interval(finish, group)


def _card(
    chosen: Mapping[str, Metric | Foreign],
    bound: Mapping[str, Statistic],
    sums: Mapping[str, Mapping[str, Sums]],
    sources: tuple[str, ...],
    pieces: Pieces,
    units: str,
) -> xr.Dataset:
    """Fill the card, dims (source, group)."""
    card = xr.Dataset(coords={"source": list(sources)})
    for name, metric in chosen.items():
        scores = np.array(
            [[_finish(metric, name, sums, s, g) for g in pieces.groups] for s in sources]
        )
        attrs = _attributes(name, metric, bound.get(name), units)
        about = {"units": attrs["units"], "long_name": attrs["long_name"]}
        card[name] = (("source", "group"), scores[..., 0], attrs)
        for i, (suffix, words) in enumerate((("low", "lower"), ("high", "upper")), start=1):
            text = {**about, "long_name": f"{about['long_name']}, {words} end of the 95 % interval"}
            card[f"{name}_{suffix}"] = (("source", "group"), scores[..., i], text)
    return card


def _attributes(name: str, metric: Any, statistic: Statistic | None, units: str) -> dict[str, Any]:
    """Return units, long_name, better, and the parameters in the units of the data."""
    own = getattr(metric, "units", "1")
    attrs = {
        "units": units if own is None else str(own),
        "long_name": str(getattr(metric, "long_name", name)),
        "better": getattr(metric, "better", "lower"),
    }
    if dataclasses.is_dataclass(metric):
        for key in (f.name for f in dataclasses.fields(metric)):
            value = getattr(statistic, key, getattr(metric, key))
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                attrs.setdefault(key, value)
    return attrs


def _described(
    card: xr.Dataset,
    task: Task,
    pairs: Mapping[str, Pair],
    sources: tuple[str, ...],
    chosen: Mapping[str, Any],
    group: tuple[Array | None, str],
) -> xr.Dataset:
    """Add what the numbers are about, and the coordinate of the groups."""
    for name, metric in chosen.items():
        if isinstance(getattr(metric, "better", None), str) and metric.better in chosen:
            # The ideal share of wet pixels is the observed one.
            ideal = float(card[metric.better].sel(source=OWN).mean())
            card[name].attrs["better"] = card[metric.better].attrs["better"] = ideal
    names, label = group
    card = (
        card.isel(group=0)
        if names is None
        else card.rename(group=label).assign_coords({label: names})
    )
    members = [pairs[s].forecast.sizes["realization"] for s in sources]
    card = card.assign_coords(
        members=("source", members, {"units": "1", "long_name": "number of members"})
    )
    describe = registry().describe
    record = {
        "ensemble": dict(task.record),
        "metrics": [describe("metric", metric) for metric in chosen.values()],
        "samples": int(task.pair.observed.shape[0]),
    }
    title = f"Scores of {task.pair.observed.name}"
    return card.assign_attrs(title=title, xcvae=json.dumps(record))

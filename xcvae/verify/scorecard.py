"""Every score of an ensemble beside those of baselines, with intervals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, explain
from xcvae.metrics.metric import Metric, Skill, Statistic, ratio
from xcvae.metrics.pairs import Array, Pair
from xcvae.registry import registry
from xcvae.verify.accumulate import Foreign, ScoredSource, stream
from xcvae.verify.baselines.runner import Rivals
from xcvae.verify.grouping import Groups, group_samples
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.resampling import Sums, interval

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
        Names, dicts or instances; by default "bilinear" where there is a coarse condition in units
        that convert to the observation's.
    groupby
        A coordinate or variable along the sample dimension, its name, or a virtual one such as
        "time.season"; or a map (y, x) of regions. Scores get its values as a further dimension.
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
    groups = group_samples(task, groupby)
    has_condition = (metrics is None or baselines is None) and task.has_condition
    chosen = _chosen("metric", metrics, _applicable(has_condition))
    listed = _chosen("baseline", baselines, ("bilinear",) if has_condition else ())
    bound = {k: m.bind(task.pair.observed) for k, m in chosen.items() if isinstance(m, Metric)}
    job = _Evaluation(task, groups, chosen, bound, listed)
    rivals = Rivals(task, _hidden(chosen, listed) | listed, SEED)
    sources = {OWN: job.source(lambda _, own: own)}
    for name, load in rivals.loaders().items():
        sources[name] = (job if name in listed else job.only_skills()).source(load)
    with _bar(progress, task.pair.observed.shape[0] * len(sources)) as bar:
        sums = stream(task.pair, sources, groups.pieces, bar.update, groups.regions)
    shown = (OWN, *listed)
    card = job.card(sums, shown)
    about = {"units": "1", "long_name": "number of members"}
    members = [task.pair.forecast.shape[0], *(rivals.members[name] for name in listed)]
    return card.assign_coords(members=("source", members, about))


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


def _bar(progress: bool, total: int) -> Any:
    from tqdm import tqdm

    # None switches it off where stderr is not a terminal.
    return tqdm(
        total=total, desc="evaluate", unit="maps", leave=False, disable=None if progress else True
    )


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Metrics by name, the statistics of those that have one, and what they are applied to."""

    task: MatchedPair
    groups: Groups
    metrics: Mapping[str, Metric | Foreign]
    bound: Mapping[str, Statistic]
    baselines: Mapping[str, Any]

    def only_skills(self) -> _Evaluation:
        """Return the part that a baseline needs which is only compared with."""
        skills = {name: m for name, m in self.metrics.items() if isinstance(m, Skill)}
        return replace(self, metrics=skills, bound={name: self.bound[name] for name in skills})

    def source(self, load: Callable[[slice, Pair], Pair]) -> ScoredSource:
        """Return what is asked of a source, and how it is read."""
        return ScoredSource(load, self.metrics, self.bound)

    def card(self, sums: Mapping[str, Mapping[str, Sums]], sources: tuple[str, ...]) -> xr.Dataset:
        """Fill the scorecard from the sums of every source."""
        card = xr.Dataset(coords={"source": np.array(sources, dtype=object)})
        for name, metric in self.metrics.items():
            scores = np.array(
                [
                    [_finish(metric, name, sums, source, one) for one in self.groups.places]
                    for source in sources
                ]
            )
            attrs = _attributes(name, metric, self.bound.get(name), self.task.pair.units)
            told = sums[OWN][name].attrs
            attrs |= {key: value for key, value in told.items() if not hasattr(metric, key)}
            if isinstance(metric, Metric):
                total = {key: value.sum(axis=0) for key, value in sums[OWN][name].values.items()}
                attrs["better"] = metric.best(total)
            card[name] = (("source", "group"), scores[..., 0], attrs)
            for i, (suffix, end) in enumerate((("low", "lower"), ("high", "upper")), start=1):
                text = f"{attrs['long_name']}, {end} end of the 95 % interval"
                about = {"units": attrs["units"], "long_name": text}
                card[f"{name}_{suffix}"] = (("source", "group"), scores[..., i], about)
        if self.groups.name is None:
            card = card.isel(group=0)
        else:
            card = card.rename(group=self.groups.name)
            card = card.assign_coords({self.groups.name: self.groups.values})
        return card.assign_attrs(self._record())

    def _record(self) -> dict[str, str]:
        record = {
            "ensemble": dict(self.task.record),
            "metrics": [registry().describe("metric", m) for m in self.metrics.values()],
            "baselines": [registry().describe("baseline", b) for b in self.baselines.values()],
            "samples": self.task.pair.observed.shape[0],
        }
        title = f"Scores of {self.task.pair.observed.name}"
        return {"title": title, "xcvae": json.dumps(record)}


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

    return interval(finish, group, getattr(metric, "limits", (-np.inf, np.inf)))


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

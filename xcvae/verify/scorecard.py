"""The scorecard: scores of an ensemble and of baselines, with intervals."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError
from xcvae.metrics.metric import Metric, Skill, Statistic, over_of, ratio
from xcvae.metrics.pairs import Pair
from xcvae.metrics.sample import Array
from xcvae.progress import progress_bar
from xcvae.registry import registry
from xcvae.verify.accumulate import (
    BLOCK_BYTES,
    MetricFunction,
    ScoredSource,
    accumulate_statistics,
    score_record,
)
from xcvae.verify.baselines.climatology import Climatology
from xcvae.verify.baselines.runner import BaselineRunner
from xcvae.verify.grouping import Groups, group_samples
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.resampling import Sums, interval

DEFAULT_METRICS = (
    "crps", "crps_skill", "energy_score", "mae", "spread_skill", "rank_deviation",
    "spectral_distance", "spatial_correlation", "diversity", "wet_fraction",
    "wet_fraction_observed", "mass_bias", "ks", "p99_ratio", "p999_ratio", "fss", "brier",
    "csi", "sedi"
)  # fmt: skip
OWN = "xcvae"
"""The name of the ensemble along `source`."""
SEED = 0
"""Seed of baselines that draw random members."""

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
    """Score an ensemble against observations, and baselines with it.

    Parameters
    ----------
    ds
        Has the observed variable, dims (sample, y, x) with ``units``, under the name it has in
        the ensemble; for baselines also the coarse precipitation condition, unless the attributes
        of the ensemble describe how to derive it. Samples are matched by label; `ds` may have more
        of them.
    ensemble
        One variable with dims (realization, sample, y, x) and ``units``, in memory or lazy. It is
        read once, in blocks of samples.
    metrics
        Names, dicts ``{"name": ..., parameters}``, or instances; by default all that apply. Any
        callable ``(forecast, observed) -> DataArray`` is a metric too: it is called sample by
        sample, and its values are averaged; with an attribute ``over = "record"`` it is called
        once with all samples, lazy where the ensemble is, and has no interval.
    baselines
        Names, dicts or instances; by default "bilinear" if the data have a coarse condition in
        units that convert to the observation's, else "climatology": fields of the samples of `ds`
        that the ensemble does not have, such as those of the training, or of other evaluated ones.
    groupby
        A coordinate or variable along the sample dimension, its name, or a virtual one such as
        "time.season"; or a map (y, x) of regions. Its values become a further dimension of scores.
    progress
        Show a progress bar, if on a terminal.

    Returns
    -------
    Dataset
        Dims (source,) and, with `groupby`, its name; `source` is "xcvae", then the baselines.
        One variable for each metric with ``units``, ``long_name`` and ``better`` ("lower",
        "higher" or the ideal value), and ``<metric>_low``, ``<metric>_high``: a 95 % interval by
        block bootstrap over samples.

    Raises
    ------
    MissingVariableError, MismatchError, EmptySelectionError
        Names, samples or grids of ensemble and Dataset differ, or no sample is left.
    UnitsError, DataError
        Values are not physical: no units, not precipitation, or below zero.
    ComponentError
        A metric, baseline or parameter is unknown or invalid; or a function is a metric whose
        score of all samples is not the average of the scores of samples, without declaring it.
    """
    match = pair_up(ds, ensemble)
    if match.trained_samples:
        # Not a Python warning: the call is right, and there may be no other data to score.
        logging.getLogger("xcvae").warning("%s", _trained_note(match))
    return score_match(
        match,
        metrics=metrics,
        baselines=baselines,
        groupby=groupby,
        progress=progress,
    )


def _trained_note(match: MatchedPair) -> str:
    return (
        f"{match.trained_samples} of {match.pair.observed.shape[0]} samples were trained on: "
        "their scores say how well the model remembers, not how well it draws others. Evaluate "
        "on samples that training did not see."
    )


def score_match(
    match: MatchedPair,
    *,
    metrics: Specs = None,
    baselines: Specs = None,
    groupby: str | xr.DataArray | None = None,
    progress: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> xr.Dataset:
    """Compute the scorecard of a matched ensemble in blocks of samples; see `evaluate`."""
    groups = group_samples(match, groupby)
    has_condition = (metrics is None or baselines is None) and match.has_condition
    listed = _components("baseline", baselines, default_baselines(match, has_condition))
    chosen = _components("metric", metrics, _default_metrics(has_condition, listed))
    bound = {k: m.bind(match.pair.observed) for k, m in chosen.items() if isinstance(m, Metric)}
    evaluation = _Evaluation(match, groups, chosen, bound, listed)
    runner = BaselineRunner(match, _references(chosen, listed) | listed, SEED, block_bytes)
    sources = {OWN: evaluation.source(lambda _, own: own)}
    for name, load in runner.loaders().items():
        sources[name] = (evaluation if name in listed else evaluation.only_skills()).source(load)
    with _bar(progress, match.pair.observed.shape[0] * len(sources)) as bar:
        sums = accumulate_statistics(
            match.pair, sources, groups.pieces, bar.update, groups.regions, block_bytes=block_bytes
        )
    wholes = {OWN: match.pair} | ({n: runner.whole(n) for n in listed} if evaluation.whole else {})
    card = evaluation.card(sums, evaluation.record_scores(wholes))
    about = {"units": "1", "long_name": "number of members"}
    members = [match.pair.forecast.shape[0], *(runner.members[name] for name in listed)]
    return card.assign_coords(members=("source", members, about))


def default_baselines(
    match: MatchedPair, has_condition: bool, record: xr.Dataset | None = None
) -> list[object]:
    """Return the baselines of a scorecard that names none.

    "bilinear" of coarse rain; without it "climatology": fields of the training record, or of the
    samples of the Dataset that the ensemble does not have, or else of the other evaluated samples.

    Parameters
    ----------
    match
        The matched ensemble.
    has_condition
        True if the data have coarse rain.
    record
        Training samples, where they are known.
    """
    if has_condition:
        return ["bilinear"]
    observed = match.pair.observed
    if record is None and match.others is not None:
        record = match.others.to_dataset(name=str(observed.name))
    climatology = Climatology(record=record)
    return [climatology] if climatology.can_draw(observed) else []


def _default_metrics(has_condition: bool, listed: Mapping[str, Any]) -> list[Any]:
    """Return the metrics of a scorecard that names none; skill needs its baseline."""
    if has_condition:
        return list(DEFAULT_METRICS)
    names = [name for name in DEFAULT_METRICS if name != "crps_skill"]
    if "climatology" not in listed:
        return names
    return [*names, {"name": "crps_skill", "against": "climatology"}]


def _components(kind: Any, specs: Specs, default: Sequence[object]) -> dict[str, Any]:
    """Build components, by name; a second one of the same name is called name_2."""
    if specs is None:
        specs = default
    elif isinstance(specs, str | Mapping) or callable(specs):
        specs = [specs]
    found: dict[str, Any] = {}
    for spec in specs:
        component = registry().build(kind, spec)
        if not callable(component):
            raise ComponentError.of(
                kind,
                expected="a callable",
                got=repr(spec),
                remedy="Give the class a method __call__, or pass a function.",
            )
        base = name = registry().name_of(kind, component)
        count = 1
        while name in found or name == OWN:
            count += 1
            name = f"{base}_{count}"
        found[name] = component
    return found


def _references(chosen: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Build the baselines that skill scores compare with and that are not listed."""
    wanted = {m.against for m in chosen.values() if isinstance(m, Skill)}
    return {name: registry().build("baseline", name) for name in sorted(wanted - set(listed))}


def _bar(progress: bool, total: int) -> Any:
    return progress_bar(progress, total=total, desc="evaluate", unit="maps", leave=False)


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """Data, groups, components and statistics of one `evaluate` call.

    Attributes
    ----------
    match, groups
        Ensemble with observation, and the groups of samples or pixels.
    metrics, baselines
        By name, in the order of the scorecard.
    bound
        Statistics by name, of metrics that have one.
    """

    match: MatchedPair
    groups: Groups
    metrics: Mapping[str, Metric | MetricFunction]
    bound: Mapping[str, Statistic]
    baselines: Mapping[str, Any]

    def only_skills(self) -> _Evaluation:
        """Keep skill scores only, for a baseline that is their reference but not on the card."""
        skills = {name: m for name, m in self.metrics.items() if isinstance(m, Skill)}
        return replace(self, metrics=skills, bound={name: self.bound[name] for name in skills})

    def source(self, load: Callable[[slice, Pair], Pair]) -> ScoredSource:
        """Return a source of samples with the metrics that add up over them."""
        by_sample = {name: m for name, m in self.metrics.items() if name not in self.whole}
        return ScoredSource(load, by_sample, self.bound)

    @cached_property
    def whole(self) -> Mapping[str, MetricFunction]:
        """The metrics that are called once, with all samples."""
        functions = {name: m for name, m in self.metrics.items() if name not in self.bound}
        return {name: m for name, m in functions.items() if over_of(name, m) == "record"}

    def record_scores(self, sources: Mapping[str, Pair]) -> dict[str, tuple[Array, dict[str, Any]]]:
        """Score the whole record by metric: (source, group, 3) without intervals, attributes."""
        found = {}
        for name, metric in self.whole.items():
            rows = [
                score_record(metric, pair, self.groups.pieces, self.groups.regions)
                for pair in sources.values()
            ]
            values = np.array([scores for scores, _ in rows])
            ends = np.full_like(values, np.nan)
            found[name] = np.stack([values, ends, ends], axis=-1), rows[0][1]
        return found

    def card(
        self,
        sums: Mapping[str, Mapping[str, Sums]],
        record: Mapping[str, tuple[Array, dict[str, Any]]],
    ) -> xr.Dataset:
        """Fill the scorecard from the sums of every source, and from scores of the record."""
        sources = (OWN, *self.baselines)
        card = xr.Dataset(coords={"source": np.array(sources, dtype=object)})
        for name, metric in self.metrics.items():
            if name in record:
                scores, found = record[name]
            else:
                found = sums[OWN][name].attrs
                scores = np.array(
                    [
                        [_score(metric, name, sums, source, group) for group in self.groups.ranges]
                        for source in sources
                    ]
                )
            attrs = _attributes(name, metric, self.bound.get(name), self.match.pair.units)
            attrs |= {key: value for key, value in found.items() if not hasattr(metric, key)}
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
        # How many is enough for the card; which ones is for the ensemble.
        drawn = {k: v for k, v in self.match.record.items() if k != "training_samples"}
        record = {
            "ensemble": drawn,
            "metrics": [registry().describe("metric", m) for m in self.metrics.values()],
            "baselines": [registry().describe("baseline", b) for b in self.baselines.values()],
            "samples": self.match.pair.observed.shape[0],
            "trained_samples": self.match.trained_samples,
        }
        title = f"Scores of {self.match.pair.observed.name}"
        attrs = {"title": title, "xcvae": json.dumps(record)}
        return attrs | ({"comment": _trained_note(self.match)} if record["trained_samples"] else {})


def _score(
    metric: Metric | MetricFunction,
    name: str,
    sums: Mapping[str, Mapping[str, Sums]],
    source: str,
    group: tuple[int, int, int],
) -> tuple[float, float, float]:
    """Compute one metric of one source in one group, with its interval."""

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
    """Return units, long_name and better of a score, and the metric's parameters.

    Parameters with a unit are those of the statistic, in the units of the data.
    """
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

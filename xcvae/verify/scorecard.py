"""The scorecard: scores of an ensemble and of baselines, with intervals."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ComponentError, ConfigError, check_flags
from xcvae.metrics.metric import Metric, Skill, Statistic, over_of, ratio
from xcvae.metrics.pairs import Pair
from xcvae.metrics.sample import Array
from xcvae.metrics.temporal import SequenceMetric
from xcvae.progress import progress_bar
from xcvae.registry import registry, wrong_result
from xcvae.verify.accumulate import (
    BLOCK_BYTES,
    CommonPixels,
    MetricFunction,
    ScoredSource,
    accumulate_statistics,
    score_record,
    warn_of_lacking,
)
from xcvae.verify.baselines.climatology import Climatology
from xcvae.verify.baselines.runner import BaselineRunner
from xcvae.verify.grouping import (
    GroupBy,
    Groups,
    by_coarse_rain,
    coarse_amounts,
    free_name,
    group_samples,
    labelled,
    thirds_of,
)
from xcvae.verify.pairing import MatchedPair, pair_up
from xcvae.verify.resampling import Sums, interval
from xcvae.verify.sequences import TimeUnits, split_window, step_in_time

DEFAULT_METRICS = (
    "crps", "crps_skill", "twcrps", "energy_score", "mae", "spread_skill",
    "rank_deviation", "spectral_distance", "spatial_correlation", "diversity", "wet_fraction",
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
    groupby: GroupBy = None,
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
        read in blocks of samples: once, and again for windows and for sequences of any length.
    metrics
        Names, dicts ``{"name": ..., parameters}``, or instances; by default all that apply, those
        of sequences left out. Any callable ``(forecast, observed) -> DataArray`` is a metric too:
        it is called sample by sample, and its values are averaged; with an attribute
        ``over = "record"`` it is called once with all samples, lazy where the ensemble is, and has
        no interval. With ``"window": "1h"`` in its dict a metric scores means (amounts: sums) over
        windows of time that have all their samples.
    baselines
        Names, dicts or instances; by default "bilinear" if the data have a coarse condition in
        units that convert to the observation's, else "climatology": fields of the samples of `ds`
        that the ensemble does not have, such as those of the training, or of other evaluated ones.
    groupby
        A coordinate or variable along the sample dimension, its name, or a virtual one such as
        "time.season"; "coarse_rain", thirds of what is scored (samples, windows or sequences) by
        its mean coarse rain; an
        array with one value for each sample, or a series of pandas with their labels; or a map
        (y, x) of regions, laid on the pixels by its coordinates. Its values become a further
        dimension of scores. A list of these groups by all of them: ``["time.season", "region"]``.
    progress
        Show a progress bar, if on a terminal.

    Returns
    -------
    Dataset
        Dims (source,) and, with `groupby`, its name (with a number, where a score has the same);
        `source` is "xcvae", then the baselines.
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
    check_flags(progress=progress)
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
    groupby: GroupBy = None,
    progress: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> xr.Dataset:
    """Compute the scorecard of a matched ensemble in blocks of samples; see `evaluate`."""
    has_condition = (metrics is None or baselines is None) and match.has_condition
    listed = components_by_name("baseline", baselines, default_baselines(match, has_condition))
    chosen, windows = metrics_by_name(metrics, _default_metrics(has_condition, listed))
    scores = [f"{name}{end}" for name in chosen for end in ("", "_low", "_high")]
    groups = labelled(match, groupby)
    options: dict[str, Any] = {"groupby": groups, "block_bytes": block_bytes}
    if any(by_coarse_rain(match, one) for one in groups):
        options["amounts"] = coarse_amounts(match)  # lazy data are read once for all units
    options["reserved"] = ("source", "members", *scores)
    found = [
        _score_units(match, names, units, windows, listed=listed, progress=progress, **options)
        for names, units in _joinings(match, chosen, windows)
    ]
    cards = [card for card, _ in found]
    warn_of_lacking(lacking for _, lacking in found)
    card = cards[0] if len(cards) == 1 else _in_order(cards, chosen)
    return card.assign_attrs(_record(match, chosen, windows, listed))


def metrics_by_name(
    specs: Specs, default: Sequence[object] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """Build the metrics by the names that a card gives them, and the windows of some.

    Parameters
    ----------
    specs
        As for `evaluate`.
    default
        The metrics in the place of None.
    """
    found: dict[str, Any] = {}
    windows: dict[str, str] = {}
    for spec in _listed("metrics", specs, default):
        own, window = split_window(spec)
        for base, metric in components_by_name("metric", [own], ()).items():
            name = free_name(base if window is None else f"{base}_{window}", {OWN, *found})
            found[name] = metric
            if window is not None:
                windows[name] = window
    return found, windows


def _joinings(
    match: MatchedPair, chosen: Mapping[str, Any], windows: Mapping[str, str]
) -> list[tuple[dict[str, Any], TimeUnits]]:
    """Group metrics that score the same units: samples, windows, or sequences of one length."""
    groups: dict[tuple[str | None, int, bool], dict[str, Any]] = {}
    for name, metric in chosen.items():
        window, length, exact = windows.get(name), 0, False
        if isinstance(metric, SequenceMetric):
            length, exact = metric.length(step_in_time(match, window)), metric.exact
        groups.setdefault((window, length, exact), {})[name] = metric
    return [
        (names, TimeUnits.of(match, window, length, exact=exact))
        for (window, length, exact), names in groups.items()
    ] or [({}, TimeUnits.each(match))]


def _score_units(
    match: MatchedPair,
    chosen: Mapping[str, Any],
    units: TimeUnits,
    windows: Mapping[str, str],
    *,
    listed: dict[str, Any],
    groupby: Sequence[str | xr.DataArray],
    amounts: Array | None = None,
    reserved: Sequence[str],
    block_bytes: int,
    progress: bool,
) -> tuple[xr.Dataset, str]:
    """Score the metrics of the same units; say which sources lack pixels that others have.

    Sequences have the pixels of each source: one map that a baseline lacks would end them for all.
    """
    if amounts is not None:
        thirds = thirds_of(amounts[units.rows], units.starts, match.pair.sample)
        groupby = [thirds if by_coarse_rain(match, one) else one for one in groupby]
    groups = group_samples(units.heads, groupby, reserved)
    match, observed = units.match, units.observed
    bound = {k: m.bind(observed) for k, m in chosen.items() if isinstance(m, Metric)}
    evaluation = _Evaluation(match, groups, chosen, bound, windows)
    baselines = _references(chosen, listed) | listed
    block_bytes //= 1 + len(baselines)
    runner = BaselineRunner(match, baselines, SEED, block_bytes)
    sources, common = {OWN: evaluation.source(lambda _, own: own)}, CommonPixels()
    for name, load in runner.loaders().items():
        sources[name] = (evaluation if name in listed else evaluation.only_skills()).source(load)
    with _bar(progress, match.pair.observed.shape[0] * len(sources)) as bar:
        sums = accumulate_statistics(
            match.pair, sources, groups.pieces, bar.update, groups.regions,
            units=None if units.plain else units, block_bytes=block_bytes,
            common=None if units.sequences else common,
        )  # fmt: skip
    wholes = {}
    if evaluation.whole:
        pairs = {OWN: match.pair} | {name: runner.whole(name) for name in listed}
        wholes = {name: _whole(common.of_all(pair), units) for name, pair in pairs.items()}
    card = evaluation.card(sums, (OWN, *listed), evaluation.record_scores(wholes))
    about = {"units": "1", "long_name": "number of members"}
    members = [match.pair.forecast.shape[0], *(runner.members[name] for name in listed)]
    return card.assign_coords(members=("source", members, about)), common.words()


def _whole(pair: Pair, units: TimeUnits) -> Pair:
    """Return all samples, lazy if they are, or all windows of them, in memory."""
    return pair if units.plain else units.joined(Pair(pair.forecast.load(), pair.observed.load()))


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


def _in_order(cards: Sequence[xr.Dataset], chosen: Mapping[str, Any]) -> xr.Dataset:
    """Merge scorecards of different units, the scores in the order of the metrics."""
    card = xr.merge(cards, join="outer", compat="override", combine_attrs="override")
    # An outer join sorts what differs between the parts; sources are the same in all of them.
    card = card.sel(source=cards[0].source)
    return card[[f"{name}{end}" for name in chosen for end in ("", "_low", "_high")]]


def _listed(name: str, specs: Specs, default: Sequence[object]) -> Iterable[object]:
    """Return a list of components as they were given: several, one alone, or the default."""
    if specs is None:
        return default
    if isinstance(specs, str | Mapping) or callable(specs):
        return [specs]
    given: object = specs
    if not isinstance(given, Iterable):
        raise ConfigError.of(
            name,
            expected="a list of names, dicts or functions",
            got=repr(given),
            remedy="`xcvae plugins` lists the names; None takes the default ones.",
        )
    return given


def components_by_name(kind: Any, specs: Specs, default: Sequence[object]) -> dict[str, Any]:
    """Build components, by name; a second one of the same name is called name_2."""
    found: dict[str, Any] = {}
    for spec in _listed(f"{kind}s", specs, default):
        component = registry().build(kind, spec)
        if not callable(component):
            raise ComponentError.of(
                kind,
                expected="a callable",
                got=repr(spec),
                remedy="Give the class a method __call__, or pass a function.",
            )
        found[free_name(registry().name_of(kind, component), {OWN, *found})] = component
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
    metrics
        By name, in the order of the scorecard.
    bound
        Statistics by name, of metrics that have one.
    windows
        Windows of time by name, of metrics that have one.
    """

    match: MatchedPair
    groups: Groups
    metrics: Mapping[str, Metric | MetricFunction]
    bound: Mapping[str, Statistic]
    windows: Mapping[str, str]

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
        sources: tuple[str, ...],
        record: Mapping[str, tuple[Array, dict[str, Any]]],
    ) -> xr.Dataset:
        """Fill the scorecard from the sums of every source, and from scores of the record."""
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
            if name in self.windows:
                attrs["window"] = self.windows[name]
                attrs["long_name"] += f", windows of {self.windows[name]}"
            attrs |= {key: value for key, value in found.items() if not hasattr(metric, key)}
            if isinstance(metric, Metric):
                attrs["better"] = metric.best(_added_up(sums[OWN][name].values))
                best = [metric.best(_added_up(sums[OWN][name].of(g))) for g in self.groups.ranges]
                if len(set(best)) > 1:  # what was observed in each group
                    ideal = [[np.nan if isinstance(one, str) else one for one in best]]
                    arranged = self.groups.arranged(np.array(ideal))[0]
                    card.coords[f"{name}_better"] = (tuple(self.groups.coords), arranged)
            dims = ("source", *self.groups.coords)
            parts = [self.groups.arranged(scores[..., i]) for i in range(3)]
            card[name] = (dims, parts[0], attrs)
            for i, (suffix, end) in enumerate((("low", "lower"), ("high", "upper")), start=1):
                text = f"{attrs['long_name']}, {end} end of the 95 % interval"
                about = {"units": attrs["units"], "long_name": text}
                card[f"{name}_{suffix}"] = (dims, parts[i], about)
        return card.assign_coords(self.groups.coords)


def _added_up(sums: Mapping[str, Array]) -> dict[str, Array]:
    return {key: value.sum(axis=0) for key, value in sums.items()}


def _record(
    match: MatchedPair,
    metrics: Mapping[str, Any],
    windows: Mapping[str, str],
    baselines: Mapping[str, Any],
) -> dict[str, str]:
    """Return the attributes of a scorecard: what was scored, and how."""
    described = {name: registry().describe("metric", m) for name, m in metrics.items()}
    for name, window in windows.items():
        described[name]["window"] = window
    record = {
        # How many is enough for the card; which ones is for the ensemble.
        "ensemble": {k: v for k, v in match.record.items() if k != "training_samples"},
        "metrics": list(described.values()),
        "baselines": [registry().describe("baseline", b) for b in baselines.values()],
        "samples": match.pair.observed.shape[0],
        "trained_samples": match.trained_samples,
    }
    title = f"Scores of {match.pair.observed.name}"
    attrs = {"title": title, "xcvae": json.dumps(record)}
    return attrs | ({"comment": _trained_note(match)} if record["trained_samples"] else {})


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
            score: Array | None = metric.finish(stats)
            if score is None:
                raise wrong_result("metric", metric, expected="a score from finish", got="None")
            return score
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

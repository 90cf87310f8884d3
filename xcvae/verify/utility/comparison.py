"""Compare recipes of training data by the scores of a downstream network trained on each."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from xcvae.errors import ConfigError, check_flags, nearest
from xcvae.fields.cf import find_target
from xcvae.files import atomic_path
from xcvae.metrics.events import CSI, SEDI
from xcvae.metrics.sample import Array
from xcvae.progress import progress_bar
from xcvae.verify.resampling import LEVEL, interval, pieces_of
from xcvae.verify.utility.recipes import RECORD, Fields, Recipes, check_apart

if TYPE_CHECKING:
    from xcvae.verify.utility.downstream import Settings


#: Counts per sample and threshold.
COUNTS = ("hits", "misses", "false_alarms", "correct_negatives", "error")

Mix = Sequence[tuple[Fields, float]]
"""Additions to the record, with shares."""
LEVELS = (0.95, 0.99, 0.999)
#: The verdicts; the last one stands for too few events for an interval.
HELPS, NOTHING, HURTS, UNSCORED = "helps", "no evidence", "hurts", "too few events"


def compare(
    train: xr.Dataset,
    test: xr.Dataset,
    recipes: Recipes,
    *,
    coarsen: int,
    target: str | None = None,
    losses: Sequence[str] = ("l1", "heads"),
    levels: Sequence[float] = LEVELS,
    thresholds: Sequence[float] | None = None,
    seeds: int = 5,
    network: Mapping[str, Any] | None = None,
    device: str = "auto",
    keep: str | os.PathLike[str] | None = None,
    against: str = RECORD,
    progress: bool = True,
) -> xr.Dataset:
    """Train a super-resolution network on every recipe, and compare its scores at the extremes.

    The network (`xcvae.verify.utility.downstream`) maps block means to the fine field. All
    recipes have the same steps and, seed by seed, the same initial weights. Every field, real or
    not, is paired with its own block means. Nothing of ``test`` is used before the scores.

    Intervals of 95 % are of differences from the record alone (``against``), on the same test
    samples and seeds. They add in quadrature the uncertainty from the number of test samples
    (moving blocks, as in `xcvae.evaluate`) and that from the number of seeds (Student's t). They
    do not contain the differences between generators, or between records.

    Parameters
    ----------
    train
        The real record.
    test
        Untouched samples, on any grid that ``coarsen`` divides.
    recipes
        Additions to the record, by name: from `xcvae.verify.utility.recipes`, or your own.
    coarsen
        Fine pixels along a side of a coarse one.
    target
        Name of the rain in both Datasets.
    losses
        Variants of the network: ``"l1"``, ``"quantile"`` (pinball), ``"heads"`` (pinball at four
        levels in one network, each scored as a student: ``"heads P99"``).
    levels
        Quantiles of all pixels of ``train``, dry ones too: the thresholds of events.
    thresholds
        Amounts in the units of ``train`` for these levels, in place of its own quantiles; for
        example to compare records of different length.
    seeds
        Trainings of each recipe and loss, at least 2.
    network
        Attributes of `xcvae.verify.utility.downstream.Settings`, such as ``steps``.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    keep
        Folder for the counts of each trained network; an interrupted comparison continues from it.
    against
        Recipe that the others are compared with. Against ``"scaled"``: are amplified storms worth
        more than real pairs times the same factors?
    progress
        Show a progress bar, if on a terminal.

    Returns
    -------
    xarray.Dataset
        Dims (loss, recipe, level), the record first: ``csi``, ``sedi`` and ``tail_mae``, means
        over seeds, with ``<score>_difference`` from ``against``, ``<score>_low`` and ``_high`` of
        that, and ``<score>_verdict``: "helps" or "hurts" if the interval excludes zero,
        "no evidence" if it does not, "too few events" without an interval. ``tail_mae`` is the
        mean absolute error of max(rain, threshold), over all pixels: a proper score of the tail,
        unlike the error at pixels with much observed rain (Allen et al. 2023,
        https://doi.org/10.1137/22M1532184); for a head, twice the pinball loss at its level, which
        is the same for the median. ``threshold`` is a coordinate.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.
    DataError
        Rain has gaps.
    MismatchError
        A field is in training and in ``test``, or ``coarsen`` does not divide a grid.
    """
    from xcvae.verify.utility.downstream import LOSSES, Settings

    settings = Settings.of(network)
    for loss in losses:
        if loss not in LOSSES:
            raise ConfigError(f"losses: unknown '{loss}'. {nearest(loss, LOSSES)}")
    check_flags(progress=progress)
    _check(recipes, seeds, levels, thresholds, against)
    target = find_target(train, target)
    record = Fields.of(train[target], factor=coarsen, what="record")
    tested = Fields.of(test[target], factor=coarsen, what="test", like=record)
    extras = {
        id(one): Fields.of(one.fields, factor=coarsen, what=name, like=record)
        for name, recipe in recipes.items()
        for one in recipe
    }
    check_apart({RECORD: record}, tested)
    for name, recipe in recipes.items():
        check_apart({f"recipe '{name}'": extras[id(one)] for one in recipe}, tested)
    limits = np.quantile(record.rain, levels) if thresholds is None else np.asarray(thresholds)
    folder = None if keep is None else Path(keep)
    experiments = Experiments(record, tested, limits, settings, device, folder)
    mixes: dict[str, Mix] = {RECORD: []}
    mixes |= {name: [(extras[id(e)], e.share) for e in one] for name, one in recipes.items()}
    counts = experiments.run(mixes, losses, seeds, progress=progress)
    students = [name for loss in losses for name in settings.students(loss)]
    labels: dict[str, list[Any]] = {"loss": students, "recipe": list(mixes)}
    labels["level"] = list(levels)
    return scored(counts, tested, labels, limits, against)


def _check(
    recipes: Recipes,
    seeds: int,
    levels: Sequence[float],
    thresholds: Sequence[float] | None,
    against: str,
) -> None:
    wrong: tuple[str, str, object, str] | None = None
    for name, recipe in recipes.items():
        total = sum(extra.share for extra in recipe)
        if not (recipe and all(extra.share > 0 for extra in recipe) and total < 1):
            wrong = f"recipe '{name}'", "shares above 0, less than 1 in all", total, "Change them."
    if seeds < 2:
        wrong = "seeds", "at least 2, to estimate an interval", seeds, "5 is the default."
    elif not all(0 < level < 1 for level in levels):
        wrong = "levels", "quantiles between 0 and 1", list(levels), "Write P99 as 0.99."
    elif thresholds is not None and len(thresholds) != len(levels):
        wrong = "thresholds", f"{len(levels)} amounts", len(thresholds), "Give one per level."
    elif against not in (RECORD, *recipes):
        known = [RECORD, *recipes]
        wrong = "against", f"one of {', '.join(known)}", against, nearest(against, known)
    elif RECORD in recipes:
        wrong = "recipes", "names of additions", RECORD, "Remove it: it is always included."
    if wrong is not None:
        name, expected, got, remedy = wrong
        raise ConfigError.of(name, expected=expected, got=repr(got), remedy=remedy)


def table(found: xr.Dataset) -> str:
    """Write the result of `compare` as text: scores of the record, differences and verdicts."""
    base = str(found.attrs.get("against", RECORD))
    names = [base, *(str(name) for name in found["recipe"].values if name != base)]
    width = max(map(len, names))
    lines = []
    for loss in found["loss"].values:
        for level in found["level"].values:
            for score in SCORES:
                one = found.sel(loss=loss, level=level)
                value = float(one[score].sel(recipe=base))
                limit = f"{float(one['threshold']):.3g} {found['tail_mae'].attrs['units']}"
                lines.append(f"{loss}, P{100 * level:g} ({limit}), {score}: {base} {value:.4g}")
                for name in names[1:]:
                    cell = one.sel(recipe=name)
                    low, high = float(cell[f"{score}_low"]), float(cell[f"{score}_high"])
                    lines.append(
                        f"  {name:{width}}  {float(cell[f'{score}_difference']):+.3g} "
                        f"[{low:+.3g}, {high:+.3g}]  {cell[f'{score}_verdict'].item()}"
                    )
    return "\n".join(lines)


@dataclass(eq=False)
class Experiments:
    """Training runs of the downstream network, with their counts on the test samples.

    Runs of the same seed share initial weights and windows.

    Attributes
    ----------
    record, test
        Real rain.
    limits
        Thresholds of events, in the units of the record.
    settings
        Settings of every network.
    device
        "auto", "cpu" or "cuda".
    keep
        Folder with the counts of earlier runs, by their identity; None keeps no counts.
    digests
        SHA-256 of fields by their ``id``, computed once.
    """

    record: Fields
    test: Fields
    limits: Array
    settings: Settings
    device: str
    keep: Path | None
    digests: dict[int, str] = field(default_factory=dict)

    def run(
        self, mixes: Mapping[str, Mix], losses: Sequence[str], seeds: int, *, progress: bool
    ) -> Array:
        """Return counts: (student, recipe, seed, sample, level, count)."""
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
        total = len(losses) * len(mixes) * seeds
        found: dict[str, list[Array]] = {loss: [] for loss in losses}
        with progress_bar(progress, total=total, unit="network") as bar:
            for mix in mixes.values():
                for loss in losses:
                    for seed in range(seeds):
                        found[loss].append(self.counts(mix, loss, seed))
                        bar.update()
        students = []
        for loss in losses:
            own = np.stack(found[loss])
            own = own.reshape(len(mixes), seeds, *own.shape[1:])
            students.append(np.moveaxis(own, 2, 0))
        return np.concatenate(students)

    def counts(self, mix: Mix, loss: str, seed: int) -> Array:
        """Train one network and count, or read kept counts; (student, sample, level, count)."""
        from xcvae.generator.device import choose_device
        from xcvae.verify.utility.downstream import Pool, predict, train_network

        path = None
        if self.keep is not None:
            path = self.keep / f"{_digest(self.identity(mix, loss, seed))}.npy"
            if path.exists():
                return np.asarray(np.load(path))
        rest = 1.0 - sum(share for _, share in mix)
        network = train_network(
            [Pool(f.coarse, f.fine, share) for f, share in ((self.record, rest), *mix)],
            factor=self.record.factor,
            loss=loss,
            settings=self.settings,
            seed=seed,
            device=choose_device(self.device),
        )
        rain = self.test.scaling.physical(predict(network, self.test.coarse)).numpy()
        counts = np.stack([
            np.stack([_counted(one, self.test.rain, t, level) for t in self.limits], axis=1)
            for one, level in zip(rain, self.settings.students(loss).values(), strict=True)
        ])  # fmt: skip
        if path is not None:
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, counts)
        return counts

    def identity(self, mix: Mix, loss: str, seed: int) -> dict[str, Any]:
        """Return all inputs that the counts of a network depend on."""
        return {
            "data": [self._sha256(f) for f in (self.record, self.test, *(f for f, _ in mix))],
            "shares": [share for _, share in mix],
            "factor": self.record.factor,
            "limits": self.limits.tolist(),
            "settings": asdict(self.settings),
            "loss": loss,
            "seed": seed,
            "device": self.device,
            "xcvae": version("xcvae"),
        }

    def _sha256(self, fields: Fields) -> str:
        if id(fields) not in self.digests:
            described = f"{fields.rain.shape} {fields.scaling}".encode()
            digest = hashlib.sha256(described + fields.rain.tobytes()).hexdigest()
            self.digests[id(fields)] = digest
        return self.digests[id(fields)]


def _digest(identity: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]


def _counted(rain: Array, truth: Array, limit: float, level: float) -> Array:
    """Count events and add up errors above a threshold; (sample, count) in the order of COUNTS.

    The error is twice the pinball loss at a level: the absolute error at 0.5.
    """
    forecast, observed = rain >= limit, truth >= limit
    missing = np.maximum(truth, limit) - np.maximum(rain, limit)
    error = 2.0 * np.maximum(level * missing, (level - 1.0) * missing)
    parts = (forecast & observed, ~forecast & observed, forecast & ~observed)
    sums = [part.sum(axis=(1, 2), dtype=np.float64) for part in parts]
    sums += [truth[0].size - sum(sums), error.sum(axis=(1, 2), dtype=np.float64)]
    return np.stack(sums, axis=1)


class PairedDifference(NamedTuple):
    """A difference of scores and its 95 % interval.

    Attributes
    ----------
    difference, low, high
        The difference and the ends of its interval.
    """

    difference: float
    low: float
    high: float

    def verdict(self, better: str) -> str:
        """Return the verdict, given the ``better`` direction of the score, "higher" or "lower"."""
        if not np.isfinite(self.low + self.high):
            return UNSCORED
        if self.low <= 0 <= self.high:
            return NOTHING
        return HELPS if (self.difference > 0) == (better == "higher") else HURTS


def _named(sums: Array) -> dict[str, Array]:
    return {name: sums[..., i] for i, name in enumerate(COUNTS)}


def _csi(sums: Array) -> Array:
    return CSI().finish(_named(sums))


def _sedi(sums: Array) -> Array:
    return SEDI().finish(_named(sums))


def _tail_mae(sums: Array) -> Array:
    return np.asarray(sums[..., -1] / sums[..., :-1].sum(axis=-1))


#: By name: function of sums (..., count), long name, and better direction.
SCORES: dict[str, tuple[Any, str, str]] = {
    "csi": (_csi, CSI.long_name, "higher"),
    "sedi": (_sedi, SEDI.long_name, "higher"),
    "tail_mae": (_tail_mae, "mean absolute error above the threshold", "lower"),
}


def scored(
    counts: Array,
    test: Fields,
    labels: Mapping[str, list[Any]],
    limits: Array,
    against: str = RECORD,
) -> xr.Dataset:
    """Turn counts (student, recipe, seed, sample, level, count) into scores and verdicts."""
    units, base = test.scaling.units, labels["recipe"].index(against)
    dims, shape = tuple(labels), tuple(len(one) for one in labels.values())
    found: dict[str, Any] = {}
    for score, (finish, long_name, better) in SCORES.items():
        about = {"long_name": long_name, "units": units if score == "tail_mae" else "1"}
        values = finish(counts.sum(axis=3)).mean(axis=2)
        bounds = np.full((3, *shape), np.nan)
        verdicts = np.full(shape, "", dtype=object)
        for index in np.ndindex(shape):
            loss, recipe, level = index
            if recipe != base:
                both = counts[loss, [recipe, base], :, :, level]
                one = paired_difference(both[0], both[1], finish, test.order)
                bounds[(slice(None), *index)] = one
                verdicts[index] = one.verdict(better)
        found[score] = dims, values, {**about, "better": better}
        for name, array in zip(("difference", "low", "high"), bounds, strict=True):
            found[f"{score}_{name}"] = dims, array, about
        found[f"{score}_verdict"] = dims, verdicts.astype(str)
    threshold = ("level", limits, {"units": units, "long_name": "event: this or more"})
    return xr.Dataset(
        found,
        {**labels, "threshold": threshold},
        {"seeds": counts.shape[2], "interval": LEVEL, "against": against},
    )


def paired_difference(own: Array, base: Array, score: Any, order: Array) -> PairedDifference:
    """Return the mean difference of the scores of two sets of counts, with its 95 % interval.

    Parameters
    ----------
    own, base
        Counts (seed, sample, count) of the same seeds and samples.
    score
        Function of sums (..., count).
    order
        Positions of the samples in the order of time.
    """
    pieces = pieces_of(np.zeros(own.shape[1], int), order)
    sums = np.zeros((2, pieces.count, own.shape[0], own.shape[2]))
    for side, counts in zip(sums, (own, base), strict=True):
        np.add.at(side, pieces.of_sample, counts.swapaxes(0, 1))

    def finish(add: Any) -> Array:
        return np.asarray((score(add(sums[0])) - score(add(sums[1]))).mean(axis=-1))

    value, low, high = interval(finish, pieces.groups[0])
    # Standard error of the mean over seeds; the same seed of both sets starts alike.
    by_seed = score(own.sum(axis=1)) - score(base.sum(axis=1))
    n = by_seed.size
    seeds = float(stdtrit(n - 1, (1 + LEVEL) / 2) * by_seed.std(ddof=1) / np.sqrt(n))
    return PairedDifference(
        value,
        value - float(np.hypot(value - low, seeds)),
        value + float(np.hypot(high - value, seeds)),
    )

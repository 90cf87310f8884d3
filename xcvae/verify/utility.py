"""Are synthetic storms of use? What they do to the scores of a network that is trained on them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, explain, nearest
from xcvae.fields.cf import find_target
from xcvae.verify.gains import SCORES, scored
from xcvae.verify.mixtures import RECORD, Extra, Fields, Recipes, check_apart, recipes
from xcvae.verify.trials import Mix, Trials

__all__ = ["Extra", "compare", "recipes", "table"]

LEVELS = (0.95, 0.99, 0.999)


def compare(
    train: xr.Dataset,
    test: xr.Dataset,
    recipes: Recipes,
    *,
    coarsen: int,
    target: str | None = None,
    losses: Sequence[str] = ("l1", "quantile"),
    levels: Sequence[float] = LEVELS,
    thresholds: Sequence[float] | None = None,
    seeds: int = 5,
    network: Mapping[str, Any] | None = None,
    device: str = "auto",
    keep: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Train a super-resolution network by every recipe, and compare its scores at the extremes.

    The network (`xcvae.verify.superresolution`) sees block means and is to give the field. All
    recipes have the same steps and, seed by seed, the same initial weights. Every field, real or
    not, is paired with its own block means. Nothing of ``test`` is used before the scores.

    Intervals of 95 % are of differences from the record alone, on the same test samples and
    seeds. They hold what is uncertain because test samples are few (moving blocks, as in
    `xcvae.evaluate`) and because seeds are (Student's t), added in quadrature. They do not hold
    what another generator, or another record, would change.

    Parameters
    ----------
    train
        The real record.
    test
        Untouched samples, on any grid that ``coarsen`` divides.
    recipes
        What is added to the record, by name: from `recipes`, or of your own.
    coarsen
        Fine pixels along a side of a coarse one.
    target
        Name of the rain in both.
    losses
        Variants of the network: ``"l1"``, ``"quantile"`` (pinball).
    levels
        Quantiles of all pixels of ``train``, dry ones too, that events are defined by.
    thresholds
        Amounts in the units of ``train`` for these levels, in place of its own quantiles: for
        records of different length, say.
    seeds
        Trainings of each recipe and loss, at least 2.
    network
        `xcvae.verify.superresolution.Settings` by its attributes, such as ``steps``.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    keep
        Folder for the counts of each trained network, so that a comparison that was interrupted
        goes on.
    progress
        Show a bar, on a terminal.

    Returns
    -------
    xarray.Dataset
        Dims (loss, recipe, level), the record first: ``csi``, ``sedi`` and ``tail_mae``, means
        over seeds, with ``<score>_difference`` from the record, ``<score>_low`` and ``_high`` of
        that, and ``<score>_verdict``: "helps" or "hurts" where the interval excludes zero,
        "no evidence" where it does not, "too few events" where there is none. ``tail_mae`` is the
        mean absolute error of max(rain, threshold), over all pixels: a proper score of the tail,
        unlike the error where much was observed (Allen et al. 2023,
        https://doi.org/10.1137/22M1532184). ``threshold`` is a coordinate.

    Raises
    ------
    ConfigError
        A setting is unknown or out of range.
    DataError
        Rain has gaps.
    MismatchError
        A field is in training and in ``test``, or ``coarsen`` does not divide a grid.
    """
    from xcvae.verify.superresolution import LOSSES, Settings

    settings = Settings.of(network)
    for loss in losses:
        if loss not in LOSSES:
            raise ConfigError(f"losses: unknown '{loss}'. {nearest(loss, LOSSES)}")
    _check(recipes, seeds, levels, thresholds)
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
    trials = Trials(record, tested, limits, settings, device, folder)
    mixes: dict[str, Mix] = {RECORD: []}
    mixes |= {name: [(extras[id(e)], e.share) for e in one] for name, one in recipes.items()}
    counts = trials.run(mixes, losses, seeds, progress=progress)
    labels: dict[str, list[Any]] = {"loss": list(losses), "recipe": list(mixes)}
    labels["level"] = list(levels)
    return scored(counts, tested, labels, limits)


def table(found: xr.Dataset) -> str:
    """Put what `compare` found in lines: the record's score, then differences and verdicts."""
    names = [str(name) for name in found["recipe"].values]
    width = max(map(len, names))
    lines = []
    for loss in found["loss"].values:
        for level in found["level"].values:
            for score in SCORES:
                one = found.sel(loss=loss, level=level)
                value = float(one[score].sel(recipe=RECORD))
                limit = f"{float(one['threshold']):.3g} {found['tail_mae'].attrs['units']}"
                lines.append(f"{loss}, P{100 * level:g} ({limit}), {score}: record {value:.4g}")
                for name in names[1:]:
                    cell = one.sel(recipe=name)
                    low, high = float(cell[f"{score}_low"]), float(cell[f"{score}_high"])
                    lines.append(
                        f"  {name:{width}}  {float(cell[f'{score}_difference']):+.3g} "
                        f"[{low:+.3g}, {high:+.3g}]  {cell[f'{score}_verdict'].item()}"
                    )
    return "\n".join(lines)


def _check(
    recipes: Recipes, seeds: int, levels: Sequence[float], thresholds: Sequence[float] | None
) -> None:
    wrong: tuple[str, str, object, str] | None = None
    for name, recipe in recipes.items():
        total = sum(extra.share for extra in recipe)
        if not (recipe and all(extra.share > 0 for extra in recipe) and total < 1):
            wrong = f"recipe '{name}'", "shares above 0, less than 1 in all", total, "Lower them."
    if seeds < 2:
        wrong = "seeds", "at least 2, for there is no interval without", seeds, "Take 5."
    elif not all(0 < level < 1 for level in levels):
        wrong = "levels", "quantiles between 0 and 1", list(levels), "P99 is 0.99."
    elif thresholds is not None and len(thresholds) != len(levels):
        wrong = "thresholds", f"{len(levels)} amounts", len(thresholds), "Give one per level."
    elif RECORD in recipes:
        wrong = "recipes", "names of additions", RECORD, "The record alone is always there."
    if wrong is not None:
        name, expected, got, remedy = wrong
        raise ConfigError(explain(name, expected=expected, got=repr(got), remedy=remedy))

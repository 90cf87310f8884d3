"""How near samples and draws are to the training fields: leaks and memorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.record import Thumbnails, distances, rainy, shrink

__all__ = ["Neighbours", "known_labels", "neighbours_of"]

#: A field this near to a training field is a copy of it; float16 alone makes 0.001.
COPY = 0.02
#: Rainy fields that a comparison takes, and rainy training fields for the usual distance.
ENOUGH, ENOUGH_TRAINED = 4, 40
#: Share of the record on either side of a field that may hold the same storm.
SAME_STORM = 0.05


@dataclass(frozen=True)
class Neighbours:
    """Distances of small maps: 0 is a copy, 1 has nothing in common. NaN is not known.

    Attributes
    ----------
    same_labels
        Share of the samples, all that were given, whose label (such as time) is a training
        sample's.
    labels_known
        Share of the training samples whose labels the model file has.
    copies
        Share of the rainy samples that are copies of a training field.
    observed
        Median distance of rainy samples from the nearest training field.
    usual
        The same among training fields, neighbours along the record left out: of other storms.
    drawn
        Median ratio of the distance of a sample's prior members from the nearest training field
        to that of the sample itself.
    drawn_copies
        Share of the prior members of rainy samples that are copies of a training field.
    rainy
        How many of the samples looked at have rain enough to be told from others.
    """

    same_labels: float
    labels_known: float
    copies: float
    observed: float
    usual: float
    drawn: float
    drawn_copies: float
    rainy: int


def known_labels(codes: NDArray[np.int64], trained: Thumbnails) -> tuple[float, float]:
    """Return the share of label codes that training samples have, and how many of those we know."""
    if not len(codes) or not len(trained.labels):
        return float("nan"), 0.0
    share = float(np.isin(codes, trained.labels).mean())
    return share, len(trained.labels) / max(trained.samples, 1)


def neighbours_of(
    members: NDArray[Any],
    observed: NDArray[Any],
    codes: NDArray[np.int64],
    trained: Thumbnails,
    wet_threshold: float,
) -> Neighbours:
    """Compare samples (sample, y, x) and members (realization, sample, y, x) with training fields.

    Parameters
    ----------
    members, observed
        Physical.
    codes
        `xcvae.fields.samples.label_codes` of all samples that were given.
    trained
        What is kept of the training samples.
    wet_threshold
        Of the target, in its units.
    """
    same, known = known_labels(codes, trained)
    maps = shrink(observed, wet_threshold)
    wet = rainy(maps)
    nothing = float("nan")
    record = trained.maps[rainy(trained.maps)]
    found = Neighbours(
        same, known, nothing, nothing, _usual(record), nothing, nothing, int(wet.sum())
    )
    if wet.sum() < ENOUGH or not len(record):
        return found
    nearest = distances(maps[wet], record).min(axis=1)
    drawn = np.stack(
        [distances(shrink(one[wet], wet_threshold), record).min(axis=1) for one in members]
    )
    # A sample that is a copy itself says nothing about draws, and has no distance to compare with.
    own = nearest > COPY
    ratio = float(np.median(np.median(drawn, axis=0)[own] / nearest[own])) if own.any() else nothing
    return Neighbours(
        same_labels=same,
        labels_known=known,
        copies=float((nearest <= COPY).mean()),
        observed=float(np.median(nearest)),
        usual=found.usual,
        drawn=ratio,
        drawn_copies=float((drawn <= COPY).mean()),
        rainy=found.rainy,
    )


def _usual(record: NDArray[Any]) -> float:
    """Median distance of training fields from the nearest one of another storm."""
    count = len(record)
    if count < ENOUGH_TRAINED:
        return float("nan")
    apart = distances(record, record)
    place = np.arange(count)
    near = np.abs(place[:, None] - place) <= max(2, round(SAME_STORM * count))
    return float(np.median(np.where(near, np.inf, apart).min(axis=1)))

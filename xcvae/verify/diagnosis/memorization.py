"""Distances of samples and draws from the training fields: leakage and memorisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xcvae.fields.record import Thumbnails, distances, rainy, shrink

#: A field nearer to a training field than this is a copy of it; rounding to float16 is 0.001.
COPY = 0.02
#: Rainy fields needed for a comparison, and rainy training fields for the usual distance.
ENOUGH, ENOUGH_TRAINED = 4, 40
#: Share of the record, before and after a field, that may show the same storm.
SAME_STORM = 0.05


@dataclass(frozen=True)
class Neighbours:
    """Distances of samples and draws from the training fields.

    A distance is 0 for copies and 1 for maps without common rain; NaN if not known.

    Attributes
    ----------
    same_labels
        Share of all given samples with the label (such as time) of a training sample.
    labels_known
        Share of the training samples with a label in the model file.
    copies
        Share of the rainy samples that are copies of a training field.
    observed
        Median distance of rainy samples from the nearest training field.
    usual
        The same among training fields of different storms: neighbours along the record are left
        out.
    drawn
        Median ratio of the distance of a sample's prior members from the nearest training field
        to that of the sample itself.
    drawn_copies
        Share of the prior members of rainy samples that are copies of a training field.
    rainy
        Number of samples with enough rain to be distinguished.
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
    """Return the share of codes that are training labels, and that of known training labels."""
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
        Physical values.
    codes
        `xcvae.fields.samples.label_codes` of all given samples.
    trained
        Thumbnails and labels of the training samples.
    wet_threshold
        Amount from which a pixel is wet, in the units of the target.
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
    # Leave out samples that are copies themselves: their distance is no reference for draws.
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
    """Return the median distance of training fields from the nearest one of another storm."""
    count = len(record)
    if count < ENOUGH_TRAINED:
        return float("nan")
    position = np.arange(count)
    near = np.abs(position[:, None] - position) <= max(2, round(SAME_STORM * count))
    return float(np.median(np.where(near, np.inf, distances(record, record)).min(axis=1)))

"""Detectors of what is wrong between a model and the samples that it was trained on."""

from __future__ import annotations

import math

from xcvae.verify.evidence import Evidence
from xcvae.verify.finding import Found, above, below, detector, share

__all__ = ["leakage", "memorisation"]

#: Where a warning begins and where a fault.
SAME = (0.0, 0.05)  # share of samples that were trained on, by label or as copies, above
CLOSE = (0.65, 0.3)  # distance from the training fields over that between storms there, below
NEAR = (0.6, 0.3)  # distance of draws from the training fields over that of samples, below
COPIES = (0.05, 0.2)  # share of draws that are copies, beyond that of samples, above

NO_RECORD = "the model file keeps nothing of the training samples; train again to have it checked"
SPLIT = (
    "Judge on samples that training did not see. Split by periods (days, years) or regions, never "
    "at random: neighbours in time are nearly copies."
)
NOT_GIVEN = "it takes the rain that was trained on (trained_on)"


@detector("The model has seen these samples in training, or all but.")
def leakage(e: Evidence) -> Found | str:
    """Samples that the model was trained on, or nearly."""
    n = e.neighbours
    if n is None:
        return NO_RECORD if e.own else NOT_GIVEN
    if math.isnan(n.same_labels) and math.isnan(n.copies):
        return "samples have no labels, and too little rain to be told"
    ratio = n.observed / n.usual
    words = []
    if not math.isnan(n.same_labels):
        some = "" if n.labels_known >= 1 else f" (known for {share(n.labels_known)} of them)"
        words.append(
            f"{share(n.same_labels)} of the samples have the label of a training one{some}"
        )
    if not math.isnan(n.copies):
        words.append(f"{share(n.copies)} are copies of a training field")
    if not math.isnan(ratio):
        words.append(
            f"they are {ratio:.2f} times as far from the nearest training field as training "
            "storms are from each other"
        )
    return Found(
        max(above(n.same_labels, SAME), above(n.copies, SAME), below(ratio, CLOSE)),
        "; ".join(words) + ".",
        SPLIT,
        SPLIT,
    )


@detector("Prior members repeat fields of the training record.")
def memorisation(e: Evidence) -> Found | str:
    """Prior draws repeat training fields."""
    n = e.neighbours
    if n is None:
        return NO_RECORD if e.own else NOT_GIVEN
    if math.isnan(n.drawn):
        return "it takes samples with rain that are no training samples themselves"
    copies = n.drawn_copies - n.copies
    return Found(
        max(below(n.drawn, NEAR), above(copies, COPIES)),
        f"On the scale of an eighth of the domain, they are {n.drawn:.2f} times as far from the "
        f"nearest training field as the samples are; {share(n.drawn_copies)} are copies.",
        "Train on more samples, for fewer steps (fit: max_steps, patience) or with a smaller "
        "generator (preset: small); turn fields in training (fit: flips).",
        "Train on more samples, for fewer steps or with a smaller network; turn and mirror fields "
        "in training.",
    )

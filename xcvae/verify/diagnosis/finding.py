"""Evidence, findings, and the decorator that makes a detector of a measuring function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import wraps
from typing import Any, Literal

from xcvae.fields.dataspec import plain
from xcvae.verify.diagnosis.memorization import Neighbours
from xcvae.verify.diagnosis.statistics import (
    EnsembleStatistics,
    LatentSwap,
    Spike,
    TimeStatistics,
)


@dataclass(frozen=True)
class LevelEvidence:
    """Information in one latent level of the ladder.

    A level without information has collapsed to the prior.

    Attributes
    ----------
    size
        Height and width of its map.
    kl
        KL(q || p) in nats per sample.
    active
        Share of its latent channels with more than 0.01 nats per pixel.
    """

    size: tuple[int, int]
    kl: float
    active: float


@dataclass(frozen=True)
class Evidence:
    """All numbers that the detectors use, measured by `measure` or `gather`.

    None, NaN or an empty tuple stand for quantities that were not measured.

    Attributes
    ----------
    units
        Units of the target, and of all amounts here.
    samples, members, seed
        Number of samples read, number of prior members of each, and the seed of the noise.
    pixels
        Valid pixels per sample.
    levels
        Latent levels, coarsest first; empty if not known.
    swap
        Reconstructions with exchanged latents; None with a single sample, or if not known.
    prior, posterior
        Draws from the conditions alone, and at spread 0 around the observed storm.
    wet_fraction
        Observed share of wet pixels.
    wet_fraction_record
        Share of wet pixels in the training record; NaN without one.
    light_mass
        Observed share of the amount in pixels below the wet threshold.
    wet_threshold
        Amount from which a pixel is wet, in ``units``.
    ceiling_share
        Share of the largest observed values that are the same value.
    spike
        An amount that occurs implausibly often among the heaviest ones of the data, or else of the
        training record; None without one.
    neighbours
        Distances of data and draws from the training fields; None if these are not known.
    scale
        Amounts of the data over those of the training record: the median of the ratios of mean,
        99th percentile and maximum; NaN without rain or without a record.
    time
        Correlation of consecutive samples; None without any.
    timescales
        How long each level remembers, as stored in the model or measured on the data: the content
        of `xcvae.generator.training.timescales.Timescales`; empty if not known.
    own
        True if a model of xcvae drew the members: remedies then name its settings.
    """

    units: str
    samples: int
    members: int
    seed: int
    pixels: float
    levels: tuple[LevelEvidence, ...]
    swap: LatentSwap | None
    prior: EnsembleStatistics
    posterior: EnsembleStatistics
    wet_fraction: float
    wet_fraction_record: float
    scale: float
    light_mass: float = 0.0
    wet_threshold: float = float("nan")
    ceiling_share: float = 0.0
    spike: Spike | None = None
    neighbours: Neighbours | None = None
    time: TimeStatistics | None = None
    timescales: Mapping[str, Any] = field(default_factory=dict)
    own: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; values that are not finite become None."""
        content: dict[str, Any] = plain(asdict(self))
        return content


Severity = Literal["ok", "warning", "fault", "unchecked"]
#: Number of standard errors that a quantity has to be beyond a limit.
SURE = 2.0
LEVELS: tuple[Severity, ...] = ("ok", "warning", "fault")


@dataclass(frozen=True)
class Finding:
    """Result of one detector.

    Attributes
    ----------
    name
        Name of the fault, that of its detector.
    severity
        "ok", "warning" or "fault"; "unchecked" if the evidence does not allow a decision.
    evidence
        Measured numbers, in words; or the reason why the fault was not checked.
    remedy
        Changes that help, with the names of parameters; empty without a fault.
    meaning
        Explanation of the fault, in a sentence.
    """

    name: str
    severity: Severity
    evidence: str
    remedy: str = ""
    meaning: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """Severity and words of a detector, before they become a finding.

    It has a remedy for members of xcvae and one for those of other generators.

    Attributes
    ----------
    level
        0 (ok), 1 (warning) or 2 (fault).
    evidence
        Measured numbers, in words.
    remedy
        Changes that help, with the names of xcvae's parameters.
    elsewhere
        The same for members of another generator.
    meaning
        Explanation of the fault; empty for the detector's own.
    """

    level: int
    evidence: str
    remedy: str
    elsewhere: str
    meaning: str = ""


Detector = Callable[[Evidence], Finding]


def detector(meaning: str) -> Callable[[Callable[[Evidence], Measurement | str]], Detector]:
    """Make a detector of a function that measures; the function has the name of the fault.

    The function returns a `Measurement`, or the reason why the evidence is not sufficient.

    Parameters
    ----------
    meaning
        Explanation of the fault, in a sentence.
    """

    def of(measure: Callable[[Evidence], Measurement | str]) -> Detector:
        @wraps(measure)
        def detect(e: Evidence) -> Finding:
            found = measure(e)
            if isinstance(found, str):
                return Finding(measure.__name__, "unchecked", found, "", meaning)
            remedy = found.remedy if e.own else found.elsewhere
            return Finding(
                measure.__name__,
                LEVELS[found.level],
                found.evidence,
                remedy if found.level else "",
                found.meaning or meaning,
            )

        return detect

    return of


def below(value: float, limits: tuple[float, float]) -> int:
    """Return 0, 1 or 2 for ok, warning and fault; NaN is ok."""
    return (value < limits[0]) + (value < limits[1])


def above(value: float, limits: tuple[float, float]) -> int:
    """Return 0, 1 or 2 for ok, warning and fault; NaN is ok."""
    return (value > limits[0]) + (value > limits[1])


def factor(first: float, second: float) -> float:
    """Return the ratio of two positive numbers as a factor >= 1; infinite if only one is zero.

    Examples
    --------
    >>> factor(2.0, 1.0), factor(1.0, 2.0), factor(0.0, 0.0), factor(0.0, 1.0)
    (2.0, 2.0, 1.0, inf)
    """
    if math.isnan(first) or math.isnan(second) or first == second:
        return 1.0
    low, high = sorted((max(first, 0.0), max(second, 0.0)))
    return high / low if low > 0 else math.inf


def shrink_by_error(ratio: float, error: float) -> float:
    """Move a ratio towards 1 by two standard errors of its logarithm, but not past it.

    Examples
    --------
    >>> shrink_by_error(2.0, 0.0), shrink_by_error(0.5, 0.1) > 0.6
    (2.0, True)
    >>> shrink_by_error(1.2, 0.3), shrink_by_error(0.0, 0.0)
    (1.0, 0.0)
    """
    if math.isnan(ratio) or ratio in (0.0, 1.0):
        return ratio
    distance = math.log(ratio)
    return math.exp(math.copysign(max(abs(distance) - SURE * error, 0.0), distance))


def share(value: float) -> str:
    """Write a share in percent, with one digit below 1 %.

    Examples
    --------
    >>> share(0.213), share(0.004), share(0.0)
    ('21 %', '0.4 %', '0 %')
    """
    return f"{100 * value:.0f} %" if value == 0 or value >= 0.01 else f"{100 * value:.1g} %"


def signed(value: float) -> str:
    """Write a difference in percent, with its sign.

    Examples
    --------
    >>> signed(-0.841), signed(0.0)
    ('-84 %', '+0 %')
    """
    return f"{100 * value:+.0f} %"


def duration(seconds: float) -> str:
    """Write a duration with a unit that fits.

    Examples
    --------
    >>> duration(300), duration(5400), duration(86400), duration(0)
    ('5 min', '1.5 h', '1 d', '0 s')
    """
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"

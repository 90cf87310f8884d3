"""A finding: what was looked for, what was measured, and what to change."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import wraps
from typing import Literal

from xcvae.verify.diagnosis.evidence import Evidence

__all__ = [
    "SURE",
    "Detector",
    "Finding",
    "Measurement",
    "Severity",
    "above",
    "below",
    "detector",
    "factor",
    "share",
    "shrink_by_error",
    "signed",
]

Severity = Literal["ok", "warning", "fault", "unchecked"]
#: Standard errors that a number has to be beyond a limit.
SURE = 2.0
LEVELS: tuple[Severity, ...] = ("ok", "warning", "fault")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked into.

    Attributes
    ----------
    name
        Of the fault that was looked for.
    severity
        "ok", "warning" or "fault"; "unchecked" where it could not be told.
    evidence
        What was measured, in words; or why it could not be.
    remedy
        What to change, by the name of the parameter; empty if nothing needs to be.
    meaning
        What the fault is, in a sentence.
    """

    name: str
    severity: Severity
    evidence: str
    remedy: str = ""
    meaning: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """What a detector has to say.

    Attributes
    ----------
    level
        0 (ok), 1 (warning) or 2 (fault).
    evidence
        What was measured, in words.
    remedy
        What to change, by the names that xcvae has for it.
    elsewhere
        The same for members that another generator drew.
    """

    level: int
    evidence: str
    remedy: str
    elsewhere: str


Detector = Callable[[Evidence], Finding]


def detector(meaning: str) -> Callable[[Callable[[Evidence], Measurement | str]], Detector]:
    """Make a detector of a function that measures; its name is that of the fault.

    Parameters
    ----------
    meaning
        What the fault is, in a sentence. The function returns `Found`, or why it cannot tell.
    """

    def of(measure: Callable[[Evidence], Measurement | str]) -> Detector:
        @wraps(measure)
        def detect(e: Evidence) -> Finding:
            told = measure(e)
            if isinstance(told, str):
                return Finding(measure.__name__, "unchecked", told, "", meaning)
            remedy = told.remedy if e.own else told.elsewhere
            severity = LEVELS[told.level]
            return Finding(
                measure.__name__, severity, told.evidence, remedy if told.level else "", meaning
            )

        return detect

    return of


def below(value: float, limits: tuple[float, float]) -> int:
    """0, 1 or 2 for ok, warning and fault; what could not be measured is no finding."""
    return (value < limits[0]) + (value < limits[1])


def above(value: float, limits: tuple[float, float]) -> int:
    """0, 1 or 2 for ok, warning and fault; what could not be measured is no finding."""
    return (value > limits[0]) + (value > limits[1])


def factor(first: float, second: float) -> float:
    """How far two positive numbers are apart, as a factor >= 1; infinite if only one is zero.

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
    """A share in percent, as exact as it takes.

    Examples
    --------
    >>> share(0.213), share(0.004), share(0.0)
    ('21 %', '0.4 %', '0 %')
    """
    return f"{100 * value:.0f} %" if value == 0 or value >= 0.01 else f"{100 * value:.1g} %"


def signed(value: float) -> str:
    """A difference in percent, with its sign.

    Examples
    --------
    >>> signed(-0.841), signed(0.0)
    ('-84 %', '+0 %')
    """
    return f"{100 * value:+.0f} %"

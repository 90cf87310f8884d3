"""A finding: what was looked for, what was measured, and what to change."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = [
    "SURE",
    "Finding",
    "Severity",
    "above",
    "below",
    "factor",
    "found",
    "share",
    "surely",
    "unchecked",
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


def found(name: str, meaning: str, level: int, evidence: str, remedy: str) -> Finding:
    """Make a finding of level 0 (ok), 1 (warning) or 2 (fault)."""
    return Finding(name, LEVELS[level], evidence, remedy if level else "", meaning)


def unchecked(name: str, meaning: str, reason: str) -> Finding:
    """Say why something was not looked into."""
    return Finding(name, "unchecked", reason, "", meaning)


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


def surely(ratio: float, error: float) -> float:
    """Move a ratio towards 1 by two standard errors of its logarithm, but not past it.

    Examples
    --------
    >>> surely(2.0, 0.0), surely(0.5, 0.1) > 0.6, surely(1.2, 0.3), surely(0.0, 0.0)
    (2.0, True, 1.0, 0.0)
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

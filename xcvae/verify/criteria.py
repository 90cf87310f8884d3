"""Success criteria: the ranges that scores have to lie in, and the verdicts."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, DataError, MissingVariableError, UnitsError, nearest
from xcvae.fields.units import parse_quantity
from xcvae.registry import registry

Bounds = Sequence[float | None]
"""``[low, high]``; None for an open end."""

#: Bounds of an ensemble around observed storms, drawn with ``diversity=0.2``.
POSTERIOR: dict[str, Bounds] = {
    "spatial_correlation": (0.70, None),
    "diversity": (0.15, 0.25),
    "wet_fraction_error": (-0.03, 0.03),
    "mass_bias": (-0.10, 0.10),
    "ks": (None, 0.15),
    "p99_ratio": (0.85, 1.15),
}
#: Bounds of an ensemble drawn from the conditions alone.
PRIOR: dict[str, Bounds] = {
    "crps_skill": (0.25, None),
    "spread_skill": (0.8, 1.2),
    "spectral_distance": (None, 3.0),
    "wet_fraction_error": (-0.06, 0.06),
    "mass_bias": (-0.20, 0.20),
}
MODES: dict[str, dict[str, Bounds]] = {"posterior": POSTERIOR, "prior": PRIOR}


def _wet_fraction_error(scores: Callable[[str], float]) -> float:
    return scores("wet_fraction") - scores("wet_fraction_observed")


#: Scores computed from other scores: the formula, and the score that shares its row in tables.
DERIVED: dict[str, tuple[Callable[[Callable[[str], float]], float], str]] = {
    "wet_fraction_error": (_wet_fraction_error, "wet_fraction")
}


@dataclass(frozen=True)
class Criterion:
    """A score and the closed range it must lie in.

    Attributes
    ----------
    name
        A metric, or ``wet_fraction_error``: generated less observed wet fraction.
    low, high
        Bounds in the units of the score; None is open.
    """

    name: str
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, name: str, bounds: object) -> Criterion:
        """Read ``[low, high]``, either of them None.

        Raises
        ------
        ConfigError
            The bounds are something else, or the range is empty.

        Examples
        --------
        >>> Criterion.of("ks", [None, 0.15])
        Criterion(name='ks', low=None, high=0.15)
        """
        if isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(_bound, bounds)):
            low, high = (None if b is None or math.isinf(b) else float(b) for b in bounds)
            if (low, high) != (None, None) and (low is None or high is None or low <= high):
                return cls(name, low, high)
        raise ConfigError.of(
            f"criteria.{name}",
            expected="[low, high], numbers or null for an open end, low <= high",
            got=repr(bounds),
            remedy="For example [0.85, 1.15] or [null, 0.15].",
        )

    @property
    def metric(self) -> str:
        """The score that the criterion belongs to in a table of scores."""
        return DERIVED[self.name][1] if self.name in DERIVED else self.name

    @property
    def needed(self) -> tuple[str, ...]:
        """The scores of a card that it is computed from."""
        if self.name in DERIVED:
            return self.metric, f"{self.metric}_observed"
        return (self.metric,)

    @property
    def wanted(self) -> str:
        """The range in words.

        Examples
        --------
        >>> Criterion("ks", None, 0.15).wanted, Criterion("mass_bias", -0.1, 0.1).wanted
        ('<= 0.15', 'within ±0.1')
        """
        if self.low is None:
            return f"<= {self.high:g}"
        if self.high is None:
            return f">= {self.low:g}"
        if self.low == -self.high:
            return f"within ±{self.high:g}"
        return f"{self.low:g} to {self.high:g}"

    def passes(self, value: float) -> bool:
        """Return True if a value lies in the range; NaN does not."""
        above = self.low is None or value >= self.low
        below = self.high is None or value <= self.high
        return math.isfinite(value) and above and below


def _bound(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value is None or (number and not math.isnan(value))  # type: ignore[arg-type]  # a number


@dataclass(frozen=True)
class Verdict:
    """A criterion with the score that was compared with it.

    A score that is not finite misses.

    Attributes
    ----------
    criterion
        The range.
    value
        The score; NaN if it could not be computed.
    """

    criterion: Criterion
    value: float

    @property
    def passed(self) -> bool:
        """True if the score lies in the range."""
        return self.criterion.passes(self.value)

    @property
    def word(self) -> str:
        """``"pass"`` or ``"miss"``."""
        return "pass" if self.passed else "miss"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; a value that is not finite becomes None."""
        return {
            "name": self.criterion.name,
            "value": self.value if math.isfinite(self.value) else None,
            "low": self.criterion.low,
            "high": self.criterion.high,
            "verdict": self.word,
        }


def criteria_for(
    mode: str, overrides: Mapping[str, Bounds | None] | None = None
) -> list[Criterion]:
    """Return the criteria of a sampling mode, with the user's own bounds.

    Parameters
    ----------
    mode
        "posterior" or "prior": the mode with the default criteria.
    overrides
        ``[low, high]`` by name: replaces bounds or adds criteria, and None drops one.

    Raises
    ------
    ConfigError
        The mode or a score is unknown, or bounds are malformed.

    Examples
    --------
    >>> [c.name for c in criteria_for("prior", {"mass_bias": None, "csi": [0.3, None]})]
    ['crps_skill', 'spread_skill', 'spectral_distance', 'wet_fraction_error', 'csi']
    """
    if mode not in MODES:
        raise ConfigError(f"criteria: unknown mode '{mode}'. {nearest(mode, MODES)}")
    given: object = overrides or {}
    if not isinstance(given, Mapping):
        raise ConfigError.of(
            "criteria",
            expected="limits by score",
            got=repr(given),
            remedy="For example {'mass_bias': [-0.2, 0.2]}.",
        )
    chosen: dict[str, Bounds | None] = {**MODES[mode], **given}
    valid = {*registry().names("metric"), *POSTERIOR, *PRIOR}
    for name in chosen:
        if name not in valid and _base(name) not in valid:
            raise ConfigError(f"criteria: unknown score '{name}'. {nearest(name, valid)}")
    return [Criterion.of(name, bounds) for name, bounds in chosen.items() if bounds is not None]


def _base(name: str) -> str:
    """Return the metric of a score: cards have ``ks_2``, a second one, and ``crps_1h``, a window.

    Examples
    --------
    >>> _base("ks_2"), _base("crps_15min"), _base("p99_ratio")
    ('ks', 'crps', 'p99_ratio')
    """
    name = re.sub(r"_\d+$", "", name)
    base, _, window = name.rpartition("_")
    try:
        parse_quantity(window, units="s", what="window")
    except (UnitsError, ConfigError):
        return name
    return base


def judge(
    scores: xr.Dataset | Mapping[str, float],
    criteria: Sequence[Criterion],
    *,
    source: str = "xcvae",
) -> list[Verdict]:
    """Compare scores with criteria, in their order.

    Parameters
    ----------
    scores
        A scorecard (dim ``source``), or values by name.
    criteria
        From `criteria_for`.
    source
        The source of the scorecard to compare.

    Raises
    ------
    MissingVariableError
        The card lacks the source, or a score that a criterion needs.
    DataError
        A score of the card has several values, as with ``groupby``.
    """

    def score(name: str) -> float:
        if name not in scores:
            raise _no_score(name, scores)
        return _number(scores, name, source)

    return [
        Verdict(c, DERIVED[c.name][0](score) if c.name in DERIVED else score(c.name))
        for c in criteria
    ]


def check_scores(criteria: Iterable[Criterion], scores: Iterable[str]) -> None:
    """Refuse criteria of scores that will not be computed.

    Parameters
    ----------
    criteria
        From `criteria_for`.
    scores
        Names of all scores of the card.

    Raises
    ------
    MissingVariableError
        A criterion needs another one.
    """
    known = set(scores)
    for name in (name for criterion in criteria for name in criterion.needed):
        if name not in known:
            raise _no_score(name, known)


def _no_score(name: str, scores: Iterable[Any]) -> MissingVariableError:
    return MissingVariableError.of(
        "criteria",
        expected=f"the score '{name}'",
        got="a scorecard without it",
        remedy=f"Add it to metrics, or drop the criterion. {nearest(name, map(str, scores))}",
    )


def _number(scores: xr.Dataset | Mapping[str, float], name: str, source: str) -> float:
    if not isinstance(scores, xr.Dataset):
        return float(scores[name])
    value = scores[name]
    if "source" in value.dims:
        sources = [str(s) for s in scores["source"].values]
        if source not in sources:
            raise MissingVariableError(
                f"source: '{source}' is not in the scorecard. {nearest(source, sources)}"
            )
        value = value.isel(source=sources.index(source))
    if value.ndim:
        raise DataError.of(
            f"score '{name}'",
            expected="one number",
            got=f"dims ({', '.join(map(str, value.dims))})",
            remedy="Select one group of the scorecard first: card.isel(...).",
        )
    return float(np.asarray(value.values))


def table(verdicts: Sequence[Verdict], *, title: str = "") -> str:
    """Write verdicts as text with aligned columns.

    Examples
    --------
    >>> print(table(judge({"ks": 0.12, "p99_ratio": 0.7}, [Criterion("ks", None, 0.15),
    ...                   Criterion("p99_ratio", 0.85, 1.15)])))
    criterion   value  wanted        verdict
    ks          0.120  <= 0.15       pass
    p99_ratio   0.700  0.85 to 1.15  miss
    """
    rows = [("criterion", "value", "wanted", "verdict")]
    rows += [(v.criterion.name, f"{v.value:.3f}", v.criterion.wanted, v.word) for v in verdicts]
    return aligned(rows, "<><<", title=title)


def aligned(rows: Sequence[Sequence[str]], alignment: str, *, title: str = "") -> str:
    """Write rows of text in columns, each aligned to the left ("<") or the right (">").

    Examples
    --------
    >>> print(aligned([("score", "value"), ("ks", "0.1")], "<>", title="prior"))
    prior
    score  value
    ks       0.1
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{text:{side}{width}}"
            for text, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([title, *lines] if title else lines)


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return verdicts as plain JSON types."""
    return [verdict.to_json() for verdict in verdicts]

"""Scores as text: names, digits, intervals, and the best sources."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from xcvae.verify.criteria import Criterion, aligned

SPELLED = {word: word.upper() for word in ("crps", "mae", "ks", "fss", "csi", "sedi", "p99")}
SPELLED |= {"p999": "P99.9", "brier": "Brier score"}
#: Scores without a better side: the value to aim at depends on the use.
NEUTRAL = ("diversity",)


def score_names(card: xr.Dataset) -> list[str]:
    """Return the names of the scores of a card, without their intervals."""
    return [
        str(name)
        for name in card.data_vars
        if "source" in card[name].dims
        and not any(str(name) == f"{base}_{end}" for base in card for end in ("low", "high"))
    ]


def words(name: str) -> str:
    """Write the name of a score for a table.

    Examples
    --------
    >>> words("crps_skill"), words("p999_ratio")
    ('CRPS skill', 'P99.9 ratio')
    """
    return " ".join(SPELLED.get(word, word) for word in name.split("_"))


def wanted_text(criterion: Criterion) -> str:
    """Write the range of a criterion with typographic signs.

    Examples
    --------
    >>> wanted_text(Criterion("ks", None, 0.15)), wanted_text(Criterion("mass_bias", -0.1, 0.1))
    ('≤ 0.15', 'within ±0.1')
    """
    text = criterion.wanted.replace(">=", "≥").replace("<=", "≤")
    return text.replace("-", "\u2212")


def needs_powers(values: Sequence[float | None]) -> bool:
    """Return True if scores are so small that they are written with powers of ten."""
    finite = [abs(v) for v in values if v is not None and np.isfinite(v)]
    return bool(0 < max(finite, default=0.0) < 0.005)


def score_text(value: float | None, *, powers: bool = False) -> str:
    """Write a score; a missing one is a dash.

    Examples
    --------
    >>> score_text(63.961), score_text(-1e-12), score_text(5.55e-5, powers=True)
    ('63.96', '0.000', '5.55e\u221205')
    """
    if value is None or not np.isfinite(value):
        return "\u2013"  # en dash
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    text = f"{value:.2e}" if powers else f"{value + 0.0:.{digits}f}"
    if text.strip("-0.") == "":
        text = text.lstrip("-")
    return text.replace("-", "\u2212")  # minus sign, as wide as a plus


def interval_text(low: float | None, high: float | None, *, powers: bool = False) -> str:
    """Write an interval; "" for a missing one, or one of no width."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return ""
    ends = [score_text(end, powers=powers) for end in (low, high)]
    return "" if ends[0] == ends[1] else " to ".join(ends)


def table(card: xr.Dataset, *, title: str = "") -> str:
    """Write the scores of a card as text with aligned columns, one column for each source.

    Scores with groups are left out.

    Examples
    --------
    >>> score = xr.DataArray([0.301, 0.4842], dims="source", attrs={"units": "mm h-1"})
    >>> print(table(xr.Dataset({"crps": score}, {"source": ["prior", "bilinear"]})))
    score          prior  bilinear
    CRPS [mm h-1]  0.301     0.484
    """
    rows = [("score", *(str(source) for source in card["source"].values))]
    for name in score_names(card):
        if card[name].dims != ("source",):
            continue
        values = [float(v) for v in card[name].values]
        powers = needs_powers(values)
        units = str(card[name].attrs.get("units", "1"))
        label = words(name) + (f" [{units}]" if units not in ("", "1") else "")
        # ASCII signs, as in the table of criteria: programs read both.
        texts = [score_text(v, powers=powers).replace("\u2212", "-") for v in values]
        rows.append((label, *("-" if text == "\u2013" else text for text in texts)))
    text = aligned(rows, "<" + ">" * card.sizes["source"], title=title)
    comment = str(card.attrs.get("comment", ""))
    return f"{text}\n{comment}" if comment else text


def has_seen_observations(card: xr.Dataset) -> bool:
    """Return True for a card of posterior members: variants of the observed storms themselves.

    Examples
    --------
    >>> has_seen_observations(xr.Dataset(attrs={"xcvae": '{"ensemble": {"mode": "posterior"}}'}))
    True
    """
    try:
        ensemble = json.loads(card.attrs.get("xcvae", "{}")).get("ensemble", {})
    except (TypeError, ValueError, AttributeError):
        return False
    return isinstance(ensemble, dict) and ensemble.get("mode") == "posterior"


def best_sources(card: xr.Dataset, name: str) -> list[bool]:
    """Mark the sources that are best in a score; none if ``better`` names no direction.

    None either if the ensemble was drawn around the observations (`has_seen_observations`): it
    knows what it is scored against.

    ``better`` is "lower", "higher", the ideal value, or the name of the score to equal.
    """
    score = card[name]
    if has_seen_observations(card):
        return [False] * score.sizes["source"]
    values = np.asarray(score.values, float)
    better = score.attrs.get("better")
    if isinstance(better, str) and better in card and better != name:
        distance = np.abs(values - np.asarray(card[better].values, float))
    elif better == "higher":
        distance = -values
    elif better == "lower":
        distance = values
    else:
        try:
            distance = _distance(values, float(str(better)))
        except ValueError:
            return [False] * values.size
    if name in NEUTRAL or values.size < 2 or not np.isfinite(distance).any() or np.ptp(values) == 0:
        return [False] * values.size
    # Differences of the size of rounding errors do not count.
    limit = np.nanmin(distance) + 1e-6 * np.nanmax(np.abs(values))
    return [bool(d <= limit) for d in distance]


def _distance(values: np.ndarray, ideal: float) -> np.ndarray:
    """Return the distance from the ideal; a ratio of 0.5 is as far from 1 as one of 2."""
    if ideal != 1.0:
        return np.asarray(np.abs(values - ideal))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(np.log(values)))

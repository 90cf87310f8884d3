"""Scores as text: names, digits, intervals, and the best sources."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr

from xcvae.errors import ConfigError, DataError, nearest
from xcvae.fields.dataspec import json_attribute
from xcvae.verify.criteria import Criterion, aligned

SPELLED = {word: word.upper() for word in ("crps", "mae", "ks", "fss", "csi", "sedi", "p99")}
SPELLED |= {"p999": "P99.9", "brier": "Brier score", "twcrps": "twCRPS"}
#: Scores without a better side: the value to aim at depends on the use.
NEUTRAL = ("diversity",)
#: Share of a sum of float32 that is rounding.
ROUNDING = 1e-6


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


def needs_powers(values: Sequence[float | None], units: str = "1") -> bool:
    """Return True if scores are so small that they are written with powers of ten.

    A number without units that is smaller than the rounding of float32 is zero: of members that
    keep the rain of each cell, the mass bias is nothing else.

    Examples
    --------
    >>> needs_powers([5.6e-5, 0.0]), needs_powers([2e-8, -1e-9]), needs_powers([2e-8], "m s-1")
    (True, False, True)
    """
    largest = max((abs(v) for v in values if v is not None and np.isfinite(v)), default=0.0)
    return bool((ROUNDING if units in ("", "1") else 0.0) < largest < 0.005)


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


Style = Literal["text", "markdown", "latex", "csv"]
STYLES = ("text", "markdown", "latex", "csv")


def table(card: xr.Dataset, *, title: str = "") -> str:
    """Write the scores of a card as text, one column for each source; groups are left out.

    Examples
    --------
    >>> score = xr.DataArray([0.301, 0.4842], dims="source", attrs={"units": "mm h-1"})
    >>> print(table(xr.Dataset({"crps": score}, {"source": ["prior", "bilinear"]})))
    score          prior  bilinear
    CRPS [mm h-1]  0.301     0.484
    """
    names = [name for name in score_names(card) if card[name].dims == ("source",)]
    sources = [str(source) for source in card["source"].values]
    rows = [("score", *sources)]
    for name in names:
        rows += _rows(card, name, (), intervals=False)
    text = aligned(rows, "<" + ">" * len(sources), title=title)
    comment = str(card.attrs.get("comment", ""))
    return f"{text}\n{comment}" if comment else text


def score_table(card: xr.Dataset, *, style: Style = "text", intervals: bool = True) -> str:
    """Write the scores of a card as a table: a row for each score and group, a column per source.

    Parameters
    ----------
    card
        From `xcvae.evaluate`, also with groups.
    style
        ``"text"``, ``"markdown"``, ``"latex"``, or ``"csv"`` with all digits.
    intervals
        Write 95 % intervals behind the scores; in CSV, in columns of their own.

    Raises
    ------
    ConfigError
        The style is unknown.
    DataError
        The Dataset has no scores.
    """
    if style not in STYLES:
        got, remedy = repr(style), nearest(str(style), STYLES)
        raise ConfigError.of("style", expected=", ".join(STYLES), got=got, remedy=remedy)
    if "source" not in card.coords or not score_names(card):
        raise DataError.of(
            "table",
            expected="a scorecard: scores with the dim 'source'",
            got=f"variables with the dims {dict(card.sizes)}",
            remedy="Call it on what xcvae.evaluate returns.",
        )
    if style == "csv":
        return _csv(card, intervals=intervals)
    sources = [str(source) for source in card["source"].values]
    groups = _group_dims(card)
    rows = [("score", *groups, *sources)]
    for name in score_names(card):
        rows += _rows(card, name, groups, intervals=intervals)
    if style == "markdown":
        ruled = [rows[0], ("---", *("---" for _ in groups), *("---:" for _ in sources)), *rows[1:]]
        escaped = [[cell.replace("|", r"\|") for cell in row] for row in ruled]
        return "\n".join(f"| {' | '.join(row)} |" for row in escaped)
    if style == "latex":
        return _latex(rows, len(groups) + 1)
    return aligned(rows, "<" * (len(groups) + 1) + ">" * len(sources))


def _group_dims(card: xr.Dataset) -> list[str]:
    """Return the dims of groups, in the order of the scores."""
    dims = [str(dim) for name in score_names(card) for dim in card[name].dims if dim != "source"]
    return list(dict.fromkeys(dims))


def _selections(score: xr.DataArray, groups: Sequence[str]) -> Iterator[dict[str, int]]:
    """Yield the positions of every group of a score."""
    own = [dim for dim in groups if dim in score.dims]
    for index in np.ndindex(*(score.sizes[dim] for dim in own)):
        yield dict(zip(own, map(int, index), strict=True))


def _labels(card: xr.Dataset, groups: Sequence[str], chosen: Mapping[str, int]) -> list[str]:
    """Return the value of each group as text; a dash for groups that a score does not have."""
    return [
        (str(card[dim].values[chosen[dim]]) if dim in card.coords else str(chosen[dim]))
        if dim in chosen
        else "-"
        for dim in groups
    ]


def _rows(
    card: xr.Dataset, name: str, groups: Sequence[str], *, intervals: bool
) -> list[tuple[str, ...]]:
    """Return the rows of one score."""
    units = str(card[name].attrs.get("units", "1"))
    label = words(name) + (f" [{units}]" if units not in ("", "1") else "")
    found = []
    for chosen in _selections(card[name], groups):
        values = [float(v) for v in card[name].isel(chosen).values]
        ends = [_end(card, name, end, chosen) for end in ("low", "high")]
        powers = needs_powers(values, units)
        cells = []
        for i, value in enumerate(values):
            # ASCII signs, as in the table of criteria: programs read both.
            text = score_text(value, powers=powers).replace("\u2212", "-").replace("\u2013", "-")
            if intervals and ends[0] is not None and ends[1] is not None:
                between = interval_text(ends[0][i], ends[1][i], powers=powers)
                text += f" ({between})".replace("\u2212", "-") if between else ""
            cells.append(text)
        found.append((label, *_labels(card, groups, chosen), *cells))
    return found


def _end(card: xr.Dataset, name: str, end: str, chosen: Mapping[str, int]) -> list[float] | None:
    found = card.get(f"{name}_{end}")
    return None if found is None else [float(v) for v in found.isel(chosen).values]


def _csv(card: xr.Dataset, *, intervals: bool) -> str:
    """Write scores with all digits: score, units, groups, and the sources with their intervals."""
    sources = [str(source) for source in card["source"].values]
    groups = _group_dims(card)
    ends = ("", "_low", "_high") if intervals else ("",)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["score", "units", *groups, *(f"{s}{end}" for s in sources for end in ends)])
    for name in score_names(card):
        for chosen in _selections(card[name], groups):
            columns = [
                card[f"{name}{end}"].isel(chosen).values if f"{name}{end}" in card else None
                for end in ends
            ]
            cells = [
                "" if column is None or not np.isfinite(column[i]) else repr(float(column[i]))
                for i in range(len(sources))
                for column in columns
            ]
            units = str(card[name].attrs.get("units", "1"))
            writer.writerow([name, units, *_labels(card, groups, chosen), *cells])
    return text.getvalue()


def _latex(rows: Sequence[tuple[str, ...]], names: int) -> str:
    """Write rows as a LaTeX tabular, without further packages."""
    escaped = [[re.sub(r"[_%&#$~^\\{}<>]", _in_latex, cell) for cell in row] for row in rows]
    lines = [" & ".join(row) + r" \\" for row in escaped]
    columns = "l" * names + "r" * (len(rows[0]) - names)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline"]
    return "\n".join([*head, *lines[1:], r"\hline", r"\end{tabular}"])


def _in_latex(found: re.Match[str]) -> str:
    """Return a special character as LaTeX prints it."""
    words = {"~": "textasciitilde", "^": "textasciicircum", "\\": "textbackslash"}
    words |= {"<": "textless", ">": "textgreater"}
    return f"\\{words[found[0]]}{{}}" if found[0] in words else "\\" + found[0]


def has_seen_observations(card: xr.Dataset) -> bool:
    """Return True for a card of posterior members: variants of the observed storms themselves.

    Examples
    --------
    >>> has_seen_observations(xr.Dataset(attrs={"xcvae": '{"ensemble": {"mode": "posterior"}}'}))
    True
    """
    ensemble = json_attribute(card).get("ensemble")
    return isinstance(ensemble, dict) and ensemble.get("mode") == "posterior"


def best_sources(card: xr.Dataset, name: str) -> list[bool]:
    """Mark the sources that are best in a score; none if ``better`` names no direction.

    None either if the ensemble was drawn around the observations (`has_seen_observations`): it
    knows what it is scored against.

    ``better`` is "lower", "higher", the ideal value, or the name of the score to equal. The
    coordinate ``<score>_better`` has the ideal value of a group, where groups differ in it.
    """
    score = card[name]
    if has_seen_observations(card):
        return [False] * score.sizes["source"]
    values = np.asarray(score.values, float)
    better = score.attrs.get("better")
    if f"{name}_better" in card.coords:
        better = str(float(card[f"{name}_better"]))
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
    if name in NEUTRAL or values.size < 2 or not np.isfinite(distance).any():
        return [False] * values.size
    # Differences of the size of rounding errors do not count. Scores with an ideal value, such as
    # a bias of 0, may all consist of them: these errors are relative to one.
    size = np.nanmax(np.abs(values))
    ideal = better not in ("higher", "lower") and better not in card
    limit = 1e-6 * (max(size, 1.0) if ideal else size)
    if np.ptp(values) <= (limit if ideal else 0.0):
        return [False] * values.size
    limit += np.nanmin(distance)
    return [bool(d <= limit) for d in distance]


def _distance(values: np.ndarray, ideal: float) -> np.ndarray:
    """Return the distance from the ideal; a ratio of 0.5 is as far from 1 as one of 2."""
    if ideal != 1.0:
        return np.asarray(np.abs(values - ideal))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.abs(np.log(values)))

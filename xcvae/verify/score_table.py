"""The scores as a picture: xcvae beside its baselines, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from xcvae.errors import DataError, explain
from xcvae.verify import canvas
from xcvae.verify.criteria import Criterion, Verdict, judge
from xcvae.verify.display import pretty

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["best_sources", "score_names", "summary", "words"]

PASS, MISS, BEST = "#2e7d32", "#b3261e", "#eaf2fa"
SPELLED = {word: word.upper() for word in ("crps", "mae", "ks", "fss", "csi", "sedi", "p99")}
SPELLED |= {"p999": "P99.9", "brier": "Brier score"}
#: Scores of which more is neither better nor worse before it is known what is wanted.
NEUTRAL = ("diversity",)
# Inches.
NAME_WIDTH, CELL_WIDTH, VERDICT_WIDTH, ROW_HEIGHT = 2.75, 1.65, 2.75, 0.46


def score_names(card: xr.Dataset) -> list[str]:
    """Names of the scores of a card, without their intervals."""
    return [
        str(name)
        for name in card.data_vars
        if "source" in card[name].dims
        and not any(str(name) == f"{base}_{end}" for base in card for end in ("low", "high"))
    ]


def summary(
    card: xr.Dataset,
    criteria: Sequence[Criterion | Verdict] | None = None,
    *,
    title: str = "",
) -> Figure:
    """Draw a scorecard as a table.

    Parameters
    ----------
    card : xarray.Dataset
        From `xcvae.evaluate`: dim ``source``, scores with ``units`` and ``better``, and
        ``<score>_low/_high``.
    criteria : list of Criterion or Verdict, optional
        What xcvae has to reach, for a column of verdicts; see
        `xcvae.verify.criteria.criteria_for`.
    title : str, optional
        Stands above the names of the scores.

    Returns
    -------
    matplotlib.figure.Figure
        The best source of every score is set off where ``better`` says what is good.

    Raises
    ------
    DataError
        The card has further dims, as with ``groupby``, or no scores.
    """
    names = score_names(card)
    extra = sorted({str(dim) for name in names for dim in card[name].dims} - {"source"})
    if not names or extra:
        raise DataError(
            explain(
                "card",
                expected="scores with the dim 'source' alone",
                got=f"further dims {', '.join(extra)}" if extra else "no scores",
                remedy="Select one group: card.isel(...).",
            )
        )
    verdicts = _verdicts(card, criteria or [])
    sources = [str(source) for source in card["source"].values]
    width = NAME_WIDTH + CELL_WIDTH * len(sources) + VERDICT_WIDTH * bool(verdicts)
    height = ROW_HEIGHT * (len(names) + 1) + 0.35
    with canvas.new_figure(width + 0.3, height, None) as figure:
        axes = figure.add_axes((0.15 / (width + 0.3), 0.0, width / (width + 0.3), 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(len(names) + 1.45, -0.3)
        axes.text(0, 0.15, title, va="center", fontsize=13, weight="bold")
        _head(axes, sources, width, verdicts=bool(verdicts))
        for row, name in enumerate(names, start=1):
            _row(axes, card, name, row, verdicts.get(name, []))
        axes.text(
            0, len(names) + 1.0, "small: 95 % interval over samples; shaded: best", fontsize=9,
            color=canvas.FAINT, va="center",
        )  # fmt: skip
        return figure


def _verdicts(
    card: xr.Dataset, criteria: Sequence[Criterion | Verdict]
) -> dict[str, list[Verdict]]:
    """Verdicts by the score whose row they stand in."""
    found: dict[str, list[Verdict]] = {}
    for item in criteria:
        verdict = item if isinstance(item, Verdict) else judge(card, [item])[0]
        found.setdefault(verdict.criterion.metric, []).append(verdict)
    return found


def _head(axes: Axes, sources: list[str], width: float, *, verdicts: bool) -> None:
    for column, source in enumerate(sources):
        place = NAME_WIDTH + (column + 0.5) * CELL_WIDTH
        axes.text(place, 0.15, source, ha="center", va="center", fontsize=13, weight="bold")
    if verdicts:
        place = NAME_WIDTH + CELL_WIDTH * len(sources) + 0.25
        axes.text(place, 0.15, "criterion", va="center", fontsize=13, weight="bold")
    axes.plot([0, width], [0.5, 0.5], color="#222222", lw=1.2)


def _row(axes: Axes, card: xr.Dataset, name: str, row: int, verdicts: list[Verdict]) -> None:
    from matplotlib.patches import Rectangle

    score = card[name]
    units = pretty(str(score.attrs.get("units", "1")))
    axes.text(0, row, words(name), va="center", fontsize=12)
    if units:
        axes.text(
            NAME_WIDTH - 0.05, row, units, va="center", ha="right", fontsize=9.5, color=canvas.FAINT
        )
    best = best_sources(card, name)
    values = np.asarray(score.values, float)
    small = bool(0 < np.abs(values[np.isfinite(values)]).max(initial=0.0) < 0.005)
    for column, value in enumerate(values):
        left = NAME_WIDTH + column * CELL_WIDTH
        if best[column]:
            axes.add_patch(Rectangle((left + 0.06, row - 0.45), CELL_WIDTH - 0.12, 0.9, fc=BEST))
        middle = left + 0.5 * CELL_WIDTH
        interval = _interval(card, name, column, small)
        high = row - 0.14 if interval else row
        text = _text(value, small)
        weight = "bold" if best[column] else "normal"
        axes.text(middle, high, text, ha="center", va="center", fontsize=12, weight=weight)
        axes.text(
            middle, row + 0.25, interval, ha="center", va="center", fontsize=8.5, color=canvas.FAINT
        )
    place = NAME_WIDTH + CELL_WIDTH * score.sizes["source"] + 0.25
    for number, verdict in enumerate(verdicts):
        high = row + 0.4 * (number - 0.5 * (len(verdicts) - 1))
        mark, colour = ("✓", PASS) if verdict.passed else ("✗", MISS)
        axes.text(place, high, mark, color=colour, va="center", fontsize=14, weight="bold")
        wanted = verdict.criterion.wanted.replace(">=", "≥").replace("<=", "≤")
        if verdict.criterion.name != name:
            wanted = f"{wanted} of observed" if name == "wet_fraction" else wanted
        axes.text(place + 0.28, high, wanted, color=colour, va="center", fontsize=11)
    axes.plot([0, axes.get_xlim()[1]], [row + 0.5] * 2, color="#dddddd", lw=0.7)


def words(name: str) -> str:
    """Write the name of a score as people do.

    Examples
    --------
    >>> words("crps_skill"), words("p999_ratio")
    ('CRPS skill', 'P99.9 ratio')
    """
    return " ".join(SPELLED.get(word, word) for word in name.split("_"))


def best_sources(card: xr.Dataset, name: str) -> list[bool]:
    """Say which sources are best in a score; none where ``better`` does not tell.

    ``better`` is "lower", "higher", the ideal value, or the name of the score to equal.
    """
    score = card[name]
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
            distance = np.abs(values - float(str(better)))
        except ValueError:
            return [False] * values.size
    if name in NEUTRAL or values.size < 2 or not np.isfinite(distance).any() or np.ptp(values) == 0:
        return [False] * values.size
    # What rounding alone tells apart is equally good.
    limit = np.nanmin(distance) + 1e-6 * np.nanmax(np.abs(values))
    return [bool(d <= limit) for d in distance]


def _interval(card: xr.Dataset, name: str, column: int, small: bool) -> str:
    if f"{name}_low" not in card or f"{name}_high" not in card:
        return ""
    low, high = (float(card[f"{name}_{end}"].values[column]) for end in ("low", "high"))
    if not np.isfinite([low, high]).all():
        return ""
    return f"{_text(low, small)} to {_text(high, small)}"


def _text(value: float, small: bool) -> str:
    """Write a score; ``small`` where those of its row need powers of ten."""
    if not np.isfinite(value):
        return "\u2013"  # en dash
    digits = 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3
    text = f"{value:.2e}" if small else f"{value + 0.0:.{digits}f}"
    if text.strip("-0.") == "":
        text = text.lstrip("-")
    return text.replace("-", "\u2212")  # minus sign, as wide as a plus

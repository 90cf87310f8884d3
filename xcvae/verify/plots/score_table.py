"""The scorecard as a figure: xcvae and its baselines, with intervals and verdicts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from xcvae.errors import DataError
from xcvae.verify.criteria import Criterion, Verdict, judge
from xcvae.verify.plots import style
from xcvae.verify.plots.text import pretty
from xcvae.verify.score_text import (
    best_sources,
    has_seen_observations,
    interval_text,
    needs_powers,
    score_names,
    score_text,
    wanted_text,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PASS, MISS, BEST = "#2e7d32", "#b3261e", "#eaf2fa"
#: Widths and height of cells, in inches.
NAME_WIDTH, CELL_WIDTH, VERDICT_WIDTH, ROW_HEIGHT = 2.75, 1.65, 2.75, 0.46


def draw_summary(
    card: xr.Dataset, criteria: Sequence[Criterion | Verdict] | None = None, *, title: str = ""
) -> Figure:
    """Draw a scorecard as a table; see `xcvae.verify.plots.Plots.summary`."""
    sections = _sections(card)
    sources = [str(source) for source in card["source"].values]
    judged = [_verdicts(part, criteria or []) for _, part in sections]
    width = NAME_WIDTH + CELL_WIDTH * len(sources) + VERDICT_WIDTH * any(judged)
    count = sum(len(score_names(part)) + bool(label) for label, part in sections)
    height = ROW_HEIGHT * (count + 1) + 0.35
    with style.new_figure(width + 0.3, height, None) as figure:
        axes = figure.add_axes((0.15 / (width + 0.3), 0.0, width / (width + 0.3), 1.0))
        axes.set_axis_off()
        axes.set_xlim(0, width)
        axes.set_ylim(count + 1.45, -0.3)
        _bold(axes, 0, title, NAME_WIDTH)
        _head(axes, sources, width, verdicts=any(judged))
        row = 0
        for (label, part), verdicts in zip(sections, judged, strict=True):
            if label:
                row += 1
                axes.text(0, row + 0.1, label, va="center", fontsize=10.5, weight="bold")
            for name in score_names(part):
                row += 1
                _row(axes, part, name, row, verdicts.get(name, []))
        axes.text(0, count + 1.0, _note(card), fontsize=9, color=style.FAINT, va="center")
        return figure


def _sections(card: xr.Dataset) -> list[tuple[str, xr.Dataset]]:
    """Return the card of every group with its label; a card without groups has none."""
    names = score_names(card) if "source" in card.dims else []
    if not names:
        raise DataError.of(
            "card",
            expected="scores with the dim 'source'",
            got="no scores",
            remedy="Draw what xcvae.evaluate returns.",
        )
    dims = [dim for dim in dict.fromkeys(d for n in names for d in card[n].dims) if dim != "source"]
    if not dims:
        return [("", card)]
    found = []
    for index in np.ndindex(*(card.sizes[dim] for dim in dims)):
        chosen = dict(zip(dims, index, strict=True))
        label = ", ".join(f"{dim} {_value(card, dim, i)}" for dim, i in chosen.items())
        part = card.isel(chosen)
        if any(np.isfinite(part[name]).any() for name in names):  # some combinations are empty
            found.append((label, part))
    return found


def _value(card: xr.Dataset, dim: Hashable, position: int) -> object:
    return card[dim].values[position] if dim in card.coords else position


def _note(card: xr.Dataset) -> str:
    """Explain the marks, and what the scores of an ensemble that knows the answer are not."""
    marks = "shaded: best"
    if has_seen_observations(card):
        marks = (
            "none is shaded as best: posterior members are\nmade of the observations, their scores "
            "are no skill"
        )
    trained = str(card.attrs.get("comment", "")).partition(":")[0]
    return f"small: 95 % interval over samples; {marks}" + (f"\n{trained}" if trained else "")


def _verdicts(
    card: xr.Dataset, criteria: Sequence[Criterion | Verdict]
) -> dict[str, list[Verdict]]:
    """Return verdicts by the score in the same row."""
    found: dict[str, list[Verdict]] = {}
    for item in criteria:
        verdict = item if isinstance(item, Verdict) else judge(card, [item])[0]
        found.setdefault(verdict.criterion.metric, []).append(verdict)
    return found


def _head(axes: Axes, sources: list[str], width: float, *, verdicts: bool) -> None:
    for column, source in enumerate(sources):
        middle = NAME_WIDTH + (column + 0.5) * CELL_WIDTH
        _bold(axes, middle, source, CELL_WIDTH, ha="center")
    if verdicts:
        _bold(axes, NAME_WIDTH + CELL_WIDTH * len(sources) + 0.25, "criterion", VERDICT_WIDTH)
    axes.plot([0, width], [0.5, 0.5], color="#222222", lw=1.2)


def _bold(axes: Axes, x: float, text: str, width: float, **options: Any) -> None:
    """Write a heading; a long one in two smaller lines, cut off after them."""
    size, room = 13.0, 0.85 * width  # bold letters are wider
    if "\n" in style.wrapped(text, room, size=size):
        size = 10.0
        first, *rest = style.wrapped(text, room, size=size).split("\n")
        text = "\n".join([first, *(["".join(rest[:1]) + ("\u2026" if rest[1:] else "")])])
    axes.text(x, 0.15, text, va="center", fontsize=size, weight="bold", **options)


def _row(axes: Axes, card: xr.Dataset, name: str, row: int, verdicts: list[Verdict]) -> None:
    """Write the name of a score, its cells, and its verdicts."""
    score = card[name]
    units = pretty(str(score.attrs.get("units", "1")))
    text = style.wrapped(words(name), NAME_WIDTH - 0.7)
    axes.text(0, row, text, va="center", fontsize=9 if "\n" in text else 12)
    if units:
        axes.text(
            NAME_WIDTH - 0.05, row, units, va="center", ha="right", fontsize=9.5, color=style.FAINT
        )
    _cells(axes, card, name, row)
    left = NAME_WIDTH + CELL_WIDTH * score.sizes["source"] + 0.25
    for number, verdict in enumerate(verdicts):
        high = row + 0.4 * (number - 0.5 * (len(verdicts) - 1))
        mark, colour = ("✓", PASS) if verdict.passed else ("✗", MISS)
        axes.text(left, high, mark, color=colour, va="center", fontsize=14, weight="bold")
        wanted = wanted_text(verdict.criterion)
        if verdict.criterion.name != name:
            wanted = f"{wanted} of observed" if name == "wet_fraction" else wanted
        axes.text(left + 0.28, high, wanted, color=colour, va="center", fontsize=11)
    axes.plot([0, axes.get_xlim()[1]], [row + 0.5] * 2, color="#dddddd", lw=0.7)


def _cells(axes: Axes, card: xr.Dataset, name: str, row: int) -> None:
    """Write the score of every source with its interval."""
    from matplotlib.patches import Rectangle

    best = best_sources(card, name)
    values = np.asarray(card[name].values, float)
    powers = needs_powers(values.tolist(), str(card[name].attrs.get("units", "1")))
    for column, value in enumerate(values):
        left = NAME_WIDTH + column * CELL_WIDTH
        if best[column]:
            axes.add_patch(Rectangle((left + 0.06, row - 0.45), CELL_WIDTH - 0.12, 0.9, fc=BEST))
        middle = left + 0.5 * CELL_WIDTH
        interval = _interval(card, name, column, powers)
        high = row - 0.14 if interval else row
        text = score_text(value, powers=powers)
        weight = "bold" if best[column] else "normal"
        axes.text(middle, high, text, ha="center", va="center", fontsize=12, weight=weight)
        axes.text(
            middle, row + 0.25, interval, ha="center", va="center", fontsize=8.5, color=style.FAINT
        )


def _interval(card: xr.Dataset, name: str, column: int, powers: bool) -> str:
    if f"{name}_low" not in card or f"{name}_high" not in card:
        return ""
    low, high = (float(card[f"{name}_{end}"].values[column]) for end in ("low", "high"))
    return interval_text(low, high, powers=powers)

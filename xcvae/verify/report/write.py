"""Write the report of a run: figures, one HTML page and one JSON file."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.errors import DataError
from xcvae.fields.dataspec import json_attribute, plain
from xcvae.files import atomic_path, write_text
from xcvae.verify.criteria import Criterion, Verdict, to_json
from xcvae.verify.plots.accessor import ENSEMBLE_FIGURES
from xcvae.verify.plots.member_maps import draw_members
from xcvae.verify.plots.score_table import draw_summary
from xcvae.verify.plots.sequences import frames_of, save_frames, sequence_of
from xcvae.verify.plots.summaries import accumulate
from xcvae.verify.plots.text import pretty
from xcvae.verify.plots.training_curve import draw_training_curve
from xcvae.verify.report.explorer import FieldSet, policy, section, sets_of
from xcvae.verify.score_text import (
    NEUTRAL,
    best_sources,
    interval_text,
    needs_powers,
    score_names,
    score_text,
    wanted_text,
    words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xcvae.generator.model import Model


ABOUT = ("units", "long_name", "better", "threshold", "best", "groups")
"""Keys of a score in ``report.json`` that do not name a source."""
#: Captions of the figures of an ensemble, in the order of the report.
CAPTIONS = {
    "members": "The sample with the most rain: coarse rain, observation and members.",
    "ranks": "Rank histogram. Flat: the observation could be one of the members. A slope: a bias, "
    "a U: too little spread, a hump: too much. Grey: the sampling range of a flat one.",
    "spectra": "Power by scale. Members should have the observed structure down to the pixel.",
    "quantiles": "Amounts: quantile against quantile, up to what ten samples have reached, with a "
    "95 % interval. The last point gives the return period at a pixel; P99 is the 99th percentile.",
    "intensity": "The parts of the CRPS by classes of amounts (they add up), and the skill in each "
    "class, with 95 % intervals.",
    "reliability": "Reliability: events should occur as often as their forecast probability (the "
    "diagonal), with 95 % intervals; above, the parts of the Brier score.",
    "bias": "Areas with too much or too little rain, on average over the samples.",
}
#: Width class of figures; the others stand side by side.
WIDTHS = {"members": "wide", "bias": "wide", "reliability": "middle"}
#: Frames of an animation at most, members next to the observation, and seconds of a frame.
PLAYED, PLAYED_MEMBERS, PLAYED_SECONDS = 24, 2, 0.3
ANIMATION = (
    "Members that evolve in time, and the observation: the longest sequence, where it has the most "
    "rain."
)
MODES = {"prior": "drawn from the conditions alone", "posterior": "observed storms, redrawn"}
SCORES = (
    "Compared with baselines. Small: 95 % intervals (moving blocks of samples). Shaded: the best "
    "source, if higher or lower is better."
)


def write_html(
    path: Path,
    content: Mapping[str, Any],
    *,
    figures: Mapping[str, Path],
    animations: Mapping[str, Path] | None = None,
    explored: Sequence[FieldSet] = (),
) -> Path:
    """Write the report.

    Parameters
    ----------
    path
        The file; an earlier report is replaced.
    content
        From `xcvae.verify.report.write.report_json`.
    figures
        PNG files by name: ``training``, and ``<ensemble>-<figure>`` of `CAPTIONS`.
    animations
        By ensemble: an animation as GIF, for browsers that run no scripts.
    explored
        Sets of fields for the explorer, the only part with a script.
    """
    animations = animations or {}
    parts = [_head_html(content, training="training" in figures, explored=bool(explored))]
    parts.append(section(explored))
    units = pretty(str(content["model"]["units"]))
    for name, one in content["ensembles"].items():
        parts.append(_ensemble(name, one, figures, units))
        if name in animations:
            parts.append(_animation(animations[name], explored=bool(explored)))
    if content["diagnosis"] is not None:
        parts.append(f'<h2 id="diagnosis">Diagnosis</h2>{findings_list(content["diagnosis"])}')
    if "training" in figures:
        caption = "The log of the training: losses and validation scores by step."
        figure = _figure(figures["training"], caption, "wide")
        parts.append(f'<h2 id="training">Training</h2>{figure}')
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"{policy(explored=bool(explored))}"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>xcvae report: {escape(str(content['model']['target']))}</title>"
        f"<style>\n{style}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )
    write_text(path, text)
    return path


def _head_html(content: Mapping[str, Any], *, training: bool, explored: bool) -> str:
    model, names = content["model"], content["ensembles"]
    facts = [
        f"target <b>{escape(str(model['target']))}</b> [{escape(pretty(str(model['units'])))}]"
    ]
    if model["steps"] is not None:
        facts.append(f"{model['steps']:,} steps of training")
    if model["minutes"] is not None:
        facts.append(f"{model['minutes']:.1f} minutes")
    facts.append(f"model {escape(str(model['sha256'])[:12])}")
    links = {"explore": "explore"} if explored else {}
    links |= {_anchor(name): f"ensemble {name}" for name in names}
    links |= {"diagnosis": "diagnosis"} if content["diagnosis"] is not None else {}
    links |= {"training": "training"} if training else {}
    nav = "".join(f'<a href="#{anchor}">{escape(text)}</a>' for anchor, text in links.items())
    return (
        f"<h1>xcvae report</h1><p class=faint>{' · '.join(facts)} · xcvae "
        f"{escape(str(content['xcvae']))}</p><nav>{nav}</nav>{criteria_table(names)}"
    )


def _ensemble(name: str, one: Mapping[str, Any], figures: Mapping[str, Path], units: str) -> str:
    made = one["made"] or {}
    keys = ("members", "spread", "diversity_reached", "temperature", "seed")
    facts = [f"{made['mode']} ({MODES[made['mode']]})"] if made.get("mode") in MODES else []
    facts += [
        f"{key.replace('_', ' ')} {number(made[key])}" for key in keys if made.get(key) is not None
    ]
    by_width: dict[str, list[str]] = {"wide": [], "pair": [], "middle": []}
    for key, caption in CAPTIONS.items():
        if f"{name}-{key}" in figures:
            width = WIDTHS.get(key, "pair")
            by_width[width].append(_figure(figures[f"{name}-{key}"], caption, width))
    maps, *bias = by_width["wide"] or [""]
    scores = score_tables(name, one, units)
    scores = f"<h3>Scores</h3><p class=faint>{SCORES}</p>{scores}" if scores else ""
    pair = f"<div class=pair>{''.join(by_width['pair'])}</div>" if by_width["pair"] else ""
    return (
        f'<h2 id="{_anchor(name)}">Ensemble {escape(name)}</h2><p class=faint>'
        f"{escape(', '.join(facts))}</p>{maps}{scores}{pair}{''.join([*by_width['middle'], *bias])}"
    )


def _figure(path: Path, caption: str, width: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    # A figure wider than the screen scrolls, also with the keyboard (tabindex).
    wide = f' role=region tabindex=0 aria-label="{text}"' if width != "pair" else ""
    return (
        f'<figure><div class={width if width != "pair" else "one"}{wide}><img alt="{text}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{text}</figcaption></figure>'
    )


def _animation(path: Path, *, explored: bool) -> str:
    """Write an animation; the explorer plays the same sequence in browsers that run scripts."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    figure = (
        f'<figure><img alt="Animation" src="data:image/gif;base64,{data}">'
        f"<figcaption>{escape(ANIMATION)}</figcaption></figure>"
    )
    return f"<noscript>{figure}</noscript>" if explored else figure


def _anchor(name: str) -> str:
    # Other letters by their number, so that two names never share an anchor.
    return "e-" + "".join(
        letter if letter.isalnum() or letter in "-_." else f"-{ord(letter):x}-" for letter in name
    )


def criteria_table(ensembles: Mapping[str, Any]) -> str:
    """Write the criteria of each ensemble with their verdicts; "" without any."""
    bodies, met, total = [], 0, 0
    for name, one in ensembles.items():
        rows: list[str] = []
        for item in one["criteria"]:
            passed = item["verdict"] == "pass"
            met, total = met + passed, total + 1
            first = f'<th scope=rowgroup rowspan="{len(one["criteria"])}">{escape(name)}</th>'
            score, value = escape(words(item["name"])), number(item["value"])
            rows.append(
                f"<tr>{first if not rows else ''}<td>{score}</td><td class=number>{value}</td>"
                f"<td>{_verdict(item)}</td></tr>"
            )
        bodies.append(f"<tbody>{''.join(rows)}</tbody>" if rows else "")
    if not total:
        return ""
    head = _head("ensemble", "criterion", "wanted", numbers=["value"], first=2)
    table = _scrolled(f"<table>{head}{''.join(bodies)}</table>", "Criteria")
    return f"<h3>Criteria: {met} of {total} met</h3>{table}"


def _verdict(item: Mapping[str, Any], more: str = "") -> str:
    """Write the range of a criterion with its verdict."""
    mark, kind = ("✓", "met") if item["verdict"] == "pass" else ("✗", "missed")
    wanted = wanted_text(Criterion(item["name"], item["low"], item["high"]))
    return f'<span class={kind} title="{kind}">{mark} {escape(wanted)}{more}</span>'


def score_tables(name: str, one: Mapping[str, Any], units: str) -> str:
    """Write scores of all sources, a table for each group; thresholds are in ``units``."""
    scores = one["scores"] or {}
    if not scores:
        return ""
    grouped = [entry["groups"] for entry in scores.values() if "groups" in entry]
    if not grouped:
        return _scores(f"Scores of {name}", one["criteria"], scores, units)
    tables = []
    for i, group in enumerate(next(iter(grouped[0].values()))):
        part = {score: _of_group(entry, i) for score, entry in scores.items()}
        table = _scores(f"Scores of {name}, {group}", (), part, units)
        tables.append(f"<h4>{escape(group)}</h4>{table}")
    return "".join(tables)


def _of_group(entry: Mapping[str, Any], position: int) -> dict[str, Any]:
    """Select one group of a score; a score without groups is the same in all."""

    def one(value: Any) -> Any:
        return value[position] if isinstance(value, list) else value

    return {
        key: value if key in ABOUT else {end: one(v) for end, v in value.items()}
        for key, value in entry.items()
    }


def _scores(
    label: str, criteria: Sequence[Mapping[str, Any]], scores: Mapping[str, Any], units: str
) -> str:
    sources = list(dict.fromkeys(k for e in scores.values() for k in e if k not in ABOUT))
    verdicts: dict[str, list[Mapping[str, Any]]] = {}
    for item in criteria:
        verdicts.setdefault(Criterion(item["name"]).metric, []).append(item)
    rows = "".join(
        f"<tr>{_name(score, entry, units)}{''.join(_cell(entry, source) for source in sources)}"
        f"{_verdicts(verdicts.get(score, ()), score) if verdicts else ''}</tr>"
        for score, entry in scores.items()
    )
    head = _head("score", *(("criterion",) if verdicts else ()), numbers=sources, first=1)
    return _scrolled(f"<table class=scores>{head}<tbody>{rows}</tbody></table>", label)


def _name(score: str, entry: Mapping[str, Any], units: str) -> str:
    own = pretty(str(entry["units"]))
    text = escape(words(score)) + (f" [{escape(own)}]" if own else "")
    name, better = str(entry.get("long_name") or ""), entry.get("better")
    details = [name] if name != words(score) else []
    if "threshold" in entry:
        details.append(f"threshold {entry['threshold']:g} {units}")
    if score in NEUTRAL or score.endswith("_observed"):
        better = None
    if better in ("lower", "higher"):
        details.append(f"{better} is better")
    elif isinstance(better, int | float):
        details.append(f"{number(better)} is right")
    return f"<th scope=row>{text}<small>{escape('; '.join(filter(None, details)))}</small></th>"


def _cell(entry: Mapping[str, Any], source: str) -> str:
    rows = {key: value for key, value in entry.items() if key not in ABOUT}
    powers = needs_powers([row["value"] for row in rows.values()], entry.get("units") or "1")
    row = rows.get(source, {"value": None})
    interval = interval_text(row.get("low"), row.get("high"), powers=powers)
    small = f"<small>{interval}</small>" if interval else ""
    kind = "number best" if source in entry.get("best", ()) else "number"
    return f'<td class="{kind}">{score_text(row["value"], powers=powers)}{small}</td>'


def _verdicts(items: Sequence[Mapping[str, Any]], score: str) -> str:
    marks = [_verdict(item, "" if item["name"] == score else " of observed") for item in items]
    return f"<td>{'<br>'.join(marks)}</td>"


def findings_list(diagnosis: Mapping[str, Any]) -> str:
    """Write the findings of a diagnosis: faults, warnings, not checked, and nothing found."""
    found = diagnosis["findings"]
    evidence = diagnosis["evidence"]
    parts = [
        f"<p class=faint>{evidence['samples']} samples with {evidence['members']} members each, "
        f"seed {evidence['seed']}. Prior: drawn from the conditions alone. Posterior: redrawn from "
        f"an observed storm.</p><p><b>{escape(diagnosis.get('verdict', ''))}</b></p>"
    ]
    items = [
        f"<dt><span class={kind}>{kind}</span>: {escape(one['name'])}</dt>"
        f"<dd>{escape(one['meaning'])}</dd><dd>{escape(one['evidence'])}</dd>"
        f"<dd class=remedy><b>To change:</b> {escape(one['remedy'])}</dd>"
        for kind in ("fault", "warning")
        for one in found
        if one["severity"] == kind
    ]
    items += [
        f"<dt>not checked: {escape(one['name'])}</dt><dd>{escape(one['evidence'])}</dd>"
        for one in found
        if one["severity"] == "unchecked"
    ]
    parts += [f"<dl class=findings>{''.join(items)}</dl>"] if items else []
    fine = ", ".join(escape(one["name"]) for one in found if one["severity"] == "ok")
    parts += [f"<p>Nothing found: {fine}.</p>"] if fine else []
    memory = diagnosis.get("memory")
    parts += [f"<p>{escape(memory[:1].upper() + memory[1:])}.</p>"] if memory else []
    return "".join(parts)


def _head(*names: str, numbers: Sequence[str], first: int) -> str:
    """Write the head of a table; columns of ``numbers`` follow the ``first`` ones."""
    cells = [f"<th scope=col>{escape(name)}</th>" for name in names]
    cells[first:first] = [f"<th scope=col class=number>{escape(name)}</th>" for name in numbers]
    return f"<thead><tr>{''.join(cells)}</tr></thead>"


def _scrolled(table: str, label: str) -> str:
    """Wrap a table so that it scrolls if it is wider than the screen, also with the keyboard."""
    return f'<div class=scroll role=region tabindex=0 aria-label="{escape(label)}">{table}</div>'


def number(value: Any) -> str:
    """Write a number with three digits; a dash for None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "\u2013" if value is None else escape(str(value))
    return f"{value:.3g}".replace("-", "\u2212")


DPI = 150
REPORT = "report.json"
HTML = "report.html"
CAPTIONS_FILE = "captions.txt"


def save_report(
    directory: str | os.PathLike[str],
    *,
    ds: xr.Dataset,
    model: Model,
    ensembles: Mapping[str, xr.Dataset],
    cards: Mapping[str, xr.Dataset],
    verdicts: Mapping[str, Sequence[Verdict]],
    diagnosis: Mapping[str, Any] | None,
    formats: Sequence[str] = (),
    spreads: Mapping[float, xr.Dataset] | None = None,
) -> dict[str, Path]:
    """Write figures and ``report.json`` to a folder; files of an earlier report are replaced.

    Parameters
    ----------
    directory
        The folder; created if necessary.
    ds
        Observations and conditions of the ensembles' samples, dims (sample, y, x).
    model
        The model that drew the ensembles.
    ensembles, cards, verdicts
        By the name of the ensemble: members, scores from `xcvae.evaluate`, and verdicts from
        `xcvae.verify.criteria.judge`. An ensemble may lack a card and verdicts.
    diagnosis
        Diagnosis of the model, from `Diagnosis.to_json`; None without.
    formats
        Further formats of the figures, "pdf" or "svg"; PNG is always written.
    spreads
        Storms redrawn at several spreads for the explorer, from
        `xcvae.verify.report.explorer.draw_spreads`.

    Returns
    -------
    dict of str to Path
        Written files: ``html`` (everything in one page), ``report`` (JSON), ``training``, and for
        every ensemble ``<name>-scores`` and ``<name>-<figure>`` for the figures of
        `xcvae.verify.report.write.CAPTIONS`; of one that evolves in time ``<name>-animation``.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written = _save_figures(
        folder, ds=ds, model=model, ensembles=ensembles, cards=cards, verdicts=verdicts,
        formats=formats,
    )  # fmt: skip
    animations = _save_animations(folder, ds, ensembles)
    written |= {path.stem: path for path in animations.values()}
    content = report_json(
        model=model,
        ensembles=ensembles,
        cards=cards,
        verdicts=verdicts,
        diagnosis=diagnosis,
        files={name: path.name for name, path in written.items()} | {"html": HTML},
    )
    figures = {name: path for name, path in written.items() if path.suffix == ".png"}
    write_text(folder / CAPTIONS_FILE, _captions(figures))
    written["report"] = folder / REPORT
    write_text(written["report"], json.dumps(content, indent=2, allow_nan=False) + "\n")
    explored = sets_of(ds, ensembles, spreads)
    written["html"] = write_html(
        folder / HTML, content, figures=figures, animations=animations, explored=explored
    )
    return written


def _save_figures(
    folder: Path,
    *,
    ds: xr.Dataset,
    model: Model,
    ensembles: Mapping[str, xr.Dataset],
    cards: Mapping[str, xr.Dataset],
    verdicts: Mapping[str, Sequence[Verdict]],
    formats: Sequence[str],
) -> dict[str, Path]:
    """Draw and save the figures of a report; return the PNG files by name."""
    written: dict[str, Path] = {}

    def save(name: str, figure: Figure, *, crop: bool = True) -> None:
        written[name] = folder / f"{name}.png"
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}
        for kind in dict.fromkeys(("png", *formats)):
            with atomic_path(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, dpi=DPI, format=kind, **box)

    if model.history.sizes.get("step", 0) > 0:
        save("training", draw_training_curve(model.history))
    for name, ensemble in ensembles.items():
        save(f"{name}-members", draw_members(ds, ensemble))
        data = accumulate(ds, ensemble)  # the ensemble is read once for all figures
        for figure, draw in ENSEMBLE_FIGURES.items():
            # Figures that stand side by side keep their size, so that their text is equally large.
            save(f"{name}-{figure}", draw(data), crop=figure == "bias")
    for name, card in cards.items():
        if set(card.sizes) == {"source"}:  # with groupby there is a table for every group
            found = verdicts.get(name, ())
            save(f"{name}-scores", draw_summary(card, found, title=name))
    return written


def _save_animations(
    folder: Path, ds: xr.Dataset, ensembles: Mapping[str, xr.Dataset]
) -> dict[str, Path]:
    """Write animations of the ensembles whose members evolve in time; return them by name."""
    saved: dict[str, Path] = {}
    for name, ensemble in ensembles.items():
        if (_made(ensemble) or {}).get("temporal") != "coherent":
            continue
        try:
            found = sequence_of(ds, ensemble, members=PLAYED_MEMBERS, most=PLAYED)
        except DataError:  # no samples follow each other
            continue
        saved[name] = folder / f"{name}-animation.gif"
        save_frames(list(frames_of(found)), saved[name], seconds=PLAYED_SECONDS)
    return saved


def _captions(figures: Mapping[str, Path]) -> str:
    """Return the name and the caption of every figure, as text."""
    parts = []
    for name, path in figures.items():
        caption = CAPTIONS.get(name.rsplit("-", maxsplit=1)[-1], "")
        if name.endswith("-scores"):
            caption = f"Scores. {SCORES}"
        elif name == "training":
            caption = "Training log: losses, and scores of held-out samples."
        parts.append(f"{path.name}\n{caption}\n")
    return "\n".join(parts)


def report_json(
    *,
    model: Model,
    ensembles: Mapping[str, xr.Dataset],
    cards: Mapping[str, xr.Dataset],
    verdicts: Mapping[str, Sequence[Verdict]],
    diagnosis: Mapping[str, Any] | None,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of ``report.json``: plain JSON types, None for values not finite.

    Parameters
    ----------
    model, ensembles, cards, verdicts, diagnosis
        As in `save_report`.
    files
        Names of the figures, relative to the report.
    """
    names = dict.fromkeys([*ensembles, *cards, *verdicts])
    return {
        "xcvae": version("xcvae"),
        "model": {
            "sha256": model.sha256,
            "path": None if model.path is None else str(model.path),
            "target": model.spec.target,
            "units": model.spec.units,
            "steps": plain(model.training.get("steps")),
            "minutes": plain(model.training.get("minutes")),
        },
        "ensembles": {
            name: {
                "made": _made(ensembles.get(name)),
                "scores": scores_json(cards[name]) if name in cards else None,
                "criteria": to_json(verdicts.get(name, ())),
                "passed": all(verdict.passed for verdict in verdicts.get(name, ())),
            }
            for name in names
        },
        "diagnosis": None if diagnosis is None else dict(diagnosis),
        "files": dict(files),
    }


def scores_json(card: xr.Dataset) -> dict[str, Any]:
    """Return a scorecard as ``{score: {"units": ..., source: {"value", "low", "high"}}}``.

    Entries also have the attributes of the score and the ``best`` sources. With ``groupby`` the
    numbers are lists, in the order of ``groups``.
    """
    scores: dict[str, Any] = {}
    sources = [str(source) for source in card["source"].values]
    for name in score_names(card):
        ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
        rest = [str(dim) for dim in card[name].dims if dim != "source"]
        attrs = card[name].attrs
        entry: dict[str, Any] = {"units": str(attrs.get("units", "1"))}
        entry |= {
            key: plain(attrs[key]) for key in ("long_name", "better", "threshold") if key in attrs
        }
        if rest:
            entry["groups"] = {dim: [str(label) for label in card[dim].values] for dim in rest}
        else:
            best = best_sources(card, name)
            entry["best"] = [source for source, one in zip(sources, best, strict=True) if one]
        for i, source in enumerate(sources):
            entry[source] = {
                end: plain(card[variable].isel(source=i).values.tolist())
                for end, variable in ends.items()
                if variable in card
            }
        scores[name] = entry
    return scores


#: Parts of the record of an ensemble that are long.
LONG = ("spec", "identity", "training_samples")


def _made(ensemble: xr.Dataset | None) -> dict[str, Any] | None:
    """Return the record of how an ensemble was drawn, without its long parts."""
    if ensemble is None or "xcvae" not in ensemble.attrs:
        return None
    record = json_attribute(ensemble)
    return {key: plain(record[key]) for key in record if key not in LONG}

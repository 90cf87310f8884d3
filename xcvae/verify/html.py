"""The report as one HTML file: pictures inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from xcvae.verify.display import pretty
from xcvae.verify.html_style import STYLE
from xcvae.verify.html_tables import criteria_table, findings_list, number, score_tables

__all__ = ["CAPTIONS", "write_html"]

#: What each picture of an ensemble shows, in the order of the report.
CAPTIONS = {
    "members": "The sample with the most rain: coarse rain, what was observed, and members.",
    "ranks": "Rank histogram. Flat: the observation could be one of the members. A slope: a bias, "
    "a U: too little spread, a hump: too much. Grey: what sampling does to a flat one.",
    "spectra": "Power by scale. Members should have the observed structure down to the pixel.",
    "quantiles": "Amounts: quantile against quantile, up to what ten samples have reached, with a "
    "95 % interval. The last point says how rare that is at a pixel; P99 is the 99th percentile.",
    "intensity": "Which amounts the CRPS comes from (the parts add up), and the skill there, with "
    "95 % intervals.",
    "reliability": "Reliability: what is forecast with a probability should come that often (the "
    "diagonal), with 95 % intervals; above, the parts of the Brier score.",
    "bias": "Where it rains too much or too little on average over the samples.",
}
#: How much room a picture gets; the others stand side by side.
ROOM = {"members": "wide", "bias": "wide", "reliability": "middle"}
MODES = {
    "prior": "drawn from the conditions alone",
    "posterior": "observed storms, redrawn",
}
SCORES = (
    "Beside baselines. Small: 95 % intervals (moving blocks of samples). Shaded: the best, where "
    "more or less is better."
)


def write_html(path: Path, content: Mapping[str, Any], *, pictures: Mapping[str, Path]) -> Path:
    """Write the report.

    Parameters
    ----------
    path
        Where to; an earlier report is replaced.
    content
        From `xcvae.verify.report.report_json`.
    pictures
        PNG files by name: ``training``, and ``<ensemble>-<subject>`` of `CAPTIONS`.
    """
    parts = [_head(content, training="training" in pictures)]
    units = pretty(str(content["model"]["units"]))
    parts += [_ensemble(n, one, pictures, units) for n, one in content["ensembles"].items()]
    if content["diagnosis"] is not None:
        parts.append(f'<h2 id="diagnosis">Diagnosis</h2>{findings_list(content["diagnosis"])}')
    if "training" in pictures:
        caption = "The log of the training: losses and validation scores by step."
        figure = _figure(pictures["training"], caption, "wide")
        parts.append(f'<h2 id="training">Training</h2>{figure}')
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>xcvae report: {escape(str(content['model']['target']))}</title>"
        f"<style>{STYLE}</style></head><body><main>{''.join(parts)}</main></body></html>\n"
    )
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def _head(content: Mapping[str, Any], *, training: bool) -> str:
    model, names = content["model"], content["ensembles"]
    facts = [
        f"target <b>{escape(str(model['target']))}</b> [{escape(pretty(str(model['units'])))}]"
    ]
    if model["steps"] is not None:
        facts.append(f"{model['steps']:,} steps of training")
    if model["minutes"] is not None:
        facts.append(f"{model['minutes']:.1f} minutes")
    facts.append(f"model {escape(str(model['sha256'])[:12])}")
    links = {_anchor(name): f"ensemble {name}" for name in names}
    links |= {"diagnosis": "diagnosis"} if content["diagnosis"] is not None else {}
    links |= {"training": "training"} if training else {}
    nav = "".join(f'<a href="#{place}">{escape(text)}</a>' for place, text in links.items())
    return (
        f"<h1>xcvae report</h1><p class=faint>{' · '.join(facts)} · xcvae "
        f"{escape(str(content['xcvae']))}</p><nav>{nav}</nav>{criteria_table(names)}"
    )


def _ensemble(name: str, one: Mapping[str, Any], pictures: Mapping[str, Path], units: str) -> str:
    made = one["made"] or {}
    keys = ("members", "spread", "diversity_reached", "temperature", "seed")
    told = [f"{made['mode']} ({MODES[made['mode']]})"] if made.get("mode") in MODES else []
    told += [
        f"{key.replace('_', ' ')} {number(made[key])}" for key in keys if made.get(key) is not None
    ]
    rooms: dict[str, list[str]] = {"wide": [], "pair": [], "middle": []}
    for subject, caption in CAPTIONS.items():
        if f"{name}-{subject}" in pictures:
            room = ROOM.get(subject, "pair")
            rooms[room].append(_figure(pictures[f"{name}-{subject}"], caption, room))
    maps, *bias = rooms["wide"] or [""]
    scores = score_tables(name, one, units)
    scores = f"<h3>Scores</h3><p class=faint>{SCORES}</p>{scores}" if scores else ""
    pair = f"<div class=pair>{''.join(rooms['pair'])}</div>" if rooms["pair"] else ""
    return (
        f'<h2 id="{_anchor(name)}">Ensemble {escape(name)}</h2><p class=faint>'
        f"{escape(', '.join(told))}</p>{maps}{scores}{pair}{''.join([*rooms['middle'], *bias])}"
    )


def _figure(path: Path, caption: str, room: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    # What is wider than the screen can be moved, also with the keyboard.
    wide = f' role=region tabindex=0 aria-label="{text}"' if room != "pair" else ""
    return (
        f'<figure><div class={room if room != "pair" else "one"}{wide}><img alt="{text}" '
        f'src="data:image/png;base64,{data}"></div><figcaption>{text}</figcaption></figure>'
    )


def _anchor(name: str) -> str:
    return "e-" + "".join(letter if letter.isalnum() else "-" for letter in name)

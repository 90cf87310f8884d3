"""The report as one HTML file: pictures inside, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from xcvae.verify.score_table import words

__all__ = ["CAPTIONS", "write_html"]

#: What each picture of an ensemble shows, in the order of the report.
CAPTIONS = {
    "members": "One sample: coarse rain, what was observed, and members.",
    "scores": "Scores beside baselines, with 95 % intervals (moving blocks of samples).",
    "ranks": "Rank histogram. Flat: the observation could be one of the members. A slope: a bias, "
    "a U: too little spread, a hump: too much.",
    "reliability": "Reliability: what is forecast with a probability should come that often.",
    "spectra": "Power by scale. Members should have the observed structure down to the pixel.",
    "quantiles": "Amounts: quantile against quantile, up to what ten samples have reached.",
    "intensity": "Which amounts the CRPS comes from (the parts add up), and the skill there.",
    "bias": "Where it rains too much or too little on average.",
}

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; margin: 0;
  background: #fff; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 28px; margin: 8px 0 4px; } h2 { font-size: 22px; margin: 44px 0 8px;
  border-top: 2px solid #222; padding-top: 14px; } h3 { font-size: 17px; margin: 26px 0 6px; }
p, li { max-width: 46em; } p.faint { color: #666; font-size: 14px; max-width: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 10px 0 18px; }
th, td { text-align: left; padding: 4px 14px 4px 0; border-bottom: 1px solid #ddd;
  vertical-align: top; } th { font-weight: 600; border-bottom: 1.5px solid #222; }
td.number { text-align: right; } .met { color: #2e7d32; } .missed { color: #b3261e; }
figure { margin: 16px 0 26px; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: 14.5px; color: #444; max-width: 52em; margin-top: 4px; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 8px 28px;
  align-items: start; } pre { background: #f6f6f4; padding: 12px 14px; overflow-x: auto;
  font-size: 13.5px; line-height: 1.45; white-space: pre-wrap; }
nav a { margin-right: 16px; } @media print { h2 { break-before: page; } figure { break-inside:
  avoid; } }
"""
WIDE = ("members", "scores", "bias")
"""Pictures that get a row of their own."""


def write_html(
    path: Path,
    content: Mapping[str, Any],
    *,
    pictures: Mapping[str, Path],
    diagnosis: str | None,
) -> Path:
    """Write the report.

    Parameters
    ----------
    path
        Where to; an earlier report is replaced.
    content
        From `xcvae.verify.report.report_json`.
    pictures
        PNG files by name: ``training``, and ``<ensemble>-<subject>`` of `CAPTIONS`.
    diagnosis
        In words, if there is one.
    """
    parts = [_head(content)]
    for name, one in content["ensembles"].items():
        parts.append(_ensemble(name, one, pictures))
    if diagnosis:
        parts.append(f'<h2 id="diagnosis">Diagnosis</h2><pre>{escape(diagnosis)}</pre>')
    if "training" in pictures:
        figure = _figure(pictures["training"], "Losses and validation scores by step.")
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


def _head(content: Mapping[str, Any]) -> str:
    model, names = content["model"], content["ensembles"]
    facts = [f"target <b>{escape(str(model['target']))}</b> [{escape(str(model['units']))}]"]
    if model["steps"] is not None:
        facts.append(f"{model['steps']:,} steps of training")
    if model["minutes"] is not None:
        facts.append(f"{model['minutes']:.1f} minutes")
    facts.append(f"model {escape(str(model['sha256'])[:12])}")
    links = "".join(f'<a href="#{_anchor(name)}">{escape(name)}</a>' for name in names)
    found = content["diagnosis"]
    links += '<a href="#diagnosis">diagnosis</a>' if found is not None else ""
    return (
        f"<h1>xcvae report</h1><p class=faint>{' · '.join(facts)} · xcvae "
        f"{escape(str(content['xcvae']))}</p><nav>{links}</nav>{_verdicts(names)}"
    )


def _verdicts(ensembles: Mapping[str, Any]) -> str:
    """What was asked of each ensemble, and whether it was reached."""
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(words(item['name']))}</td>"
        f"<td class=number>{_number(item['value'])}</td><td>{escape(_wanted(item))}</td>"
        f'<td class="{_state(item)}">{"✓ met" if _state(item) == "met" else "✗ missed"}</td></tr>'
        for name, one in ensembles.items()
        for item in one["criteria"]
    )
    if not rows:
        return ""
    head = "<tr><th>ensemble</th><th>criterion</th><th>value</th><th>wanted</th><th></th></tr>"
    return f"<h3>Criteria</h3><table>{head}{rows}</table>"


def _state(item: Mapping[str, Any]) -> str:
    return "met" if item["verdict"] == "pass" else "missed"


def _wanted(item: Mapping[str, Any]) -> str:
    low, high = item.get("low"), item.get("high")
    if low is not None and high is not None:
        return f"{_number(low)} to {_number(high)}"
    return f"≥ {_number(low)}" if low is not None else f"≤ {_number(high)}"


def _ensemble(name: str, one: Mapping[str, Any], pictures: Mapping[str, Path]) -> str:
    made = one["made"] or {}
    keys = ("mode", "members", "spread", "diversity_reached", "temperature", "seed")
    told = [
        f"{key.replace('_', ' ')} {_number(made[key])}" for key in keys if made.get(key) is not None
    ]
    there = {
        subject: pictures[f"{name}-{subject}"]
        for subject in CAPTIONS
        if f"{name}-{subject}" in pictures
    }
    figures, row = [], []
    for subject, path in there.items():
        figure = _figure(path, CAPTIONS[subject])
        if subject in WIDE:
            figures.append(figure)
        else:
            row.append(figure)
    pairs = f"<div class=pair>{''.join(row)}</div>" if row else ""
    table = "" if "scores" in there else _scores(one["scores"])
    return (
        f'<h2 id="{_anchor(name)}">Ensemble {escape(name)}</h2>'
        f"<p class=faint>{escape(', '.join(told))}</p>{''.join(figures)}{table}{pairs}"
    )


def _scores(scores: Mapping[str, Any] | None) -> str:
    """Scores as a table, where there is no picture of them: with groups."""
    if not scores:
        return ""
    rows = []
    for name, entry in scores.items():
        groups = next(iter(entry.get("groups", {"": [""]}).values()))
        sources = [key for key in entry if key not in ("units", "groups")]
        for source in sources:
            values = _listed(entry[source]["value"])
            rows += [
                f"<tr><td>{escape(words(name))}</td><td>{escape(source)}</td>"
                f"<td>{escape(group)}</td><td class=number>{_number(value)}</td></tr>"
                for group, value in zip(groups, values, strict=True)
            ]
    head = "<tr><th>score</th><th>source</th><th>group</th><th>value</th></tr>"
    return f"<table>{head}{''.join(rows)}</table>"


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _figure(path: Path, caption: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    text = escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _anchor(name: str) -> str:
    return "e-" + "".join(letter if letter.isalnum() else "-" for letter in name)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "\u2013" if value is None else str(value)
    return f"{value:.3g}".replace("-", "\u2212")

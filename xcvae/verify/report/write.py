"""What stays of a run for people and programs: pictures and one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.fields.dataspec import plain
from xcvae.files import atomic_path, write_text
from xcvae.verify.criteria import Verdict, to_json
from xcvae.verify.plots import accessor as plots
from xcvae.verify.plots.amounts import draw_intensity, draw_quantiles
from xcvae.verify.plots.bias_map import draw_bias
from xcvae.verify.plots.curves import draw_rank_histogram, draw_spectra
from xcvae.verify.plots.reliability import draw_reliability
from xcvae.verify.plots.summaries import FigureData, portray
from xcvae.verify.report.html import write_html
from xcvae.verify.score_text import best_sources, score_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xcvae.generator.model import Model

__all__ = ["report_json", "save_report", "scores_json"]

DPI = 150
REPORT = "report.json"
HTML = "report.html"
DRAWN: dict[str, Callable[[FigureData], Figure]] = {
    "ranks": draw_rank_histogram,
    "reliability": draw_reliability,
    "spectra": draw_spectra,
    "quantiles": draw_quantiles,
    "intensity": draw_intensity,
    "bias": draw_bias,
}


def save_report(
    directory: str | os.PathLike[str],
    *,
    ds: xr.Dataset,
    model: Model,
    ensembles: Mapping[str, xr.Dataset],
    cards: Mapping[str, xr.Dataset],
    verdicts: Mapping[str, Sequence[Verdict]],
    diagnosis: Mapping[str, Any] | None,
) -> dict[str, Path]:
    """Write pictures and ``report.json`` to a folder; files of an earlier report are replaced.

    Parameters
    ----------
    directory : path-like
        Made if it is not there.
    ds : xarray.Dataset
        Observations and conditions of the ensembles' samples, dims (sample, y, x).
    model : Model
        What drew the ensembles.
    ensembles, cards, verdicts : dict
        By the name of the ensemble: members, scores from `xcvae.evaluate`, and what
        `xcvae.verify.criteria.judge` said. An ensemble may have no card and no verdicts.
    diagnosis : dict or None
        Of the model, from `Diagnosis.to_json`.

    Returns
    -------
    dict of str to Path
        What was written: ``html`` (one file with all of it), ``report`` (JSON), ``training``, and
        for every ensemble ``<name>-scores`` and ``<name>-<subject>`` for the subjects of
        `xcvae.verify.report.html.CAPTIONS`.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}

    def keep(name: str, figure: Figure, *, crop: bool = True) -> None:
        written[name] = folder / f"{name}.png"
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}
        with atomic_path(written[name]) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png", **box)

    if model.history.sizes.get("step", 0) > 0:
        keep("training", plots.training_curve(model.history))
    for name, ensemble in ensembles.items():
        keep(f"{name}-members", plots.members(ds, ensemble))
        portrait = portray(ds, ensemble)  # the ensemble is read once for all pictures
        for subject, draw in DRAWN.items():
            # What stands side by side keeps its size, and with it that of its text.
            keep(f"{name}-{subject}", draw(portrait), crop=subject == "bias")
    for name, card in cards.items():
        if set(card.sizes) == {"source"}:  # with groupby there is a table for every group
            found = verdicts.get(name, ())
            keep(f"{name}-scores", plots.summary(card, found, title=name))
    content = report_json(
        model=model,
        ensembles=ensembles,
        cards=cards,
        verdicts=verdicts,
        diagnosis=diagnosis,
        files={name: path.name for name, path in written.items()} | {"html": HTML},
    )
    pictures = dict(written)
    written["report"] = folder / REPORT
    write_text(written["report"], json.dumps(content, indent=2, allow_nan=False) + "\n")
    written["html"] = write_html(folder / HTML, content, pictures=pictures)
    return written


def report_json(
    *,
    model: Model,
    ensembles: Mapping[str, xr.Dataset],
    cards: Mapping[str, xr.Dataset],
    verdicts: Mapping[str, Sequence[Verdict]],
    diagnosis: Mapping[str, Any] | None,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of ``report.json``: plain JSON types; what is not finite becomes None.

    Parameters
    ----------
    model, ensembles, cards, verdicts, diagnosis
        As in `save_report`.
    files
        Names of the pictures, relative to the report.
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

    Beside the units are what the score says of itself, and the ``best`` sources. With ``groupby``
    the numbers are lists, in the order of ``groups``.
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


def _made(ensemble: xr.Dataset | None) -> dict[str, Any] | None:
    """Say how an ensemble was made; the long parts of its record stay with it."""
    if ensemble is None or "xcvae" not in ensemble.attrs:
        return None
    record = json.loads(ensemble.attrs["xcvae"])
    return {key: plain(record[key]) for key in record if key not in ("spec", "identity")}

"""Write the report of a run: figures, one HTML page and one JSON file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.fields.dataspec import plain
from xcvae.files import atomic_path, write_text
from xcvae.verify.criteria import Verdict, to_json
from xcvae.verify.plots.accessor import ENSEMBLE_FIGURES
from xcvae.verify.plots.member_maps import draw_members
from xcvae.verify.plots.score_table import draw_summary
from xcvae.verify.plots.summaries import accumulate
from xcvae.verify.plots.training_curve import draw_training_curve
from xcvae.verify.report.html import write_html
from xcvae.verify.score_text import best_sources, score_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from xcvae.generator.model import Model


DPI = 150
REPORT = "report.json"
HTML = "report.html"


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

    Returns
    -------
    dict of str to Path
        Written files: ``html`` (everything in one page), ``report`` (JSON), ``training``, and for
        every ensemble ``<name>-scores`` and ``<name>-<figure>`` for the figures of
        `xcvae.verify.report.html.CAPTIONS`.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, Path] = {}

    def save(name: str, figure: Figure, *, crop: bool = True) -> None:
        written[name] = folder / f"{name}.png"
        box: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12} if crop else {}
        with atomic_path(written[name]) as temporary:
            figure.savefig(temporary, dpi=DPI, format="png", **box)

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
    content = report_json(
        model=model,
        ensembles=ensembles,
        cards=cards,
        verdicts=verdicts,
        diagnosis=diagnosis,
        files={name: path.name for name, path in written.items()} | {"html": HTML},
    )
    figures = dict(written)
    written["report"] = folder / REPORT
    write_text(written["report"], json.dumps(content, indent=2, allow_nan=False) + "\n")
    written["html"] = write_html(folder / HTML, content, figures=figures)
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


def _made(ensemble: xr.Dataset | None) -> dict[str, Any] | None:
    """Return the record of how an ensemble was drawn, without its long parts."""
    if ensemble is None or "xcvae" not in ensemble.attrs:
        return None
    record = json.loads(ensemble.attrs["xcvae"])
    return {key: plain(record[key]) for key in record if key not in ("spec", "identity")}

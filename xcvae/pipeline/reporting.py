"""The report of a run: pictures and JSON, for people and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from xcvae.fields.dataspec import plain
from xcvae.pipeline.products import digest
from xcvae.pipeline.steps import Scored, Steps
from xcvae.pipeline.summary import Summary
from xcvae.verify.report import save_report

__all__ = ["behind_report", "report_is_current", "write_report", "write_summary", "written"]


def behind_report(steps: Steps, scored: Sequence[Scored], *, diagnosed: bool) -> dict[str, Any]:
    """Return what decides on the report."""
    cards = [plain(one.card.to_dict()) for one in scored]
    verdicts = [[verdict.to_json() for verdict in one.verdicts] for one in scored]
    diagnosis = steps.behind_diagnosis() if diagnosed else {"model": steps.model.sha256}
    return {**diagnosis, "scores": digest([cards, verdicts])}


def report_is_current(steps: Steps, made_from: dict[str, Any]) -> bool:
    """Whether the report that is there shows these scores; pictures that are gone count too."""
    file = steps.report / "report.json"
    pictures: list[Path] = []
    if file.exists():
        names = json.loads(file.read_text(encoding="utf-8"))["files"]
        pictures = [steps.report / name for name in names.values()]
    return steps.products.current("report", made_from, file, *pictures)


def write_report(
    steps: Steps,
    scored: Sequence[Scored],
    diagnosis: Mapping[str, Any] | None,
    made_from: dict[str, Any],
) -> None:
    """Draw the pictures and write ``report.json``."""
    save_report(
        steps.report,
        ds=_observed(steps, scored),
        model=steps.model,
        ensembles={one.section.name: one.ensemble for one in scored},
        cards={one.section.name: one.card for one in scored},
        verdicts={one.section.name: one.verdicts for one in scored},
        diagnosis=diagnosis,
    )
    steps.products.note("report", made_from)


def _observed(steps: Steps, scored: Sequence[Scored]) -> xr.Dataset:
    """Return the samples of all ensembles, each once."""
    names = dict.fromkeys(one.section.part for one in scored)
    parts = [steps.parts[name] for name in names]
    if len(parts) == 1:
        return parts[0]
    sample = steps.parts.spec.sample
    joined = xr.concat(parts, sample, data_vars="minimal", coords="minimal", compat="override")
    return joined.drop_duplicates(sample).sortby(sample)


def write_summary(steps: Steps, summary: Summary) -> None:
    """Write the verdicts and what the run took as JSON."""
    steps.report.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary.to_json(), indent=1)
    (steps.report / "summary.json").write_text(text, encoding="utf-8")


def written(steps: Steps) -> dict[str, str]:
    """List what is there for people: path in the output folder, and what it is."""
    ensembles = {
        f"{one.name}.zarr": f"ensemble: {one.mode}, {one.members} members"
        for one in steps.config.sample
    }
    found = {
        "model.xcvae": "the model, for xcvae.load",
        **ensembles,
        "catalog.yaml": "intake catalog of the ensembles, with their scores",
        "report/diagnosis.txt": "the diagnosis, in words",
        "report/report.html": "the report, one file: open it in a browser",
        "report/report.json": "scores, verdicts and diagnosis",
        "report/summary.json": "verdicts, time and memory",
    }
    there = {path: what for path, what in found.items() if (steps.folder / path).exists()}
    if (steps.report / "report.json").exists():
        there["report/*.png"] = "its pictures, by ensemble"
    return there

"""Outputs of a run: the report, its summary, and the list of products."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from xcvae.fields.dataspec import plain
from xcvae.files import is_taken, write_json
from xcvae.pipeline.manifest import digest, not_recorded, read_json
from xcvae.pipeline.steps import PARTS, PipelineState, Scored
from xcvae.verify.criteria import Verdict, table
from xcvae.verify.plots.accessor import ENSEMBLE_FIGURES
from xcvae.verify.report.explorer import draw_spreads
from xcvae.verify.report.write import save_report

STEPS = ("train", "sample", "evaluate", "diagnose")


@dataclass
class Summary:
    """Results of a run.

    Attributes
    ----------
    output
        Output folder.
    steps
        State of each step: "made", "completed" or "unchanged".
    verdicts
        By ensemble: the criteria, each passed or failed.
    scores
        By ensemble: a table of all scores; empty unless ``evaluate`` ran alone.
    diagnosis
        The diagnosis as text; empty if it was not requested.
    sound
        True if the diagnosis found no fault; None if it was not requested.
    written
        Path relative to ``output``, and a description of the product.
    seconds
        Wall-clock time of the run.
    """

    output: Path
    steps: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    scores: dict[str, str] = field(default_factory=dict)
    diagnosis: str = ""
    sound: bool | None = None
    written: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def met(self) -> int:
        """Number of criteria that are met."""
        return sum(v.passed for verdicts in self.verdicts.values() for v in verdicts)

    def __str__(self) -> str:
        parts = [self.diagnosis] if self.diagnosis else []
        parts += self.scores.values()
        parts += [table(v, title=f"{name}:") for name, v in self.verdicts.items() if v]
        total = sum(len(v) for v in self.verdicts.values())
        if total:
            parts.append(f"{self.met} of {total} criteria met")
        done = ", ".join(f"{step} {what}" for step, what in self.steps.items())
        memory = peak_memory()
        used = f", {memory / 1e9:.1f} GB memory at most" if memory else ""
        parts.append(f"{done}\n{self.seconds / 60:.1f} minutes{used}")
        width = max((len(path) for path in self.written), default=0)
        lines = [f"  {path:<{width}}  {what}" for path, what in self.written.items()]
        parts.append("\n".join([f"Written to {self.output}:", *lines]))
        return "\n\n".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return the summary as JSON types."""
        return {
            "steps": self.steps,
            "criteria": {n: [v.to_json() for v in vs] for n, vs in self.verdicts.items()},
            "sound": self.sound,
            "seconds": round(self.seconds, 1),
            "peak_memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Return the peak memory of this process in bytes; 0 where the system does not report it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def inputs_of_report(
    steps: PipelineState, scored: Sequence[Scored], *, diagnosed: bool
) -> dict[str, Any]:
    """Return the diagnosis and scores that the report shows, as a hash."""
    cards = [plain(one.card.to_dict()) for one in scored]
    verdicts = [[verdict.to_json() for verdict in one.verdicts] for one in scored]
    diagnosis = steps.inputs_of_diagnosis() if diagnosed else {"model": steps.model.sha256}
    formats = {"figures": list(steps.config.figures)} if steps.config.figures else {}
    return {**diagnosis, **formats, "scores": digest([cards, verdicts])}


def report_is_current(steps: PipelineState, inputs: dict[str, Any]) -> bool:
    """Tell if the stored report shows these scores and all its pictures exist."""
    file = steps.report / "report.json"
    pictures: list[Path] = []
    names = read_json(file).get("files")
    if isinstance(names, dict):
        pictures = [steps.report / str(name) for name in names.values()]
    return steps.manifest.is_current("report", inputs, file, *pictures)


def write_report(
    steps: PipelineState,
    scored: Sequence[Scored],
    diagnosis: Mapping[str, Any] | None,
    inputs: dict[str, Any],
) -> None:
    """Draw the pictures and write the HTML and JSON report."""
    figures = ("members", "scores", *ENSEMBLE_FIGURES)
    pictures = [f"{one.section.name}-{name}.png" for one in scored for name in figures]
    pictures += [
        f"{Path(name).stem}.{kind}"
        for name in ("training.png", *pictures)
        for kind in steps.config.figures
    ]
    files = ("report.html", "report.json", "captions.txt", "training.png", *pictures)
    steps.manifest.claim("report", *(steps.report / name for name in files))
    own = [one.section for one in scored if one.section.model is None]
    spreads = (
        draw_spreads(steps.samples_of(own[0]), steps.model, own[0].arguments()) if own else None
    )
    save_report(
        steps.report,
        ds=_observed(steps, scored),
        model=steps.model,
        ensembles={one.section.name: one.ensemble for one in scored},
        cards={one.section.name: one.card for one in scored},
        verdicts={one.section.name: one.verdicts for one in scored},
        diagnosis=diagnosis,
        formats=steps.config.figures,
        spreads=spreads,
    )
    steps.manifest.record("report", inputs)


def _observed(steps: PipelineState, scored: Sequence[Scored]) -> xr.Dataset:
    """Return the samples of all ensembles, each once."""
    names = {str(one.section.samples or one.section.part): one.section for one in scored}
    parts = [steps.scored_of(section) for section in names.values()]
    if len(parts) == 1:
        return parts[0]
    sample = steps.parts.spec.sample
    joined = xr.concat(parts, sample, data_vars="minimal", coords="minimal", compat="override")
    return joined.drop_duplicates(sample).sortby(sample)


def write_summary(steps: PipelineState, summary: Summary) -> None:
    """Write verdicts, time and memory as JSON."""
    file = steps.report / "summary.json"
    if is_taken(file) and not {"steps", "criteria"} <= read_json(file).keys():
        raise not_recorded(file)
    steps.report.mkdir(parents=True, exist_ok=True)
    write_json(file, summary.to_json(), indent=1)


def products_of(steps: PipelineState, wanted: Sequence[str] = STEPS) -> dict[str, str]:
    """Return the existing products of some steps: path in the output folder, and a description."""
    ensembles = {
        f"{one.name}.zarr": f"ensemble: {one.mode}, {len(one.numbers)} members"
        for one in steps.config.sample
    }
    catalog = {"catalog.yaml": "intake catalog of data and ensembles, with their scores"}
    report = {
        "report/report.html": "the report, one file: open it in a browser",
        "report/report.json": "scores, verdicts and diagnosis",
    }
    copies = {f"data/{part}.zarr": f"real samples: {part}" for part in PARTS}
    groups = {
        f"report/{one.name}-groups.csv": "its scores by groups" for one in steps.config.sample
    }
    known = {
        "train": {"model.xcvae": "the model, for xcvae.load"},
        "sample": ensembles | copies | catalog,
        "evaluate": catalog
        | report
        | groups
        | {"report/summary.json": "verdicts, time and memory"},
        "diagnose": {"report/diagnosis.txt": "the diagnosis, in words"},
        "report": report,
    }
    chosen = {path: what for step in wanted for path, what in known[step].items()}
    chosen["README.txt"] = "what is in this folder, in words"
    existing = {path: what for path, what in chosen.items() if (steps.folder / path).exists()}
    if "report/report.json" in existing:
        existing["report/*.png"] = "its pictures, by ensemble"
    return existing

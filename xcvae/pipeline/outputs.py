"""The report of a run: pictures and JSON, for people and programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr

from xcvae.fields.dataspec import plain
from xcvae.files import write_json
from xcvae.pipeline.manifest import digest
from xcvae.pipeline.steps import PipelineState, Scored
from xcvae.verify.criteria import Verdict, table
from xcvae.verify.report.write import save_report

__all__ = [
    "Summary",
    "inputs_of_report",
    "peak_memory",
    "report_is_current",
    "write_report",
    "write_summary",
    "written",
]


@dataclass
class Summary:
    """What was done, what came out, and where it is.

    Attributes
    ----------
    output
        Folder of everything.
    steps
        What became of each step: "made", "completed" or "there already".
    verdicts
        By ensemble: the criteria, and whether they are met.
    scores
        By ensemble: all of them as a table; empty if more than these were asked for.
    diagnosis
        In words; empty if the step was not asked for.
    sound
        Whether the diagnosis found no fault; None if the step was not asked for.
    written
        Path, relative to ``output``, to what it holds.
    seconds
        From start to end.
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
        """How many criteria are met."""
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
        """Plain JSON types."""
        return {
            "steps": self.steps,
            "criteria": {n: [v.to_json() for v in vs] for n, vs in self.verdicts.items()},
            "sound": self.sound,
            "seconds": round(self.seconds, 1),
            "peak_memory_bytes": peak_memory(),
        }


def peak_memory() -> int:
    """Return the most memory this process has used, in bytes; 0 where it cannot be known."""
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def inputs_of_report(
    steps: PipelineState, scored: Sequence[Scored], *, diagnosed: bool
) -> dict[str, Any]:
    """Return what decides on the report."""
    cards = [plain(one.card.to_dict()) for one in scored]
    verdicts = [[verdict.to_json() for verdict in one.verdicts] for one in scored]
    diagnosis = steps.inputs_of_diagnosis() if diagnosed else {"model": steps.model.sha256}
    return {**diagnosis, "scores": digest([cards, verdicts])}


def report_is_current(steps: PipelineState, made_from: dict[str, Any]) -> bool:
    """Whether the report that is there shows these scores; pictures that are gone count too."""
    file = steps.report / "report.json"
    pictures: list[Path] = []
    if file.exists():
        names = json.loads(file.read_text(encoding="utf-8"))["files"]
        pictures = [steps.report / name for name in names.values()]
    return steps.products.current("report", made_from, file, *pictures)


def write_report(
    steps: PipelineState,
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


def _observed(steps: PipelineState, scored: Sequence[Scored]) -> xr.Dataset:
    """Return the samples of all ensembles, each once."""
    names = dict.fromkeys(one.section.part for one in scored)
    parts = [steps.parts[name] for name in names]
    if len(parts) == 1:
        return parts[0]
    sample = steps.parts.spec.sample
    joined = xr.concat(parts, sample, data_vars="minimal", coords="minimal", compat="override")
    return joined.drop_duplicates(sample).sortby(sample)


def write_summary(steps: PipelineState, summary: Summary) -> None:
    """Write the verdicts and what the run took as JSON."""
    steps.report.mkdir(parents=True, exist_ok=True)
    write_json(steps.report / "summary.json", summary.to_json(), indent=1)


def written(steps: PipelineState) -> dict[str, str]:
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

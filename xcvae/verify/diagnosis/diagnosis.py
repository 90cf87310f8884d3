"""The diagnosis: faults of a trained model in words, and their remedies."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.ensemble.sampler import open_model
from xcvae.notebook import Overview
from xcvae.verify.diagnosis.detectors import detect
from xcvae.verify.diagnosis.finding import Evidence, Finding, duration
from xcvae.verify.diagnosis.measure import check_numbers, measure

if TYPE_CHECKING:
    from xcvae.generator.model import Model


#: Columns of the text, for any terminal, and indentation of its sentences.
WIDTH, INDENT = 79, 15
FOLLOWING = ("print(rep)                     # all of it as text", "rep.findings[0].remedy")


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a model.

    Its text (``str``) is the report, ending with the verdict.

    Attributes
    ----------
    findings
        The result of every detector, also of those that found nothing or could not check.
    evidence
        The measured numbers.
    """

    findings: list[Finding]
    evidence: Evidence

    @property
    def ok(self) -> bool:
        """True without faults; warnings may remain."""
        return all(finding.severity != "fault" for finding in self.findings)

    def __str__(self) -> str:
        e = self.evidence
        lines = [
            f"Diagnosis of {e.samples} samples with {e.members} members each, seed {e.seed}",
            "Prior: drawn from the conditions alone. Posterior: an observed storm, redrawn.",
        ]
        for severity in ("fault", "warning"):
            for finding in self._with(severity):
                lines += ["", *_finding_lines(finding)]
        lines.append("")
        reasons: dict[str, list[str]] = {}
        for finding in self._with("unchecked"):
            reasons.setdefault(finding.evidence, []).append(finding.name)
        for reason, names in reasons.items():
            lines += _wrapped(f"{'not checked':<{INDENT}}", f"{', '.join(names)}: {reason}")
        fine = ", ".join(finding.name for finding in self._with("ok"))
        lines += _wrapped(f"{'nothing found':<{INDENT}}", fine) if fine else []
        lines += _wrapped(f"{'memory':<{INDENT}}", memory) if (memory := self.memory) else []
        return "\n".join([*lines, "", self.verdict])

    def __repr__(self) -> str:
        found = [f.name for kind in ("fault", "warning") for f in self._with(kind)]
        names = f" ({', '.join(found)})" if found else ""
        return f"<xcvae.Diagnosis of {self.evidence.samples} samples: {self._counts}{names}>"

    def _repr_html_(self) -> str:
        e = self.evidence
        facts: dict[str, object] = {
            "measured on": f"{e.samples} samples with {e.members} members each, seed {e.seed}"
        }
        for kind in ("fault", "warning"):
            for f in self._with(kind):
                remedy = f"{f.meaning} {f.evidence} To change: {f.remedy}"
                facts[f"{kind}: {f.name}"] = remedy
        facts["not checked"] = ", ".join(f.name for f in self._with("unchecked"))
        facts["nothing found"] = ", ".join(f.name for f in self._with("ok"))
        return Overview(f"xcvae.Diagnosis: {self._counts}", facts, FOLLOWING).html()

    @property
    def memory(self) -> str:
        """The timescales of the levels, in words; empty if they are not known."""
        t = self.evidence.timescales
        if not t:
            return ""
        if t.get("seconds") is None:
            return f"timescales of the levels unknown: {t.get('reason', '')}"
        levels = [
            f"{duration(one)} ({duration(low)} to {duration(high)})" if one else "none"
            for one, low, high in zip(t["seconds"], t["low"], t["high"], strict=True)
        ]
        return (
            f"timescales of the levels, coarsest first, with 95 % intervals: {', '.join(levels)}; "
            f"from {t.get('source', 'training')}, samples {duration(t['step'])} apart"
        )

    def _with(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def verdict(self) -> str:
        """The numbers of faults and warnings, in words."""
        return f"Verdict: {self._counts}."

    @property
    def _counts(self) -> str:
        counts = {kind: len(self._with(kind)) for kind in ("fault", "warning")}
        if not any(counts.values()):
            return "no faults, no warnings"
        return ", ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "memory": self.memory,
            "findings": [finding.to_json() for finding in self.findings],
            "evidence": self.evidence.to_json(),
        }


def _finding_lines(finding: Finding) -> list[str]:
    """Write a finding in a few lines: meaning, measured numbers, remedy."""
    head = f"{finding.severity:<{INDENT}}"
    return [
        *_wrapped(head, f"{finding.name}: {finding.meaning}"),
        *_wrapped(f"{'':<{INDENT}}", finding.evidence),
        *_wrapped(f"{'to change':>{INDENT - 2}}  ", finding.remedy),
    ]


def _wrapped(head: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=" " * INDENT, break_on_hyphens=False
    )


def diagnose(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str],
    *,
    members: int = 8,
    seed: int = 0,
    device: str = "auto",
) -> Diagnosis:
    """Look for faults of a model, and name their remedies.

    Checks for wrong units, samples that were trained on, posterior collapse, ignored latents, mean
    collapse, identical members, too little and too much spread, also by amounts of rain, a gap
    between prior and posterior, memorised fields, drizzle, mass drift, a truncated tail, observed
    rain with a cap, patterns of the grid, odd borders, and members that flicker in time.

    Parameters
    ----------
    ds
        Target and conditions as in training, dims (sample, y, x), preferably of samples that
        training did not see. At most 24 samples, evenly spaced, are drawn, and 12 more, in rows of
        three, to compare consecutive ones. A model from an old file, without timescales, reads up
        to 240 besides.
    model
        The model, the path of its file, or a name of `xcvae.models`.
    members
        Prior members per sample, at least 2.
    seed
        Seed of the noise.
    device
        ``"auto"`` (a GPU if torch can use one), ``"cpu"`` or ``"cuda"``.

    Returns
    -------
    Diagnosis
        Print it, or read its attributes ``findings`` and ``ok``.

    Raises
    ------
    ConfigError
        Fewer than two members, or an argument of the wrong type.
    ModelFileError
        The file does not exist, or is not a model.
    MismatchError
        Variables, units or grid differ from those of training.
    DataError
        Negative or infinite rain.
    """
    check_numbers(members, seed)
    return judge(measure(ds, open_model(model, device), members=members, seed=seed))


def judge(evidence: Evidence) -> Diagnosis:
    """Run all detectors on evidence, also on that of a generator other than xcvae.

    Parameters
    ----------
    evidence
        From `xcvae.verify.diagnosis.gather`, which takes ensembles of any origin.

    Returns
    -------
    Diagnosis
        The same findings by the same rules as `diagnose`.
    """
    return Diagnosis(detect(evidence), evidence)

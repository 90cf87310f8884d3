"""What is wrong with a trained model, in words, and what to change."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.verify.diagnosis.detectors import detect
from xcvae.verify.diagnosis.evidence import Evidence
from xcvae.verify.diagnosis.finding import Finding
from xcvae.verify.diagnosis.measure import measure

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Diagnosis", "diagnose", "judge"]

#: Columns of the text, for any terminal, and where its words begin.
WIDTH, INDENT = 79, 15


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a model.

    Attributes
    ----------
    findings
        One for everything that was looked into, those without a fault too, and one for what could
        not be checked.
    evidence
        The numbers they rest on.
    """

    findings: list[Finding]
    evidence: Evidence

    @property
    def ok(self) -> bool:
        """Whether no finding is a fault; warnings may remain."""
        return all(finding.severity != "fault" for finding in self.findings)

    def __str__(self) -> str:
        e = self.evidence
        lines = [
            f"Diagnosis of {e.samples} samples with {e.members} members each, seed {e.seed}",
            "Prior: drawn from the conditions alone. Posterior: an observed storm, redrawn.",
        ]
        for severity in ("fault", "warning"):
            for finding in self._with(severity):
                lines += ["", *_told(finding)]
        lines.append("")
        reasons: dict[str, list[str]] = {}
        for finding in self._with("unchecked"):
            reasons.setdefault(finding.evidence, []).append(finding.name)
        for reason, names in reasons.items():
            lines += _wrapped(f"{'not checked':<{INDENT}}", f"{', '.join(names)}: {reason}")
        fine = ", ".join(finding.name for finding in self._with("ok"))
        lines += _wrapped(f"{'nothing found':<{INDENT}}", fine) if fine else []
        return "\n".join([*lines, "", self.verdict])

    def _with(self, severity: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == severity]

    @property
    def verdict(self) -> str:
        """How many faults and warnings there are, in words."""
        counts = {kind: len(self._with(kind)) for kind in ("fault", "warning")}
        if not any(counts.values()):
            return "Verdict: no faults, no warnings."
        words = [f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items()]
        return f"Verdict: {', '.join(words)}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "ok": self.ok,
            "verdict": self.verdict,
            "findings": [finding.to_json() for finding in self.findings],
            "evidence": self.evidence.to_json(),
        }


def _told(finding: Finding) -> list[str]:
    """A finding in a few lines: what it means, what was measured, what to change."""
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
) -> Diagnosis:
    """Find out what is wrong with a model.

    Looks for wrong units, samples that were trained on, posterior collapse, ignored latents, mean
    collapse, identical members, too little and too much spread, a gap between prior and posterior,
    memorised fields, drizzle, mass drift, a truncated tail, patterns of the grid and odd borders.

    Parameters
    ----------
    ds : xarray.Dataset
        Target and conditions as in training, dims (sample, y, x), best not those trained on. At
        most 24 samples, spread over all of them, are read.
    model : Model or path-like
        The model, or its file.
    members : int
        Prior members per sample, at least 2.
    seed : int
        Of the noise.

    Returns
    -------
    Diagnosis
        Print it, or ask for ``findings`` and ``ok``.

    Raises
    ------
    ConfigError
        Too few members.
    MismatchError
        The data do not belong to the model.
    DataError
        Negative or infinite rain.
    """
    if isinstance(model, str | os.PathLike):
        from xcvae.generator.model import load

        model = load(Path(model))
    return judge(measure(ds, model, members=members, seed=seed))


def judge(evidence: Evidence) -> Diagnosis:
    """Find out what evidence says, also of a generator that is not xcvae's.

    Parameters
    ----------
    evidence : Evidence
        From `xcvae.verify.diagnosis.measure.gather`, which takes ensembles of any origin.

    Returns
    -------
    Diagnosis
        The same findings by the same rules as `diagnose`.
    """
    return Diagnosis(detect(evidence), evidence)

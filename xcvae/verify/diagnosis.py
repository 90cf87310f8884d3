"""What is wrong with a trained model, in words, and what to change."""

from __future__ import annotations

import os
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from xcvae.verify.evidence import Evidence, measure
from xcvae.verify.findings import Finding, detect

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Diagnosis", "diagnose", "judge"]

WIDTH = 96


@dataclass(frozen=True)
class Diagnosis:
    """The findings about a model.

    Attributes
    ----------
    findings
        One for everything that was looked into, those without a fault too.
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
        lines = [f"Diagnosis of {e.samples} samples, {e.members} members, seed {e.seed}"]
        name_width = max(len(finding.name) for finding in self.findings)
        indent = " " * (name_width + 13)
        for finding in self.findings:
            head = f"  {finding.severity:<7}  {finding.name:<{name_width}}  "
            lines += _wrapped(head, indent, finding.evidence)
            if finding.remedy:
                lines += _wrapped(f"{indent}-> ", f"{indent}   ", finding.remedy)
        return "\n".join([*lines, self._verdict()])

    def _verdict(self) -> str:
        counts = {
            kind: sum(finding.severity == kind for finding in self.findings)
            for kind in ("fault", "warning")
        }
        if not any(counts.values()):
            return "Verdict: no faults, no warnings."
        words = [f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts.items()]
        return f"Verdict: {', '.join(words)}."

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "ok": self.ok,
            "findings": [finding.to_json() for finding in self.findings],
            "evidence": self.evidence.to_json(),
        }


def _wrapped(head: str, indent: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH + 10, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
    )


def diagnose(
    ds: xr.Dataset,
    model: Model | str | os.PathLike[str],
    *,
    members: int = 8,
    seed: int = 0,
) -> Diagnosis:
    """Find out what is wrong with a model.

    Looks for posterior collapse, ignored latents, mean collapse, drizzle, mass drift, a gap
    between prior and posterior, identical members and wrong units.

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
        From `xcvae.verify.evidence.gather`, which takes ensembles of any origin.

    Returns
    -------
    Diagnosis
        The same findings by the same rules as `diagnose`.
    """
    return Diagnosis(detect(evidence), evidence)

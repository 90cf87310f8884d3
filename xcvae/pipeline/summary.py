"""What a run says at its end."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xcvae.verify.criteria import Verdict, table

__all__ = ["Summary", "peak_memory"]


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

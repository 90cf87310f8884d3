"""What all methods of the bench are given, and how they leave their results."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from references.clock import Deadline
from references.data import Arena, thresholded
from references.drawing import Draw, drawn

__all__ = ["Bench", "write_json"]


@dataclass(frozen=True)
class Bench:
    """What all methods are given."""

    arena: Arena
    folder: Path
    device: torch.device
    minutes: float
    members: int
    seed: int
    small: bool
    workers: int
    deadline: Deadline
    generator: Mapping[str, Any]
    fit: Mapping[str, Any]
    edm: Mapping[str, Any]

    def place(self, name: str) -> Path:
        """A file of the folder."""
        return self.folder / name

    def write(self, method: str, rows: Mapping[str, Any], **details: Any) -> None:
        """Write the result of a method."""
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else _processor()
        content = {
            "method": method,
            "rows": rows,
            "device": device,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            **details,
        }
        write_json(self.place(f"{method}.json"), content)

    def draw_all(self, draw: Draw, *, batch: int, place: Path | None = None) -> np.ndarray:
        """Draw all members of all test samples."""
        members = drawn(
            draw,
            self.arena.test,
            self.members,
            batch=batch,
            device=self.device,
            seed=self.seed,
            deadline=self.deadline,
            place=place,
        )
        return thresholded(members)


def write_json(place: Path, content: Any) -> None:
    """Write a JSON file, complete or not at all."""
    partial = place.with_name(f"{place.name}.partial")
    partial.write_text(json.dumps(content, indent=1))
    partial.replace(place)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"CPU {name}, {torch.get_num_threads()} threads"

"""What all methods of the bench are given, and how they leave their results."""

from __future__ import annotations

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
from references.results import machine, write_json

__all__ = ["Bench"]


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
        content = {
            "method": method,
            "rows": rows,
            "device": machine(str(self.device)),
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

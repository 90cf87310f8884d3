"""Settings that all methods of a comparison share, and the files of their results."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness.deadline import Deadline
from benchmarks.harness.record_splits import RecordSplits, thresholded
from benchmarks.harness.results import machine, write_json
from benchmarks.models.drawing import DrawBatch, draw_members

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """Data and settings of all methods.

    Attributes
    ----------
    splits
        The record.
    folder
        Of results and checkpoints.
    device
        Where methods train and draw.
    minutes
        Training of each method.
    members, seed
        Of the ensembles.
    small
        True for small networks on crops, for two CPU cores.
    workers
        Processes of RainFARM.
    deadline
        Of this call.
    generator, fit, edm
        Settings of xcvae's generator and training, and of the diffusion model.
    rates
        Time the drawing of networks.
    """

    splits: RecordSplits
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
    rates: bool = True

    def place(self, name: str) -> Path:
        """Return the path of a file in the folder."""
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

    def draw_all(self, draw: DrawBatch, *, batch: int, place: Path | None = None) -> np.ndarray:
        """Draw all members of all test samples."""
        members = draw_members(
            draw,
            self.splits.test,
            self.members,
            batch=batch,
            device=self.device,
            seed=self.seed,
            deadline=self.deadline,
            place=place,
        )
        return thresholded(members)

"""What ``sample`` is asked for, checked as a whole before anything is drawn."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from xcvae.ensemble.store.base import EnsembleStore
from xcvae.errors import ConfigError, explain, nearest

__all__ = ["Request"]

MODES = ("prior", "posterior")
DEFAULT_POSTERIOR_SPREAD = 0.5


@dataclass(frozen=True)
class Request:
    """The arguments of :func:`xcvae.sample` that are not data, model or components.

    Raises
    ------
    ConfigError
        An argument is of the wrong type or out of range, or two exclude each other.
    """

    mode: str
    members: int
    spread: float | None
    diversity: float | None
    temperature: float
    seed: int
    min_mass: float | None
    store: EnsembleStore | None
    catalog: Path | None
    name: str | None
    chunks: Mapping[str, int] | None
    tile: Mapping[str, int] | None
    resume: bool | str

    def __post_init__(self) -> None:
        """Check all of them, and turn NumPy's numbers into those that JSON knows."""
        self._check_numbers()
        self._check_dial()
        self._check_output()
        for key, number in (("members", int), ("seed", int), ("temperature", float)):
            object.__setattr__(self, key, number(getattr(self, key)))
        for key in ("spread", "diversity", "min_mass"):
            if getattr(self, key) is not None:
                object.__setattr__(self, key, float(getattr(self, key)))

    @property
    def listed_as(self) -> str:
        """Name of the catalog entry: the given one, else that of the store."""
        return self.name or (self.store.stem if self.store else "")

    @property
    def fixed_spread(self) -> float | None:
        """The spread, or None where it has to be solved for."""
        if self.diversity is not None:
            return None
        if self.spread is not None:
            return float(self.spread)
        return DEFAULT_POSTERIOR_SPREAD if self.mode == "posterior" else 1.0

    def _check_numbers(self) -> None:
        if self.mode not in MODES:
            _refuse("mode", "'prior' or 'posterior'", self.mode, nearest(str(self.mode), MODES))
        if not _is_int(self.members) or self.members < 1:
            _refuse("members", "an integer >= 1", self.members, "Ask for at least one member.")
        if not _is_int(self.seed):
            _refuse("seed", "an integer", self.seed, "Leave it out for seed 0.")
        _within("temperature", self.temperature, 0.0, math.inf, "1 is what the model learned.")
        if self.min_mass is not None:
            _within("min_mass", self.min_mass, 0.0, math.inf, "It is a share, such as 0.5.")
        self._check_tile()

    def _check_tile(self) -> None:
        if self.tile is None:
            return
        wanted, remedy = "pixels by dim of the maps", 'Give {"y": 256, "x": 256}, or None.'
        tile: object = self.tile
        if not isinstance(tile, Mapping) or not tile:
            _refuse("tile", wanted, tile, remedy)
        for dim, side in self.tile.items():
            if not _is_int(side) or side < 1:
                _refuse(f"tile['{dim}']", "an integer >= 1", side, remedy)
        object.__setattr__(self, "tile", {str(dim): int(n) for dim, n in self.tile.items()})

    def _check_dial(self) -> None:
        for key in ("spread", "diversity"):
            value = getattr(self, key)
            if value is None:
                continue
            if self.mode == "prior":
                _refuse(
                    key, "None with mode='prior'", value,
                    "It says how much of an observed storm is redrawn: use mode='posterior'.",
                )  # fmt: skip
            _within(key, value, 0.0, 1.0, "0 reconstructs the storm, 1 is the prior.")
        if self.spread is not None and self.diversity is not None:
            _refuse(
                "spread and diversity", "one of the two", f"{self.spread} and {self.diversity}",
                "diversity is solved for the spread that gives it.",
            )  # fmt: skip

    def _check_output(self) -> None:
        if not (isinstance(self.resume, bool) or self.resume in ("restart", "repair")):
            _refuse(
                "resume", "True, False, 'restart' or 'repair'", self.resume,
                "'restart' replaces what is there, 'repair' draws again what has changed in it.",
            )  # fmt: skip
        if self.catalog is not None and self.store is None:
            _refuse(
                "catalog", "a store to list", "store=None",
                "Give store='....zarr': only what is written can be listed.",
            )  # fmt: skip
        if self.catalog is not None and self.store is not None and self.store.catalog_path is None:
            _refuse(
                "catalog", "a plain Zarr store to list", self.store.name,
                "intake opens no Icechunk repositories at relative paths: leave the catalog out, "
                "or write store='....zarr'.",
            )  # fmt: skip
        if self.name is not None and self.catalog is None:
            _refuse(
                "name", "a catalog to write it to", "catalog=None",
                "Give catalog='....yaml', or leave the name out.",
            )  # fmt: skip


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _within(name: str, value: object, low: float, high: float, remedy: str) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not low <= float(value) <= high or math.isinf(float(value)):  # type: ignore[arg-type]
        wanted = f"a number >= {low:g}" if math.isinf(high) else f"a number in [{low:g}, {high:g}]"
        _refuse(name, wanted, value, remedy)


def _refuse(name: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError(explain(name, expected=expected, got=repr(got), remedy=remedy))

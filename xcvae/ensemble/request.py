"""The options of ``sample``, each written once.

:func:`xcvae.sample` collects its arguments in a :class:`SampleRequest`. Everything else derives
from it: a configuration inherits the options as keys, a store records those that decide on the
values, the attributes of an ensemble repeat them, and ``verify_store`` rebuilds the request.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeGuard

from xcvae.ensemble.store.base import EnsembleStore
from xcvae.errors import ConfigError, nearest

MODES = ("prior", "posterior")
DEFAULT_POSTERIOR_SPREAD = 0.5


def recorded(default: Any, *, attribute: bool = True, added_later: bool = False) -> Any:
    """Declare an option that decides on the values of an ensemble.

    Parameters
    ----------
    default
        Value if the option is not given.
    attribute
        Repeat the option in the attributes of the ensemble.
    added_later
        Record the option only if it differs from its default. Ensembles that were stored before
        the option existed keep their identity then.
    """
    metadata = {"recorded": True, "attribute": attribute, "added_later": added_later}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """Options that a call in Python and a section of a configuration have in common.

    The order of the fields is that of the identity in a store. :func:`xcvae.sample` describes each.

    Raises
    ------
    ConfigError
        An option is of the wrong type or out of range, or two exclude each other.
    """

    seed: int = recorded(0)
    mode: Literal["prior", "posterior"] = recorded("prior")
    spread: float | None = recorded(None)
    diversity: float | None = recorded(None)
    temperature: float = recorded(1.0)
    members: int = recorded(16)
    postprocess: object = recorded(None)
    min_mass: float | None = recorded(None)
    tile: Mapping[str, int] | None = recorded(None, attribute=False)
    storms: object = recorded(None, added_later=True)
    cap: str | float | None = recorded(None, added_later=True)
    factor: int | None = recorded(None, added_later=True)
    chunks: Mapping[str, int] | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the options, and convert recorded numbers to types that JSON has."""
        self._check_numbers()
        self._check_spread()
        for one in fields(self):
            value = getattr(self, one.name)
            if one.metadata.get("recorded") and _is_number(value):
                whole = isinstance(one.default, int) or one.name == "factor"
                number = int if whole else float
                object.__setattr__(self, one.name, number(value))

    @property
    def fixed_spread(self) -> float | None:
        """The spread, or None where it has to be solved for."""
        if self.diversity is not None:
            return None
        if self.spread is not None:
            return self.spread
        return DEFAULT_POSTERIOR_SPREAD if self.mode == "posterior" else 1.0

    def identity(self) -> dict[str, Any]:
        """Return the options that decide on the values, by name, as a store records them."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if self._counts(one)}
        return {**found, "spread": self.fixed_spread}

    def attributes(self) -> dict[str, Any]:
        """Return the options that the attributes of an ensemble repeat, by name."""
        hidden = {one.name for one in fields(self) if not one.metadata.get("attribute")}
        return {name: value for name, value in self.identity().items() if name not in hidden}

    def _counts(self, one: Field[Any]) -> bool:
        if not one.metadata.get("recorded"):
            return False
        return not one.metadata["added_later"] or getattr(self, one.name) != one.default

    def _check_numbers(self) -> None:
        if self.mode not in MODES:
            _refuse("mode", "'prior' or 'posterior'", self.mode, nearest(str(self.mode), MODES))
        if not _is_int(self.members) or self.members < 1:
            _refuse("members", "an integer >= 1", self.members, "Ask for at least one member.")
        if not _is_int(self.seed):
            _refuse("seed", "an integer", self.seed, "Leave it out for seed 0.")
        _check_range("temperature", self.temperature, 0.0, math.inf, "The calibrated value is 1.")
        if self.min_mass is not None:
            _check_range("min_mass", self.min_mass, 0.0, math.inf, "Give a share, such as 0.5.")
        if self.factor is not None and (not _is_int(self.factor) or self.factor < 2):
            _refuse("factor", "an integer >= 2", self.factor, "8 divides a cell into 8 x 8 pixels.")
        if self.cap is not None and not isinstance(self.cap, str):
            _check_range("cap", self.cap, 0.0, math.inf, "Give '300 mm h-1', or 'none'.")
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

    def _check_spread(self) -> None:
        for key in ("spread", "diversity"):
            value = getattr(self, key)
            if value is None:
                continue
            if self.mode == "prior":
                _refuse(
                    key, "None with mode='prior'", value,
                    "It says how much of an observed storm is redrawn: use mode='posterior'.",
                )  # fmt: skip
            _check_range(key, value, 0.0, 1.0, "0 reconstructs the storm, 1 is the prior.")
        if self.spread is not None and self.diversity is not None:
            _refuse(
                "spread and diversity", "one of the two", f"{self.spread} and {self.diversity}",
                "diversity is solved for the spread that gives it.",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SampleRequest(SampleOptions):
    """All arguments of :func:`xcvae.sample` but the data and the model.

    Raises
    ------
    ConfigError
        An option is of the wrong type or out of range, or two exclude each other.
    """

    store: EnsembleStore | None = None
    catalog: Path | None = None
    name: str | None = None
    resume: bool | Literal["restart", "repair"] = True
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if not (isinstance(self.resume, bool) or self.resume in ("restart", "repair")):
            _refuse(
                "resume", "True, False, 'restart' or 'repair'", self.resume,
                "'restart' replaces the ensemble in the store, 'repair' draws again what has "
                "changed in it.",
            )  # fmt: skip
        if self.catalog is not None:
            self._check_listing()
        elif self.name is not None:
            _refuse(
                "name", "a catalog to write it to", "catalog=None",
                "Give catalog='....yaml', or leave the name out.",
            )  # fmt: skip

    @classmethod
    def from_identity(cls, identity: Mapping[str, Any], **others: Any) -> SampleRequest:
        """Rebuild the request that a stored ensemble was drawn with.

        Parameters
        ----------
        identity
            From the ledger of the store. Options that it does not have were at their default.
        others
            Options that the identity does not record, or that replace what it records.
        """
        names = [one.name for one in fields(cls) if one.metadata.get("recorded")]
        known = {name: identity[name] for name in names if name in identity}
        if known["mode"] == "prior":
            # Recorded as 1, but nobody may request a spread of the prior.
            known["spread"] = None
        return cls(**{**known, **others})

    @property
    def entry(self) -> str:
        """Name of the catalog entry: the given one, else that of the store."""
        return self.name or (self.store.stem if self.store else "")

    def _check_listing(self) -> None:
        if self.store is None:
            _refuse(
                "catalog", "a store to list", "store=None",
                "Give store='....zarr': only what is written can be listed.",
            )  # fmt: skip
        if self.store.catalog_path is None:
            _refuse(
                "catalog", "a plain Zarr store to list", self.store.name,
                "intake opens no Icechunk repositories at relative paths: leave the catalog out, "
                "or write store='....zarr'.",
            )  # fmt: skip


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_range(name: str, value: object, low: float, high: float, remedy: str) -> None:
    if not _is_number(value) or not low <= value <= high or math.isinf(value):
        wanted = f"a number >= {low:g}" if math.isinf(high) else f"a number in [{low:g}, {high:g}]"
        _refuse(name, wanted, value, remedy)


def _refuse(name: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError.of(name, expected=expected, got=repr(got), remedy=remedy)

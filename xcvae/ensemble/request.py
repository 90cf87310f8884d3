"""The options of ``sample``, each written once.

:func:`xcvae.sample` collects its arguments in a :class:`SampleRequest`. Everything else derives
from it: a configuration inherits the options as keys, a store records those that decide on the
values, the attributes of an ensemble repeat them, and ``verify_store`` rebuilds the request.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeGuard, cast

import xarray as xr

from xcvae.ensemble.execution.scheduler import cluster_in_use, runs_in_threads
from xcvae.ensemble.execution.threads import threads_of_draws, torch_threads
from xcvae.ensemble.store.base import EnsembleStore
from xcvae.errors import ConfigError, check_flags, nearest, whole_number
from xcvae.fields.units import parse_quantity
from xcvae.registry import as_given

if TYPE_CHECKING:
    from xcvae.generator.model import Model

MODES = ("prior", "posterior")
TEMPORAL = ("independent", "coherent")
TIMESCALES_REMEDY = (
    "Give durations, coarsest level first, such as ['2h', '1h', '30min', 0]; 0 is no memory."
)
NOT_MEASURED = "its training did not measure them"
DEFAULT_POSTERIOR_SPREAD = 0.5
LARGEST_NUMBER = 2**31 - 1
"""Members have numbers below it: the coordinate is a 32-bit integer."""


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
    members: int | range | Mapping[str, int] = recorded(16)
    postprocess: object = recorded(None)
    min_mass: float | None = recorded(None)
    tile: Mapping[str, int] | Literal["auto"] | None = recorded(None, attribute=False)
    temporal: Literal["independent", "coherent"] = recorded("independent", added_later=True)
    timescales: Sequence[str | float] | None = recorded(None, added_later=True)
    storms: object = recorded(None, added_later=True)
    cap: str | float | None = recorded(None, added_later=True)
    factor: int | None = recorded(None, added_later=True)
    chunks: Mapping[str, int] | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        """Check the options, and convert recorded numbers to types that JSON has."""
        self._check_numbers()
        self._check_spread()
        self._check_temporal()
        for one in fields(self):
            value = getattr(self, one.name)
            if one.metadata.get("recorded") and _is_number(value):
                whole = isinstance(one.default, int) or one.name == "factor"
                number = int if whole else float
                object.__setattr__(self, one.name, number(value))

    @property
    def numbers(self) -> range:
        """Numbers of the members: they decide on the noise, and are the coordinate of members."""
        if isinstance(self.members, range):
            return self.members
        assert isinstance(self.members, int)  # __post_init__ has converted it
        return range(self.members)

    @property
    def fixed_spread(self) -> float | None:
        """The spread, or None where it has to be solved for."""
        if self.diversity is not None:
            return None
        if self.spread is not None:
            return self.spread
        return DEFAULT_POSTERIOR_SPREAD if self.mode == "posterior" else 1.0

    def cap_in(self, units: str) -> float | None:
        """Return the cap in units of rain: infinite for "none", None for that of the model.

        Raises
        ------
        ConfigError
            The cap is not an amount above 0.
        """
        if self.cap is None:
            return None
        if self.cap == "none":
            return math.inf
        cap = parse_quantity(self.cap, units=units, what="cap")
        if cap <= 0:
            _refuse("cap", "an amount above 0", self.cap, "Leave it out.")
        return cap

    def timescales_for(self, model: Model) -> Sequence[float]:
        """Return the seconds after which each level has forgotten: as given, else as measured.

        Raises
        ------
        ConfigError
            The model has none and none are given, or their number is not that of the levels.
        """
        levels = len(model.architecture.latents)
        given = model.timescales if self.timescales is None else self.timescales
        if given is None:
            reason = model.training.get("timescales", {}).get("reason", NOT_MEASURED)
            raise ConfigError.of(
                "timescales",
                expected="a model with measured timescales, for temporal='coherent'",
                got=f"one without: {reason}",
                remedy=f"Give {levels} durations, coarsest level first: "
                "timescales=['2h', ..., 0]. xcvae.diagnose measures them on consecutive samples.",
            )
        self.check_levels(levels)
        return cast("Sequence[float]", given)

    def check_levels(self, levels: int) -> None:
        """Refuse timescales that are not one for each level of a model.

        Raises
        ------
        ConfigError
            Their number is another one.
        """
        if self.timescales is not None and len(self.timescales) != levels:
            raise ConfigError.of(
                "timescales",
                expected=f"{levels} durations, one per level, coarsest first",
                got=f"{len(self.timescales)}",
                remedy="Give 0 for levels without memory, usually the finest.",
            )

    def identity(self) -> dict[str, Any]:
        """Return the options that decide on the values, by name, as a store records them."""
        found = {one.name: getattr(self, one.name) for one in fields(self) if self._counts(one)}
        return {**found, "spread": self.fixed_spread, "members": self._members_to_json()}

    def attributes(self) -> dict[str, Any]:
        """Return the options that the attributes of an ensemble repeat, by name."""
        hidden = {one.name for one in fields(self) if not one.metadata.get("attribute")}
        return {name: value for name, value in self.identity().items() if name not in hidden}

    def _counts(self, one: Field[Any]) -> bool:
        if not one.metadata.get("recorded"):
            return False
        return not one.metadata["added_later"] or getattr(self, one.name) != one.default

    def _members_to_json(self) -> int | dict[str, int]:
        """Return the number of members, or first number and end where they do not start at 0."""
        numbers = self.numbers
        if numbers.start == 0:
            return len(numbers)
        return {"start": numbers.start, "stop": numbers.stop}

    def _check_members(self) -> None:
        members: object = self.members
        named = isinstance(members, Mapping) and members.keys() == {"start", "stop"}
        if named and all(_is_int(end) for end in members.values()):  # type: ignore[attr-defined]
            members = range(int(members["start"]), int(members["stop"]))  # type: ignore[index]
        if isinstance(members, range) and members and members.step == 1 and members.start >= 0:
            # As many as there are where the numbers start at 0: one ensemble has one identity.
            plain = members if members.start else members.stop
            object.__setattr__(self, "members", plain)
        elif not _is_int(members) or members < 1:  # type: ignore[operator]
            _refuse(
                "members", "an integer >= 1, or a range of numbers >= 0 in steps of 1", members,
                "Ask for at least one member: 16, or range(16, 66) for numbers 16 to 65 "
                "(in YAML: {start: 16, stop: 66}).",
            )  # fmt: skip
        asked: Any = self.members
        if (asked.stop if isinstance(asked, range) else asked) > LARGEST_NUMBER:
            _refuse("members", f"numbers below {LARGEST_NUMBER}", members, "Ask for fewer.")

    def _check_numbers(self) -> None:
        if not _is_one_of(self.mode, MODES):
            _refuse("mode", "'prior' or 'posterior'", self.mode, nearest(str(self.mode), MODES))
        self._check_members()
        if not _is_int(self.seed):
            _refuse("seed", "an integer", self.seed, "Leave it out for seed 0.")
        _check_range("temperature", self.temperature, 0.0, math.inf, "The calibrated value is 1.")
        if self.min_mass is not None:
            _check_range("min_mass", self.min_mass, 0.0, math.inf, "Give a share, such as 0.5.")
        if self.factor is not None:
            remedy = "8 divides a cell into 8 x 8 pixels."
            whole_number("factor", self.factor, least=2, remedy=remedy)
        if self.cap is not None and not isinstance(self.cap, str):
            _check_range("cap", self.cap, 0.0, math.inf, "Give '300 mm h-1', or 'none'.")
        self._check_tile()

    def _check_temporal(self) -> None:
        if not _is_one_of(self.temporal, TEMPORAL):
            _refuse(
                "temporal", "'independent' or 'coherent'", self.temporal,
                nearest(str(self.temporal), TEMPORAL),
            )  # fmt: skip
        if self.timescales is None:
            return
        if self.temporal == "independent":
            _refuse(
                "timescales", "None with temporal='independent'", self.timescales,
                "Use temporal='coherent', or leave them out.",
            )  # fmt: skip
        given: object = self.timescales
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            _refuse("timescales", "a list, one per level", given, TIMESCALES_REMEDY)
        object.__setattr__(self, "timescales", [_seconds(one) for one in given])

    def _check_tile(self) -> None:
        tile: object = self.tile
        if tile is None or _is_one_of(tile, ("auto",)):
            return
        wanted = "pixels by dim of the maps, or 'auto'"
        remedy = 'Give {"y": 512, "x": 512}, "auto", or None.'
        if not isinstance(tile, Mapping) or not tile:
            _refuse("tile", wanted, tile, remedy)
        sides = {
            str(dim): whole_number(f"tile['{dim}']", side, least=1, remedy=remedy)
            for dim, side in tile.items()
        }
        object.__setattr__(self, "tile", sides)

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

    like: xr.Dataset | None = field(default=None, compare=False)
    store: EnsembleStore | None = None
    catalog: Path | None = None
    name: str | None = None
    resume: bool | Literal["restart", "repair", "append"] = True
    progress: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        check_flags(progress=self.progress)
        named = _is_one_of(self.resume, ("restart", "repair", "append"))
        if not isinstance(self.resume, bool) and not named:
            _refuse(
                "resume", "True, False, 'restart', 'repair' or 'append'", self.resume,
                "'restart' replaces the ensemble in the store, 'repair' draws again what has "
                "changed in it, 'append' adds members and samples to it.",
            )  # fmt: skip
        check_listing(self.store, self.catalog, self.name)
        if self.catalog and self.store and self.store.catalog_path is None:
            _refuse(
                "catalog", "a plain Zarr store to list", self.store.name,
                "intake opens no Icechunk repositories at relative paths: leave the catalog out, "
                "or write store='....zarr'.",
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

    def tile_for(self, model: Model, domain: Mapping[str, int]) -> tuple[int, int] | None:
        """Return rows and columns of tiles; None for one piece.

        Parameters
        ----------
        model
            The model, on its device.
        domain
            Size of the maps by dim, y first.

        Raises
        ------
        ConfigError
            The tile has other dims, or is too small.
        """
        from xcvae.generator.memory import choose_tile, draw_memory
        from xcvae.generator.splitting import tile_size

        tile = self.tile
        if isinstance(tile, str):
            memory = draw_memory(model.device)
            draws = threads_of_draws() if self.store is not None and runs_in_threads() else 1
            tile = choose_tile(
                domain, model.architecture, memory=memory, draws=draws, threads=torch_threads()
            )
        return tile_size(tile, domain, model.architecture)

    def check_room(self, model: Model, size: tuple[int, int]) -> None:
        """Warn of maps that may not fit into memory, before any is drawn.

        Parameters
        ----------
        model
            The model, on its device.
        size
            Rows and columns of the maps.

        Raises
        ------
        ConfigError
            One cannot fit. The memory of workers of a cluster is not known here.
        """
        from xcvae.generator.memory import check_room

        check_room(
            size, model.architecture, model.device,
            tiled=self.tile is not None, elsewhere=cluster_in_use() is not None,
        )  # fmt: skip

    @property
    def extends(self) -> bool:
        """True if new members or samples may be added to a finished store.

        ``resume="append"`` says so; so do members that do not start at 0, and the settings of an
        ensemble (``like``).
        """
        if self.resume == "append":
            return True
        return self.resume is True and (self.like is not None or self.numbers.start > 0)

    @property
    def entry(self) -> str:
        """Name of the catalog entry: the given one, else that of the store."""
        return self.name or (self.store.stem if self.store else "")


def check_listing(store: object, catalog: object, name: object) -> None:
    """Refuse a name without a catalog, and a catalog without a store.

    Raises
    ------
    ConfigError
        One is missing.
    """
    if name is not None and catalog is None:
        _refuse(
            "name", "a catalog to write it to", "catalog=None",
            "Give catalog='....yaml', or leave the name out.",
        )  # fmt: skip
    if catalog is not None and store is None:
        _refuse(
            "catalog", "a store to list", "store=None",
            "Give store='....zarr': only what is written can be listed.",
        )  # fmt: skip


def options_like(record: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an ensemble as arguments of ``sample``; given ones replace them.

    Parameters
    ----------
    record
        Content of the attribute ``xcvae`` of the ensemble.
    given
        Arguments of the call.
    """
    stored = {**record, **(record.get("identity") or {})}
    names = [one.name for one in fields(SampleOptions) if one.metadata.get("recorded")]
    known = {name: stored[name] for name in names if stored.get(name) is not None}
    for name in {"postprocess", *known} & {"postprocess", "storms"}:
        known[name] = as_given(stored.get(name) or [])
    mode = given.get("mode", known["mode"])
    # The spread of prior members is no choice: it is 1 for all of them.
    released = "prior" in (mode, known["mode"])
    if released or "diversity" in given or ("diversity" in known and "spread" not in given):
        known.pop("spread", None)
    if mode == "prior" or "spread" in given:
        known.pop("diversity", None)
    return {**known, **given}


def identity_of(model: Model) -> dict[str, Any]:
    """Return the model in the identity of an ensemble, as JSON types.

    Equal values of rain give other members in other units, or on pixels of another size, if the
    model serves any of them.
    """
    found: dict[str, Any] = {"model_sha256": model.sha256}
    if model.origin is not None and model.spec.scales is not None:
        ratio = model.scaling.target.eps / model.origin.scaling.target.eps
        found[f"{model.origin.spec.units} in units of the data"] = float(f"{ratio:.6g}")
        found["pixel in km"] = float(f"{model.spec.scales.spacing:.4g}")
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_one_of(value: object, names: Sequence[str]) -> bool:
    return isinstance(value, str) and value in names


def _is_int(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _seconds(value: object) -> float:
    """Return a duration in seconds: a text such as '30 min', or a number of seconds."""
    seconds = parse_quantity(cast("str | float", value), units="s", what="timescales")
    _check_range("timescales", seconds, 0.0, math.inf, TIMESCALES_REMEDY)
    return seconds


def _check_range(name: str, value: object, low: float, high: float, remedy: str) -> None:
    if not _is_number(value) or not low <= value <= high or math.isinf(value):
        wanted = f"a number >= {low:g}" if math.isinf(high) else f"a number in [{low:g}, {high:g}]"
        _refuse(name, wanted, value, remedy)


def _refuse(name: str, expected: str, got: object, remedy: str) -> NoReturn:
    raise ConfigError.of(name, expected=expected, got=repr(got), remedy=remedy)

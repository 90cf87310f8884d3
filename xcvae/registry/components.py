"""Components: their names, the types and ranges of their parameters, and their construction."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import numbers
import reprlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from xcvae.errors import ComponentError, nearest

Kind = Literal["loss", "postprocessor", "storm", "metric", "baseline"]
KINDS: tuple[Kind, ...] = get_args(Kind)

JSON = Any
"""Plain JSON types: dict, list, str, int, float, bool, None."""

RESERVED = ("name", "package", "version")
#: Keys of a description that are no parameters: its origin, and what a post-processor removed.
ABOUT = ("package", "version", "removed")


def as_given(described: Iterable[Mapping[str, JSON]]) -> list[dict[str, JSON]]:
    """Return descriptions of components as a caller gives them: names and parameters."""
    return [{key: v for key, v in one.items() if key not in ABOUT} for one in described]


@dataclasses.dataclass(frozen=True)
class Component:
    """Base of all components: a subclass is a frozen dataclass whose fields are its parameters.

    The registry checks the fields against their annotations. A range is part of the annotation,
    ``Annotated[int, Range(1)]``, and is checked on construction. A subclass that has to check more
    does so in ``__post_init__``, after ``super().__post_init__()``, and raises ``ValueError`` or
    ``ComponentError``.
    """

    def __post_init__(self) -> None:
        """Refuse parameters out of the ranges in their annotations."""
        check_ranges(self)

    def parameters(self) -> dict[str, JSON]:
        """Return the parameters as plain JSON types, by name."""
        return parameters_of(self)


@dataclasses.dataclass(frozen=True)
class Range:
    """The values that a number may have, in an annotation: ``Annotated[int, Range(1)]``.

    None and text (a quantity with units) pass unchecked.

    Attributes
    ----------
    low, high
        The smallest and the largest value.
    above
        In place of ``low``: a bound that the value must exceed.

    Examples
    --------
    >>> str(Range(0, 1)), str(Range(1)), str(Range(above=0))
    ('from 0 to 1', '>= 1', 'above 0')
    """

    low: float = -math.inf
    high: float = math.inf
    above: float | None = dataclasses.field(default=None, kw_only=True)

    def __str__(self) -> str:
        parts = []
        if self.above is not None:
            parts.append(f"above {self.above:g}")
        elif self.low > -math.inf:
            parts.append(f"from {self.low:g}" if self.high < math.inf else f">= {self.low:g}")
        if self.high < math.inf:
            joined = parts and self.above is None
            parts.append(f"to {self.high:g}" if joined else f"at most {self.high:g}")
        return (" and " if self.above is not None else " ").join(parts)

    def check(self, label: str, value: object) -> None:
        """Refuse a number that is out of range.

        Parameters
        ----------
        label
            The parameter, for the message.
        value
            Any value; only numbers are compared.

        Raises
        ------
        ComponentError
            Naming the parameter, the range and the value.
        """
        if isinstance(value, tuple | list):
            for one in value:
                self.check(label, one)
            return
        if not isinstance(value, numbers.Real):  # those of NumPy are, too
            return
        number: Any = value  # a Real compares with floats, which its type does not say
        # NaN compares as False, and is refused.
        if self.low <= number <= self.high and (self.above is None or number > self.above):
            return
        remedy = "Choose a number in this range."
        if number > self.high:
            remedy = f"The largest value is {self.high:g}."
        elif number < self.low:
            remedy = f"The smallest value is {self.low:g}."
        raise ComponentError.of(label, expected=f"a number {self}", got=repr(value), remedy=remedy)


@functools.lru_cache(maxsize=256)
def ranges_of(cls: type) -> Mapping[str, Range]:
    """Return the ranges in the annotations of a component class, by parameter."""
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        # `construct` says which name is missing. An instance made without it is not checked for
        # types either.
        return {}
    found = {field.name: _range_in(hints[field.name]) for field in _fields(cls)}
    return {name: one for name, one in found.items() if one is not None}


#: Annotations whose items may have a range.
_LISTS = (tuple, list, Sequence)


def _range_in(hint: Any) -> Range | None:
    """Return the range of an annotation, of its alternatives or items; None without."""
    if get_origin(hint) is Annotated:
        own = (one for one in hint.__metadata__ if isinstance(one, Range))
        return next(own, None)
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType, *_LISTS) else ()
    return next((found for one in options if (found := _range_in(one)) is not None), None)


def check_ranges(component: object) -> None:
    """Refuse parameters of a component that are out of the ranges in their annotations.

    Raises
    ------
    ComponentError
        Naming component, parameter, the range and the value.
    """
    cls: type = type(component)
    for name, allowed in ranges_of(cls).items():
        allowed.check(_label(component, name), getattr(component, name))


def in_range(
    component: object,
    parameter: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
) -> None:
    """Refuse a parameter of a component that is out of a range which depends on others.

    A range of plain numbers belongs into the annotation: ``Annotated[float, Range(0, 1)]``.

    Parameters
    ----------
    component
        The component, usually ``self`` in ``__post_init__``.
    parameter
        Name of the field. None and text (a quantity with units) pass unchecked.
    low, high
        Smallest and largest value that is allowed.
    above
        In place of ``low``: a bound that the value must exceed.

    Raises
    ------
    ComponentError
        Naming component, parameter, the range and the value.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Peak:
    ...     share: float = 0.5
    ...     def __post_init__(self):
    ...         in_range(self, "share", 0, 1)
    >>> Peak(share=2.0)
    Traceback (most recent call last):
    xcvae.errors.ComponentError: Peak, parameter 'share': expected a number from 0 to 1, ...
    """
    allowed = Range(low, high, above=above)
    allowed.check(_label(component, parameter), getattr(component, parameter))


def _label(component: object, parameter: str) -> str:
    return f"{type(component).__name__}, parameter '{parameter}'"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered name: the component class that it stands for, and the package of that class.

    Attributes
    ----------
    kind, name
        The kind of the component, and its name.
    package, version
        The distribution that provides it; the version is None for a local plugin.
    target
        The class, or "module:Class" until the name is first used.
    """

    kind: Kind
    name: str
    package: str
    version: str | None
    target: type | str

    @property
    def owner(self) -> str:
        """The package and its version, for messages."""
        return f"{self.package} {self.version}" if self.version else self.package

    def stands_for(self, cls: type) -> bool:
        """Return True if the name is that of a class; imports nothing."""
        if not isinstance(self.target, str):
            return self.target is cls
        module, _, attribute = self.target.partition(":")
        return getattr(sys.modules.get(module), attribute, None) is cls


def load_module(module: str, label: str, *, remedy: str = "") -> Any:
    """Import a module of a component; any failure becomes a ComponentError about `label`."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise ComponentError(
            f"{label}: the module {module} cannot be imported ({type(error).__name__}: {error}). "
            f"{remedy}".rstrip()
        ) from error


def parameters_of(instance: object) -> dict[str, JSON]:
    """Return the constructor fields of a dataclass instance as JSON types ({} for a function)."""
    if not dataclasses.is_dataclass(instance):
        return {}
    return {f.name: _plain(getattr(instance, f.name)) for f in _fields(type(instance))}


def _plain(value: object) -> JSON:
    if value is None or isinstance(value, bool | str | int | float):
        # A NumPy float64 is a float, but YAML has no name for its type.
        return float(value) if isinstance(value, float) else value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if dataclasses.is_dataclass(value):
        return parameters_of(value)
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)


def _fields(cls: type) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cast("Any", cls)) if f.init]


def check_class(label: str, cls: object) -> type:
    """Refuse a class that is not a dataclass with usable field names.

    Parameters
    ----------
    label
        The component in messages, for example "metric 'fss'".
    cls
        The class to check.

    Raises
    ------
    ComponentError
        It is not a class, not decorated, or a field has a reserved name.
    """
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise ComponentError.of(
            label,
            expected="a class decorated with @dataclass(frozen=True)",
            got=repr(cls),
            remedy="Parameters are the fields of the dataclass: decorate the class.",
        )
    taken = [f.name for f in _fields(cls) if f.name in RESERVED]
    if taken:
        raise ComponentError.of(
            f"{label}, parameter '{taken[0]}'",
            expected=f"a parameter name other than {', '.join(RESERVED)}",
            got=f"'{taken[0]}'",
            remedy="Rename the field: these keys describe the component itself.",
        )
    return cls


SEE_PLUGINS = "See `xcvae plugins` for the parameters and their defaults."
"""Remedy for parameters of components; configurations, whose sections are none, replace it."""


def checked(label: str, cls: type, parameters: Mapping[str, object]) -> dict[str, object]:
    """Check parameters against the fields of a component class, and convert lists to tuples.

    Parameters
    ----------
    label
        The component in messages.
    cls
        A dataclass.
    parameters
        Values by field name, for example from YAML.

    Returns
    -------
    dict
        The same parameters, integers given for a number as float, lists as tuples where the
        annotation says tuple, NumPy scalars as Python ones.

    Raises
    ------
    ComponentError
        A parameter is unknown, missing or of the wrong type.
    """
    fields = {f.name: f for f in _fields(cls)}
    for name in parameters:
        if name not in fields:
            raise ComponentError(f"{label}: unknown parameter '{name}'. {nearest(name, fields)}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if required and field.default_factory is dataclasses.MISSING and name not in parameters:
            raise ComponentError(f"{label}: the parameter '{name}' is required and missing.")
    hints = _hints(label, cls)
    return {k: _checked_value(label, k, v, hints[k]) for k, v in parameters.items()}


def construct(label: str, cls: type, parameters: Mapping[str, object]) -> Any:
    """Make a component of a class, its parameters checked.

    Parameters
    ----------
    label, cls, parameters
        As for `checked`.

    Raises
    ------
    ComponentError
        A parameter is unknown, missing, of the wrong type, or refused by the class.
    """
    values = checked(label, cls, parameters)
    try:
        instance = cls(**values)
        check_ranges(instance)  # that of a third party may not derive from Component
        return instance
    except (ValueError, TypeError) as error:
        said = str(error)  # a check of the component may name it too
        raise ComponentError(said if said.startswith(label) else f"{label}: {said}") from error
    except Exception as error:  # third-party code may raise anything
        raise ComponentError(f"{label}: {type(error).__name__}: {error}") from error


def _hints(label: str, cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise ComponentError(
            f"{label}: an annotation cannot be resolved ({error}). Import the names of field "
            "annotations at run time, not only for type checking."
        ) from error


class _RefusedError(Exception):
    """A value does not fit an annotation; never leaves this module."""


def _checked_value(label: str, name: str, value: object, hint: Any) -> object:
    try:
        return _fit(value, hint)
    except _RefusedError:
        remedy = SEE_PLUGINS
        if isinstance(value, str) and _is_number(value):
            remedy = "Write the number without quotes."
            if "e" in value.lower():
                remedy += " Some readers of YAML take 1e-3 for text: write 1.0e-3."
        raise ComponentError.of(
            f"{label}, parameter '{name}'",
            expected=_words(hint),
            got=f"{reprlib.repr(value)} ({type(value).__name__})",
            remedy=remedy,
        ) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fit(value: object, hint: Any) -> object:
    """Return the value as the annotation wants it, or raise _RefusedError."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _fit_union(value, get_args(hint))
    if origin is Literal:
        same = [a for a in get_args(hint) if type(a) is type(value) and a == value]
        return same[0] if same else _refuse()
    if origin in (tuple, list, Sequence, Iterable) or hint in (tuple, list, Sequence):
        return _fit_sequence(value, origin or hint, get_args(hint))
    if origin in (dict, Mapping):
        return _fit_mapping(value, get_args(hint))
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    target = origin or hint
    return value if isinstance(target, type) and isinstance(value, target) else _refuse()


def _refuse() -> object:
    raise _RefusedError


def _fit_union(value: object, options: tuple[Any, ...]) -> object:
    for option in options:
        try:
            return _fit(value, option)
        except _RefusedError:
            continue
    raise _RefusedError


def _fit_sequence(value: object, origin: Any, items: tuple[Any, ...]) -> object:
    if isinstance(value, str) or not isinstance(value, tuple | list):
        raise _RefusedError
    build = list if origin is list else tuple
    if origin is tuple and items and items[-1] is not Ellipsis:
        if len(items) != len(value):
            raise _RefusedError
        return tuple(_fit(v, hint) for v, hint in zip(value, items, strict=True))
    item = items[0] if items else Any
    return build(_fit(v, item) for v in value)


def _fit_mapping(value: object, items: tuple[Any, ...]) -> object:
    if not isinstance(value, Mapping):
        raise _RefusedError
    key, item = items or (Any, Any)
    return {_fit(k, key): _fit(v, item) for k, v in value.items()}


def _fit_bool(value: object) -> object:
    return value if isinstance(value, bool) else _refuse()


def _fit_int(value: object) -> object:
    # bool is an int in Python; "members: true" is a mistake all the same.
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise _RefusedError
    return int(value)


def _fit_float(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or math.isnan(value):
        raise _RefusedError
    return float(value)


def _fit_str(value: object) -> object:
    return value if isinstance(value, str) else _refuse()


def _fit_none(value: object) -> object:
    return None if value is None else _refuse()


_SCALARS: dict[Any, Callable[[object], object]] = {
    bool: _fit_bool,
    int: _fit_int,
    float: _fit_float,
    str: _fit_str,
    type(None): _fit_none,
}
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", Any: "anything"}


def _words(hint: Any) -> str:
    """Return an annotation in words."""
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(option) for option in items)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in items)
    if origin is tuple and items and items[-1] is not Ellipsis:
        return "a list of " + ", ".join(_words(item) for item in items)
    if origin in (tuple, list, Sequence, Iterable):
        return f"a list of ({_words(items[0])})"
    if hint is type(None):
        return "None"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))

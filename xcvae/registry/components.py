"""What a component is, and how its parameters are checked against the field annotations."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Union, cast, get_args, get_origin

from xcvae.errors import ComponentError, explain, nearest

__all__ = [
    "JSON",
    "KINDS",
    "Component",
    "Kind",
    "check_class",
    "checked",
    "construct",
    "in_range",
    "parameters_of",
]


def in_range(
    component: object,
    parameter: str,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float | None = None,
) -> None:
    """Refuse a parameter of a component that is out of its range.

    Parameters
    ----------
    component
        The component, usually ``self`` in ``__post_init__``.
    parameter
        Name of the field. None and text (a quantity with units) are left alone.
    low, high
        Smallest and largest value that is allowed.
    above
        Instead of ``low``: what the value must be larger than.

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
    value = getattr(component, parameter)
    if not isinstance(value, int | float):
        return
    if low <= value <= high and (above is None or value > above):
        return
    raise ComponentError(
        explain(
            f"{type(component).__name__}, parameter '{parameter}'",
            expected=_words(low, high, above),
            got=repr(value),
            remedy="Change the value.",
        )
    )


def _words(low: float, high: float, above: float | None) -> str:
    parts = []
    if above is not None:
        parts.append(f"above {above:g}")
    elif low > -math.inf:
        parts.append(f"from {low:g}" if high < math.inf else f">= {low:g}")
    if high < math.inf:
        parts.append(f"to {high:g}" if parts and above is None else f"at most {high:g}")
    return " ".join(["a number", " and ".join(parts) if above is not None else " ".join(parts)])


Kind = Literal["loss", "postprocessor", "metric", "baseline"]
KINDS: tuple[Kind, ...] = get_args(Kind)

JSON = Any
"""Plain JSON types: dict, list, str, int, float, bool, None."""

RESERVED = ("name", "package", "version")


class _RefusedError(Exception):
    """A value does not fit an annotation; never leaves this module."""


@dataclasses.dataclass(frozen=True)
class Component:
    """Base of all components: a subclass is a frozen dataclass whose fields are its parameters.

    The registry checks the fields against their annotations; ranges are the subclass's own
    business: raise ``ValueError`` or ``ComponentError`` in ``__post_init__``.
    """

    def parameters(self) -> dict[str, JSON]:
        """Return the parameters as plain JSON types, by name."""
        return parameters_of(self)


def parameters_of(instance: object) -> dict[str, JSON]:
    """Return the constructor fields of a dataclass instance as JSON types ({} for a function)."""
    if not dataclasses.is_dataclass(instance):
        return {}
    return {f.name: _plain(getattr(instance, f.name)) for f in _fields(type(instance))}


def _plain(value: object) -> JSON:
    if value is None or isinstance(value, bool | str | int | float):
        # A NumPy float64 is a float but not what a YAML writer can name.
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
    """Make sure that what a name stands for is a dataclass with usable field names.

    Parameters
    ----------
    label
        How messages call it, for example "metric 'fss'".
    cls
        The class to check.

    Raises
    ------
    ComponentError
        It is not a class, not decorated, or a field has a reserved name.
    """
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise ComponentError(
            explain(
                label,
                expected="a class decorated with @dataclass(frozen=True)",
                got=repr(cls),
                remedy="Parameters are the fields of the dataclass: decorate the class.",
            )
        )
    taken = [f.name for f in _fields(cls) if f.name in RESERVED]
    if taken:
        raise ComponentError(
            explain(
                f"{label}, parameter '{taken[0]}'",
                expected=f"a parameter name other than {', '.join(RESERVED)}",
                got=f"'{taken[0]}'",
                remedy="Rename the field: these keys describe the component itself.",
            )
        )
    return cls


def checked(label: str, cls: type, parameters: Mapping[str, object]) -> dict[str, object]:
    """Check parameters against the fields of a component class, and convert lists to tuples.

    Parameters
    ----------
    label
        How messages call the component.
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
    label
        How messages call the component.
    cls
        A dataclass.
    parameters
        Values by field name, for example from YAML.

    Raises
    ------
    ComponentError
        A parameter is unknown, missing, of the wrong type, or refused by the class.
    """
    values = checked(label, cls, parameters)
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise ComponentError(f"{label}: {error}") from error
    except Exception as error:  # foreign code fails in any way it likes
        raise ComponentError(f"{label}: {type(error).__name__}: {error}") from error


def _hints(label: str, cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise ComponentError(
            f"{label}: an annotation cannot be resolved ({error}). Import the names of field "
            "annotations at run time, not only for type checking."
        ) from error


def _checked_value(label: str, name: str, value: object, hint: Any) -> object:
    try:
        return _fit(value, hint)
    except _RefusedError:
        remedy = "Change the value."
        if isinstance(value, str) and _is_number(value):
            remedy = "In YAML, numbers with an exponent need a point: write 1.0e-3, not 1e-3."
        raise ComponentError(
            explain(
                f"{label}, parameter '{name}'",
                expected=_words_components(hint),
                got=f"{value!r} ({type(value).__name__})",
                remedy=remedy,
            )
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


def _words_components(hint: Any) -> str:
    """Say an annotation in words."""
    origin, items = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words_components(option) for option in items)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in items)
    if origin is tuple and items and items[-1] is not Ellipsis:
        return "a list of " + ", ".join(_words_components(item) for item in items)
    if origin in (tuple, list, Sequence, Iterable):
        return f"a list of ({_words_components(items[0])})"
    if hint is type(None):
        return "None"
    return _WORDS.get(hint, str(getattr(hint, "__name__", hint)))

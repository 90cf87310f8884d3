"""The errors that xcvae raises on purpose, and the form of their messages."""

from __future__ import annotations

import difflib
import numbers
import os
import sys
import warnings
from collections.abc import Iterable
from typing import Self

__all__ = [
    "CatalogError",
    "ComponentError",
    "ConfigError",
    "DataError",
    "EmptySelectionError",
    "MismatchError",
    "MissingPluginWarning",
    "MissingVariableError",
    "ModelFileError",
    "OutOfMemoryError",
    "OutputExistsError",
    "StoreError",
    "UnitsError",
    "XcvaeError",
    "XcvaeWarning",
    "check_flags",
    "explain",
    "nearest",
    "warn_user",
    "whole_number",
]


class XcvaeError(Exception):
    """Base of all errors that xcvae raises on purpose: catch this one to catch them all."""

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; our messages are sentences.
        return str(self.args[0]) if self.args else type(self).__name__

    @classmethod
    def of(cls, name: str, *, expected: str, got: object, remedy: str) -> Self:
        """Return an error with the message of `explain`."""
        return cls(explain(name, expected=expected, got=got, remedy=remedy))


class UnitsError(XcvaeError, ValueError):
    """Units are missing, unknown, or cannot be converted into those needed."""


class DataError(XcvaeError, ValueError):
    """The values, dimensions or labels of a field cannot be those of rain."""


class XcvaeWarning(UserWarning):
    """Base of all warnings of xcvae: about the data, a setting, or a file."""


class MissingPluginWarning(XcvaeWarning):
    """A file was made with components of a package that is not installed here."""


class MissingVariableError(XcvaeError, KeyError):
    """A named variable, coordinate or dimension is not in the Dataset."""


class ConfigError(XcvaeError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class ComponentError(ConfigError):
    """A loss, post-processor, metric or baseline is unknown or got a wrong parameter."""


class EmptySelectionError(XcvaeError, ValueError):
    """A selection left no samples to work on."""


class MismatchError(XcvaeError, ValueError):
    """A Dataset, model or ensemble does not belong to the one that it is used with."""


class ModelFileError(XcvaeError, ValueError):
    """A file is not an xcvae model, or it is damaged."""


class OutputExistsError(XcvaeError, FileExistsError):
    """An output exists already and must not be overwritten."""


class OutOfMemoryError(XcvaeError, MemoryError):
    """A step of a training, or members to be drawn, do not fit into the memory of the device."""


class StoreError(XcvaeError, RuntimeError):
    """An ensemble store is incomplete, damaged or belongs to another run."""


class CatalogError(XcvaeError, ValueError):
    """A catalog cannot be read, or an entry cannot be added to it."""


def explain(name: str, *, expected: str, got: object, remedy: str) -> str:
    """Return a message of the common form: name, expected, got, remedy.

    Examples
    --------
    >>> explain("members", expected="an integer >= 1", got=0, remedy="Ask for at least one.")
    'members: expected an integer >= 1, got 0. Ask for at least one.'
    """
    return f"{name}: expected {expected}, got {got}. {remedy}"


def nearest(name: object, valid: Iterable[object]) -> str:
    """Return the valid name closest to a wrong one, and all valid names, as a sentence.

    Examples
    --------
    >>> nearest("temprature", ["temperature", "seed"])
    "Did you mean 'temperature'? Valid names: seed, temperature."
    """
    names = sorted(str(v) for v in valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{hint}Valid names: {', '.join(names) or '(none)'}."


def check_flags(**flags: object) -> None:
    """Refuse values of switches that are not True or False, 1 or 0: the text ``"no"`` is true.

    Raises
    ------
    ConfigError
        A value is something else.
    """
    for name, value in flags.items():
        # bool_ is numpy's, bool was its name before.
        if type(value).__name__ not in ("bool", "bool_", "int") or value not in (0, 1):
            raise ConfigError.of(
                name,
                expected="True or False",
                got=repr(value),
                remedy="Give one of the two, without quotes.",
            )


def whole_number(name: str, value: object, *, least: int, remedy: str) -> int:
    """Return an integer, also one of NumPy, as an int; True and False are none.

    Raises
    ------
    ConfigError
        The value is something else, or smaller than ``least``.
    """
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or value < least:  # type: ignore[operator]
        expected = f"an integer >= {least}"
        raise ConfigError.of(name, expected=expected, got=repr(value), remedy=remedy)
    return int(value)  # type: ignore[call-overload, no-any-return]


def warn_user(message: str, category: type[XcvaeWarning] = XcvaeWarning) -> None:
    """Warn at the line of the program that called xcvae, however deep inside it the cause lies."""
    package = os.path.dirname(__file__) + os.sep  # noqa: PTH120  as code objects spell it
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)

"""Calls of components: what fails in foreign code says whose code it was."""

from __future__ import annotations

import traceback
from typing import Any

from xcvae.errors import ComponentError, XcvaeError
from xcvae.registry.components import Kind
from xcvae.registry.hookspecs import PROJECT
from xcvae.registry.registry import registry

__all__ = ["call", "wrong_result"]


def call(kind: Kind, component: Any, *arguments: Any) -> Any:
    """Call a component; whatever it raises becomes an error that names it and its package.

    Errors on purpose (`XcvaeError`) and failures of built-in components pass unchanged: the first
    say what to do, the second are for us to see in full. So does a lack of memory, on the device
    too, which is nobody's mistake and may be caught further up.

    Raises
    ------
    ComponentError
        A component of a plugin, or one that was given as an instance, failed.
    """
    try:
        return component(*arguments)
    except (XcvaeError, MemoryError):
        raise
    except Exception as error:
        # torch has an error of its own for it, and must not be imported here.
        if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
            raise
        about = registry().describe(kind, component)
        if about["package"] == PROJECT:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise ComponentError(
            f"{_label(kind, about)} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno}). "
            f"Look for a newer version of '{about['package']}', or leave this {kind} out."
        ) from error


def wrong_result(kind: Kind, component: Any, *, expected: str, got: str) -> ComponentError:
    """Make the error for a component that returned something else than its kind must."""
    label = _label(kind, registry().describe(kind, component))
    return ComponentError(f"{label} must return {expected}, got {got}.")


def _label(kind: Kind, about: dict[str, Any]) -> str:
    version = f" {about['version']}" if about["version"] else ""
    return f"{kind} '{about['name']}' of {about['package']}{version}"

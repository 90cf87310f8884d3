"""What a record names and this installation is without: who to install it from."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from xcvae.errors import MissingPluginWarning
from xcvae.registry.components import Kind
from xcvae.registry.entries import version_of
from xcvae.registry.hookspecs import PROJECT
from xcvae.registry.registry import registry

__all__ = ["missing", "warn_of_missing"]


def missing(kind: Kind, described: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say which components of a record are not here, and how to get them.

    Parameters
    ----------
    kind
        Of all of them.
    described
        What `describe` returned when they were used.

    Returns
    -------
    list of str
        A sentence for each name that is missing; empty if all are here.
    """
    known = {(entry.name, entry.package) for entry in registry().entries() if entry.kind == kind}
    found = {}
    for one in described:
        name, package, version = one["name"], one.get("package", PROJECT), one.get("version")
        if package == PROJECT or (name, package) in known or _is_here(package):
            continue
        if version is None:
            remedy = (
                f"Put the module '{package}' on the path and name it in `plugins`, or call "
                f"xcvae.plugins.register('{package}')."
            )
        else:
            remedy = f"Install it: pip install '{package}=={version}'."
        owner = f"{package} {version}" if version else package
        found[name, package] = f"{kind} '{name}' of {owner} is not installed here. {remedy}"
    return list(found.values())


def warn_of_missing(kind: Kind, described: Iterable[Mapping[str, Any]], place: str) -> None:
    """Warn the caller's caller of what is missing; `place` says where the record was found."""
    for text in missing(kind, described):
        warnings.warn(f"{place}: {text}", MissingPluginWarning, stacklevel=3)


def _is_here(package: str) -> bool:
    """Whether a package is there, though its name is not registered (an instance was given)."""
    if version_of(package) is not None:
        return True
    try:
        return importlib.util.find_spec(package.partition(".")[0]) is not None
    except (ImportError, ValueError):  # __main__ has no spec, and is always there
        return package == "__main__"

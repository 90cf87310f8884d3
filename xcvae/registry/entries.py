"""One name in the registry: what a hook returned, checked, and what is said when it is wrong."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from collections.abc import Mapping
from typing import Any

from xcvae.errors import ComponentError, explain, nearest
from xcvae.registry.components import KINDS, Kind, check_class

__all__ = ["Entry", "check_kind", "clash_text", "entries_of", "imported", "version_of"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name of one kind, and whose it is.

    Parameters
    ----------
    kind, name
        What it is and how it is called.
    package, version
        The distribution that brings it; the version is None for a local plugin.
    target
        The class, or "module:Class" as long as nobody has needed it.
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
        """Whether the name is that of a class; imports nothing."""
        if not isinstance(self.target, str):
            return self.target is cls
        module, _, attribute = self.target.partition(":")
        return getattr(sys.modules.get(module), attribute, None) is cls


def entries_of(names: object, package: str, version: str | None) -> list[Entry]:
    """Turn what a hook returned into entries, or say what is wrong with it."""
    if not isinstance(names, Mapping):
        raise ComponentError(
            explain(
                f"xcvae_components of '{package}'",
                expected="a dict from kinds to dicts from names to dataclasses",
                got=repr(names),
                remedy='Return {"metric": {"my_metric": MyMetric}}, for example.',
            )
        )
    found = []
    for kind, targets in names.items():
        check_kind(kind)
        for name, target in dict(targets).items():
            _check_entry(f"{kind} '{name}' of '{package}'", name, target)
            found.append(Entry(kind, name, package, version, target))
    return found


def _check_entry(label: str, name: object, target: object) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise ComponentError(
            explain(label, expected="a name like my_metric", got=repr(name), remedy="Rename it.")
        )
    if isinstance(target, str) and target.count(":") == 1:
        return
    if not isinstance(target, str):
        check_class(label, target)
        return
    raise ComponentError(
        explain(label, expected='"module:Class"', got=repr(target), remedy="Add the class name.")
    )


def check_kind(kind: object) -> None:
    """Raise ComponentError, naming the nearest kind, unless this is one."""
    if kind not in KINDS:
        raise ComponentError(f"unknown kind of component '{kind}'. {nearest(str(kind), KINDS)}")


def clash_text(first: Entry, second: Entry) -> str:
    """Say that two packages claim one name."""
    return (
        f"{first.kind} '{first.name}' is claimed by two packages: {first.owner} and "
        f"{second.owner}. Uninstall one of them, or rename one of the components."
    )


def imported(module: str, label: str, *, remedy: str = "") -> Any:
    """Import a module; whatever goes wrong becomes a ComponentError about `label`."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # foreign code fails in any way it likes
        raise ComponentError(
            f"{label}: the module {module} cannot be imported ({type(error).__name__}: {error}). "
            f"{remedy}".rstrip()
        ) from error


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution, None if it is not one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

"""Local plugins: what one brought, and when a newer one takes its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from types import ModuleType

from xcvae.registry.entries import Entry

__all__ = ["Local"]


@dataclasses.dataclass(frozen=True, eq=False)
class Local:
    """A plugin that was registered in this process, and what it brought.

    Parameters
    ----------
    given
        The module, object or class, as it was given.
    label
        Its name in the plugin manager.
    entries
        Its components.
    """

    given: object
    label: str
    entries: tuple[Entry, ...]

    @property
    def keys(self) -> set[tuple[str, str]]:
        """Kind and name of what it brought."""
        return {(entry.kind, entry.name) for entry in self.entries}

    def replaces(self, older: Local) -> bool:
        """Whether this is the older plugin again, as after a notebook cell is run once more.

        Both have one module and qualified name. If they are of the same class, or of classes that a
        function makes, the components that both name must be the same too: there can be several
        such plugins, side by side.
        """
        mine, other = (_class_of(one.given) for one in (self, older))
        if _spelled(mine) != _spelled(other):
            return False
        if mine is not other and "<locals>" not in _spelled(mine):
            return True
        ours, theirs = (_components(one.entries) for one in (self, older))
        both = ours.keys() & theirs.keys()
        return bool(both) and all(ours[key] == theirs[key] for key in both)


def _components(entries: Iterable[Entry]) -> dict[tuple[str, str], str]:
    return {(entry.kind, entry.name): _spelled(entry.target) for entry in entries}


def _class_of(plugin: object) -> object:
    """Return what a plugin is an instance of; a class and a module stand for themselves."""
    return plugin if isinstance(plugin, type | ModuleType) else type(plugin)


def _spelled(target: object) -> str:
    """Return "module:Class" of a class, the name of a module, and text as it is."""
    if isinstance(target, str):
        return target
    if isinstance(target, type):
        return f"{target.__module__}:{target.__qualname__}"
    return str(getattr(target, "__name__", target))

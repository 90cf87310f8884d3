"""Names to component classes: built-ins, installed plugins and local plugins in one table."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import os
from collections.abc import Mapping
from typing import Any

import pluggy

from xcvae.errors import ComponentError, explain, nearest
from xcvae.registry import builtin
from xcvae.registry.components import (
    JSON,
    KINDS,
    Component,
    Kind,
    check_class,
    checked,
    parameters_of,
)
from xcvae.registry.entries import (
    Entry,
    check_kind,
    clash_text,
    entries_of,
    imported,
    version_of,
)
from xcvae.registry.hookspecs import PROJECT, Hooks

__all__ = ["Registry", "build", "describe", "registry"]

NO_PLUGINS = "XCVAE_NO_PLUGINS"


class Registry:
    """All components by kind and name.

    Built-ins and, unless the environment variable ``XCVAE_NO_PLUGINS`` is set, the plugins of
    the entry-point group ``xcvae`` are collected on construction. A plugin that cannot be
    loaded is noted in `broken` and does not stop the others.

    Attributes
    ----------
    broken : dict of str to str
        Plugin name to what went wrong.
    """

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._plugins = pluggy.PluginManager(PROJECT)
        self._plugins.add_hookspecs(Hooks)
        for entry in self._collect(builtin, PROJECT, PROJECT, version_of(PROJECT)):
            self._entries[entry.kind, entry.name] = [entry]
        if os.environ.get(NO_PLUGINS, "") in ("", "0"):
            self._load_entry_points()

    def names(self, kind: Kind) -> list[str]:
        """Return the names of one kind, sorted."""
        check_kind(kind)
        return sorted(name for of, name in self._entries if of == kind)

    def entries(self) -> list[Entry]:
        """Return everything there is, by kind and name, without importing it."""
        order = {kind: i for i, kind in enumerate(KINDS)}
        found = [entry for entries in self._entries.values() for entry in entries]
        return sorted(found, key=lambda e: (order[e.kind], e.name, e.package))

    def register(self, plugin: object) -> None:
        """Add a local plugin.

        Parameters
        ----------
        plugin
            A module, an object or a class with ``xcvae_components`` marked by
            ``@xcvae.hookimpl``, or the dotted name of such a module.

        Raises
        ------
        ComponentError
            It cannot be imported, implements no hook, or a name is taken; then nothing of it
            is registered.
        """
        if isinstance(plugin, str):
            plugin = imported(plugin, f"plugin '{plugin}'")
        package = getattr(plugin, "__name__", type(plugin).__name__)
        label = f"{package} ({id(plugin)})"
        entries = self._collect(plugin, label, package, version_of(package.partition(".")[0]))
        clashes = [self._clash(entry) for entry in entries]
        problems = [text for text in clashes if text]
        if problems:
            self._plugins.unregister(name=label)
            raise ComponentError(problems[0])
        for entry in entries:
            self._entries[entry.kind, entry.name] = [entry]

    def resolve(self, kind: Kind, name: str) -> type:
        """Return the class behind a name, imported now if need be.

        Raises
        ------
        ComponentError
            The kind or name is unknown, two packages claim it, or its module does not import.
        """
        check_kind(kind)
        entries = self._entries.get((kind, name), [])
        if not entries:
            raise ComponentError(
                f"unknown {kind} '{name}'. {nearest(name, self.names(kind))}{self._broken_note()}"
            )
        if len(entries) > 1:
            raise ComponentError(clash_text(entries[0], entries[1]))
        entry, label = entries[0], f"{kind} '{name}'"
        if isinstance(entry.target, str):
            module, _, attribute = entry.target.partition(":")
            found = getattr(imported(module, f"{label} of {entry.owner}"), attribute, None)
            cls = check_class(f"{label} of {entry.owner} ({entry.target})", found)
        else:
            cls = check_class(f"{label} of {entry.owner}", entry.target)
        self._entries[kind, name] = [dataclasses.replace(entry, target=cls)]
        return cls

    def build(self, kind: Kind, spec: object) -> Any:
        """Make a component from a name, a dict or an instance.

        Parameters
        ----------
        kind
            "loss", "postprocessor", "metric" or "baseline".
        spec
            "name", ``{"name": ..., **parameters}``, or an instance (any callable will do).

        Returns
        -------
        Component
            The instance, its parameters checked.

        Raises
        ------
        ComponentError
            Unknown name or parameter, wrong type, value out of range.
        """
        check_kind(kind)
        if isinstance(spec, str):
            return self._make(kind, spec, {})
        if isinstance(spec, Mapping):
            parameters = {str(k): v for k, v in spec.items()}
            name = parameters.pop("name", None)
            if isinstance(name, str):
                return self._make(kind, name, parameters)
        elif not isinstance(spec, type) and (isinstance(spec, Component) or callable(spec)):
            if dataclasses.is_dataclass(spec):
                label = f"{kind} '{self.name_of(kind, spec)}'"
                checked(label, type(spec), _values(spec))
            return spec
        raise ComponentError(
            explain(
                f"{kind}",
                expected='a name, a dict {"name": ..., parameters} or an instance',
                got=repr(spec),
                remedy=f"Names: {', '.join(self.names(kind))}.",
            )
        )

    def name_of(self, kind: Kind, instance: object) -> str:
        """Return the registered name of an instance, else the name of its class or function."""
        entry = self._entry_of(kind, instance)
        if entry is not None:
            return entry.name
        return str(getattr(instance, "__name__", type(instance).__name__))

    def describe(self, kind: Kind, instance: object) -> dict[str, JSON]:
        """Return ``{"name", **parameters, "package", "version"}`` of an instance, JSON-safe."""
        entry = self._entry_of(kind, instance)
        package = entry.package if entry else type(instance).__module__.partition(".")[0]
        return {
            "name": self.name_of(kind, instance),
            **parameters_of(instance),
            "package": package,
            "version": entry.version if entry else None,
        }

    def _make(self, kind: Kind, name: str, parameters: Mapping[str, object]) -> Any:
        cls = self.resolve(kind, name)
        label = f"{kind} '{name}'"
        values = checked(label, cls, parameters)
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:
            raise ComponentError(f"{label}: {error}") from error

    def _entry_of(self, kind: Kind, instance: object) -> Entry | None:
        cls = type(instance)
        path = f"{cls.__module__}:{cls.__qualname__}"
        for (of, _), entries in self._entries.items():
            if of == kind and entries[0].target in (cls, path):
                return entries[0]
        return None

    def _load_entry_points(self) -> None:
        """Load every plugin by itself: pluggy's own loader stops at the first broken one."""
        points = {(p.name, p.value): p for p in importlib.metadata.entry_points(group=PROJECT)}
        for (name, value), point in sorted(points.items()):
            package = point.dist.name if point.dist else value.partition(":")[0]
            version = point.dist.version if point.dist else None
            taken = self._plugins.has_plugin(name) or name in self.broken
            label = f"{name} ({package})" if taken else name
            try:
                entries = self._collect(point.load(), label, package, version)
            except Exception as error:  # noqa: BLE001 - whatever it is, the others must go on
                self.broken[label] = f"{package} {version}: {type(error).__name__}: {error}"
                continue
            for entry in entries:
                self._add_foreign(entry, label)

    def _add_foreign(self, entry: Entry, label: str) -> None:
        """Add an installed plugin's entry: built-ins keep their names, others clash on use."""
        clash = self._clash(entry)
        if clash is None:
            self._entries[entry.kind, entry.name] = [entry]
            return
        self.broken[label] = clash
        if self._entries[entry.kind, entry.name][0].package != PROJECT:
            self._entries[entry.kind, entry.name].append(entry)

    def _clash(self, entry: Entry) -> str | None:
        taken = self._entries.get((entry.kind, entry.name))
        return clash_text(taken[0], entry) if taken else None

    def _collect(
        self, plugin: object, label: str, package: str, version: str | None
    ) -> list[Entry]:
        """Call the hook of one plugin alone, so that its names and failures are its own."""
        plugin = plugin() if isinstance(plugin, type) else plugin
        try:
            self._plugins.register(plugin, name=label)
            self._plugins.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._plugins.get_plugin(label) is plugin:
                self._plugins.unregister(plugin)
            raise ComponentError(f"plugin '{package}': {error}") from error
        implementations = self._plugins.hook.xcvae_components.get_hookimpls()
        mine = [impl for impl in implementations if impl.plugin is plugin]
        try:
            if not mine:
                raise ComponentError(
                    f"plugin '{package}' implements no hook. Mark a function "
                    "`xcvae_components` with @xcvae.hookimpl."
                )
            return entries_of(mine[0].function(), package, version)
        except Exception:
            self._plugins.unregister(plugin)
            raise

    def _broken_note(self) -> str:
        notes = "; ".join(f"{name} ({text})" for name, text in self.broken.items())
        return f" Plugins that could not be loaded: {notes}." if notes else ""


def _values(instance: Any) -> dict[str, object]:
    return {f.name: getattr(instance, f.name) for f in dataclasses.fields(instance) if f.init}


@functools.cache
def registry() -> Registry:
    """Return the registry of this process, made on first use."""
    return Registry()


def build(kind: Kind, spec: object) -> Any:
    """Make a component with the registry of this process; see `Registry.build`."""
    return registry().build(kind, spec)


def describe(kind: Kind, instance: object) -> dict[str, JSON]:
    """Describe a component with the registry of this process; see `Registry.describe`."""
    return registry().describe(kind, instance)

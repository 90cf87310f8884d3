"""The table from names to component classes: built-ins, installed and local plugins."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

import pluggy

from xcvae.errors import ComponentError, MissingPluginWarning, XcvaeError, nearest, warn_user
from xcvae.registry import builtin
from xcvae.registry.components import (
    JSON,
    KINDS,
    Component,
    Entry,
    Kind,
    check_class,
    checked,
    construct,
    load_module,
    parameters_of,
)
from xcvae.registry.discovery import (
    Local,
    check_kind,
    clash_text,
    collect,
    installed,
    package_of,
    version_of,
    words_of,
)
from xcvae.registry.hookspecs import PROJECT, Hooks

NO_PLUGINS = "XCVAE_NO_PLUGINS"


class Registry:
    """All components by kind and name.

    Built-ins and, unless the environment variable ``XCVAE_NO_PLUGINS`` is set, the plugins of
    the entry-point group ``xcvae`` are collected on construction. A plugin that cannot be
    loaded is noted in `broken` and does not stop the others.

    Attributes
    ----------
    broken
        The error by name of the plugin.
    """

    def __init__(self) -> None:
        self.broken: dict[str, str] = {}
        self._entries: dict[tuple[str, str], list[Entry]] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self._locals: list[Local] = []
        self._plugins = pluggy.PluginManager(PROJECT)
        self._plugins.add_hookspecs(Hooks)
        for entry in collect(self._plugins, builtin, PROJECT, PROJECT, version_of(PROJECT)):
            self._entries[entry.kind, entry.name] = [entry]
        if os.environ.get(NO_PLUGINS, "") in ("", "0"):
            self._load_entry_points()

    def names(self, kind: Kind) -> list[str]:
        """Return the names of one kind, sorted."""
        check_kind(kind)
        return sorted(name for of, name in self._entries if of == kind)

    def entries(self) -> list[Entry]:
        """Return all entries, by kind and name, without importing their modules."""
        order = {kind: i for i, kind in enumerate(KINDS)}
        found = [entry for entries in self._entries.values() for entry in entries]
        return sorted(found, key=lambda e: (order[e.kind], e.name, e.package))

    def register(self, plugin: object) -> None:
        """Add a local plugin; one that is registered already stays as it is.

        A plugin with the module and qualified name of an earlier one, such as the class of a
        notebook cell that is run again, replaces it.

        Parameters
        ----------
        plugin
            A module, an object or a class with ``xcvae_components`` marked by
            ``@xcvae.hookimpl``, or the dotted name of such a module.

        Raises
        ------
        ComponentError
            It cannot be imported, implements no hook, or a name is taken; then none of its
            components is registered.
        """
        if isinstance(plugin, str):
            plugin = load_module(plugin, f"plugin '{plugin}'")
        if self._plugins.is_registered(plugin) or any(one.given is plugin for one in self._locals):
            return
        package = package_of(plugin)
        label = f"{package} ({id(plugin)})"
        version = version_of(package.partition(".")[0])
        entries = collect(self._plugins, plugin, label, package, version)
        new = Local(plugin, label, tuple(entries))
        older = [one for one in self._locals if new.replaces(one)]
        free = {key for one in older for key in one.keys}
        taken = (entry for entry in entries if (entry.kind, entry.name) not in free)
        problems = [text for text in map(self._clash, taken) if text]
        if problems:
            self._plugins.unregister(name=label)
            raise ComponentError(problems[0])
        self._forget(older)
        self._locals.append(new)
        for entry in entries:
            self._entries[entry.kind, entry.name] = [entry]

    def resolve(self, kind: Kind, name: str) -> type:
        """Return the class of a name, and import it on first use.

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
        if (kind, name) in self._refused:
            warn_user(f"{self._refused[kind, name]} Used is the first.")
        entry, label = entries[0], f"{kind} '{name}'"
        if isinstance(entry.target, str):
            module, _, attribute = entry.target.partition(":")
            found = getattr(load_module(module, f"{label} of {entry.owner}"), attribute, None)
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
            "loss", "postprocessor", "storm", "metric" or "baseline".
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
        raise ComponentError.of(
            f"{kind}",
            expected='a name, a dict {"name": ..., parameters} or an instance',
            got=repr(spec),
            remedy=f"Names: {', '.join(self.names(kind))}.",
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
        return construct(f"{kind} '{name}'", self.resolve(kind, name), parameters)

    def _entry_of(self, kind: Kind, instance: object) -> Entry | None:
        cls = type(instance)
        for (of, _), entries in self._entries.items():
            if of == kind and entries[0].stands_for(cls):
                return entries[0]
        return None

    def _load_entry_points(self) -> None:
        """Load every plugin by itself: the loader of pluggy stops at the first broken one."""
        for point in installed():
            package = point.dist.name if point.dist else point.value.partition(":")[0]
            version = point.dist.version if point.dist else None
            taken = self._plugins.has_plugin(point.name) or point.name in self.broken
            label = f"{point.name} ({package})" if taken else point.name
            try:
                entries = collect(self._plugins, point.load(), label, package, version)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - the others must go on
                self.broken[label] = f"{package} {version}: {words_of(error)}"
                continue
            clashes = [text for text in map(self._add_foreign, entries) if text]
            if clashes:
                self.broken[label] = " ".join(clashes)

    def _add_foreign(self, entry: Entry) -> str | None:
        """Add an installed plugin's entry: built-ins keep their names, others clash on use."""
        clash = self._clash(entry)
        if clash is None:
            self._entries[entry.kind, entry.name] = [entry]
        elif self._entries[entry.kind, entry.name][0].package != PROJECT:
            self._entries[entry.kind, entry.name].append(entry)
        else:
            self._refused[entry.kind, entry.name] = clash
        return clash

    def _clash(self, entry: Entry) -> str | None:
        taken = self._entries.get((entry.kind, entry.name))
        return clash_text(taken[0], entry) if taken else None

    def _forget(self, older: list[Local]) -> None:
        for one in older:
            self._plugins.unregister(name=one.label)
            self._locals.remove(one)
            for key in one.keys:
                del self._entries[key]

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


def missing(kind: Kind, described: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which components of a record are not installed, each with a remedy.

    Parameters
    ----------
    kind
        The kind of all of them.
    described
        Descriptions by `describe`, made when the components were used.

    Returns
    -------
    list of str
        A sentence for each missing component; empty if all are installed.
    """
    known = {(entry.name, entry.package) for entry in registry().entries() if entry.kind == kind}
    found = {}
    for one in described:
        name, package, version = one["name"], one.get("package", PROJECT), one.get("version")
        if package == PROJECT or (name, package) in known or _is_here(package, version):
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
    """Warn of missing components of a record that was found in `place`."""
    for text in missing(kind, described):
        warn_user(f"{place}: {text}", MissingPluginWarning)


def _is_here(package: str, version: object) -> bool:
    """Return True if a distribution, or a module without one, is here; it may register no name."""
    if version is not None or version_of(package) is not None:
        return version_of(package) is not None
    try:
        found = importlib.util.find_spec(package.partition(".")[0])
    except (ImportError, ValueError):  # __main__ has no spec, and always exists
        return package == "__main__"
    # Any folder in the working directory is a package without a file.
    return found is not None and (found.origin is not None or "." in package)


def call(kind: Kind, component: Any, *arguments: Any) -> Any:
    """Call a component; its exceptions become an error that names it and its package.

    Errors on purpose (`XcvaeError`) and failures of built-in components pass unchanged: the first
    have a remedy, the second are bugs of xcvae and need their traceback. So does a lack of
    memory, also on the device, which is no fault of the component and may be caught further up.

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
        # torch has its own class for a lack of memory, and must not be imported here.
        if any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__):
            raise
        about = registry().describe(kind, component)
        if about["package"] == PROJECT:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        newer = f"Look for a newer version of '{about['package']}'"
        raise ComponentError(
            f"{_label(kind, component)} raised {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno}). "
            f"{newer if about['version'] else 'Correct it'}, or leave this {kind} out."
        ) from error


def wrong_result(kind: Kind, component: Any, *, expected: str, got: str) -> ComponentError:
    """Return the error for a component whose result is not that of its kind."""
    label = _label(kind, component)
    return ComponentError(
        f"{label} must return {expected}, got {got}. Correct its return value, or leave this "
        f"{kind} out."
    )


def _label(kind: Kind, component: Any) -> str:
    """Return kind and name of a component, and its package, or the lines of a local function."""
    about = registry().describe(kind, component)
    code = getattr(component, "__code__", None)
    if code is not None:
        return f"{kind} '{about['name']}' ({code.co_filename}, line {code.co_firstlineno})"
    version = f" {about['version']}" if about["version"] else ""
    return f"{kind} '{about['name']}' of {about['package']}{version}"

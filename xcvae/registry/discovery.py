"""One plugin at a time: found, checked, asked for its components, or said what is wrong with it."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import sys
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import pluggy

from xcvae.errors import ComponentError, XcvaeError, explain, nearest
from xcvae.registry.components import KINDS, Kind, check_class
from xcvae.registry.hookspecs import API_ATTRIBUTE, API_VERSION, PROJECT, Hooks

__all__ = [
    "Entry",
    "Local",
    "check_kind",
    "clash_text",
    "collect",
    "entries_of",
    "imported",
    "installed",
    "package_of",
    "version_of",
    "words_of",
]


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


HOOKS = [name for name in vars(Hooks) if not name.startswith("_")]


def installed() -> Iterator[importlib.metadata.EntryPoint]:
    """Find the plugins of installed packages; one that is found twice on the path is one."""
    points = {(p.name, p.value): p for p in importlib.metadata.entry_points(group=PROJECT)}
    return (point for _, point in sorted(points.items()))


def package_of(plugin: object) -> str:
    """Return the module that a local plugin is, or is from."""
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    return str(getattr(plugin, "__module__", type(plugin).__module__))


def collect(
    manager: pluggy.PluginManager, plugin: object, label: str, package: str, version: str | None
) -> list[Entry]:
    """Call the hook of one plugin alone, so that its names and failures are its own.

    Parameters
    ----------
    manager
        Keeps the plugin under `label`, unless something is wrong with it.
    plugin
        A module, an object, or a class without arguments.
    label, package, version
        What it is called, whose it is.

    Raises
    ------
    ComponentError
        It is for another API, or implements no hook or an unknown one, or its names are wrong.
    Exception
        Whatever the hook itself raises.
    """
    _check_api(plugin, package)
    plugin = plugin() if isinstance(plugin, type) else plugin
    try:
        manager.register(plugin, name=label)
    except (pluggy.PluginValidationError, ValueError) as error:
        _forget(manager, plugin, label)
        raise ComponentError(f"plugin '{package}': {error}") from error
    try:
        _check_hooks(manager, plugin, package)
        implementations = manager.hook.xcvae_components.get_hookimpls()
        (mine,) = (impl for impl in implementations if impl.plugin is plugin)
        return entries_of(mine.function(), package, version)
    except BaseException:
        _forget(manager, plugin, label)
        raise


def words_of(error: BaseException) -> str:
    """Say what went wrong; our own messages need no type in front."""
    return str(error) if isinstance(error, XcvaeError) else f"{type(error).__name__}: {error}"


def _check_api(plugin: object, package: str) -> None:
    declared = getattr(plugin, API_ATTRIBUTE, API_VERSION)
    if type(declared) is int and declared == API_VERSION:
        return
    newer = type(declared) is int and declared > API_VERSION
    raise ComponentError(
        explain(
            f"plugin '{package}', {API_ATTRIBUTE}",
            expected=f"{API_VERSION}, the plugin API of this xcvae",
            got=repr(declared),
            remedy="Upgrade xcvae." if newer else f"Install a newer version of '{package}'.",
        )
    )


def _check_hooks(manager: pluggy.PluginManager, plugin: object, package: str) -> None:
    callers = manager.get_hookcallers(plugin) or []
    for name in (caller.name for caller in callers):
        if name not in HOOKS:
            raise ComponentError(
                f"plugin '{package}': unknown hook '{name}'. {nearest(name, HOOKS)}"
            )
    if not callers:
        raise ComponentError(
            f"plugin '{package}' implements no hook. Mark a function "
            "`xcvae_components` with @xcvae.hookimpl."
        )


def _forget(manager: pluggy.PluginManager, plugin: object, label: str) -> None:
    if manager.get_plugin(label) is plugin:
        manager.unregister(plugin)

"""Find plugins, check them and collect their components, one plugin at a time."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType

import pluggy

from xcvae.errors import ComponentError, XcvaeError, nearest
from xcvae.registry.components import KINDS, Entry, check_class
from xcvae.registry.hookspecs import API_ATTRIBUTE, API_VERSION, PROJECT, Hooks


def entries_of(names: object, package: str, version: str | None) -> list[Entry]:
    """Turn the result of a hook into entries.

    Raises
    ------
    ComponentError
        The result is not a table of components; names the first thing that is wrong.
    """
    if not isinstance(names, Mapping):
        raise ComponentError.of(
            f"xcvae_components of '{package}'",
            expected="a dict from kinds to dicts from names to dataclasses",
            got=repr(names),
            remedy='Return {"metric": {"my_metric": MyMetric}}, for example.',
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
        raise ComponentError.of(
            label, expected="a name like my_metric", got=repr(name), remedy="Rename it."
        )
    if isinstance(target, str) and target.count(":") == 1:
        return
    if not isinstance(target, str):
        check_class(label, target)
        return
    raise ComponentError.of(
        label, expected='"module:Class"', got=repr(target), remedy="Add the class name."
    )


def check_kind(kind: object) -> None:
    """Refuse anything but a kind of component, naming the nearest kind."""
    if kind not in KINDS:
        raise ComponentError(f"unknown kind of component '{kind}'. {nearest(str(kind), KINDS)}")


def clash_text(first: Entry, second: Entry) -> str:
    """Return the message for a name that two packages claim."""
    return (
        f"{first.kind} '{first.name}' is claimed by two packages: {first.owner} and "
        f"{second.owner}. Uninstall one of them, or rename one of the components."
    )


def version_of(package: str) -> str | None:
    """Return the version of a distribution, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Local:
    """A plugin that was registered in this process, and its components.

    Attributes
    ----------
    given
        The module, object or class that was registered.
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
        """Kind and name of its components."""
        return {(entry.kind, entry.name) for entry in self.entries}

    def replaces(self, older: Local) -> bool:
        """Return True for a newer version of a plugin, as after a notebook cell is run once more.

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
    """Return the class of a plugin object; classes and modules as they are."""
    return plugin if isinstance(plugin, type | ModuleType) else type(plugin)


def _spelled(target: object) -> str:
    """Return "module:Class" of a class, the name of a module, text as it is."""
    if isinstance(target, str):
        return target
    if isinstance(target, type):
        return f"{target.__module__}:{target.__qualname__}"
    return str(getattr(target, "__name__", target))


HOOKS = [name for name in vars(Hooks) if not name.startswith("_")]


def installed() -> Iterator[importlib.metadata.EntryPoint]:
    """Find the plugins of installed packages; one that is on the path twice counts once."""
    points = {(p.name, p.value): p for p in importlib.metadata.entry_points(group=PROJECT)}
    return (point for _, point in sorted(points.items()))


def package_of(plugin: object) -> str:
    """Return the name of a local plugin, or of the module that defines it."""
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    return str(getattr(plugin, "__module__", type(plugin).__module__))


def collect(
    manager: pluggy.PluginManager, plugin: object, label: str, package: str, version: str | None
) -> list[Entry]:
    """Call the hook of one plugin alone, so that its failures do not affect other plugins.

    Parameters
    ----------
    manager
        Registers the plugin as `label`, unless an error is raised.
    plugin
        A module, an object, or a class without arguments.
    label, package, version
        Its name in the manager, and its package with version.

    Raises
    ------
    ComponentError
        It is for another API, implements no hook or an unknown one, or its names are wrong.
    Exception
        Any error that the hook itself raises.
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
    """Return the message of an error, with its type unless it is an error of xcvae."""
    return str(error) if isinstance(error, XcvaeError) else f"{type(error).__name__}: {error}"


def _check_api(plugin: object, package: str) -> None:
    declared = getattr(plugin, API_ATTRIBUTE, API_VERSION)
    if type(declared) is int and declared == API_VERSION:
        return
    newer = type(declared) is int and declared > API_VERSION
    raise ComponentError.of(
        f"plugin '{package}', {API_ATTRIBUTE}",
        expected=f"{API_VERSION}, the plugin API of this xcvae",
        got=repr(declared),
        remedy="Upgrade xcvae." if newer else f"Install a newer version of '{package}'.",
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

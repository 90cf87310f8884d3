"""One plugin at a time: found, checked, asked for its components, or said what is wrong with it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from types import ModuleType

import pluggy

from xcvae.errors import ComponentError, XcvaeError, explain, nearest
from xcvae.registry.entries import Entry, entries_of
from xcvae.registry.hookspecs import API_ATTRIBUTE, API_VERSION, PROJECT, Hooks

__all__ = ["collect", "installed", "package_of", "words_of"]

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

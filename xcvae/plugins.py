"""Components by name: register your own for this process, and list what there is.

Installed packages need none of this: they are found by the entry-point group ``xcvae``.
"""

from __future__ import annotations

import importlib

from xcvae.errors import ComponentError
from xcvae.registry import registry
from xcvae.registry.components import Kind
from xcvae.registry.listing import Row, listing

__all__ = ["Row", "broken", "listing", "names", "register"]


def register(plugin: object) -> None:
    """Add the components of a local plugin for the rest of this process.

    Parameters
    ----------
    plugin : module, object or str
        Has a function ``xcvae_components`` marked with ``@xcvae.hookimpl``; or the dotted name of
        such a module. A module that is registered already is left as it is.

    Raises
    ------
    ComponentError
        It cannot be imported, implements no hook, or one of its names is taken.
    """
    if isinstance(plugin, str):
        try:
            plugin = importlib.import_module(plugin)
        except Exception as error:  # foreign code may fail in any way; the message says whose
            raise ComponentError(
                f"plugin '{plugin}' cannot be imported ({type(error).__name__}: {error}). "
                "Install it, or put its file beside the configuration."
            ) from error
    name = getattr(plugin, "__name__", None)
    if name is None or all(entry.package != name for entry in registry().entries()):
        registry().register(plugin)


def names(kind: Kind) -> list[str]:
    """Return the names of one kind: "loss", "postprocessor", "metric" or "baseline".

    Examples
    --------
    >>> "threshold" in names("postprocessor")
    True
    """
    return registry().names(kind)


def broken() -> dict[str, str]:
    """Return the installed plugins that cannot be used, each with what went wrong."""
    return dict(registry().broken)

"""The one hook through which components get their names."""

from __future__ import annotations

import pluggy

__all__ = ["PROJECT", "Hooks", "hookimpl", "hookspec"]

PROJECT = "xcvae"
"""The pluggy project name, and the entry-point group of plugin packages."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """What a plugin may implement."""

    @hookspec
    def xcvae_components(self) -> dict[str, dict[str, type | str]]:
        """Name the components that a plugin brings.

        Returns
        -------
        dict
            For each kind ("loss", "postprocessor", "metric", "baseline") a dict from names to
            frozen dataclasses, or to import strings "package.module:Class" that are imported
            on first use.
        """
        raise NotImplementedError

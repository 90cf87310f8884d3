"""The hook through which plugins name their components."""

from __future__ import annotations

import pluggy

PROJECT = "xcvae"
"""The pluggy project name, and the entry-point group of plugin packages."""

API_VERSION = 1
"""Version of the plugin API: the hook, and the calls of components.

It only changes when a component written for the version before would no longer work.
"""

API_ATTRIBUTE = "XCVAE_API"
"""Name under which a plugin module or object declares the version that it was written for."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """The hooks that a plugin may implement."""

    @hookspec
    def xcvae_components(self) -> dict[str, dict[str, type | str]]:
        """Return the components of a plugin, by kind and name.

        The module (or object) that implements this may say ``XCVAE_API = 1``, the version of
        `xcvae.plugins.API_VERSION` that it was written for; without it, 1 is taken.

        Returns
        -------
        dict
            For each kind ("loss", "postprocessor", "storm", "metric", "baseline") a dict from
            names to frozen dataclasses, or to import strings "package.module:Class" that are
            imported on first use.
        """
        raise NotImplementedError

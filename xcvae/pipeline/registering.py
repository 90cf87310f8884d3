"""The plugins that a configuration names."""

from __future__ import annotations

import sys

from xcvae import plugins
from xcvae.config import Config

__all__ = ["register_plugins"]


def register_plugins(config: Config) -> None:
    """Register the modules of ``plugins``; they may lie beside the configuration.

    Raises
    ------
    ComponentError
        A module cannot be imported, or brings names that are taken.
    """
    folder = str(config.folder.absolute())
    if config.plugins and folder not in sys.path:
        sys.path.append(folder)
    for module in config.plugins:
        plugins.register(module)

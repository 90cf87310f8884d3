"""Who is called what: losses, post-processors, metrics and baselines, built in or plugged in."""

from xcvae.registry.components import KINDS, Component, Kind
from xcvae.registry.entries import Entry
from xcvae.registry.hookspecs import hookimpl
from xcvae.registry.registry import Registry, build, describe, registry

__all__ = [
    "KINDS",
    "Component",
    "Entry",
    "Kind",
    "Registry",
    "build",
    "describe",
    "hookimpl",
    "registry",
]

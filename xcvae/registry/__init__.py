"""Who is called what: losses, post-processors, metrics and baselines, built in or plugged in."""

from xcvae.registry.calling import call, wrong_result
from xcvae.registry.components import KINDS, Component, Kind
from xcvae.registry.entries import Entry
from xcvae.registry.hookspecs import hookimpl
from xcvae.registry.missing import missing, warn_of_missing
from xcvae.registry.registry import Registry, build, describe, registry

__all__ = [
    "KINDS",
    "Component",
    "Entry",
    "Kind",
    "Registry",
    "build",
    "call",
    "describe",
    "hookimpl",
    "missing",
    "registry",
    "warn_of_missing",
    "wrong_result",
]

"""The names of losses, post-processors, storms, metrics and baselines, built in or plugged in."""

from xcvae.registry.components import KINDS, Component, Entry, Kind, Range, as_given
from xcvae.registry.hookspecs import hookimpl
from xcvae.registry.registry import (
    Registry,
    build,
    call,
    describe,
    missing,
    registry,
    warn_of_missing,
    wrong_result,
)

__all__ = [
    "KINDS",
    "Component",
    "Entry",
    "Kind",
    "Range",
    "Registry",
    "as_given",
    "build",
    "call",
    "describe",
    "hookimpl",
    "missing",
    "registry",
    "warn_of_missing",
    "wrong_result",
]

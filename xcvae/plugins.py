"""The names that authors of components need, and the list of all components.

A component is a frozen dataclass, usually derived from `Component`, whose fields are its
parameters. `register` adds those of a module or object for the rest of this process; an installed
package is found by its entry point in the group ``xcvae`` and needs no registration.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from xcvae.errors import ComponentError
from xcvae.registry import Component, Kind, hookimpl, registry
from xcvae.registry.components import Range, in_range, load_module
from xcvae.registry.hookspecs import API_VERSION
from xcvae.registry.signatures import Row, listing

if TYPE_CHECKING:
    from xcvae.ensemble.postprocess import Context, physical_units
    from xcvae.ensemble.storms import StormContext
    from xcvae.fields.samples import labels_of
    from xcvae.fields.units import default_wet_threshold, parse_quantity
    from xcvae.generator.losses import LossState
    from xcvae.metrics.metric import (
        Metric,
        SampleSums,
        Skill,
        Statistic,
        Stats,
        ratio,
        threshold_in,
        wet_threshold_in,
    )
    from xcvae.metrics.pairs import Maps, Pair, matched
    from xcvae.metrics.sample import SampleFields

__all__ = [
    "API_VERSION",
    "Component",
    "ComponentError",
    "Context",
    "Kind",
    "LossState",
    "Maps",
    "Metric",
    "Pair",
    "Range",
    "Row",
    "SampleFields",
    "SampleSums",
    "Skill",
    "Statistic",
    "Stats",
    "StormContext",
    "broken",
    "default_wet_threshold",
    "hookimpl",
    "in_range",
    "labels_of",
    "listing",
    "matched",
    "names",
    "parse_quantity",
    "physical_units",
    "ratio",
    "register",
    "threshold_in",
    "wet_threshold_in",
]

# Imported on first use: a plugin that only names its components must load neither torch nor Dask.
_HOMES = {
    "Context": "xcvae.ensemble.postprocess",
    "LossState": "xcvae.generator.losses",
    "Maps": "xcvae.metrics.pairs",
    "Metric": "xcvae.metrics.metric",
    "Pair": "xcvae.metrics.pairs",
    "SampleFields": "xcvae.metrics.pairs",
    "SampleSums": "xcvae.metrics.metric",
    "Skill": "xcvae.metrics.metric",
    "Statistic": "xcvae.metrics.metric",
    "Stats": "xcvae.metrics.metric",
    "StormContext": "xcvae.ensemble.storms",
    "default_wet_threshold": "xcvae.fields.units",
    "labels_of": "xcvae.fields.samples",
    "matched": "xcvae.metrics.pairs",
    "parse_quantity": "xcvae.fields.units",
    "physical_units": "xcvae.ensemble.postprocess",
    "ratio": "xcvae.metrics.metric",
    "threshold_in": "xcvae.metrics.metric",
    "wet_threshold_in": "xcvae.metrics.metric",
}


def __getattr__(name: str) -> Any:
    """Import a name of another module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xcvae.plugins' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def register(plugin: object) -> None:
    """Add the components of a local plugin for the rest of this process.

    Parameters
    ----------
    plugin
        Has a function ``xcvae_components`` marked with ``@xcvae.hookimpl``; or the dotted name of
        such a module. A plugin that is registered already stays as it is; one with the module and
        name of an older one, such as a class of a notebook cell that is run again, replaces it.

    Raises
    ------
    ComponentError
        It cannot be imported, is for another plugin API, implements no hook, or one of its names
        is taken.
    """
    if isinstance(plugin, str):
        remedy = "Install it, or put its file beside the configuration."
        plugin = load_module(plugin, f"plugin '{plugin}'", remedy=remedy)
    registry().register(plugin)


def names(kind: Kind) -> list[str]:
    """Return the names of a kind: "loss", "postprocessor", "storm", "metric" or "baseline".

    Examples
    --------
    >>> "threshold" in names("postprocessor")
    True
    """
    return registry().names(kind)


def broken() -> dict[str, str]:
    """Return the installed plugins that cannot be used, each with the error."""
    return dict(registry().broken)

"""Generative ensembles of rain fields in xarray.

The verbs ``train``, ``sample``, ``evaluate``, ``diagnose`` and ``augment`` take a Dataset first;
the same verbs are methods of the accessor ``ds.cvae``. Public names are imported on first use, so
that ``import xcvae`` is fast and does not load torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import xcvae.accessor  # noqa: F401  registers ds.cvae

if TYPE_CHECKING:
    from xcvae import errors, models, plugins, testing, tutorial
    from xcvae.ensemble import catalog
    from xcvae.ensemble.augment import augment
    from xcvae.ensemble.loader import loader
    from xcvae.ensemble.sample import sample
    from xcvae.ensemble.store import open_store
    from xcvae.ensemble.verify_store import verify_store
    from xcvae.fields.samples import heavy
    from xcvae.generator.model import Model, load
    from xcvae.generator.training.train import train
    from xcvae.registry.hookspecs import hookimpl
    from xcvae.verify.diagnosis import Diagnosis, diagnose
    from xcvae.verify.scorecard import evaluate

    __version__: str

__all__ = [
    "Diagnosis",
    "Model",
    "__version__",
    "augment",
    "catalog",
    "diagnose",
    "errors",
    "evaluate",
    "heavy",
    "hookimpl",
    "load",
    "loader",
    "models",
    "open_store",
    "plugins",
    "sample",
    "testing",
    "train",
    "tutorial",
    "verify_store",
]

_HOMES = {
    "Diagnosis": "xcvae.verify.diagnosis",
    "Model": "xcvae.generator.model",
    "augment": "xcvae.ensemble.augment",
    "diagnose": "xcvae.verify.diagnosis",
    "evaluate": "xcvae.verify.scorecard",
    "heavy": "xcvae.fields.samples",
    "hookimpl": "xcvae.registry.hookspecs",
    "load": "xcvae.generator.model",
    "loader": "xcvae.ensemble.loader",
    "open_store": "xcvae.ensemble.store",
    "sample": "xcvae.ensemble.sample",
    "train": "xcvae.generator.training.train",
    "verify_store": "xcvae.ensemble.verify_store",
}
_MODULES = {
    "catalog": "xcvae.ensemble.catalog",
    "errors": "xcvae.errors",
    "models": "xcvae.models",
    "plugins": "xcvae.plugins",
    "testing": "xcvae.testing",
    "tutorial": "xcvae.tutorial",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("xcvae")
    elif name in _MODULES:
        value = import_module(_MODULES[name])
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'xcvae' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted(__all__)

"""Conformance suites for components, and the data they run on.

The author of a component subclasses the suite of its kind in a test file, and pytest does the
rest::

    import xcvae.testing
    from my_package import Peak

    class TestPeak(xcvae.testing.MetricSuite):
        component = Peak

``component`` is a class, a registered name, or a dict ``{"name": ..., parameters}``. Each suite
documents its other attributes. A check that does not apply to a component, for a reason worth a
comment, is switched off by ``test_... = None``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xcvae.testing.baselines import BaselineSuite
    from xcvae.testing.data import make_context, make_dataset, make_ensemble
    from xcvae.testing.losses import LossSuite, make_loss_state
    from xcvae.testing.metrics import MetricSuite
    from xcvae.testing.postprocessors import PostprocessorSuite
    from xcvae.testing.storms import StormSuite

__all__ = [
    "BaselineSuite",
    "LossSuite",
    "MetricSuite",
    "PostprocessorSuite",
    "StormSuite",
    "make_context",
    "make_dataset",
    "make_ensemble",
    "make_loss_state",
]

# Imported on first use: only the tests of losses need torch.
_HOMES = {
    "BaselineSuite": "baselines",
    "LossSuite": "losses",
    "MetricSuite": "metrics",
    "PostprocessorSuite": "postprocessors",
    "StormSuite": "storms",
    "make_context": "data",
    "make_dataset": "data",
    "make_ensemble": "data",
    "make_loss_state": "losses",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xcvae.testing' has no attribute {name!r}")
    value = getattr(import_module(f"xcvae.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value

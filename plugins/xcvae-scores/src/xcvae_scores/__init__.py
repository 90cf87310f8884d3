"""Metrics of the package scores for xcvae, named ``scores_`` and the name of the function.

The metrics are the rows of `xcvae_scores.table`; scores itself is imported on first use.
"""

from __future__ import annotations

from xcvae import hookimpl
from xcvae_scores.table import METRICS

__all__ = ["XCVAE_API", "xcvae_components"]

XCVAE_API = 1


@hookimpl
def xcvae_components() -> dict[str, dict[str, type]]:
    """Return the metrics by name."""
    return {"metric": {f"scores_{name}": metric for name, metric in METRICS.items()}}

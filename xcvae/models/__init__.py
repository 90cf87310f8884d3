"""Trained models that have a name: ``xcvae.models.open("rain-radar")``.

The package brings models along as files, each with a card: its data, licence, attribution, purpose,
scores and limits. The environment variable ``XCVAE_MODELS`` lists folders of further ones, files
``NAME.xcvae`` with cards ``NAME.yaml``. A name stands wherever the path of a model is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xcvae.generator.named import Card, card, names

if TYPE_CHECKING:
    from xcvae.generator.model import Model

__all__ = ["Card", "card", "names", "open"]


def open(name: str) -> Model:
    """Open a model by its name.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    Model
        Ready to sample, or to start a training from.

    Raises
    ------
    ModelFileError
        No model has that name, or its file is damaged.
    """
    from xcvae.generator.model import load

    return load(card(name).path)

"""Ensembles on disk: written region by region, under their name only when complete."""

from xcvae.ensemble.store.base import EnsembleStore, open_store

__all__ = ["EnsembleStore", "open_store"]

"""Ensembles on disk: written region by region, under their name only when complete."""

from xcvae.ensemble.store.write import open_store

__all__ = ["open_store"]

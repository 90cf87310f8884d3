"""Trials of synthetic storms as training data for another network."""

from xcvae.verify.utility.comparison import compare, table
from xcvae.verify.utility.recipes import Extra, recipes

__all__ = ["Extra", "compare", "recipes", "table"]

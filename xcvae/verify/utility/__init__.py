"""Value of synthetic storms as training data: scores of a downstream network with and without."""

from xcvae.verify.utility.comparison import compare, table
from xcvae.verify.utility.recipes import Extra, recipes

__all__ = ["Extra", "compare", "recipes", "table"]

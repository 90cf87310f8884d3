"""Value of synthetic storms as training data: scores of a downstream network with and without."""

from xcvae.verify.utility.comparison import SCORES, compare, table
from xcvae.verify.utility.recipes import Extra, heaviest, recipes

__all__ = ["SCORES", "Extra", "compare", "heaviest", "recipes", "table"]

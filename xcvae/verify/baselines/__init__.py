"""Reference forecasts that every scorecard sets beside the model."""

from xcvae.verify.baselines.interpolation import Bilinear, Block, Shuffled

__all__ = ["Bilinear", "Block", "Shuffled"]

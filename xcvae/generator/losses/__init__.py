"""Loss terms that a training can minimise, by name.

Every term is a frozen dataclass of its parameters, called with the `LossState` of the step; it
gives a scalar tensor. ``weight`` multiplies the term. Physical parameters are in the target's
units unless they are given as text with units.
"""

from xcvae.generator.losses.elbo import KL, Hurdle, Laplace, MultiscaleLaplace
from xcvae.generator.losses.pointwise import Gradient, IntensityWeightedMAE, Mass, Quantile
from xcvae.generator.losses.scores import CRPS, CRPSOfMaxima, EnergyScore, TwCRPS
from xcvae.generator.losses.spectral import Spectral
from xcvae.generator.losses.state import LossState, Space, learned_by, learned_of

__all__ = [
    "CRPS",
    "KL",
    "CRPSOfMaxima",
    "EnergyScore",
    "Gradient",
    "Hurdle",
    "IntensityWeightedMAE",
    "Laplace",
    "LossState",
    "Mass",
    "MultiscaleLaplace",
    "Quantile",
    "Space",
    "Spectral",
    "TwCRPS",
    "learned_by",
    "learned_of",
]

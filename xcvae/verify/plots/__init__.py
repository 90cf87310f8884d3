"""Figures of ensembles, scorecards and training logs: ``ds.cvae.plot``."""

from xcvae.verify.plots.accessor import Plots

__all__ = ["Plots"]

"""Runs of a configuration: train, sample, catalog, evaluate, diagnose, report."""

from xcvae.pipeline.check import check
from xcvae.pipeline.info import info
from xcvae.pipeline.outputs import Summary
from xcvae.pipeline.propose import propose
from xcvae.pipeline.run import run, run_step

__all__ = ["Summary", "check", "info", "propose", "run", "run_step"]

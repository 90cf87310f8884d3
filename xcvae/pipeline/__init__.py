"""The whole job of a configuration: train, draw, list, judge, diagnose, report."""

from xcvae.pipeline.checking import check
from xcvae.pipeline.running import run, run_step
from xcvae.pipeline.summary import Summary

__all__ = ["Summary", "check", "run", "run_step"]

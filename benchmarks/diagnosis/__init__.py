"""Benchmarks of verdicts: ensembles and models whose faults, or whose true scores, are known."""

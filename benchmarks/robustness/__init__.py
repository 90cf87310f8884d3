"""Benchmarks of runs that are interrupted."""

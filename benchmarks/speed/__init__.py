"""Benchmarks of time, memory and disk space."""

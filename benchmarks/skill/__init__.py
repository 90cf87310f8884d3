"""Benchmarks of trained models: their scores beside those of other methods."""

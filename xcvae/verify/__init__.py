"""Verification: baselines, scorecard, diagnosis, criteria, figures and the report."""

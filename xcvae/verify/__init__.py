"""Judging: baselines, scorecard, diagnosis, criteria, pictures and the report."""

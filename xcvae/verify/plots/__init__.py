"""Figures of ensembles, scores, diagnoses and trainings."""

"""Diagnosis of a trained model: measurements, detectors, findings with remedies."""

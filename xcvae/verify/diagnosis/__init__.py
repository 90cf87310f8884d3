"""Diagnosis of a trained model, or of the members of any generator: faults and remedies."""

from xcvae.verify.diagnosis.diagnosis import Diagnosis, diagnose, judge
from xcvae.verify.diagnosis.finding import Evidence, LevelEvidence
from xcvae.verify.diagnosis.measure import gather

__all__ = ["Diagnosis", "Evidence", "LevelEvidence", "diagnose", "gather", "judge"]

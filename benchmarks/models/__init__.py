"""Rival models and models with known faults, in plain torch and numpy."""

"""Training: steps, validation, checkpoints, calibration, several processes."""

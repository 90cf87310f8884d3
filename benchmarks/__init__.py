"""Benchmarks of xcvae: run them from the root of the repository, as modules.

    python -m benchmarks.speed.train --help

============  =====================================================================
folder        subject
============  =====================================================================
speed         time, memory and disk space of training, drawing, storing and scoring
skill         scores of trained models beside other methods and baselines
diagnosis     verdicts of xcvae on ensembles and models whose faults are known
robustness    runs that are killed, and what their stores contain afterwards
models        the rival models and the models with known faults
harness       command lines, timing, worker processes, records and result files
============  =====================================================================

Nothing here is part of the package: the rival models are compact, in plain torch, and as good as
they could be made in the same time on the same device.
"""

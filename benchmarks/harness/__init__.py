"""Everything that benchmarks share: command lines, timing, processes, records and results."""

"""The ladder network: architecture, layers, initialization and the constraint on block means."""

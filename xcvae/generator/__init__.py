"""The network, how it learns, and the file that keeps it."""

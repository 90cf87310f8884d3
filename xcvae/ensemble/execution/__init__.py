"""Execution of independent tasks by threads, by processes, or on a Dask cluster."""

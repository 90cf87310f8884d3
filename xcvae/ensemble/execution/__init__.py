"""Execution of region tasks: by threads, by processes, or on a Dask cluster."""

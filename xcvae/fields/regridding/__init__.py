"""Places of conditions under the target, and weights between grids that differ."""

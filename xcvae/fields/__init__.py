"""The physical world: dimensions, units, grids and checks, and the border to the tensors."""

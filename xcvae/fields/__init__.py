"""Physical values: dimensions, units, grids and checks, and their conversion to tensors."""

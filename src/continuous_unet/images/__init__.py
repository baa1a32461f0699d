"""Pictures as files, arrays and tensors: reading, writing, grids, tiles, resampling. Knows no model."""

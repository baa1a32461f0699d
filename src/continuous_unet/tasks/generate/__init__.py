"""Making images from noise."""

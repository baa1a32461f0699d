"""Video: training on clips, and making clips."""

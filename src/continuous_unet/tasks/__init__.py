"""What trained models are used for: pipelines over any diffusers scheduler, loading them, writing images."""

"""Removing whole channels of a trained model."""

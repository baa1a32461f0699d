"""Filling holes in images."""

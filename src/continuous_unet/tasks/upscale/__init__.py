"""Enlarging images."""

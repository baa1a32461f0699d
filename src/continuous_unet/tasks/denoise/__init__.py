"""Removing noise from images."""

"""Clips to train on: frames of one size, in order."""

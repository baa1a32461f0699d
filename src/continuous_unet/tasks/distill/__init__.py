"""Distillation: a student learns to make in a few evaluations what its teacher makes in many."""

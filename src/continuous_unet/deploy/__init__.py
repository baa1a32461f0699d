"""Trained models are exported, checked against PyTorch, quantised, pruned, and run without torch.

Nothing is imported here: `runtime` must be importable where there is no torch, and the command line reads `options`
before torch is needed.
"""

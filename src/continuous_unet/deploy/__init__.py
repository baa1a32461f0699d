"""Out of the laboratory: export of trained models, proof that they compute what was trained, running without torch.

Nothing is imported here: `runtime` must be importable where there is no torch, and the command line reads `options`
before torch is needed.
"""

"""Text: how prompts become tokens, and tokens become what a model is conditioned on."""

"""The noise process: how noise is added, what is predicted, and how samplers are made."""

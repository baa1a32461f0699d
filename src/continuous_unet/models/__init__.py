"""The continuous U-Net: embeddings of two clocks, acceleration fields, dynamic blocks, the diffusers model, presets.

Nothing is imported here: `continuous_unet.models.presets` is read by the command line, which must not wait for torch.
"""

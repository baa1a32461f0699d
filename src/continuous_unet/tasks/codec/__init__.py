"""Training an autoencoder, whose latents a diffusion model then learns."""

"""Codecs: what lies between images and the model. Autoencoders make small latents of images, and images of latents."""

"""How good images are: FID and KID, PSNR and SSIM."""

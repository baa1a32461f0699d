"""Writes the SSIM values that test_restoration_quality.py compares with. Needs scikit-image, which is no dependency.

pip install scikit-image && python tests/evaluation/ssim_of_scikit_image.py
"""

import numpy as np


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    """Clean and noisy images on the 0–255 scale: smooth, with an edge, with noise of three strengths, small and odd."""
    made = []
    for seed, (height, width, sigma) in enumerate([(40, 36, 5), (64, 48, 25), (11, 11, 50), (12, 37, 25)]):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:height, :width]
        clean = np.round(120 + 60 * np.sin(x / 5 + seed) * np.cos(y / 7) + 40 * (x > width // 2))
        made.append((clean, np.round(clean + rng.normal(0, sigma, clean.shape)).clip(0, 255)))
    return made


if __name__ == "__main__":
    from skimage.metrics import structural_similarity

    for clean, noisy in pairs():
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        print(f"{structural_similarity(clean, noisy, **options):.7f}")

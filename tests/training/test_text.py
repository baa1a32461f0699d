"""Training by captions: exact resumption, dropped captions, what is saved, and models to start from."""

import json

import pytest
import torch
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import train
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.run import assemble
from tests.text.encoders import save_pretrained

from .runs import assert_same_runs, records

WORDS = ("red", "blue", "square", "circle")


@pytest.fixture
def captioned(tmp_path):
    """Twelve grey images in two folders; their names say what they show."""
    for i in range(12):
        folder = tmp_path / "data" / ("one" if i % 2 else "two")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(folder / f"{WORDS[i % 2]} {WORDS[2 + i % 3 % 2]} {i}.png")
    return tmp_path / "data"


@pytest.fixture
def by_text(tiny, captioned):
    def make(**changes):
        options = {"data": str(captioned), "captions": "filename", "text_encoder": "built-in", "condition_dropout": 0.5}
        return tiny(**{**options, **changes})

    return make


@pytest.mark.parametrize("kind", ["built-in, and classes", "bert"])
def test_a_run_and_its_resumption(kind, by_text, tmp_path):
    options = {"lr_schedule": "constant", "class_conditional": "classes" in kind}
    if kind == "bert":
        options["text_encoder"] = str(save_pretrained(kind, tmp_path / "encoder"))
    train(by_text(**options, output=str(tmp_path / "whole")))
    part = by_text(**options, steps=3, output=str(tmp_path / "part"), sample_every=6)
    train(part)
    train(part.replaced(steps=6), resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "part")
    pipeline = load_pipeline(tmp_path / "whole")
    assert pipeline.facts.text.encoder == options.get("text_encoder", "built-in")
    assert (pipeline.unet.text_encoder is None) == (kind == "bert")
    images = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert images["data"]["captions"]["distinct"] == 4
    assert (tmp_path / "whole" / "samples" / "step-00000006.png").is_file()


def test_captions_are_dropped_by_position(by_text, tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        trainer = assemble(by_text(), folder, resume=False)
        batch = next(trainer.data.loader(4))[1]
        task = trainer.task
        draws = torch.tensor([0.2, 0.6, 0.49, 0.5])
        ids = task.conditions(batch, torch.device("cpu"), draws)["input_ids"]
        kept = task.conditions(batch, torch.device("cpu"))["input_ids"]
        empty = task.text_encoder.tokenise([""]).input_ids
        assert torch.equal(
            kept, task.text_encoder.tokenise([trainer.data.captions[i] for i in batch["index"]]).input_ids
        )
        assert torch.equal(ids, torch.cat([empty, kept[1:2], empty, kept[3:4]]))
        trainer.leave()


def test_a_model_to_start_from_keeps_its_words(by_text, captioned, tmp_path):
    train(by_text(steps=2))
    words = load_pipeline(tmp_path / "run").facts.text.vocabulary
    for image in sorted(captioned.rglob("*.png")):
        image.rename(image.with_name(image.name.replace("red", "green")))
    start = {"start_from": str(tmp_path / "run"), "model_options": {}}
    onwards = by_text(steps=2, output=str(tmp_path / "onwards"), **start)
    train(onwards)
    assert load_pipeline(tmp_path / "onwards").facts.text.vocabulary == words
    with pytest.raises(InputError, match=r"differs from this run in the width of the text \(128, and here None\)"):
        train(onwards.replaced(text_encoder=None, output=str(tmp_path / "other")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": "shapes"}, "shapes has no captions; train on a folder"),
        ({"captions": "auto"}, "no text file beside its images and no metadata.jsonl or metadata.csv; add some"),
        ({"text_encoder": "./nowhere"}, "the text encoder .*nowhere cannot be loaded"),
    ],
)
def test_what_cannot_be_trained_on(changes, message, by_text, tmp_path):
    if "text_encoder" in changes:
        pytest.importorskip("transformers")
    with pytest.raises(InputError, match=message):
        train(by_text(**changes))
    assert not (tmp_path / "run").exists()


def test_changed_captions_are_noticed(by_text, captioned, tmp_path):
    run = by_text(captions="auto")
    for image in sorted(captioned.rglob("*.png")):
        image.with_suffix(".txt").write_text(image.stem)
    train(run.replaced(steps=3))
    next(captioned.rglob("*.txt")).write_text("square red 77")
    with pytest.raises(InputError, match="has changed \\(the captions are not the same\\); restore it"):
        train(run, resume=True)
    assert records(tmp_path / "run")[-1]["step"] == 3

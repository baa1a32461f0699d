"""The folder of a run: who may write there, and whether a run may go on in it."""

import json

import numpy as np
import pytest

from continuous_unet.base.errors import InputError
from continuous_unet.training import TrainConfig, train
from tests.training.runs import records


def test_damaged_files_of_a_run_are_named(tiny, tmp_path):
    train(tiny(steps=3))
    run = tmp_path / "run"
    with (run / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\x00\n[1]\n{"step": "x"}\n{"step": 3, "lo')
    (run / "samples" / ".step-00000003.png.1.tmp").write_text("half")
    assert train(tiny(steps=4), resume=True).steps == 4
    assert [r["step"] for r in records(run) if "loss" in r] == [1, 2, 3, 4]
    assert not list(run.rglob(".*.tmp"))
    (run / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run.json is damaged .* remove it"):
        train(tiny(steps=5), resume=True)


def test_a_run_is_never_overwritten(tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="is not an empty folder"):
        train(tiny())
    (tmp_path / "run" / "thesis.txt").unlink()
    train(tiny(steps=1))
    with pytest.raises(InputError, match="--resume"):
        train(tiny(steps=1))


def test_resume_refuses_other_settings_and_says_which(tiny, tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        train(tiny(), resume=True)
    train(tiny(steps=3))
    with pytest.raises(InputError, match=r"learning_rate 0.001 -> 0.5"):
        train(tiny(learning_rate=0.5), resume=True)
    assert train(tiny(steps=4), resume=True).steps == 4  # longer is allowed


def test_settings_from_python_are_the_same_after_yaml(tiny):
    options = {"block_out_channels": (8, 8), "norm_num_groups": 4}  # YAML has lists only
    train(tiny(steps=3, model_options=options))
    assert train(tiny(steps=4, model_options=options), resume=True).steps == 4


def test_resume_goes_on_with_the_images_of_the_run(tiny, tmp_path, images, caplog):
    """One that is gone keeps its place, and another is used there; one that is new is not used; two are too many."""
    config = tiny(data=str(images), steps=3)
    train(config)
    (images / "3.png").unlink()
    (images / "new.png").write_bytes((images / "5.png").read_bytes())
    config.steps = 9
    result = train(config, resume=True)
    assert result.steps == 9
    assert "3.png can no longer be read" in caplog.text
    names = json.loads((tmp_path / "run" / "images.json").read_text())
    assert (len(names), "new.png" in names) == (12, False)
    (images / "4.png").unlink()
    config.steps = 10
    with pytest.raises(InputError, match=r"2 of 12 images in .* cannot be used \(3.png: No such file"):
        train(config, resume=True)
    assert train(config.replaced(max_bad_images=0.2), resume=True).steps == 10


def test_resume_refuses_other_data(tiny, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((12, 8, 8), np.uint8))
    config = tiny(data=str(tmp_path / "a.npz"), steps=3)
    train(config)
    np.savez(tmp_path / "a.npz", images=np.zeros((11, 8, 8), np.uint8))
    config.steps = 4
    with pytest.raises(InputError, match=r"num_images 8 -> 7"):
        train(config, resume=True)
    assert TrainConfig.load(tmp_path / "run" / "config.yaml").steps == 3

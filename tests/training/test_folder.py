"""The folder of a run: who may write there, and whether a run may go on in it."""

import json
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.trainer import Trainer
from tests.training.runs import assert_same_runs, records


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


HOLD = """
import sys, time
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.trainer import Trainer
real = Trainer.take_step
def slow(self, batches):
    real(self, batches)  # starts the workers
    print("training", flush=True)
    time.sleep(60)
Trainer.take_step = slow
train(TrainConfig.load(sys.argv[1]), resume=True)
"""


def test_two_processes_do_not_train_one_run(tiny, tmp_path, images):
    """A second one is refused while the first trains, and goes on as soon as that is killed, though it had workers."""
    config = tiny(data=str(images), steps=3)
    train(config)
    config = config.replaced(steps=9, num_workers=2)
    config.save(tmp_path / "config.yaml")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "config.yaml"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "training\n"
        before = (tmp_path / "run" / "config.yaml").read_bytes()
        with pytest.raises(InputError, match=rf"is being trained by process {holder.pid} on {platform.node()}"):
            train(config.replaced(steps=20), resume=True)
        assert (tmp_path / "run" / "config.yaml").read_bytes() == before
    finally:
        holder.kill()
        holder.wait()
    assert train(config.replaced(num_workers=0), resume=True).steps == 9


def test_two_processes_do_not_begin_one_run(tiny, tmp_path):
    """The second finds the folder empty, and then locked."""
    with RunFolder(tmp_path / "run") as first:
        first._take_lock()
        with pytest.raises(InputError, match="is being trained by process"):
            train(tiny())
    train(tiny(steps=1))  # a folder with nothing but a lock is as good as an empty one


def test_a_run_lets_go_of_its_lock(tiny):
    with pytest.raises(InputError, match="steps"):
        train(tiny(steps=0))
    for steps in (1, 2):
        train(tiny(steps=steps), resume=steps > 1)
    with pytest.raises(InputError, match="other settings"):
        train(tiny(steps=3, seed=5), resume=True)
    train(tiny(steps=3), resume=True)


def test_resume_after_the_data_has_moved(tiny, tmp_path, images, monkeypatch):
    whole = tiny(data=str(images), steps=6, output=str(tmp_path / "whole"))
    train(whole)
    monkeypatch.chdir(tmp_path)
    config = tiny(data="images", output="run")
    with pytest.MonkeyPatch.context() as patch:
        real = Trainer.take_step

        def dying(self, batches):
            if self.state.step == 4:
                raise RuntimeError("killed")
            return real(self, batches)

        patch.setattr(Trainer, "take_step", dying)
        with pytest.raises(RuntimeError, match="killed"):
            train(config)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    stored = TrainConfig.load(tmp_path / "run" / "config.yaml")
    assert stored.data.source == str(images)
    images.rename(tmp_path / "elsewhere" / "moved")
    with pytest.raises(InputError, match=r"does not exist.* give its new place with --data"):
        train(stored, resume=True)
    train(stored.replaced(data="moved"), resume=True)
    assert_same_runs(tmp_path / "whole", tmp_path / "run")
    assert TrainConfig.load(tmp_path / "run" / "config.yaml").data.source == str(tmp_path / "elsewhere" / "moved")


def lose_one(folder):
    (folder / "3.png").unlink()


def enlarge_one(folder):
    Image.new("L", (9, 8)).save(folder / "3.png")


def make_classes(folder):
    for name in ("a", "b"):
        (folder / name).mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "ab"[int(path.stem) % 2] / path.name)


def rename_one(folder):
    (folder / "3.png").rename(folder / "30.png")


@pytest.mark.parametrize("change", [lose_one, enlarge_one, make_classes, rename_one])
def test_moved_data_must_be_the_same(change, tiny, tmp_path, images):
    config = tiny(data=str(images), steps=3)
    train(config)
    shutil.copytree(images, tmp_path / "other")
    change(tmp_path / "other")
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(InputError, match=r"has changed|can(not)? be used"):
        train(config.replaced(data=str(tmp_path / "other"), steps=6), resume=True)
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before

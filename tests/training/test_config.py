import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import leaves
from continuous_unet.tasks.denoise.options import DenoiseTraining
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.upscale.options import UpscaleTraining
from continuous_unet.training import TrainConfig

SAVED = Path(__file__).parents[1] / "saved"
BAD = [
    ({"data": ""}, "--data is missing"),
    ({"output": ""}, "--output is missing"),
    ({"preset": "huge"}, "paper, tiny, small, base"),
    ({"steps": 0}, "--steps 0 must be at least 1"),
    ({"seed": -1}, "--seed -1 must be at least 0"),
    ({"batch_size": -1}, "--batch-size -1"),
    ({"num_workers": -1}, "--num-workers -1"),
    ({"max_bad_images": 1.5}, "--max-bad-images 1.5 must be at least 0 and at most 1"),
    ({"image_size": 0}, "image_size=0 must be"),
    ({"image_size": "8x"}, "such as 48x64"),
    ({"value_range": "9:2"}, "--value-range 9:2"),
    ({"channels": 2}, "--channels 2"),
    ({"learning_rate": 0.0}, "--learning-rate 0.0"),
    ({"learning_rate": 1e38}, r"--learning-rate 1e\+38 must be .*at most 1e\+06"),
    ({"weight_decay": float("nan")}, "--weight-decay nan must be finite"),
    ({"gradient_clip": float("nan")}, "--gradient-clip nan"),
    ({"ema_decay": 1.0}, "--ema-decay 1.0"),
    ({"objective": "eps"}, "--objective 'eps' must be one of epsilon, v_prediction, sample"),
    ({"steps": 1e4}, "--steps 10000.0 must be an integer"),
    ({"steps": True}, "--steps True must be an integer"),
    ({"ema": 1}, "--ema 1 must be true or false"),
    ({"device": "gpu"}, "--device 'gpu' must be one of cpu, cuda, mps"),
    ({"model_options": [1]}, "--model-option .* must be a mapping"),
    ({"default_guidance": 2.0}, "--default-guidance 2 is for models with classes or texts"),
    ({"start_from": "run", "model_options": {"patch_size": 2}}, "give one of them"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_dict({"data": "digits", "output": "x", **changes}).validate()


def test_yaml_round_trip(tmp_path):
    options = {"data": "digits", "output": "x", "model_options": {"num_solver_steps": 4}, "min_snr_gamma": 5.0}
    config = TrainConfig.from_dict(options)
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


def test_a_run_says_nothing_of_other_tasks(tmp_path):
    TrainConfig.from_dict({"data": "digits", "output": "x"}).save(tmp_path / "config.yaml")
    content = yaml.safe_load((tmp_path / "config.yaml").read_text())
    own = {"class_conditional": False, "condition_dropout": 0.1, "solver_steps": None, "text_encoder": None}
    own["default_guidance"] = 1.0
    assert content["task"] == {"name": "generate", **own}
    assert not {"sigma", "scale", "regression_share"} & set(yaml.safe_dump(content).split(": "))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("generation", GenerateTraining()),
        ("class-conditional", GenerateTraining(class_conditional=True)),
        ("denoise", DenoiseTraining()),
        ("super-resolution", UpscaleTraining()),
    ],
)
def test_files_of_the_first_version_load(name, task):
    """They are flat, list the options of all tasks, and call some by other names."""
    before = yaml.safe_load((SAVED / name / "config.yaml").read_text())
    config = TrainConfig.load(SAVED / name / "config.yaml").validate()
    assert config.task == task
    now = config.flat()
    now["sample_steps"] = now.pop("sampling_steps")
    assert {key: value for key, value in before.items() if key in now and key != "task"} == {
        key: now[key] for key in before if key in now and key != "task"
    }
    others = set(before) - set(now)
    assert others <= {"sigma", "sigma_conditioned", "scale", "regression_share", "loss", "class_conditional"}


def test_what_may_change_is_said_once():
    """These fields set how long and where a run computes and what it writes, not what it computes."""
    free = {name for name, leaf in leaves(TrainConfig).items() if leaf.field.metadata.get("may_change")}
    assert {"steps", "device", "num_workers", "data", "log_every", "sampling_steps"} <= free
    assert not free & {"seed", "batch_size", "learning_rate", "preset", "objective", "image_size", "task", "sigma"}
    config = TrainConfig.from_dict({"data": "digits", "output": "x"})
    assert config.changes(config.replaced(steps=5, data="shapes")) == []
    assert config.changes(config.replaced(seed=1, learning_rate=0.5)) == ["seed 0 -> 1", "learning_rate 0.002 -> 0.5"]
    assert config.changes(config.replaced(task="denoise"))[0] == "task 'generate' -> 'denoise'"


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "digits", "old"):
        (tmp_path / name).mkdir()
    make = TrainConfig.from_dict
    config = make({"data": "photos", "output": "run", "start_from": "old"}).with_absolute_paths()
    found = config.data.source, config.output, config.model.start_from
    assert found == (str(tmp_path / "photos"), str(tmp_path / "run"), str(tmp_path / "old"))
    for name in ("digits", "hf:mnist"):  # a folder digits is not what the name means
        assert make({"data": name, "output": "run"}).with_absolute_paths().data.source == name
    assert make({"data": "hf:photos", "output": "x"}).with_absolute_paths().data.source == f"hf:{tmp_path / 'photos'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "did you mean steps"),
        ("- 1", "must be a mapping"),
        ("{", "cannot be read"),
        ("steps: many", "--steps 'many' must be an integer"),
        ("learning_rate: fast", "--learning-rate 'fast' must be a number"),
        ("task: {name: generate, sigma: '0:9'}", "--sigma is for --task denoise"),
        ("!!python/object:os.system {}", "cannot be read"),
    ],
)
def test_bad_files(text, message, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        TrainConfig.load(tmp_path / "c.yaml")


def test_yaml_numbers_without_a_point(tmp_path):
    (tmp_path / "c.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0\nmin_snr_gamma: 5")
    config = TrainConfig.load(tmp_path / "c.yaml")
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay, config.process.min_snr_gamma) == (1e-3, 0, 5)


@pytest.mark.parametrize("module", ["training.config", "tasks.registry"])
def test_reading_a_configuration_needs_no_torch(module):
    code = f"import sys, continuous_unet.{module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False False"

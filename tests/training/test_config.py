import subprocess
import sys

import pytest

from continuous_unet.base.errors import InputError
from continuous_unet.training import TrainConfig

BAD = [
    ({"data": ""}, "--data"),
    ({"output": ""}, "--output"),
    ({"preset": "huge"}, "paper, tiny, small, base"),
    ({"steps": 0}, "steps=0 must be at least 1"),
    ({"batch_size": -1}, "batch_size=-1"),
    ({"num_workers": -1}, "num_workers=-1"),
    ({"max_bad_images": 1.5}, "max_bad_images=1.5 must lie in"),
    ({"image_size": 0}, "image_size=0"),
    ({"channels": 2}, "channels=2"),
    ({"learning_rate": 0.0}, "learning_rate=0.0"),
    ({"learning_rate": 1e38}, r"learning_rate=1e\+38 must be at most 1e6"),
    ({"weight_decay": float("nan")}, "weight_decay=nan must be at most 1e6"),
    ({"gradient_clip": float("nan")}, "gradient_clip=nan"),
    ({"ema_decay": 1.0}, "ema_decay=1.0"),
    ({"objective": "eps"}, "objective='eps' must be 'epsilon' or 'v_prediction' or 'sample'"),
    ({"steps": 1e4}, "steps=10000.0 must be int"),
    ({"steps": True}, "steps=True must be int"),
    ({"ema": 1}, "ema=1 must be bool"),
    ({"learning_rate": "1e-3"}, "learning_rate='1e-3' must be float"),
    ({"image_size": "16"}, "image_size='16' must be int or None"),
    ({"device": "gpu"}, "device='gpu' must be 'cpu' or 'cuda' or 'mps' or None"),
    ({"model_options": [1]}, "model_options=.* must be dict"),
]


@pytest.mark.parametrize(("changes", "message"), BAD, ids=[str(changes) for changes, _ in BAD])
def test_what_is_wrong_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**{"data": "digits", "output": "x", **changes}).validate()


def test_yaml_round_trip(tmp_path):
    config = TrainConfig(data="digits", output="x", model_options={"num_solver_steps": 4}, min_snr_gamma=5.0)
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz: 3", "did you mean 'steps'"),
        ("- 1", "no mapping"),
        ("{", "cannot be read"),
        ("steps: many", "steps='many' must be int"),
        ("learning_rate: fast", "learning_rate='fast' must be float"),
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
    assert (config.learning_rate, config.weight_decay, config.min_snr_gamma) == (1e-3, 0, 5)


def test_reading_a_configuration_needs_no_torch():
    code = "import sys, continuous_unet.training.config; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"

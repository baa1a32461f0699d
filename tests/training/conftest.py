import pytest

from continuous_unet.training import TrainConfig


@pytest.fixture
def tiny(tmp_path):
    """A run of a model of a few thousand parameters on drawn shapes; takes seconds."""

    def make(**changes):
        options = {
            "data": "shapes",
            "image_size": 8,
            "output": str(tmp_path / "run"),
            "preset": "tiny",
            "model_options": {
                "block_out_channels": [8, 8],
                "norm_num_groups": 4,
                "add_attention": False,
                "dropout": 0.1,
            },
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 1e-3,
            "lr_warmup_steps": 2,
            "random_flip": True,
            "num_validation": 4,
            "checkpoint_every": 3,
            "log_every": 1,
            "validate_every": 3,
            "sample_every": 6,
            "sample_steps": 2,
            "num_samples": 2,
            "device": "cpu",
        }
        return TrainConfig(**{**options, **changes})

    return make

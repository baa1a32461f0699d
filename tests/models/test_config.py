"""Settings: defaults, what other versions and `UNet2DModel` call them, and configurations saved before."""

import inspect
import json
import logging

import pytest
from diffusers import UNet2DModel

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.models import size_multiple
from continuous_unet.models.config import OF_UNET2D, RETIRED, UNetConfig

SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}


def test_the_constructor_has_the_settings_and_their_defaults():
    parameters = inspect.signature(ContinuousUNet2DModel.__init__).parameters
    defaults = {name: p.default for name, p in parameters.items() if name not in ("self", "kwargs")}
    assert defaults == {name: getattr(UNetConfig(), name) for name in defaults}
    of_clips = {"factorised", "downsample_frames"}
    assert set(defaults) == set(UNetConfig.__dataclass_fields__) - of_clips


def test_settings_can_be_given_by_position_and_once_only():
    config = ContinuousUNet2DModel(8, 1, 2, block_out_channels=(8, 16), norm_num_groups=4).config
    assert (config.sample_size, config.in_channels, config.out_channels) == (8, 1, 2)
    with pytest.raises(TypeError, match="multiple values for argument 'in_channels'"):
        ContinuousUNet2DModel(8, 1, in_channels=1)
    with pytest.raises(TypeError, match="too many positional arguments"):
        ContinuousUNet2DModel(*[None] * (len(UNetConfig.__dataclass_fields__) + 1))


def test_keywords_of_unet2d_are_accepted_with_their_default_value():
    parameters = inspect.signature(UNet2DModel.__init__).parameters
    theirs = {name: p.default for name, p in parameters.items() if name != "self"}
    own = set(UNetConfig.__dataclass_fields__)
    assert set(theirs) - own == set(OF_UNET2D)
    foreign = {name: value for name, value in theirs.items() if name not in own}
    assert foreign == OF_UNET2D
    assert not set(foreign) & set(ContinuousUNet2DModel(**SMALL, **foreign).config)


OTHER = {
    "time_embedding_type": "fourier",
    "mid_block_scale_factor": 2,
    "downsample_padding": 0,
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attn_norm_num_groups": 4,
    "resnet_time_scale_shift": "scale_shift",
    "num_train_timesteps": 1000,
    "read_velocity": True,
    "initial_decay": 0.7,
    "initial_velocity": "carried",
}


@pytest.mark.parametrize("name", OTHER)
def test_other_values_are_refused_by_name_wherever_they_come_from(name, tmp_path):
    message = f"{name}={OTHER[name]!r}"
    with pytest.raises(ValueError, match=message) as refused:
        ContinuousUNet2DModel(**SMALL, **{name: OTHER[name]})
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=message):
        ContinuousUNet2DModel.from_config({**SMALL, name: OTHER[name]})
    ContinuousUNet2DModel(**SMALL).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, name: OTHER[name]}))
    with pytest.raises(ValueError, match=message):
        ContinuousUNet2DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [None, "x", [], {}, True, float("inf")], ids=str)
@pytest.mark.parametrize("name", ["freq_shift", "norm_eps"])
def test_what_is_no_number_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name}=.* must be a finite number"):
        UNetConfig(**{name: value})


def test_retired_settings_with_their_default_are_dropped_without_a_word(tmp_path):
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("diffusers").addHandler(handler)
    try:
        ContinuousUNet2DModel(**SMALL, **RETIRED).save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        assert not set(RETIRED) & set(config)
        (tmp_path / "config.json").write_text(json.dumps({**config, **RETIRED}))
        assert not set(RETIRED) & set(ContinuousUNet2DModel.from_pretrained(tmp_path).config)
    finally:
        logging.getLogger("diffusers").removeHandler(handler)
    assert said == []


def test_unknown_keywords_are_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'magic'"):
        ContinuousUNet2DModel(**SMALL, magic=1)


def test_sizes_that_fit():
    assert size_multiple(ContinuousUNet2DModel(**SMALL)) == 2
    assert size_multiple(ContinuousUNet2DModel(**{**SMALL, "patch_size": 2})) == 4
    theirs = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "attention_head_dim": 4}
    blocks = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
    assert size_multiple(UNet2DModel(**theirs, **blocks)) == 4

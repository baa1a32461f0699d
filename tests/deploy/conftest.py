"""Small models, and one export of them for all tests that only look at it."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.tasks.facts import ConditionFacts, Facts, TextFacts
from continuous_unet.text.encoders import BuiltInEncoder
from continuous_unet.text.subwords import learn_vocabulary

SOURCE = str(Path(__file__).parents[2] / "src")

RUN_WITHOUT_TORCH = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "diffusers"):
            raise ImportError(f"{{name}} is not to be imported here")
sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {SOURCE!r})
"""
"""Python code after which an import of torch or diffusers fails."""


def spoil_zeros(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random: layers that start at zero, and norms that start alike, would hide mistakes."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return model.eval()


def continuous(**options) -> ContinuousUNet2DModel:
    arguments = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    return spoil_zeros(ContinuousUNet2DModel(**{**arguments, "norm_num_groups": 4, **options}))


def discrete() -> UNet2DModel:
    levels = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    size = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "layers_per_block": 1}
    return spoil_zeros(UNet2DModel(**size, **levels, norm_num_groups=4))


def pipeline(unet, **schedule) -> DiffusionSamplingPipeline:
    options = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", **schedule}
    return DiffusionSamplingPipeline(unet, DDPMScheduler(**options))


def conditional(text: bool = True) -> DiffusionSamplingPipeline:
    """A pipeline with two classes by name, and the built-in text encoder."""
    captions = ["a red square above a blue circle", "a blue square", "a red circle", "a circle above a square"]
    encoder, classes = (
        BuiltInEncoder(learn_vocabulary(captions, 60), 8, width=16),
        ConditionFacts(("cat", "dog"), 2, 2.5),
    )
    arguments = encoder.model_arguments() if text else {}
    if text:
        arguments["text_encoder_config"].update(layers=1, heads=2)
    unet = continuous(num_class_embeds=3, block_out_channels=(8,), mid_block_type=None, **arguments)
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
    facts = Facts(conditions=classes, text=TextFacts(**encoder.describe()) if text else None)
    return DiffusionSamplingPipeline(unet, scheduler, facts)


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A saved continuous U-Net for 8x8 grey images."""
    folder = tmp_path_factory.mktemp("models") / "model"
    pipeline(continuous()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(model) -> Path:
    """The same, exported to ONNX; not to be changed."""
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    from continuous_unet.deploy.export import export
    from continuous_unet.deploy.options import ExportOptions

    folder = model.parent / "exported"
    export(ExportOptions(model=str(model), output=str(folder), repeats=1))
    return folder


@pytest.fixture(scope="session")
def info(exported) -> dict:
    return json.loads((exported / "export.json").read_text())


@pytest.fixture
def without_torch():
    """The start of a command that runs a script of Python where torch cannot be imported."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return {"command": [sys.executable, "-c"], "environment": environment, "prelude": RUN_WITHOUT_TORCH}

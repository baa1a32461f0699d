"""The contract of a diffusers U-Net, passed by both sides of every comparison: ours and `UNet2DModel`."""

import json

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from continuous_unet import ContinuousUNet2DModel

COMMON = {
    "sample_size": 16,
    "in_channels": 2,
    "out_channels": 3,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# The one-line swap: the same keyword arguments make either model.
MODELS = [ContinuousUNet2DModel, UNet2DModel]


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def model_class(request):
    return request.param


def make(model_class, **changes):
    model = model_class(**{**COMMON, **changes})
    # last layers start at zero, where many differences would not show
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def sample(batch=3):
    return torch.randn(batch, 2, 16, 16)


def test_output_shape_and_types(model_class):
    model, x = make(model_class), sample()
    output = model(x, 10)
    assert isinstance(output, UNet2DOutput)
    assert output.sample.shape == (3, 3, 16, 16)
    as_tuple = model(x, 10, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.sample)


def test_timestep_spellings_agree(model_class):
    model, x = make(model_class), sample()
    reference = model(x, 7).sample
    for timestep in (torch.tensor(7), torch.tensor([7]), torch.full((3,), 7)):
        torch.testing.assert_close(model(x, timestep).sample, reference)
    assert not torch.allclose(model(x, 8).sample, reference)


def test_batched_timesteps_belong_to_their_images(model_class):
    model, x = make(model_class), sample()
    together = model(x, torch.tensor([3, 500, 999])).sample
    for i, timestep in enumerate((3, 500, 999)):
        torch.testing.assert_close(model(x[i : i + 1], timestep).sample[0], together[i], atol=1e-5, rtol=1e-5)


def test_class_labels(model_class):
    model, x = make(model_class, num_class_embeds=4), sample()
    with pytest.raises(ValueError, match="class_labels"):
        model(x, 1)
    a = model(x, 1, class_labels=torch.tensor([0, 1, 2])).sample
    b = model(x, 1, class_labels=torch.tensor([0, 1, 3])).sample
    torch.testing.assert_close(a[:2], b[:2])
    assert not torch.allclose(a[2], b[2])
    with pytest.raises(ValueError, match="class"):
        make(model_class)(x, 1, class_labels=torch.tensor([0, 1, 2]))


def test_every_parameter_gets_a_gradient(model_class):
    model = make(model_class, num_class_embeds=4).train()
    model(sample(), torch.tensor([3, 500, 999]), class_labels=torch.tensor([0, 1, 2])).sample.square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_save_and_load_is_bit_exact_and_safe(model_class, tmp_path):
    model, x = make(model_class), sample()
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == model_class.__name__
    loaded = model_class.from_pretrained(tmp_path)
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    # which kernel the CPU takes depends on where the weights lie in memory: equal weights, outputs equal to rounding
    torch.testing.assert_close(loaded(x, 5).sample, model(x, 5).sample, atol=1e-6, rtol=1e-6)
    assert model_class.from_config(loaded.config).config["block_out_channels"] == [16, 32]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inference(model_class, dtype):
    model, x = make(model_class), sample()
    with torch.no_grad():
        reference = model(x, 5).sample
        half = model.to(dtype)(x.to(dtype), 5).sample
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), reference, atol=0.05 * float(reference.abs().max()), rtol=0)


def test_channels_last(model_class):
    model, x = make(model_class), sample()
    reference = model(x, 5).sample
    model = model.to(memory_format=torch.channels_last)
    output = model(x.to(memory_format=torch.channels_last), 5).sample
    torch.testing.assert_close(output, reference, atol=1e-4, rtol=1e-4)


def test_gradient_checkpointing_changes_memory_not_gradients(model_class):
    model, x, timestep = make(model_class).train(), sample(), torch.tensor([3, 500, 999])

    def gradients():
        model.zero_grad()
        stored = 0

        def pack(tensor):
            nonlocal stored
            stored += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model(x, timestep).sample.square().mean()
        loss.backward()
        return stored, {n: p.grad.clone() for n, p in model.named_parameters()}

    stored, reference = gradients()
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    stored_less, checkpointed = gradients()
    assert stored_less < stored
    for name, gradient in reference.items():
        torch.testing.assert_close(checkpointed[name], gradient, atol=1e-5, rtol=1e-4)


def test_image_sizes_other_than_the_configured(model_class):
    model = make(model_class)
    assert model(torch.randn(1, 2, 24, 32), 1).sample.shape == (1, 3, 24, 32)


def test_result_does_not_depend_on_the_batch(model_class):
    model, x = make(model_class), sample(8)
    with torch.no_grad():
        torch.testing.assert_close(model(x[:1], 5).sample, model(x, 5).sample[:1], atol=1e-5, rtol=1e-5)

"""The contract of a diffusers U-Net, passed by both sides of every comparison: ours and `UNet2DModel`.

It covers what the test mixins of diffusers ask of a model: saving, loading, training, casting, offloading, compiling.
"""

import copy
import inspect
import json
import pickle

import accelerate
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_1d import UNet1DOutput
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from diffusers.training_utils import EMAModel

from continuous_unet import ContinuousUNet1DModel, ContinuousUNet2DModel, ContinuousUNet3DModel

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
TEXT = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(0))


class WithText(ContinuousUNet2DModel):
    """Our model with a text, whose last token does not count, in every call."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True, **options):
        options["encoder_hidden_states"] = TEXT.to(sample.dtype).expand(len(sample), -1, -1)
        options["encoder_attention_mask"] = (torch.arange(5) < 4).expand(len(sample), -1)
        return super().forward(sample, timestep, class_labels, return_dict, **options)


class OnClips(ContinuousUNet3DModel):
    """Our model of clips. It takes the two halves of an image, one above the other, for the frames of a clip."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True, **options):
        output = super().forward(sample.unflatten(2, (2, -1)), timestep, class_labels, **options)
        assert isinstance(output, UNet3DConditionOutput)
        output = UNet2DOutput(sample=output.sample.flatten(2, 3))
        return output if return_dict else (output.sample,)


class OnSequences(ContinuousUNet1DModel):
    """Our model of sequences. It takes the pixels of an image, row by row, for the sequence."""

    def forward(self, sample, timestep, class_labels=None, return_dict=True, **options):
        output = super().forward(sample.flatten(2), timestep, class_labels=class_labels, **options)
        assert isinstance(output, UNet1DOutput)
        output = UNet2DOutput(sample=output.sample.unflatten(2, sample.shape[2:]))
        return output if return_dict else (output.sample,)


MODELS += [WithText, OnClips, OnSequences]


@pytest.fixture(params=MODELS, ids=lambda cls: cls.__name__)
def model_class(request):
    return request.param


def make(model_class, **changes):
    text = {"cross_attention_dim": 12} if model_class is WithText else {}
    model = model_class(**{**COMMON, **text, **changes})
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


def test_the_output_is_continuous_in_the_timestep(model_class):
    """Times may be fractional. They are tensors: diffusers' model cuts off the fraction of a Python number."""
    model, x = make(model_class), sample()
    with torch.no_grad():
        start, cut = model(x, torch.tensor(500.0)).sample, model(x, 500.5).sample
        steps = [float((model(x, torch.tensor(500 + h)).sample - start).abs().max()) for h in (1, 1 / 4, 1 / 16)]
    assert steps[0] > 2 * steps[1] > 4 * steps[2] > 0, "the shorter the step, the smaller the change"
    assert torch.equal(cut, start) == (model_class is UNet2DModel)


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
    if model_class in (OnClips, OnSequences):
        pytest.skip(
            "torch has no such layout for sequences, and one that is for all weights of five dimensions or none"
        )
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


TIMESTEPS = torch.tensor([3, 500, 999])


def gradients(model, x, **autocast):
    model.train().zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(autocast)):
        prediction = model(x, TIMESTEPS).sample
    prediction.float().square().mean().backward()
    return {name: None if p.grad is None else p.grad.float() for name, p in model.named_parameters()}


def assert_gradients_close(ours, reference, tolerance):
    largest = max(float(g.norm()) for g in reference.values())
    for name, gradient in reference.items():
        # the gradient of some biases is zero but for rounding: attention does not see its keys' bias
        allowed = tolerance * max(float(gradient.norm()), 1e-3 * largest)
        assert float((ours[name] - gradient).norm()) <= allowed, name


def test_the_call_starts_with_sample_and_timestep(model_class):
    names = list(inspect.signature(model_class.forward).parameters)
    assert names[1:5] == ["sample", "timestep", "class_labels", "return_dict"]


def test_the_same_call_gives_the_same_result(model_class):
    model, x = make(model_class), sample()
    with torch.no_grad():
        assert torch.equal(model(x, 5).sample, model(x, 5).sample)


def test_an_output_does_not_change_with_the_next_call(model_class):
    model, x = make(model_class), sample()
    with torch.no_grad():
        first = model(x, 5).sample
        copied = first.clone()
        model(2 * x, 7)
    assert torch.equal(first, copied)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_a_copy_computes_the_same_and_is_apart(model_class, how):
    model, x = make(model_class), sample()
    with torch.no_grad():
        reference = model(x, 5).sample
        copied = how(model)
        torch.testing.assert_close(copied(x, 5).sample, reference, atol=1e-6, rtol=1e-6)
        for parameter in copied.parameters():
            parameter.zero_()
        assert torch.equal(model(x, 5).sample, reference)


@pytest.mark.parametrize(
    ("saving", "loading"),
    [
        ({"variant": "fp16"}, {"variant": "fp16"}),
        ({"max_shard_size": "60KB"}, {}),
        ({}, {"low_cpu_mem_usage": False}),
        ({"safe_serialization": False}, {"use_safetensors": False}),
    ],
    ids=["variant", "shards", "with initialisation", "pickled"],
)
def test_ways_to_save_and_load(model_class, saving, loading, tmp_path):
    model, x = make(model_class), sample()
    model.save_pretrained(tmp_path, **saving)
    if "max_shard_size" in saving:
        assert len(list(tmp_path.glob("*-of-*.safetensors"))) > 1
    loaded, info = model_class.from_pretrained(tmp_path, output_loading_info=True, **loading)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not loaded.training
    torch.testing.assert_close(loaded(x, 5).sample, model(x, 5).sample, atol=1e-6, rtol=1e-6)
    saved, original = ({k: v for k, v in m.config.items() if not k.startswith("_")} for m in (loaded, model))
    assert json.loads(json.dumps(saved)) == json.loads(json.dumps(original))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_loading_in_a_dtype(model_class, dtype, tmp_path):
    make(model_class).save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, torch_dtype=dtype)
    assert loaded.dtype == dtype
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert loaded(sample().to(dtype), 5).sample.dtype == dtype


def test_a_configuration_makes_an_equal_model(model_class):
    model = make(model_class)
    twin = model_class.from_config(model.config)
    assert {n: p.shape for n, p in twin.state_dict().items()} == {n: p.shape for n, p in model.state_dict().items()}
    twin.load_state_dict(model.state_dict())
    x = sample()
    torch.testing.assert_close(twin.eval()(x, 5).sample, model(x, 5).sample, atol=1e-6, rtol=1e-6)


def test_training_lowers_the_loss_and_an_average_follows(model_class, tmp_path):
    model, x = make(model_class).train(), sample()
    average = EMAModel(model.parameters(), decay=0.5, model_cls=model_class, model_config=model.config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = (model(x, TIMESTEPS).sample - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.step(model.parameters())
        losses.append(float(loss))
    assert losses[-1] < 0.98 * losses[0]
    average.save_pretrained(tmp_path)
    loaded = EMAModel.from_pretrained(tmp_path, model_class)
    for ours, theirs in zip(loaded.shadow_params, average.shadow_params, strict=True):
        assert torch.equal(ours, theirs)


def test_frozen_parameters_get_no_gradient(model_class):
    model = make(model_class).train()
    frozen = {id(p) for p in model.down_blocks.parameters()}
    model.down_blocks.requires_grad_(False)
    model(sample(), TIMESTEPS).sample.square().mean().backward()
    assert all((p.grad is None) == (id(p) in frozen) for p in model.parameters())


@pytest.mark.parametrize("model_class", [ContinuousUNet2DModel, OnClips, OnSequences])
def test_all_gradient_modes_agree(model_class):
    x = sample()
    reference = gradients(make_in_mode(model_class, "backprop"), x)
    for mode in ("checkpoint", "reversible"):
        assert_gradients_close(gradients(make_in_mode(model_class, mode), x), reference, 1e-4)
    pytest.importorskip("torchdiffeq")
    torch.manual_seed(3)
    model = make(model_class, field_type="general", method="rk4", gradient="adjoint")
    adjoint = gradients(model, x)
    exact = gradients(model.set_solver(gradient="backprop"), x)
    adjoint, exact = (torch.cat([g.flatten() for g in each.values()]) for each in (adjoint, exact))
    assert float(torch.cosine_similarity(adjoint, exact, dim=0)) > 0.9  # the continuous adjoint is not exact


STORAGE = [torch.float16, torch.bfloat16, torch.float8_e4m3fn]


@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_layerwise_casting_in_inference(model_class, dtype):
    model, x = make(model_class), sample()
    with torch.no_grad():
        reference = model(x, 5).sample
        model.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
        assert dtype in {p.dtype for p in model.parameters()}
        ours = model(x, 5).sample
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, reference, atol=0.1 * float(reference.abs().max()), rtol=0)


GRADIENT_MODES = [(ContinuousUNet2DModel, gradient) for gradient in ("reversible", "checkpoint", "backprop")]
GRADIENT_MODES += [(UNet2DModel, None), (WithText, "reversible"), (OnClips, "reversible"), (OnSequences, "reversible")]
gradient_modes = pytest.mark.parametrize(("model_class", "gradient"), GRADIENT_MODES)


def make_in_mode(model_class, gradient):
    torch.manual_seed(3)
    return make(model_class) if gradient is None else make(model_class).set_solver(gradient=gradient)


@gradient_modes
@pytest.mark.parametrize("dtype", STORAGE, ids=str)
def test_layerwise_casting_keeps_the_gradients(model_class, gradient, dtype):
    """They are those of plain backpropagation with the same stored weights, under the same autocast, in its dtypes."""

    def run(gradient):
        model, x = make_in_mode(model_class, gradient), sample()
        model.enable_layerwise_casting(storage_dtype=dtype, compute_dtype=torch.float32)
        result = gradients(model, x, autocast=True)
        return result, {name: p.grad.dtype for name, p in model.named_parameters()}

    reference, dtypes = run(None if gradient is None else "backprop")
    assert all(g.any() for g in reference.values())
    ours, own_dtypes = run(gradient)
    assert own_dtypes == dtypes
    assert_gradients_close(ours, reference, 0.05)  # bfloat16's roundings


OFFLOADING = {
    "leaves": {"offload_type": "leaf_level"},
    "blocks": {"offload_type": "block_level", "num_blocks_per_group": 1},
}


@gradient_modes
@pytest.mark.parametrize("kind", OFFLOADING)
def test_group_offloading_changes_nothing(model_class, gradient, kind):
    x = sample()
    reference = gradients(make_in_mode(model_class, gradient), x)
    model = make_in_mode(model_class, gradient)
    cpu = torch.device("cpu")  # both, as there may be no other device here; the hooks are the same
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, **OFFLOADING[kind])
    assert_gradients_close(gradients(model, x), reference, 1e-6)


def test_offloading_to_memory_and_disk(model_class, tmp_path):
    model, x = make(model_class), sample()
    with torch.no_grad():
        reference = model(x, 5).sample
        model = accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
        assert {p.device.type for p in model.parameters()} == {"meta"}
        torch.testing.assert_close(model(x, 5).sample, reference, atol=1e-6, rtol=1e-6)
        model = accelerate.disk_offload(make_in_mode(model_class, None), tmp_path, torch.device("cpu"))
        expected = make_in_mode(model_class, None)(x, 5).sample
        torch.testing.assert_close(model(x, 5).sample, expected, atol=1e-6, rtol=1e-6)


def test_compiles_without_breaks_and_once(model_class):
    torch.compiler.reset()
    model, x = make(model_class), sample()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, TIMESTEPS).sample, model(x, TIMESTEPS).sample)
        with torch.compiler.set_stance("fail_on_recompile"):
            torch.testing.assert_close(compiled(2 * x, TIMESTEPS + 0).sample, model(2 * x, TIMESTEPS).sample)

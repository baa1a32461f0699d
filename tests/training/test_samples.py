import torch
from diffusers import DDPMScheduler, UNet2DModel

from continuous_unet.training.samples import sample_grid
from continuous_unet.training.validation import validation_loss


def unet(**options):
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, norm_num_groups=4, layers_per_block=1, add_attention=False,
        **blocks, **options,
    ).eval()  # fmt: skip


OPTIONS = {"num_inference_steps": 2, "seed": 0}


def test_grids_repeat():
    model, scheduler = unet(), DDPMScheduler()
    one, other = (sample_grid(model, scheduler, num_images=20, **OPTIONS) for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_a_row_for_each_class():
    model = unet(num_class_embeds=3)
    wide = sample_grid(model, DDPMScheduler(), num_images=6, num_classes=3, **OPTIONS)
    assert wide.width < wide.height  # two columns, three rows


def test_no_grid_once_asked_to_stop():
    answers = iter([False, True])
    assert sample_grid(unet(), DDPMScheduler(), num_images=40, give_up=lambda: next(answers), **OPTIONS) is None


def test_validation_loss_is_the_mean_of_its_quarters_and_repeats():
    """The golden ratio's multiples give 100 images 25 of each quarter, one more or less."""
    images = [{"image": torch.full((1, 8, 8), i / 50 - 1), "index": i} for i in range(100)]
    options = {"seed": 0, "with_labels": False, "device": torch.device("cpu")}
    model = unet()
    one = validation_loss(model, DDPMScheduler(), images, **options)
    assert one == validation_loss(model, DDPMScheduler(), images, **options)
    quarters = [one[f"validation_loss_quarter_{k}"] for k in (1, 2, 3, 4)]
    assert abs(sum(quarters) / 4 - one["validation_loss"]) < 0.02 * one["validation_loss"]
    assert not model.conv_in.weight.grad_fn
    assert one != validation_loss(model, DDPMScheduler(), images, **{**options, "seed": 1})

from diffusers import DDPMScheduler

from continuous_unet.training.samples import sample_grid

from .conftest import unet

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

import pytest
from continuous_unet.tasks.generate.grids import sample_grid
from diffusers import DDPMScheduler

from continuous_unet.base.signals import Stopped, StopRequest

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


def test_a_request_to_stop_is_heard_between_two_evaluations():
    model, stop, calls = unet(), StopRequest(), []
    model.register_forward_hook(lambda *_: calls.append(setattr(stop, "signal", 15)))
    with pytest.raises(Stopped) as caught:
        sample_grid(model, DDPMScheduler(), num_images=40, stop=stop, **OPTIONS)
    assert caught.value.signal == 15
    assert len(calls) == 1

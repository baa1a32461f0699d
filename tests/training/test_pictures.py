"""Pictures of the progress: the same each time, a row for each class, and none after a signal."""

import pytest
from diffusers import DDPMScheduler

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.base import PictureContext
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.training import GenerateTask

from .conftest import unet


def picture(model, num_samples, classes=(), stop=None):
    options = GenerateTraining(class_conditional=bool(classes), condition_dropout=0.0)
    task = GenerateTask(options, process_of(DDPMScheduler()), num_samples=num_samples, sampling_steps=2)
    task.class_names = classes
    return task.picture(PictureContext(model, [], Processes(), stop or StopRequest()))


def test_pictures_repeat():
    model = unet()
    one, other = (picture(model, 20) for _ in range(2))
    assert one.tobytes() == other.tobytes()


def test_a_row_for_each_class():
    wide = picture(unet(num_class_embeds=3), 6, classes=("a", "b", "c"))
    assert wide.width < wide.height  # two columns, three rows


def test_a_request_to_stop_is_heard_between_two_evaluations():
    model, stop, calls = unet(), StopRequest(), []
    model.register_forward_hook(lambda *_: calls.append(setattr(stop, "signal", 15)))
    with pytest.raises(Stopped) as caught:
        picture(model, 40, stop=stop)
    assert caught.value.signal == 15
    assert len(calls) == 1

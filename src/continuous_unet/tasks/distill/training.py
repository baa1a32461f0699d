"""Trains a student that makes images in one to four evaluations."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise, product
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.diffusion.levels import NoiseRange
from continuous_unet.images.grids import make_grid
from continuous_unet.models.build import extended
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.base import PictureContext, StepContext
from continuous_unet.tasks.depths import mean_over_depths
from continuous_unet.tasks.distill.answers import Teacher
from continuous_unet.tasks.distill.methods import METHODS, Lesson
from continuous_unet.tasks.distill.options import DistillTraining
from continuous_unet.tasks.facts import Facts, SamplerFacts
from continuous_unet.tasks.generate.pipeline import gather_images, generate_share
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.tasks.loading import load_pipeline

TEACHER_STEPS = 16
"""Steps of the teacher for the images that validation compares the student's with."""


class DistillTask(GenerateTask):
    """Learns to make in few evaluations the images that the teacher makes in many."""

    capturable = False
    options: DistillTraining

    @cached_property
    def range(self) -> NoiseRange:
        """The noise levels that the student works on."""
        return NoiseRange.of(self.process)

    def sampler(self) -> SamplerFacts:
        """Returns the times at which the student is evaluated, for each number of evaluations."""
        tables = [self.range.levels(number, self.options.mid_noise) for number in self.options.numbers]
        times = (self.process.time_at(torch.tensor(levels, dtype=torch.float64)).tolist() for levels in tables)
        return SamplerFacts(tuple(map(tuple, times)), self.options.fresh_noise, distilled=True)

    def facts(self) -> Facts:
        return replace(super().facts(), sampler=self.sampler())

    def new_model(self, preset: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        raise InputError(f"--task {self.options.name} needs a teacher; name it with --start-from")

    def start_from(self, name: str) -> tuple[nn.Module, Any]:
        """Returns the student: the teacher's weights, with an input for the next timestep if the method needs it."""
        pipeline = load_pipeline(name)
        names = pipeline.facts.conditions.classes
        if names is not None and names != self.class_names:
            raise InputError(
                f"the classes of {name} are {shown(names)}, and those of the data {shown(self.class_names)}; give the "
                "data that the teacher was trained on"
            )
        if self.options.teacher_guidance != 1 and not self.condition_dropout:
            raise InputError(f"--teacher-guidance: {name} was not trained with dropped classes or texts; leave it out")
        self.teacher = pipeline
        unet: Any = pipeline.unet
        return self._student(unet.eval().requires_grad_(False)), pipeline.scheduler

    def _student(self, teacher: Any) -> Any:
        if not self.options.needs_jumps or teacher.config.get("next_timestep_embedding"):
            return copy.deepcopy(teacher).requires_grad_(True)
        if not isinstance(teacher, ContinuousUNet2DModel):
            how = "--method ect, or --method sfd with one number of --evaluations"
            raise InputError(
                f"a {type(teacher).__name__} is not told where an evaluation jumps to, as --method "
                f"{self.options.method} needs; use {how}"
            )
        return extended(teacher, next_timestep_embedding=True)

    def lesson(self, step: StepContext) -> Lesson:
        """Returns what a method has for a batch."""
        assert step.teacher is not None, "the trainer gives every task that has a teacher its teacher"
        teacher = Teacher(
            step.teacher, step.process, step.conditions, self._free(step.conditions), self.options.teacher_guidance
        )
        return Lesson(step, teacher, self.options, self.seed, self.range)

    def _free(self, conditions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the conditions that stand for "anything", as many as there are."""
        free = self.trial_conditions()
        if self.class_conditional:
            free["class_labels"] = torch.tensor([len(self.class_names)])
        return {name: free[name].to(value.device).expand_as(value) for name, value in conditions.items()}

    def loss(self, step: StepContext) -> Tensor:
        """Returns the loss of the method for each image, `(B,)`."""
        return mean_over_depths(step, lambda batch: METHODS[self.options.method](self.lesson(batch)))

    @torch.no_grad()
    def error(self, step: StepContext) -> Tensor:
        """Returns the mean squared difference between the student's and the teacher's images of a noise, `(B,)`."""
        lesson, options = self.lesson(step), self.options
        levels = self.range.levels(TEACHER_STEPS, options.mid_noise)
        goal = lesson.teacher.path(step.noise, levels)[-1]
        table = max(self.sampler().times, key=len)
        times = [torch.full((len(goal),), time).to(goal) for time in (*table, 0.0)]
        x_t = step.noise
        for time, following in pairwise(times):
            seen = lesson.see(x_t, time, following)
            x_t = seen.clean if following is times[-1] else seen.at(self.process, following)
        return (x_t - goal).square().flatten(1).mean(dim=1)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns images of the same seeds, with a row for each number of evaluations."""
        pipeline = self.pipeline(context.model)
        pipeline.set_progress_bar_config(disable=True)
        numbers = self.options.numbers
        count = max(1, self.num_samples // len(numbers))
        asked: list[Json] = [row.request for row in self._rows()]
        jobs = [
            ({**asked[k % len(asked)], "first": k, "num_inference_steps": number}, range(place, place + 1))
            for place, (number, k) in enumerate(product(numbers, range(count)))
        ]
        made = generate_share(pipeline, jobs, processes=context.processes, stop=context.stop, seed=self.seed)
        labels = [f"{number} evaluation{'s' if number > 1 else ''}" for number in numbers]
        return make_grid(gather_images(made, context.processes), columns=count, row_labels=labels)

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --output samples.png"


def shown(names: Sequence[str]) -> str:
    """Returns the names of classes for an error, at most five of them."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or "none"

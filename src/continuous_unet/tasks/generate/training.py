"""Trains the diffusion model itself, which makes images from noise."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from continuous_unet.base.devices import sent
from continuous_unet.data.report import DatasetReport
from continuous_unet.tasks.base import PictureContext, PredictingTask, StepContext, Tokenise
from continuous_unet.tasks.depths import Attempt
from continuous_unet.tasks.facts import ConditionFacts, Facts, TextFacts
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, gather_images, generate_share
from continuous_unet.tasks.generate.rows import Row, class_rows, jobs_of, picture_of, prompt_rows
from continuous_unet.tasks.network import Network
from continuous_unet.text.encoders import TextEncoder, Tokens, learn_encoder

PROMPTS = 6
"""Number of prompts of a picture."""
BATCH = 16
"""Number of samples of a picture that are made at a time."""


class GenerateTask(PredictingTask[GenerateTraining]):
    """Learns to predict the noise, `v` or the image, as the process says, at every time."""

    capturable = True
    class_names: tuple[str, ...] = ()
    """The names of the classes of the data, by number."""
    text_encoder: TextEncoder | None = None
    """What reads the captions of the data."""
    prompts: tuple[str, ...] = ()
    """Captions of the data that pictures of the progress are made for."""

    @property
    def class_conditional(self) -> bool:
        return self.options.class_conditional

    @property
    def condition_dropout(self) -> float:
        return self.options.condition_dropout if self.class_conditional or self.needs_captions else 0.0

    @property
    def needs_captions(self) -> bool:
        return self.options.text_encoder is not None

    def use_captions(self, captions: Sequence[str], start: Facts) -> Tokenise:
        if start.text is not None:
            self.text_encoder = start.text.make_encoder()
        else:
            self.text_encoder = learn_encoder(str(self.options.text_encoder), captions)
        self.prompts = spread(list(dict.fromkeys(captions)), PROMPTS)
        encoder = self.text_encoder
        return lambda lines: encoder.tokenise(lines)._asdict()

    def use_data(self, report: DatasetReport) -> None:
        if self.class_conditional:
            self.class_names = report.required_classes()

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        """Adds a row of the class embedding for each class, and a last one for "any class" if classes are dropped."""
        arguments = super().model_arguments(channels, preset)
        if self.class_conditional:
            arguments["num_class_embeds"] = len(self.class_names) + (self.condition_dropout > 0)
        return arguments | ({} if self.text_encoder is None else self.text_encoder.model_arguments())

    def conditions(
        self, batch: Mapping[str, Any], device: torch.device, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        dropped = None if draws is None else draws < self.condition_dropout
        if self.class_conditional:
            found["class_labels"] = sent(batch["label"], device)
            if dropped is not None:
                found["class_labels"] = found["class_labels"].masked_fill(dropped, len(self.class_names))
        if self.text_encoder is not None:
            tokens = Tokens(*(sent(batch[name], device) for name in Tokens._fields))
            if dropped is not None:
                empty = self.text_encoder.tokenise([""])
                replaced = (sent(e, device).where(dropped[:, None], t) for e, t in zip(empty, tokens, strict=True))
                tokens = Tokens(*replaced)
            found |= self.text_encoder.arguments(tokens)
        return found

    def trial_conditions(self) -> dict[str, Tensor]:
        found = {"class_labels": torch.zeros(1, dtype=torch.long)} if self.class_conditional else {}
        if self.text_encoder is not None:
            found |= self.text_encoder.arguments(self.text_encoder.tokenise([""]))
        return found

    def facts(self) -> Facts:
        """Returns what is saved with the model."""
        text, dropped, scale = None, self.condition_dropout > 0, self.options.default_guidance
        if self.text_encoder is not None:
            text = TextFacts(**self.text_encoder.describe(), empty_prompt=dropped)
        if not self.class_conditional:
            return Facts(conditions=ConditionFacts(guidance_scale=scale), text=text)
        null = len(self.class_names) if dropped else None
        return Facts(conditions=ConditionFacts(self.class_names, null, scale), text=text)

    def attempt(self, step: StepContext) -> Attempt:
        noised = step.process.add_noise(step.clean, step.noise, step.times)
        prediction = step.model(noised.x_t, step.times, **step.conditions).sample
        return Attempt(prediction, noised.target, noised.weight)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns samples, with the same seeds each time; with a row for each class where there are classes."""
        pipeline = DiffusionSamplingPipeline(context.model, self.process.make_sampler(None), self.facts(), self.codec)
        pipeline.set_progress_bar_config(disable=True)
        rows = self._rows()[: self.num_samples]
        number = math.ceil(self.num_samples / len(rows))
        options = {"seed": self.seed, "num_inference_steps": self.sampling_steps, "guidance_scale": 1.0}
        jobs = jobs_of(rows, number, BATCH)
        made = generate_share(pipeline, jobs, processes=context.processes, stop=context.stop, **options)
        return picture_of(rows, gather_images(made, context.processes))

    def _rows(self) -> list[Row]:
        """Returns what a picture of the progress shows: a row for each class, for some captions, or for both."""
        facts = self.facts()
        rows = [Row("", {})]
        if self.class_conditional:
            number = len(self.class_names) + (facts.conditions.null_class is not None)
            rows = class_rows(range(len(self.class_names)), number, facts.conditions)
        return prompt_rows(self.prompts, rows) if self.prompts else rows

    def pipeline(self, model: Network) -> DiffusionSamplingPipeline:
        return DiffusionSamplingPipeline(model, self.process.scheduler, self.facts(), self.codec)

    def usage(self, run: str) -> str:
        return f"cunet sample {run} --num 16 --steps 50 --output samples.png"


def spread(values: Sequence[str], number: int) -> tuple[str, ...]:
    """Returns some of the values, evenly spread over all of them."""
    number = min(number, len(values))
    return tuple(values[i * len(values) // number] for i in range(number))

"""The pipeline that makes images from noise, of what is asked for, and its use for many images."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.base.processes import Processes
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.process import Process, process_of
from continuous_unet.diffusion.samplers import set_timesteps
from continuous_unet.diffusion.table import Row, TableSampler, make_rows
from continuous_unet.images.grids import to_output
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.tasks.callbacks import TENSOR_INPUTS, StepCallback, after_each_step
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.generate.options import DEFAULT_STRENGTH
from continuous_unet.tasks.generate.prediction import Predictor, find_solver_steps
from continuous_unet.tasks.generate.prompts import Prompt, text_conditions
from continuous_unet.tasks.generate.request import ClassLabel, ClassLabels, ask
from continuous_unet.tasks.generate.starting import Pictures, as_pictures, start
from continuous_unet.tasks.latents import CodecPipeline
from continuous_unet.tasks.restoration import OUTPUT_TYPES, check_choice, checked

Generators = torch.Generator | list[torch.Generator] | None
OWN = "own"
"""The scheduler of the times that are saved with the model, such as those that `cunet schedule` found."""


class DiffusionSamplingPipeline(CodecPipeline):
    """Samples images from a U-Net with any scheduler of diffusers.

    Unlike `DDPMPipeline` it gives each scheduler the arguments that its `step` takes, scales the model's input where
    the scheduler asks for it, and starts from noise of the scheduler's own strength. Schedulers of flow matching work
    too, with models that were trained for them.

    Args:
        unet: a `ContinuousUNet2DModel` or a `UNet2DModel`.
        scheduler: any diffusers scheduler made for the same noise schedule and prediction type.
        facts: what is saved with the model, such as the names of its classes.
        codec: what makes images of the latents that the U-Net makes, with their scale; None for a U-Net of pixels.

    Raises:
        InputError: if the facts do not fit the U-Net.
    """

    foreign_times = False
    """Whether saved sampling times were left out, because they belong to other weights."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The channels, height and width of the images.

        Raises:
            InputError: if the configuration does not say how large they are.
        """
        config, codec = self.unet.config, self.codec
        if config.sample_size is None:
            raise InputError("the model's config has no sample_size: set it (config.json) to say how large images are")
        height, width = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else config.sample_size
        return codec.channels, height * codec.factor, width * codec.factor

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        class_labels: ClassLabels = None,
        output_type: str = "pil",
        return_dict: bool = True,
        on_step: Callable[[], None] = lambda: None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        num_solver_steps: int | str | None = None,
        image: Pictures | None = None,
        strength: float = DEFAULT_STRENGTH,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
        prompt: Prompt = None,
        negative_prompt: Prompt = None,
        hold: Callable[[Tensor], Tensor] = lambda state: state,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Samples a batch of images.

        Args:
            batch_size: number of images.
            generator: one for the batch, or a list with one per image: then image k depends on generator k alone, not
                on the batch it is made in. Generators on the CPU give the same noise on every device.
            num_inference_steps: number of sampling steps. Each is one evaluation of the model, two with guidance;
                second-order schedulers (Heun, KDPM2) take twice as many.
            eta: 0 for deterministic DDIM, 1 for its DDPM limit; other schedulers ignore it.
            class_labels: a class for all images, or one for each, by name or by number; class-conditional models only.
                None and `"any"` stand for any class, for models that were trained with `--condition-dropout`.
            output_type: `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"` (`(B, C, H, W)` in [0, 1]).
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            on_step: called before each evaluation of the model; an exception that it raises ends the sampling.
            guidance_scale: how strongly images are led towards what is asked for, see `Guidance`: 1 is without
                guidance. If None, that of the model, which is 1 unless it was saved with another.
            guidance_interval: the part of the noise range with guidance: 0 is no noise, 1 is only noise.
            num_solver_steps: number of solver steps in each block; the model's own if None. With `"auto"` each
                evaluation takes the number that is saved with the model for its noise level.
            image: start from this picture, or from one for each image, instead of pure noise; see `as_pictures`.
            strength: the fraction of the sampling steps that are taken if there is a picture, the last ones: 1 ignores
                the picture, and the less it is, the more is left of the picture.
            callback_on_step_end: called after each step, see `after_each_step`.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.
            prompt: what all images show, or what each of them shows, in words; for models that were trained with
                captions. None and the empty text stand for any image.
            negative_prompt: what guidance leads away from; any image if None.
            hold: puts what is known of the images into each input of the model, and into the result, in [-1, 1].

        Raises:
            InputError: for arguments that do not fit the model or the scheduler, by name, and if the model does not
                make finite values.
        """
        config = self.unet.config
        check_choice("output_type", output_type, OUTPUT_TYPES)
        _check_channels(config, self.scheduler)
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"{len(generator)} generators were given for batch_size={batch_size}; give one per image")
        sides = [side // self.codec.factor for side in self.image_shape[1:]]
        device, dtype = self._execution_device, self.unet.dtype
        asked = ask(
            config,
            self.facts,
            batch_size,
            device,
            class_labels=class_labels,
            text=text_conditions(self.unet, self.facts.text, prompt, negative_prompt, batch_size),
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
        )
        solver_steps = find_solver_steps(self.unet, self.facts, num_solver_steps)

        scheduler = self._sampler(num_inference_steps)
        try:
            set_timesteps(scheduler, num_inference_steps, device)
        except ValueError as error:
            most = scheduler.config.num_train_timesteps
            reason = f"the model has {most} timesteps" if num_inference_steps > most else first_line(error)
            raise InputError(f"num_inference_steps={num_inference_steps} cannot be used: {reason}") from error
        shape = (batch_size, config.in_channels, *sides)
        # The state of the sampler stays in float32: half-precision weights need not mean half-precision sums.
        noise = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        pictures = None
        if image is not None:
            channels, rows, columns = self.image_shape
            pictures = self.codec.encode(as_pictures(image, (batch_size, channels, rows, columns), device))
        state, timesteps = start(scheduler, noise, num_inference_steps, pictures, strength)
        jumps = getattr(scheduler, "next_timesteps", None)
        after_step = after_each_step(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        # flow matching schedulers of diffusers take the model's input as it is
        scaled = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
        accepted = inspect.signature(scheduler.step).parameters
        extra = {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in accepted}
        predict = Predictor(
            self.unet,
            asked,
            timesteps,
            self.scheduler.config.num_train_timesteps,
            batch_size,
            solver_steps,
            None if jumps is None else jumps[len(jumps) - len(timesteps) :],
        )
        for number, timestep in enumerate(self.progress_bar(timesteps)):
            on_step()
            prediction = predict(hold(scaled(state, timestep)).to(dtype), timestep)
            state = scheduler.step(prediction, timestep, state, **extra).prev_sample
            state = after_step(number, timestep, state)

        result = to_output(self._finish(hold(state)), output_type)
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    def _sampler(self, num_steps: int) -> Any:
        """Returns the scheduler to sample with: the model's own if it was distilled for few steps.

        Raises:
            InputError: for another number of steps than those that a model was distilled for.
        """
        own = self.facts.sampler
        if own is None or not own.distilled:
            return self.scheduler
        if num_steps not in own.numbers:
            numbers = ", ".join(map(str, own.numbers))
            raise InputError(f"this model was distilled for {numbers} sampling steps, not {num_steps}")
        process = process_of(self.scheduler)
        return TableSampler(process, own_tables(self.facts, process))

    def _finish(self, state: Tensor) -> Tensor:
        """Returns the images `(B, C, H, W)` in [0, 1] of the last state."""
        return to_unit_range(checked(self.codec.decode(state))).clamp(0, 1)


DiffusionSamplingPipeline.__module__ = "continuous_unet"


def own_tables(facts: Facts, process: Process) -> dict[int, list[Row]]:
    """Returns the tables of steps that belong to a model, by their number of steps."""
    own = facts.sampler
    if own is None:
        return {}
    return {len(times): make_rows(process, times, own.fresh_noise, own.order(len(times))) for times in own.times}


def choose_sampler(pipeline: DiffusionSamplingPipeline, scheduler: str | None, steps: int | None) -> int:
    """Gives a pipeline the scheduler of that name, and returns the number of sampling steps to take.

    What is None is the model's own choice, or the usual one.

    Raises:
        InputError: for a scheduler that does not exist, for missing searched times, and for any scheduler but its own
            with a distilled model.
    """
    own = pipeline.facts.sampler
    if own is not None and own.distilled:
        if scheduler not in (None, OWN):
            raise InputError(
                f"--scheduler {scheduler}: this model was distilled, and has a sampler of its own; leave it out"
            )
        return max(own.numbers) if steps is None else steps
    process, number = process_of(pipeline.scheduler), 50 if steps is None else steps
    known = [] if own is None else own.numbers
    if scheduler == OWN and number not in known:
        has = ", ".join(map(str, known)) or "none"
        raise InputError(f"this model has no searched times for {number} steps (it has: {has}); see `cunet schedule`")
    if scheduler == OWN or (scheduler is None and number in known):
        pipeline.scheduler = TableSampler(process, own_tables(pipeline.facts, process))
    else:
        pipeline.scheduler = process.make_sampler(scheduler)
    return number


def generate(
    pipeline: DiffusionSamplingPipeline,
    num_images: int,
    *,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    class_label: ClassLabel | None = None,
    eta: float = 0.0,
    first: int = 0,
    on_step: Callable[[], None] = lambda: None,
    **request: Any,
) -> Iterator[Tensor]:
    """Samples images number `first` to `first + num_images - 1` of a seed, batch by batch, as `(B, C, H, W)` in [0, 1].

    Image k takes all its random numbers from `(seed, k)`: it is the same image whatever the batch size, the number of
    images, or the process that makes it. `request` has further arguments of the pipeline's call for all images, such as
    `guidance_scale`, and `image`, which all of them start from.
    """
    for begin in range(first, first + num_images, batch_size):
        numbers = range(begin, min(begin + batch_size, first + num_images))
        generators = [torch.Generator().manual_seed(derive_seed("sample", seed, k)) for k in numbers]
        steps, labels = num_inference_steps, class_label
        how = {"return_dict": False, "on_step": on_step, **request}
        yield pipeline(len(numbers), generators, steps, eta, labels, "pt", **how)[0]


def generate_share(
    pipeline: DiffusionSamplingPipeline,
    jobs: Sequence[tuple[Json, range]],
    *,
    processes: Processes,
    stop: StopRequest,
    **options: Any,
) -> Iterator[tuple[range, Tensor]]:
    """Samples this process's share of some jobs.

    A job is sampled as one batch by one process, so that several processes compute what one would, bit for bit.

    Args:
        pipeline: the same in every process.
        jobs: what is asked for, as arguments of `generate` such as `class_label`, and the numbers of the images. They
            are also the numbers that their noise is drawn by, unless `first` says otherwise.
        processes: those that share them; all must call this.
        stop: asked before every evaluation of the model.
        options: arguments of `generate` that all jobs share, such as `seed` and `num_inference_steps`.

    Yields:
        Numbers and images `(B, C, H, W)` in [0, 1] of this process's jobs.

    Raises:
        Stopped: in all processes, as soon as one is asked to stop.
    """
    check = partial(processes.check, stop)
    for (request, numbers), ours in processes.rounds(jobs):
        number, all_of_it = len(numbers), {"first": numbers.start, **options, **request}
        (images,) = generate(pipeline, number, batch_size=number, on_step=check, **all_of_it)
        if ours:
            yield numbers, images


def gather_images(made: Iterable[tuple[range, Tensor]], processes: Processes) -> Tensor:
    """Collects what `generate_share` yields in all processes, by number: `(B, C, H, W)` on the CPU."""
    batches = processes.gather([(numbers.start, images.cpu()) for numbers, images in made])
    return torch.cat([images for _, images in sorted(batches, key=lambda batch: batch[0])])


def _check_channels(config: Any, scheduler: Any) -> None:
    taken, given = config.in_channels, getattr(config, "out_channels", config.in_channels)
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    if given != taken * (2 if learned else 1):
        problem = "it needs a condition as well, and cannot make images from noise alone"
        raise InputError(f"the model takes {taken} channels and gives {given}: {problem}")

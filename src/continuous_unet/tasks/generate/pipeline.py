"""Unconditional and class-conditional image generation."""

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import Processes
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.samplers import set_timesteps
from continuous_unet.images.grids import to_output
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.facts import Facts, read_facts, write_facts
from continuous_unet.tasks.network import Network, Pipeline
from continuous_unet.tasks.restoration import OUTPUT_TYPES, check_choice, checked

Generators = torch.Generator | list[torch.Generator] | None


class DiffusionSamplingPipeline(Pipeline):
    """Samples images from a U-Net with any scheduler of diffusers.

    Unlike `DDPMPipeline` it gives each scheduler the arguments that its `step` takes, scales the model's input where
    the scheduler asks for it, and starts from noise of the scheduler's own strength. Schedulers of flow matching work
    too, with models that were trained for them.

    Args:
        unet: a `ContinuousUNet2DModel` or a `UNet2DModel`.
        scheduler: any diffusers scheduler made for the same noise schedule and prediction type.
        facts: what is saved with the model, such as the names of its classes.

    Raises:
        InputError: if the facts do not fit the U-Net.
    """

    def __init__(self, unet: Network, scheduler: Any, facts: Facts | None = None) -> None:
        super().__init__(unet, scheduler)
        self.facts = Facts() if facts is None else facts
        self.facts.check_model(unet.config)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int = 1,
        generator: Generators = None,
        num_inference_steps: int = 50,
        eta: float = 0.0,
        class_labels: Tensor | int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        on_step: Callable[[], None] = lambda: None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Samples a batch of images.

        Args:
            batch_size: number of images.
            generator: one for the batch, or a list with one per image: then image k depends on generator k alone, not
                on the batch it is made in. Generators on the CPU give the same noise on every device.
            num_inference_steps: number of sampling steps. Each is one evaluation of the model; second-order
                schedulers (Heun, KDPM2) take two.
            eta: 0 for deterministic DDIM, 1 for its DDPM limit; other schedulers ignore it.
            class_labels: a class for all images, or `(batch_size,)`; class-conditional models only.
            output_type: `"pil"`, `"np"` (`(B, H, W, C)` in [0, 1]) or `"pt"` (`(B, C, H, W)` in [0, 1]).
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            on_step: called before each evaluation of the model; an exception that it raises ends the sampling.

        Raises:
            InputError: for arguments that do not fit the model or the scheduler, by name, and if the model does not
                make finite values.
        """
        config = self.unet.config
        check_choice("output_type", output_type, OUTPUT_TYPES)
        _check_channels(config, self.scheduler)
        if config.sample_size is None:
            raise InputError("the model's config has no sample_size: set it (config.json) to say how large images are")
        if isinstance(generator, list) and len(generator) != batch_size:
            raise InputError(f"{len(generator)} generators were given for batch_size={batch_size}; give one per image")
        size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
        device, dtype = self._execution_device, self.unet.dtype
        labels = _class_labels(class_labels, config, batch_size, device)

        try:
            set_timesteps(self.scheduler, num_inference_steps, device)
        except ValueError as error:
            raise InputError(f"num_inference_steps={num_inference_steps} cannot be used: {error}") from error
        shape = (batch_size, config.in_channels, *size)
        # The state of the sampler stays in float32: half-precision weights need not mean half-precision sums.
        images = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        # flow matching schedulers of diffusers start from plain noise, and take the model's input as it is
        images = images * getattr(self.scheduler, "init_noise_sigma", 1.0)
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, timestep: sample)
        accepted = inspect.signature(self.scheduler.step).parameters
        extra = {k: v for k, v in {"generator": generator, "eta": eta}.items() if k in accepted}
        embeddings = _precomputed(self.unet, self.scheduler.timesteps)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            on_step()
            model_input = scaled(images, timestep).to(dtype)
            prediction = self.unet(model_input, timestep, class_labels=labels, **embeddings).sample.float()
            images = self.scheduler.step(prediction, timestep, images, **extra).prev_sample

        images = to_unit_range(checked(images)).clamp(0, 1)
        result = to_output(images, output_type)
        return ImagePipelineOutput(images=result) if return_dict else (result,)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Loads a pipeline as diffusers does; from a folder also its facts."""
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        facts = read_facts(Path(pretrained_model_name_or_path))
        return cls(pipeline.unet, pipeline.scheduler, facts)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the parts as a `DDPMPipeline`, which has the same parts, and the facts beside them.

        `DiffusionPipeline.from_pretrained` looks a pipeline's class up inside diffusers, so a folder that named ours
        could not be loaded by it. `DiffusionSamplingPipeline.from_pretrained` reads the same folder.
        """
        DDPMPipeline(cast(UNet2DModel, self.unet), self.scheduler).save_pretrained(save_directory, **kwargs)
        write_facts(Path(save_directory), self.facts)


DiffusionSamplingPipeline.__module__ = "continuous_unet"


def generate(
    pipeline: DiffusionSamplingPipeline,
    num_images: int,
    *,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    class_label: int | None = None,
    eta: float = 0.0,
    first: int = 0,
    on_step: Callable[[], None] = lambda: None,
) -> Iterator[Tensor]:
    """Samples images number `first` to `first + num_images - 1` of a seed, batch by batch, as `(B, C, H, W)` in [0, 1].

    Image k takes all its random numbers from `(seed, k)`: it is the same image whatever the batch size, the number of
    images, or the process that makes it.
    """
    for start in range(first, first + num_images, batch_size):
        numbers = range(start, min(start + batch_size, first + num_images))
        generators = [torch.Generator().manual_seed(derive_seed("sample", seed, k)) for k in numbers]
        steps, labels = num_inference_steps, class_label
        yield pipeline(len(numbers), generators, steps, eta, labels, "pt", return_dict=False, on_step=on_step)[0]


def generate_share(
    pipeline: DiffusionSamplingPipeline,
    jobs: Sequence[tuple[int | None, range]],
    *,
    processes: Processes,
    stop: StopRequest,
    **options: Any,
) -> Iterator[tuple[range, Tensor]]:
    """Samples this process's share of some jobs.

    A job is sampled as one batch by one process, so that several processes compute what one would, bit for bit.

    Args:
        pipeline: the same in every process.
        jobs: class (or None) and numbers of the images.
        processes: those that share them; all must call this.
        stop: asked before every evaluation of the model.
        options: `seed`, `num_inference_steps` and `eta` of `generate`.

    Yields:
        Numbers and images `(B, C, H, W)` in [0, 1] of this process's jobs.

    Raises:
        Stopped: in all processes, as soon as one is asked to stop.
    """
    check = partial(processes.check, stop)
    for (label, numbers), ours in processes.rounds(jobs):
        number = len(numbers)
        (images,) = generate(
            pipeline, number, first=numbers.start, batch_size=number, class_label=label, on_step=check, **options
        )
        if ours:
            yield numbers, images


def gather_images(made: Iterable[tuple[range, Tensor]], processes: Processes) -> Tensor:
    """Collects what `generate_share` yields in all processes, by number: `(B, C, H, W)` on the CPU."""
    batches = processes.gather([(numbers.start, images.cpu()) for numbers, images in made])
    return torch.cat([images for _, images in sorted(batches, key=lambda batch: batch[0])])


FEWEST_PRECOMPUTED = 4
"""Steps from which it pays to precompute the embeddings, which costs about one step."""


def _precomputed(unet: Any, timesteps: Tensor) -> Json:
    """Returns the `embeddings` argument of every evaluation, where that pays.

    It pays on a CPU, whose time goes into many small operations.
    """
    pays = (
        isinstance(unet, ContinuousUNet2DModel)
        and unet.class_embedding is None
        and unet._compiled_call_impl is None
        and timesteps.device.type == "cpu"
        and len(timesteps) >= FEWEST_PRECOMPUTED
    )
    return {"embeddings": unet.precompute_embeddings(timesteps)} if pays else {}


def _check_channels(config: Any, scheduler: Any) -> None:
    taken, given = config.in_channels, getattr(config, "out_channels", config.in_channels)
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    if given != taken * (2 if learned else 1):
        problem = "it needs a condition as well, and cannot make images from noise alone"
        raise InputError(f"the model takes {taken} channels and gives {given}: {problem}")


def _class_labels(labels: Tensor | int | None, config: Any, batch_size: int, device: torch.device) -> Tensor | None:
    num_classes = config.num_class_embeds
    if labels is None and num_classes is not None:
        raise InputError(f"this model is class-conditional: give a class label, 0 to {num_classes - 1}")
    if labels is None:
        return None
    if num_classes is None and config.class_embed_type is None:
        raise InputError("class labels were given, but this model was trained without classes")
    labels = torch.as_tensor(labels, device=device)
    labels = labels.expand(batch_size) if labels.ndim == 0 else labels
    if labels.shape != (batch_size,):
        raise InputError(f"class_labels has shape {tuple(labels.shape)}; expected one label or one per image")
    if num_classes is not None and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise InputError(f"class labels must lie in 0 to {num_classes - 1}, got {labels.tolist()}")
    return labels

"""Makes images from noise: the library call behind `cunet sample`."""

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import launched_processes
from continuous_unet.base.results import CallResult, Json, counted
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.images.decode import Unreadable, load_image
from continuous_unet.images.grids import check_grid, output_paths, save_images, write_png
from continuous_unet.tasks.generate.metadata import describe_image
from continuous_unet.tasks.generate.opening import Visited, batch_size_of, open_sampler
from continuous_unet.tasks.generate.options import DEFAULT_STRENGTH, SampleOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, gather_images, generate_share
from continuous_unet.tasks.generate.prediction import field_evaluations
from continuous_unet.tasks.generate.rows import Row, class_rows, jobs_of, mixed_row, picture_of, prompt_rows
from continuous_unet.tasks.loading import load_pipeline, makes_clips


@dataclass
class SampleResult(CallResult):
    """The images that were made."""

    images: int
    files: list[str]
    seconds: float
    stopped_by: int | None = None
    """The signal that ended the work, if one did."""
    field_evaluations: int | None = None
    """Evaluations of the fields of a continuous U-Net for one image; twice as many with guidance."""
    kind: str = "image"
    """What was made: an image or a clip."""
    foreign_times: bool = False
    """Whether the model has sampling times that belong to other weights, and were not used."""

    def to_dict(self) -> Json:
        rate = round(self.images / self.seconds, 3) if self.seconds else 0.0
        result = {"images": self.images, "files": self.files, "seconds": round(self.seconds, 3)}
        return {**result, "images_per_second": rate, "stopped_by": self.stopped_by} | (
            {} if self.field_evaluations is None else {"field_evaluations_per_image": self.field_evaluations}
        )

    def to_text(self) -> str:
        where = self.files[0] if len(self.files) == 1 else Path(self.files[0]).parent if self.files else ""
        return f"{counted(self.images, self.kind)} in {self.seconds:.1f} s: {where}" if self.stopped_by is None else ""

    def notes(self) -> list[str]:
        notes = [] if self.stopped_by is None else [f"stopped; {len(self.files)} files are there, each whole"]
        if self.foreign_times:
            problem = "the searched sampling times of this model belong to other weights, and were not used"
            notes.append(f"note: {problem}; search again with `cunet schedule`")
        return notes


def sample_images(options: SampleOptions, *, stop: StopRequest | None = None) -> SampleResult:
    """Makes images with a trained model, and writes them. Several processes share the work.

    Args:
        options: what is made.
        stop: asked before every evaluation of the model. Signals stop the work if None.

    Raises:
        InputError: for options that do not fit each other or the model, and if a file cannot be written.
    """
    options.validate()
    if makes_clips(options.model):
        from continuous_unet.tasks.video.run import sample_clips

        return sample_clips(options, stop=stop)
    if options.first_frames is not None:
        raise InputError(f"--first-frames is for models of clips, and {options.model} makes images; leave it out")
    processes = launched_processes(options.device)
    pipeline, steps, solver_steps = open_sampler(options, processes, load_pipeline)
    rows = _rows(options, pipeline)
    total = options.num * len(rows)
    paths = output_paths(options.output, total, options.overwrite)
    if len(paths) < total:
        check_grid(total, pipeline.image_shape)
    processes.wait()  # all have looked whether files are there before one writes any
    before = {path for path in paths if path.exists()}
    jobs = jobs_of(rows, options.num, batch_size_of(options, pipeline, processes))
    how: Json = {"seed": options.seed, "num_inference_steps": steps}
    how |= {"guidance_scale": options.guidance, "guidance_interval": options.interval()}
    if options.image is not None:
        strength = DEFAULT_STRENGTH if options.strength is None else options.strength
        how |= {"image": _read(options.image), "strength": strength}
    visited = Visited()
    how |= {"num_solver_steps": options.solver_steps, "callback_on_step_end": visited}
    started, stopped_by = time.perf_counter(), None
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        try:
            shares = generate_share(pipeline, jobs, processes=processes, stop=request, **how)
            if len(paths) == total:
                for numbers, images in shares:
                    made_by = [describe_image(options, pipeline, rows, steps, k) for k in numbers]
                    save_images(images.cpu(), [paths[k] for k in numbers], made_by)
                processes.wait()
            else:
                picture = picture_of(rows, gather_images(shares, processes))
                made = describe_image(options, pipeline, rows, steps)
                processes.by_main(lambda: write_png(picture, paths[0], made))
        except Stopped as stopped:
            stopped_by = stopped.signal
        finally:
            processes.end()
    files = [str(path) for path in paths if stopped_by is None or (path.exists() and path not in before)]
    number = total if stopped_by is None else len(files)
    evaluations = None
    if stopped_by is None:
        evaluations = field_evaluations(pipeline.unet, visited.timesteps, solver_steps)
    foreign = pipeline.foreign_times and options.scheduler is None
    seconds = time.perf_counter() - started
    return SampleResult(number, files, seconds, stopped_by, evaluations, foreign_times=foreign)


def _rows(options: SampleOptions, pipeline: DiffusionSamplingPipeline) -> list[Row]:
    """Returns what is asked for: a row for each class and each prompt, or one for images of all classes in turn.

    It is one for images of any kind if the model has no classes, or what is asked for does not depend on them.
    """
    given, prompt, rows = options.classes, options.prompt, [Row("", {})]
    number = pipeline.unet.config.num_class_embeds
    if given is None and prompt is None and options.image is None and number is not None:
        rows = [mixed_row(number, pipeline.facts.conditions)]
    if given is not None:
        if pipeline.unet.config.num_class_embeds is None and pipeline.unet.config.get("class_embed_type") is None:
            raise InputError("this model was trained without classes; leave --class out")
        classes = given if isinstance(given, list) else [given]
        rows = class_rows(classes, pipeline.unet.config.num_class_embeds, pipeline.facts.conditions)
    if options.negative_prompt is not None:
        rows = [replace(row, request={**row.request, "negative_prompt": options.negative_prompt}) for row in rows]
    return rows if prompt is None else prompt_rows([prompt] if isinstance(prompt, str) else prompt, rows)


def _read(path: str) -> Image.Image:
    """Returns the picture to start from; raises InputError if it cannot be read."""
    try:
        return load_image(path)
    except Unreadable as error:
        raise InputError(f"--image {path} cannot be read: {error}") from error

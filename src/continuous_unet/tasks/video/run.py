"""Makes clips: the library call behind `cunet sample`, for models of clips."""

import contextlib
import time

from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.processes import launched_processes
from continuous_unet.base.results import Json
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.data.clips.dataset import as_tensor, fitted
from continuous_unet.data.clips.reading import read_clips
from continuous_unet.images.grids import check_grid
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.tasks.generate.opening import Visited, batch_size_of, open_sampler
from continuous_unet.tasks.generate.options import GIVEN_FRAMES, SampleOptions
from continuous_unet.tasks.generate.pipeline import gather_images, generate_share
from continuous_unet.tasks.generate.prediction import field_evaluations
from continuous_unet.tasks.generate.rows import Row, jobs_of
from continuous_unet.tasks.generate.run import SampleResult
from continuous_unet.tasks.video.outputs import is_picture, output_paths, write_clips
from continuous_unet.tasks.video.pipeline import VideoPipeline, load_video

DEFAULT_OUTPUT = "samples.gif"
FOR_IMAGES = ("classes", "prompt", "negative_prompt", "guidance", "guidance_interval", "image", "strength")
"""Options of `cunet sample` that models of clips cannot follow."""


def sample_clips(options: SampleOptions, *, stop: StopRequest | None = None) -> SampleResult:
    """Makes clips with a trained model, and writes them; see `sample_images`.

    Raises:
        InputError: for options that do not fit each other or the model, and if a file cannot be written.
    """
    for name in FOR_IMAGES:
        if getattr(options, name) is not None:
            flat = "class" if name == "classes" else name.replace("_", "-")
            raise InputError(f"--{flat} is for models of images, and {options.model} makes clips; leave it out")
    processes = launched_processes(options.device)
    pipeline, steps, solver_steps = open_sampler(options, processes, load_video)
    output = DEFAULT_OUTPUT if options.output == SampleOptions.output else options.output
    paths = output_paths(output, options.num, pipeline.image_shape[0], options.overwrite)
    if len(paths) < options.num and is_picture(paths[0]):
        check_grid(options.num, pipeline.image_shape)
    processes.wait()  # all have looked whether files are there before one writes any
    how: Json = {"seed": options.seed, "num_inference_steps": steps, "num_solver_steps": options.solver_steps}
    if options.first_frames is not None:
        given = GIVEN_FRAMES if options.given_frames is None else options.given_frames
        how["first_frames"] = first_frames(options.first_frames, pipeline, given)
    jobs = jobs_of([Row("", {})], options.num, batch_size_of(options, pipeline, processes))
    how["callback_on_step_end"] = visited = Visited()
    started, files, stopped_by = time.perf_counter(), list[str](), None
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        try:
            clips = gather_images(generate_share(pipeline, jobs, processes=processes, stop=request, **how), processes)
            processes.by_main(lambda: write_clips(clips, paths))
            files = [str(path) for path in paths]
        except Stopped as stopped:
            stopped_by = stopped.signal
        finally:
            processes.end()
    made = 0 if stopped_by is not None else options.num
    evaluations = None if stopped_by is not None else field_evaluations(pipeline.unet, visited.timesteps, solver_steps)
    return SampleResult(made, files, time.perf_counter() - started, stopped_by, evaluations, kind="clip")


def first_frames(source: str, pipeline: VideoPipeline, number: int) -> Tensor:
    """Returns the first frames `(C, K, H, W)` in [0, 1] of a clip, which clips are to begin with.

    Raises:
        InputError: if it cannot be read, or has fewer frames.
    """
    channels, frames, height, width = pipeline.image_shape
    clips, names = read_clips(source)
    if not 1 <= number < frames:
        raise InputError(f"--given-frames {number}: this model makes {frames} frames; expected 1 to {frames - 1}")
    if len(clips[0]) < number:
        raise InputError(
            f"{names[0]} of {source} has {len(clips[0])} frame(s), and {number} are to be given; see --given-frames"
        )
    return to_unit_range(as_tensor(fitted(clips[0][:number], (height, width), channels)))

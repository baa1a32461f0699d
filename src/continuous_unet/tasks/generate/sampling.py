"""Images of a seed to files, by one process or several."""

from pathlib import Path

import torch

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.images.grids import save_images
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, generate_share


def sample_to_files(
    pipeline: DiffusionSamplingPipeline,
    paths: list[Path],
    num_images: int,
    *,
    processes: Processes,
    stop: StopRequest,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    class_label: int | None = None,
) -> None:
    """Sample and write: each image to its file as soon as its batch is made, or all as a grid in the end.

    Args:
        pipeline: the same in every process.
        paths: of `output_paths`.
        num_images: number of images.
        processes: that share them; all must call this.
        stop: asked before every evaluation of the model.
        seed: image k depends on `(seed, k)`.
        num_inference_steps: evaluations of the model per image.
        batch_size: images at a time.
        class_label: of the images, for class-conditional models.

    Raises:
        Stopped: if a process is asked to stop; files that are there are whole.
        InputError: for what `DiffusionSamplingPipeline` refuses, and if a file cannot be written.
    """
    if processes.main:
        pipeline.set_progress_bar_config(desc="sampling")
    else:
        pipeline.set_progress_bar_config(disable=True)
    starts = range(0, num_images, batch_size)
    jobs = [(class_label, range(start, min(start + batch_size, num_images))) for start in starts]
    options = {"seed": seed, "num_inference_steps": num_inference_steps}
    made = generate_share(pipeline, jobs, processes=processes, stop=stop, **options)
    if len(paths) == num_images:
        for numbers, images in made:
            save_images(images.cpu(), [paths[k] for k in numbers])
        processes.wait()
        return
    batches = processes.gather([(numbers.start, images.cpu()) for numbers, images in made])
    if processes.main:
        save_images(torch.cat([images for _, images in sorted(batches, key=lambda batch: batch[0])]), paths)
